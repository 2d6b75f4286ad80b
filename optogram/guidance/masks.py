"""Guidance: masks of the object in an image, from cross-attention maps, from points, and from files of the user's.

Augustin et al. (DiG-IN), section D.1.4. A mask is (y, x) in [0, 1]: 1 is the object, which may change, 0 what is kept.
"""

import io
import math
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from jaxtyping import Float, Int64
from PIL import ExifTags, Image
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from optogram.data.image_files import FORMATS, decode, find_images, quiet_decoding
from optogram.data.layout import LISTED, SUFFIXES, ImageFile
from optogram.data.zips import FILE_BYTES, zip_entries
from optogram.errors import DataError, ParamError, ShapeError

PIXELS = 80_000_000
"""Of a mask's file; a larger one is not decoded."""
_SIDEWAYS = 5
"""From this value of Exif's orientation on, a photograph lies on its side."""
_NEAR = 1e-6
"""A blurred mask that is 1 everywhere may be off by a rounding."""


def rough_mask(
    word_map: Float[Tensor, "image row column"], size: tuple[int, int], *, threshold: float
) -> Float[Tensor, "image y x"]:
    """Where the attention of an image's class name lies: upsampled (bilinear), its largest value 1, the faint parts 0.

    word_map: cross-attention of the words of the class name, averaged; not negative. size: y and x of the image.
    threshold: of the largest value; what is below it becomes 0. A map of zeros stays one.

    Raises ParamError for a threshold outside [0, 1), and DataError for maps that are negative or not finite.

    Source: DiG-IN, section D.1.4.

    >>> from optogram.guidance.masks import rough_mask
    >>> rough_mask(torch.tensor([[[1.0, 4.0]]]), (1, 2), threshold=0.3).tolist()
    [[[0.0, 1.0]]]
    """
    if not 0 <= threshold < 1:
        raise ParamError(f"rough mask: threshold = {threshold}, expected at least 0 and less than 1. Change it.")
    if bad := _named(~(word_map.isfinite() & (word_map >= 0)).flatten(1).all(1), None):
        raise DataError(
            f"rough mask: attention that is negative or not finite in {bad}. Expected averages of attention, which "
            "are in [0, 1]: check the model's weights."
        )
    large = F.interpolate(word_map.float()[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
    most = large.amax((1, 2), keepdim=True)
    scaled = large / torch.where(most > 0, most, 1)
    return torch.where(scaled >= threshold, scaled, 0)


def sampled_points(
    rough: Float[Tensor, "image y x"], count: int = 5, *, seeds: Sequence[int]
) -> Int64[Tensor, "image point 2"]:
    """Points (y, x) on the object, drawn with replacement, each pixel as probable as its value in the rough mask.

    seeds: one an image, whose points follow from its mask and its seed alone. Returned on the CPU.

    Raises ParamError for a count below 1, ShapeError unless there is a seed an image, and DataError that names the
    images whose rough mask is empty.

    Source: DiG-IN, section D.1.4, where there are 5 points.

    >>> from optogram.guidance.masks import sampled_points
    >>> sampled_points(torch.tensor([[[0.0, 0.0], [0.0, 1.0]]]), 2, seeds=[0]).tolist()
    [[[1, 1], [1, 1]]]
    """
    if count < 1:
        raise ParamError(f"points: count = {count}, expected at least 1. Change it.")
    if len(seeds) != len(rough):
        raise ShapeError(f"points: {len(rough)} masks, but {len(seeds)} seeds. Give each image one seed.")
    if empty := _named(rough.flatten(1).amax(1) <= 0, None):
        raise DataError(
            f"points: the rough mask is empty in {empty}, so that there is nothing to point at. Check that the caption "
            "names the object, and lower the threshold."
        )
    found = []
    for mask, seed in zip(rough.double().cpu().numpy(), seeds, strict=True):
        draw = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, zlib.crc32(b"points")))))
        places = draw.choice(mask.size, count, p=(mask / mask.sum()).ravel())
        found.append(np.stack(np.unravel_index(places, mask.shape), -1))
    return torch.from_numpy(np.stack(found).astype(np.int64))


def cleaned(mask: Float[Tensor, "image y x"], *, erode: int, dilate: int, blur: float) -> Float[Tensor, "image y x"]:
    """Masks without specks (erosion), grown (dilation) and with soft edges (Gaussian blur), in this order; in [0, 1].

    erode, dilate: sides of the square kernels in pixels, odd; 1 does nothing. blur: standard deviation in pixels; 0
    does nothing. Beyond its edge an image goes on as at the edge. A mask may come out empty: see `check_masks`.

    Raises ParamError for a kernel that is even or below 1, and for a negative blur.

    Source: DiG-IN, section D.1.4; it gives no sizes.

    >>> from optogram.guidance.masks import cleaned
    >>> cleaned(torch.tensor([[[0.0, 1.0, 0.0, 1.0, 1.0, 1.0]]]), erode=3, dilate=3, blur=0).tolist()
    [[[0.0, 0.0, 0.0, 1.0, 1.0, 1.0]]]
    """
    for name, side in (("erode", erode), ("dilate", dilate)):
        if side < 1 or side % 2 == 0:
            raise ParamError(f"mask: {name} = {side}, expected an odd number of pixels, 1 for none. Change it.")
    if not (math.isfinite(blur) and blur >= 0):
        raise ParamError(f"mask: blur = {blur}, expected a number of pixels, 0 for none. Change it.")
    values = mask.float().cpu().numpy()
    values = ndimage.minimum_filter(values, (1, erode, erode), mode="nearest")
    values = ndimage.maximum_filter(values, (1, dilate, dilate), mode="nearest")
    values = ndimage.gaussian_filter(values, (0, blur, blur), mode="nearest")
    return torch.from_numpy(values).clamp(0, 1).to(mask.device)


def latent_mask(mask: Float[Tensor, "image y x"], factor: int) -> Float[Tensor, "image row column"]:
    """S_VAE, the mask of the latents: the mean over the `factor` by `factor` pixels of each of their places.

    Raises ShapeError for sides that are not multiples of the factor.

    Source: DiG-IN, section D.1.4.

    >>> from optogram.guidance.masks import latent_mask
    >>> latent_mask(torch.tensor([[[0.0, 1.0], [1.0, 1.0]]]), 2).tolist()
    [[[0.75]]]
    """
    if mask.shape[1] % factor or mask.shape[2] % factor:
        raise ShapeError(
            f"latent mask: masks of {mask.shape[1]} x {mask.shape[2]}, expected sides that are multiples of {factor}, "
            "the codec's factor. Resize or crop the images."
        )
    return F.avg_pool2d(mask[:, None], factor)[:, 0]


def check_masks(masks: Float[Tensor, "image y x"], size: tuple[int, int], names: Sequence[str] | None = None) -> None:
    """Raises ShapeError for masks of another size than their images' (y, x).

    Raises DataError for masks that leave [0, 1] or are not finite, that are empty, and that are 1 everywhere.
    names: of the images, for the errors; their numbers, where there are none.
    """
    if tuple(masks.shape[1:]) != tuple(size):
        raise ShapeError(
            f"masks of {' x '.join(map(str, masks.shape[1:]))}, but images of {size[0]} x {size[1]}. Make them of one "
            "size."
        )
    flat = masks.flatten(1)
    if bad := _named(~((flat >= 0) & (flat <= 1)).all(1), names):
        raise DataError(
            f"the mask leaves [0, 1] or is not finite in {bad}. Expected 0 for what is kept, 1 for the object."
        )
    if empty := _named(flat.amax(1) <= _NEAR, names):
        raise DataError(
            f"the mask is empty in {empty}: no pixel is the object, so that nothing may change. Leave these images "
            "out, or give masks of your own."
        )
    if full := _named(flat.amin(1) >= 1 - _NEAR, names):
        raise DataError(
            f"the mask is 1 everywhere in {full}: there is no background that could be kept. Leave these images out, "
            "or give masks of your own."
        )


def mask_files(
    source: str | Path, ids: Sequence[str], size: int, *, photographs: str | Path | None = None
) -> Float[Tensor, "image y x"]:
    """The user's own masks of images, 1 where a file is white (at least half), else 0; rows in the order of `ids`.

    source: a folder or zip with a grey image for each photograph, at the place that the photograph's id names, whatever
    its suffix: dog/a.png for dog/a.jpg. size: side of the images in pixels. photographs: the folder or zip that the
    images were read from. Each mask then has its photograph's size, upright, and is cropped and resized as that was.
    Without it, masks are of the images' own size.

    Raises DataError that names the masks that are missing, of another size (with both sizes), coloured, damaged, empty
    or white everywhere.
    """
    keys = [_key(name) for name in ids]
    if len({*keys}) < len(keys):
        twice = next(name for name, key in zip(ids, keys, strict=True) if keys.count(key) > 1)
        raise DataError(f"{source}: several images would share the mask of {twice!r}. Give them names of their own.")
    with _files(Path(source)) as (names, read):
        found: dict[str, list[str]] = {}
        for name in names:
            if PurePosixPath(name).suffix.lower() in SUFFIXES:
                found.setdefault(_key(name), []).append(name)
        if missing := [name for name, key in zip(ids, keys, strict=True) if key not in found]:
            raise DataError(
                f"{source}: {len(missing):,} of {len(ids):,} images have no mask: {_listed(missing)}. Expected "
                f"{_key(missing[0])}.png or another image of this name; found {_listed(names) or 'no file'}. Add them, "
                "or leave these images out."
            )
        if several := next((found[key] for key in keys if len(found[key]) > 1), None):
            raise DataError(f"{source}: {' and '.join(several)} are masks of one image. Leave one of them.")
        files = [found[key][0] for key in keys]
        expected = [(size, size)] * len(ids) if photographs is None else _photograph_sizes(photographs, ids)
        with quiet_decoding():
            rows = [_decoded(source, name, read, of, size) for name, of in zip(files, expected, strict=True)]
    masks = torch.from_numpy(np.stack(rows)) if rows else torch.empty(0, size, size)
    try:
        check_masks(masks, (size, size), files)
    except DataError as error:
        raise DataError(f"{source}: {error} White (255) is the object, black (0) the background.") from error
    return masks


def _decoded(
    source: str | Path, name: str, read: Callable[[str], bytes], expected: tuple[int, int], size: int
) -> Float[np.ndarray, "y x"]:
    """A mask's file as zeros and ones. expected: its width and height in pixels."""
    try:
        data = read(name)
        pixels = decode(data, size, min_side=1, pixel_limit=PIXELS)
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            found = _upright(image)
    except Exception as error:  # on damaged files PIL and zipfile raise nearly anything
        raise DataError(
            f"{source}: {name} cannot be read ({error}). Expected a grey image, white where the object is."
        ) from error
    if found != expected:
        raise DataError(
            f"{source}: {name} is of {found[0]} x {found[1]} pixels, but its image of {expected[0]} x {expected[1]}. "
            "Give a mask of the image's size."
        )
    if (pixels != pixels[..., :1]).any():
        raise DataError(f"{source}: {name} is coloured. Expected a grey image, white where the object is.")
    return (pixels[..., 0] >= 128).astype(np.float32)


def _photograph_sizes(source: str | Path, ids: Sequence[str]) -> list[tuple[int, int]]:
    """Width and height of the photographs as they are seen: upright."""
    known = find_images(source)
    files: dict[str, ImageFile] = {file.id: file for file in known.files}
    if missing := [name for name in ids if name not in files]:
        raise DataError(
            f"{source}: {len(missing):,} of {len(ids):,} photographs are not there: {_listed(missing)}. Give the "
            "folder or zip that the images were read from."
        )
    sizes = []
    with known.reading() as read, quiet_decoding():
        for name in ids:
            try:
                with Image.open(io.BytesIO(read(files[name])), formats=FORMATS) as image:
                    sizes.append(_upright(image))
            except Exception as error:  # as above
                raise DataError(f"{source}: {name} cannot be read ({error}). Repair it.") from error
    return sizes


def _upright(image: Image.Image) -> tuple[int, int]:
    lies = image.getexif().get(ExifTags.Base.Orientation, 1) >= _SIDEWAYS
    return (image.height, image.width) if lies else (image.width, image.height)


@contextmanager
def _files(source: Path) -> Iterator[tuple[list[str], Callable[[str], bytes]]]:
    """The names of a folder's or zip's files, and how to read one. DataError if it is neither."""
    if source.is_dir():
        names = sorted(path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file())

        def read(name: str) -> bytes:
            if (held := (source / name).stat().st_size) > FILE_BYTES:
                raise DataError(f"{held:,} bytes, more than {FILE_BYTES:,}")
            return (source / name).read_bytes()

        yield names, read
    elif source.is_file():
        entries = zip_entries(source)
        with zipfile.ZipFile(source) as archive:
            yield sorted(entries.files), lambda name: archive.read(entries.files[name])
    else:
        raise DataError(f"{source}: no such folder or zip. Expected a folder or zip with a grey image for each mask.")


def _key(name: str) -> str:
    """A file's name without the suffix of an image."""
    path = PurePosixPath(name)
    return str(path.with_suffix("")) if path.suffix.lower() in SUFFIXES else str(path)


def _named(bad: Tensor, names: Sequence[str] | None) -> str:
    """The images of a mask of booleans, by their names or numbers; "" if there is none."""
    rows: list[int] = bad.nonzero().flatten().tolist()
    return _listed([f"image {k}" if names is None else names[k] for k in rows])


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED:,} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
