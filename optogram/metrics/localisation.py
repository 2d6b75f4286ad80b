"""Metrics room, localisation: whether objects that are found in pictures are as many, and where, as the truth has."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64, Integer

from optogram.errors import DataError, ShapeError


class Localised(NamedTuple):
    """Of each image: whether as many objects are found as there are; how well the objects' pixels, and their boxes,
    are met, in [0, 1]; NaN where there is nothing to be met."""

    counted: Bool[np.ndarray, " image"]
    mask_iou: Float64[np.ndarray, " image"]
    box_iou: Float64[np.ndarray, " image"]


def localisation(found: Integer[np.ndarray, "image y x"], truth: Integer[np.ndarray, "image y x"]) -> Localised:
    """How well objects that are found meet the true ones. Both masks number objects from 1; 0 is where none is.

    mask_iou: pixels that are of any object in both, over those that are in either. NaN where neither has one.
    box_iou: of each true object, the largest intersection over union of its box with that of an object that is found;
    the mean over the image's objects. NaN for an image without any: what is found there is counted wrongly.

    Raises ShapeError for masks of different shape, DataError for numbers below 0.

    >>> from optogram.metrics.localisation import localisation
    >>> found = localisation(np.where(scenes["mask"] == 1, 1, 0), scenes["mask"].values)
    >>> found.counted.tolist() == (scenes["mask"].max(("y", "x")) == 1).values.tolist()
    True
    """
    if found.shape != truth.shape or truth.ndim != 3:
        raise ShapeError(f"masks have shapes {found.shape} and {truth.shape}; expected (image, y, x), both alike.")
    if found.size and min(int(found.min()), int(truth.min())) < 0:
        raise DataError("a mask has numbers below 0. Number objects from 1, and let 0 be where none is.")
    ours, theirs = found > 0, truth > 0
    union = (ours | theirs).sum((1, 2))
    both = (ours & theirs).sum((1, 2))
    mask_iou = np.divide(both, union, out=np.full(len(truth), np.nan), where=union > 0)
    counted, box_iou = np.zeros(len(truth), bool), np.full(len(truth), np.nan)
    for at, (guess, true) in enumerate(zip(found, truth, strict=True)):
        guessed, known = boxes(guess), boxes(true)
        counted[at] = len(guessed) == len(known)
        if len(known):
            box_iou[at] = box_overlap(known, guessed).max(1, initial=0).mean()
    return Localised(counted, mask_iou, box_iou)


def boxes(mask: Integer[np.ndarray, "y x"]) -> Int64[np.ndarray, "object 4"]:
    """Top, left, bottom, right of each number above 0 in a mask, in their order, the last two exclusive.

    >>> from optogram.metrics.localisation import boxes
    >>> boxes(np.array([[0, 2, 2], [1, 0, 2]])).tolist()
    [[1, 0, 2, 1], [0, 1, 2, 3]]
    """
    numbers = np.unique(mask[mask > 0])
    found = np.zeros((len(numbers), 4), np.int64)
    for row, number in enumerate(numbers):
        y, x = np.nonzero(mask == number)
        found[row] = y.min(), x.min(), y.max() + 1, x.max() + 1
    return found


def box_overlap(
    first: Float[np.ndarray, "a 4"] | Integer[np.ndarray, "a 4"],
    second: Float[np.ndarray, "b 4"] | Integer[np.ndarray, "b 4"],
) -> Float64[np.ndarray, "a b"]:
    """Intersection over union of each box (top, left, bottom, right) with each.

    >>> from optogram.metrics.localisation import box_overlap
    >>> box_overlap(np.array([[0, 0, 2, 2]]), np.array([[0, 0, 2, 2], [0, 1, 2, 3], [5, 5, 6, 6]])).round(3).tolist()
    [[1.0, 0.333, 0.0]]
    """
    start = np.maximum(first[:, None, :2], second[:, :2])
    stop = np.minimum(first[:, None, 2:], second[:, 2:])
    both = np.clip(stop - start, 0, None).prod(2).astype(np.float64)
    areas = [(each[:, 2:] - each[:, :2]).prod(1).astype(np.float64) for each in (first, second)]
    union = areas[0][:, None] + areas[1] - both
    return np.divide(both, union, out=np.zeros(both.shape), where=union > 0)
