"""Methods, guidance: where in an image a unit, a component or a logit comes from, and how much of it is background.

HiResCAM (Draelos and Carin 2020; DiG-IN, section F.3) of a scalar s of phi, the input of the last linear layer, at a
layer with activations A: sum over channels of A * ds/dA, a map. There is no ReLU and no minimum is subtracted, which
would change Table 2. Where only a mean and linear maps lie between A and s, the map adds up to s, less its constant.

A normalisation right before phi, as in a ViT, is blind to the scale of what it gets. By Euler's theorem A * ds/dA then
adds up to nothing over the image, whatever the image, and cannot be normalised: take an earlier layer there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Integer
from torch import Tensor, nn

from optogram.errors import ModelError, ShapeError
from optogram.models.layers import blocks, outputs
from optogram.models.linear_head import catching_head

LEAST = 0.1
"""A map is normalised if it adds up to at least this share of what its magnitudes add up to."""

Scalar = Callable[[Float[Tensor, "image embed"]], Float[Tensor, " image"]]
"""What is looked for, a number an image, of the input of the last linear layer."""


def along(direction: Float[Tensor, "#image embed"]) -> Scalar:
    """The scalar <phi, direction>: one-hot for a unit, a component's direction, or a class's weights.

    direction: one for all images, or one an image.
    """
    return lambda features: (features * direction.to(features)).sum(1)


def hirescam(
    model: nn.Module,
    images: Float[Tensor, "image rgb y x"],
    scalar: Scalar,
    layers: Sequence[str] | None = None,
) -> dict[str, Float[Tensor, "image _gy _gx"]]:
    """Where the scalar comes from, by layer: activation times gradient, summed over channels, with its sign.

    images: as the model takes them. layers: names, as `activations` takes them, so that tokens are laid out as the grid
    of places that they come from; None for the last of `blocks`, the last map before it is pooled.

    Raises ModelError as `activations`, `blocks` and `penultimate`, and for a layer that the scalar does not depend on;
    ShapeError unless the scalar is one number an image.

    >>> from optogram.methods.guidance.hirescam import along, hirescam
    >>> found = hirescam(classifier.model, inputs, along(torch.eye(6)[:1]), ["1"])
    >>> found["1"].shape
    torch.Size([4, 30, 30])
    """
    chosen = list(layers) if layers else blocks(model, size=images.shape[-1])[-1:]
    # with no gradients for weights, the pass keeps what it needs because of the images
    with torch.enable_grad(), catching_head(model) as head:
        found, _ = outputs(model, images.detach().requires_grad_(), chosen)
        value = scalar(head.features)
        if value.shape != (len(images),):
            raise ShapeError(f"the scalar has shape {tuple(value.shape)}; expected ({len(images)},), one an image.")
        slopes = torch.autograd.grad(value.sum(), [each.raw for each in found.values()], allow_unused=True)
    maps = {}
    for (name, each), slope in zip(found.items(), slopes, strict=True):
        if slope is None:
            raise ModelError(
                f"the scalar does not depend on layer {name!r} of {type(model).__name__}. `blocks` lists those that "
                "the features are made from."
            )
        maps[name] = (each.as_map(each.raw.detach()) * each.as_map(slope)).sum(1)
    return maps


@dataclass(frozen=True)
class Outside:
    """How much of each map lies outside the object.

    share: of the normalised map; NaN for images that are left out: `unseen`, the object is nowhere or everywhere, or
    `unsummed`, the map adds up to too little. Values below 0 and above 1 are possible, since maps have signs. area: of
    the image that is outside, what a map that is the same everywhere has. lowest: the least that a map without negative
    values can have on this grid: all of it in the cell that the object fills most.
    """

    share: Float64[np.ndarray, " image"]
    unseen: Bool[np.ndarray, " image"]
    unsummed: Bool[np.ndarray, " image"]
    area: Float64[np.ndarray, " image"]
    lowest: Float64[np.ndarray, " image"]


def outside(
    maps: Float[np.ndarray, "image gy gx"],
    masks: Integer[np.ndarray, "image y x"] | Bool[np.ndarray, "image y x"],
) -> Outside:
    """The share of each map, normalised to add up to 1, that lies outside the object (section F.3, Table 2).

    masks: 0 outside, anything else is the object. A cell of the map counts by how much of it is outside. This is what a
    map gives that is enlarged with each value spread evenly over its cell; interpolation would move some of it across
    the object's border.

    The paper does not say what becomes of maps that add up to zero or less, which have no normalisation. Here a map
    must add up to `LEAST` of its magnitudes' sum, and is left out and counted otherwise.

    Raises ShapeError for maps and masks of different number.

    >>> from optogram.methods.guidance.hirescam import outside
    >>> mask = np.array([[[0, 0, 1, 1]]])
    >>> outside(np.array([[[1.0, 3.0]]]), mask).share.tolist()
    [0.25]
    """
    normal, unsummed = normalised(maps)
    ground = background(masks, (maps.shape[1], maps.shape[2]))
    if len(ground) != len(maps):
        raise ShapeError(f"{len(maps)} maps, but masks of {len(ground)} images. Give one an image.")
    area = ground.mean((1, 2))
    unseen = ~seen(masks)
    share = np.where(unseen | unsummed, np.nan, (normal * ground).sum((1, 2)))
    return Outside(share, unseen, unsummed, area, ground.min((1, 2), initial=1.0))


def normalised(
    maps: Float[np.ndarray, "image gy gx"],
) -> tuple[Float64[np.ndarray, "image gy gx"], Bool[np.ndarray, " image"]]:
    """Each map over its sum; zeros for those that add up to too little, and which these are."""
    maps = np.asarray(maps, np.float64)
    total = maps.sum((1, 2))
    unsummed = ~(total > LEAST * np.abs(maps).sum((1, 2)))
    normal = maps / np.where(unsummed, 1.0, total)[:, None, None]
    return np.where(unsummed[:, None, None], 0.0, normal), unsummed


def seen(masks: Integer[np.ndarray, "image y x"] | Bool[np.ndarray, "image y x"]) -> Bool[np.ndarray, " image"]:
    """Where there is an object that does not fill the image."""
    objects = np.asarray(masks) != 0
    return objects.any((1, 2)) & ~objects.all((1, 2))


def background(
    masks: Integer[np.ndarray, "image y x"] | Bool[np.ndarray, "image y x"], grid: tuple[int, int]
) -> Float64[np.ndarray, "image gy gx"]:
    """How much of each cell of a grid over the image is outside the object, from 0 to 1, pixels cut where cells end.

    >>> from optogram.methods.guidance.hirescam import background
    >>> background(np.array([[[0, 1, 1]]]), (1, 2)).round(3).tolist()
    [[[0.667, 0.0]]]
    """
    empty = (np.asarray(masks) == 0).astype(np.float64)
    rows, columns = (_cells(cells, pixels) for cells, pixels in zip(grid, empty.shape[1:], strict=True))
    return np.einsum("ay,nyx,bx->nab", rows, empty, columns, optimize=True)


def _cells(cells: int, pixels: int) -> Float64[np.ndarray, "cell pixel"]:
    """Which share of each cell each pixel is."""
    ends, edges = np.arange(cells + 1) / cells, np.arange(pixels + 1) / pixels
    low = np.maximum(ends[:-1, None], edges[None, :-1])
    high = np.minimum(ends[1:, None], edges[None, 1:])
    return np.clip(high - low, 0, None) * cells
