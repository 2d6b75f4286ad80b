"""Metrics room, changes of pictures: how far edited pictures are from their originals, everywhere and off the object.

All means are over values (pixels and colours), never sums, so that sizes can be compared. A number is NaN where nothing
can be said: of the background of a picture whose mask leaves none.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn import functional

from optogram.errors import DataError, ShapeError
from optogram.metrics.pictures import perceptual, psnr, ssim

Maps = Sequence[Float[Tensor, "image _channel _y _x"]]
"""What a model sees in pictures, layer by layer, as `optogram.metrics.pictures.perceptual` takes it."""

LEAST_SIDE = 6
"""Pixels: `ssim` mirrors five at each border."""


def distances(
    original: Float[Tensor, "image rgb y x"],
    edited: Float[Tensor, "image rgb y x"],
    *,
    maps: tuple[Maps, Maps] | None = None,
) -> xr.Dataset:
    """How far each edited picture is from its original, both in [0, 1].

    maps: what a model sees in the originals, and in the edited pictures.

    Returns over `image`, all float64:
    - `l1`: mean absolute change. `l2`: root of the mean squared change.
    - `psnr` in dB, 100 where nothing changed; `ssim`; both as `optogram.metrics.pictures` has them.
    - `perceptual`, of `maps`, likewise. Not there without them.

    Raises ShapeError for arrays of differing sizes and pictures of less than six pixels a side, DataError for values
    that are not finite or outside of [0, 1].

    >>> from optogram.metrics.picture_changes import distances
    >>> found = distances(torch.full((1, 3, 8, 8), 0.5), torch.full((1, 3, 8, 8), 0.6))
    >>> found.l1.round(4).item(), found.psnr.round(4).item()
    (0.1, 20.0)
    """
    check_pictures(original, edited)
    change = edited.double() - original.double()
    found = {
        "l1": _numbers(change.abs().flatten(1).mean(1)),
        "l2": _numbers(change.square().flatten(1).mean(1).sqrt()),
        "psnr": psnr(edited, original),
        "ssim": _numbers(_one_by_one(ssim, edited, original)),
    }
    if maps is not None:
        _check_maps(maps, len(original))
        each = [[[layer[at : at + 1] for layer in of] for of in maps] for at in range(len(original))]
        found["perceptual"] = np.concatenate([perceptual(later, first) for first, later in each])
    return xr.Dataset({name: (("image",), values) for name, values in found.items()})


def outside(
    original: Float[Tensor, "image rgb y x"],
    edited: Float[Tensor, "image rgb y x"],
    mask: Float[Tensor, "image y x"],
    *,
    maps: tuple[Maps, Maps] | None = None,
) -> xr.Dataset:
    """How far each edited picture is from its original off the object, and on it.

    mask: in [0, 1], 1 on the object. Each pixel of the background counts by 1 - mask. maps: as `distances` takes them.

    Returns over `image`, all float64; NaN of a background where the mask is 1 everywhere:
    - `background_l1`: mean absolute change. `background_psnr`: from the mean squared change, 100 where there is none.
    - `background_ssim`: the mean of the map of local similarities. The window is eleven pixels wide: near the mask it
      sees pixels in the mask.
    - `background_perceptual`: the mean over places and layers, each place by the mean of 1 - mask over it. A place's
      field of view reaches into the mask too. Not there without `maps`.
    - `inside_l1`: mean absolute change on the object, each pixel by `mask`.

    Raises as `distances`, and DataError for an empty mask, on which no change can be measured.

    >>> from optogram.metrics.picture_changes import outside
    >>> mask = torch.zeros(1, 8, 8)
    >>> mask[:, :4] = 1
    >>> found = outside(torch.zeros(1, 3, 8, 8), mask.expand(1, 3, 8, 8) / 4, mask)
    >>> found.inside_l1.item(), found.background_l1.item(), found.background_psnr.item()
    (0.25, 0.0, 100.0)
    """
    check_pictures(original, edited)
    inside = _checked_mask(mask, original)
    background = _weights(1 - inside)
    first, later = original.double(), edited.double()
    change = (later - first).abs().mean(1)
    # of pictures scaled by the roots of weights whose mean is 1 the mean squared change is the weighted one
    scale = (background * background[0].numel()).sqrt()[:, None]
    found = {
        "background_l1": _sums(change * background),
        "background_psnr": psnr(later * scale, first * scale),
        "background_ssim": _sums(_one_by_one(_ssim_map, edited, original) * background.cpu()),
        "inside_l1": _sums(change * _weights(inside)),
    }
    if maps is not None:
        _check_maps(maps, len(original))
        found["background_perceptual"] = _perceptual_outside(maps, 1 - inside)
    missing = {"missing": "the mask leaves no background"}
    each = {name: (("image",), values, {} if name == "inside_l1" else missing) for name, values in found.items()}
    return xr.Dataset(each)


def check_pictures(original: Float[Tensor, "image rgb y x"], edited: Float[Tensor, "image rgb y x"]) -> None:
    """That two sets of pictures are of one shape, and finite numbers in [0, 1]; ShapeError and DataError otherwise.

    >>> from optogram.metrics.picture_changes import check_pictures
    >>> check_pictures(torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 8, 8))
    """
    if original.shape != edited.shape or original.ndim != 4 or not original.numel():
        raise ShapeError(
            f"original pictures have shape {tuple(original.shape)}, edited ones {tuple(edited.shape)}; expected "
            "(image, rgb, y, x), both alike, at least one. Resize one to the other's size, and give each its original."
        )
    if min(original.shape[2:]) < LEAST_SIDE:
        raise ShapeError(
            f"pictures are {original.shape[2]} x {original.shape[3]} pixels; expected {LEAST_SIDE} or more a side, as "
            "the window of SSIM needs them. Enlarge them."
        )
    for whose, pictures in (("original", original), ("edited", edited)):
        _check_unit(f"{whose} pictures", pictures)


def _check_unit(what: str, values: Tensor) -> None:
    """NaN is not in [0, 1] either."""
    bad = ~((values >= 0) & (values <= 1)).flatten(1).all(1)
    if bad.any():
        at = int(bad.int().argmax())
        kind = "outside of [0, 1]" if bool(values[at].isfinite().all()) else "not finite"
        raise DataError(f"{what} have values {kind}, first in image {at}. Scale them to [0, 1], as floats.")


def _checked_mask(mask: Tensor, pictures: Tensor) -> Float64[Tensor, "image y x"]:
    expected = (len(pictures), *pictures.shape[2:])
    if mask.shape != expected:
        raise ShapeError(f"masks have shape {tuple(mask.shape)}; expected {expected}, one a picture, of its size.")
    _check_unit("masks", mask)
    empty = mask.flatten(1).sum(1) == 0
    if empty.any():
        raise DataError(
            f"the mask of image {int(empty.int().argmax())} is empty. Leave the picture out, or measure without a mask."
        )
    return mask.to(pictures.device).double()


def _check_maps(maps: tuple[Maps, Maps], images: int) -> None:
    shapes = [[tuple(each.shape) for each in layers] for layers in maps]
    if shapes[0] != shapes[1] or not shapes[0] or any(len(shape) != 4 or shape[0] != images for shape in shapes[0]):
        raise ShapeError(
            f"maps have shapes {shapes[0]} and {shapes[1]}; expected (image, channel, y, x) of {images} pictures, the "
            "same layers of both. Run one model on the originals and the edited pictures."
        )
    for whose, layers in zip(("original", "edited"), maps, strict=True):
        for layer, each in enumerate(layers):
            if not each.isfinite().all():
                raise DataError(f"maps of {whose} pictures in layer {layer} are not finite. Check the model.")


def _weights(counts: Float64[Tensor, "image y x"]) -> Float64[Tensor, "image y x"]:
    """Scaled to sum 1; NaN where there is nothing to count."""
    return counts / counts.flatten(1).sum(1)[:, None, None]


def _sums(values: Float64[Tensor, "image y x"]) -> Float64[np.ndarray, " image"]:
    """Of rows of one axis: sums over two round by how many images there are."""
    return _numbers(values.flatten(1).sum(1))


def _perceptual_outside(maps: tuple[Maps, Maps], background: Float64[Tensor, "image y x"]) -> np.ndarray:
    found = []
    for first, later in zip(*maps, strict=True):
        places = _one_by_one(_perceptual_map, later, first)
        share = functional.adaptive_avg_pool2d(background, (first.shape[2], first.shape[3]))
        found.append(_sums(places * _weights(share).cpu()))
    return np.mean(found, axis=0)


def _perceptual_map(ours: Tensor, theirs: Tensor) -> Float64[Tensor, "image y x"]:
    """`perceptual` of each place, as if it were an image of its own."""
    rows = [each.permute(0, 2, 3, 1).reshape(-1, each.shape[1], 1, 1) for each in (ours, theirs)]
    return torch.from_numpy(perceptual(rows[:1], rows[1:])).view(len(ours), *ours.shape[2:])


def _ssim_map(images: Tensor, truth: Tensor) -> Float64[Tensor, "image y x"]:
    """What `ssim` is the mean of, averaged over colours."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    found = structural_similarity_index_measure(
        images.float(), truth.float(), data_range=1.0, reduction="none", return_full_image=True
    )
    return found[1].double().mean(1)


def _one_by_one(measure: Callable[[Tensor, Tensor], np.ndarray | Tensor], images: Tensor, truth: Tensor) -> Tensor:
    """Each picture alone: convolutions, and sums over channels, round by how many are in the batch."""
    pairs = zip(images.split(1), truth.split(1), strict=True)
    return torch.cat([torch.as_tensor(measure(*pair)).cpu() for pair in pairs])


def _numbers(values: Tensor) -> np.ndarray:
    return values.cpu().numpy()
