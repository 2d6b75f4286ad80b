"""Methods, rosetta: sketches of scenes turned into pictures by matched units alone (thesis, Figures 4.4 and 4.5).

A sketch is nothing that the generator ever drew, so that no distance of pixels leads from the one to the other. Whether
the picture shows what the sketch does is asked of a judge, and of where the object is.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float64, UInt8
from scipy import ndimage

from optogram.methods.rosetta.inversion import Inversion, invert
from optogram.methods.rosetta.mining import Member
from optogram.methods.rosetta.reconstruction import ALL, PERMUTED, conditions
from optogram.models.generative.generators import Generator
from optogram.models.generative.sampling import to_pixels
from optogram.models.judging.judge import Judge

DRAWN = ("shape", "size", "position")
"""Attributes that an outline shows."""


def outlines(mask: UInt8[np.ndarray, "image y x"]) -> UInt8[np.ndarray, "image y x rgb"]:
    """The edges of the objects, two pixels wide in black on white.

    mask: an object's number at each pixel, 0 where none is.
    """
    inside = mask > 0
    around = np.zeros((3, 3, 3), bool)
    around[1] = True  # images are not neighbours of each other
    outer, core = (
        np.asarray(grown(inside, around), bool) for grown in (ndimage.binary_dilation, ndimage.binary_erosion)
    )
    edge = outer & ~core
    return np.where(edge[..., None], 0, 255).astype(np.uint8).repeat(3, -1)


def with_one_object(images: xr.Dataset, count: int) -> xr.Dataset | None:
    """The first scenes of one object, of which sketches can be judged; None for photographs."""
    if "mask" not in images or "count" not in images["attribute"]:
        return None
    alone = np.flatnonzero((images["label"].sel(attribute="count") == 0).values)[:count]
    return images[["mask", "label", "value_name"]].isel(image=alone).load() if len(alone) else None


def sketched(
    generator: Generator,
    found: xr.Dataset,
    members: Sequence[Member],
    scenes: xr.Dataset,
    seeds: Sequence[int],
    options: Inversion,
    judge: Judge,
    *,
    permutation: int,
    progress: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
    """Pictures whose units are as their partners are in the outlines of `scenes` (eq. 4.5), and of permuted pairs.

    scenes: `mask`, `label` and `value_name` as images/<split> has them. Returns `sketch` (image, y, x, rgb) uint8,
    `sketch_pixels` (guide, image, y, x, rgb) uint8, `sketch_overlap` (guide, image), the intersection over union of the
    object that the judge finds and the one that was outlined, and `sketch_seen` (guide, image), the share of shape,
    size and position that the judge sees as they were, NaN if it knows none of these.

    Raises DataError if no pair was found.
    """
    drawn = outlines(scenes["mask"].values)
    own, wanted, _ = conditions(generator, found, members, drawn, permutation)
    start, alone = generator.latents(list(seeds)), replace(options, reconstructed=0.0)
    pixels, overlap, seen = [], [], []
    for at, guide in enumerate((ALL, PERMUTED)):
        tell = None
        if progress is not None:
            tell = lambda done, total, at=at: progress(at * total + done, 2 * total)  # noqa: E731
        pictures = to_pixels(invert(generator, start, own, wanted[guide], alone, progress=tell).images, "the generator")
        parsed = judge.parse(pictures)
        pixels.append(pictures)
        overlap.append(overlaps(parsed["mask"].values > 0, scenes["mask"].values > 0))
        seen.append(_as_labelled(parsed, scenes))
    variables: dict[str, Any] = {
        "sketch": (("image", "y", "x", "rgb"), drawn),
        "sketch_pixels": (("guide", "image", "y", "x", "rgb"), np.stack(pixels)),
        "sketch_overlap": (("guide", "image"), np.stack(overlap).astype(np.float32)),
        "sketch_seen": (
            ("guide", "image"),
            np.stack(seen).astype(np.float32),
            {"missing": "the judge knows none of these"},
        ),
    }
    return xr.Dataset(variables, {"guide": [ALL, PERMUTED]})


def overlaps(one: Bool[np.ndarray, "image y x"], other: Bool[np.ndarray, "image y x"]) -> Float64[np.ndarray, " image"]:
    """Intersection over union of two masks of each image; 0 where both are empty.

    >>> from optogram.methods.rosetta.sketches import overlaps
    >>> overlaps(np.eye(2, dtype=bool)[None], np.ones((1, 2, 2), bool)).tolist()
    [0.5]
    """
    both, either = (each.sum((1, 2)) for each in (one & other, one | other))
    return both / np.maximum(either, 1)


def _as_labelled(parsed: xr.Dataset, scenes: xr.Dataset) -> Float64[np.ndarray, " image"]:
    names = [name for name in DRAWN if name in scenes["attribute"].values and name in parsed["attribute"].values]
    if not names:
        return np.full(scenes.sizes["image"], np.nan)
    told, known = (_names(each, of, names) for each, of in ((parsed["value"], parsed), (scenes["label"], scenes)))
    return ((told == known) & (known != "")).mean(1)


def _names(index: xr.DataArray, images: xr.Dataset, attributes: Sequence[str]) -> np.ndarray:
    """The values' names, (image, attribute); "" where there is none."""
    rows = index.sel(attribute=list(attributes)).transpose("image", "attribute").values
    named = images["value_name"].sel(attribute=list(attributes)).transpose("attribute", "value").values.astype(str)
    columns = np.arange(len(attributes))
    return np.where(rows >= 0, named[columns, np.maximum(rows, 0)], "")
