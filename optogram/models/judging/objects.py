"""Room models: objects counted and measured on a map of where objects are."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Int64, UInt8
from scipy import ndimage

from optogram.errors import ParamError, ShapeError

MOST = 9
"""Objects that are told apart in an image: the largest ones, if there are more."""
HOLE = 6
"""Pixels from an object to its middle, at most, where that is not in it: holes of rings have a radius of four."""
_ROUND = np.ones((3, 3), bool)
"""Points that meet at a corner are of one object: an outline that runs aslant is cut by pixels otherwise."""


class Objects(NamedTuple):
    """The objects of an image, numbered from 1 by their topmost point, then by their leftmost one.

    mask: the object's number at each pixel, 0 where none is. box: top, left, bottom, right in pixels, the last two
    exclusive. area: pixels. middle: the centre of mass, y and x.
    """

    mask: UInt8[np.ndarray, "y x"]
    box: Int64[np.ndarray, "object 4"]
    middle: Float64[np.ndarray, "object 2"]
    area: Int64[np.ndarray, " object"]


def find_objects(
    inside: Bool[np.ndarray, "y x"], centre: Float[np.ndarray, "y x"] | None = None, *, least: int = 1, near: int = 5
) -> Objects:
    """The connected parts of where objects are, of `least` pixels or more.

    centre: how surely a pixel is the middle of an object, in [0, 1]. A part that holds several middles, peaks of at
    least one half that are more than `near` pixels apart, is cut up: each pixel goes to the nearest one. None: parts
    are not cut up.

    Raises ShapeError if the two maps differ in shape, ParamError for `least` below 1.

    >>> from optogram.models import find_objects
    >>> inside = np.zeros((8, 8), bool)
    >>> inside[1:4, 2:4] = inside[5:7, 4:8] = True
    >>> found = find_objects(inside)
    >>> found.box.tolist(), found.area.tolist()
    ([[1, 2, 4, 4], [5, 4, 7, 8]], [6, 8])
    """
    if inside.ndim != 2 or (centre is not None and centre.shape != inside.shape):
        middles = "none" if centre is None else str(centre.shape)
        raise ShapeError(
            f"maps of objects have shape {inside.shape}, of their middles {middles}; expected (y, x) of both."
        )
    if least < 1:
        raise ParamError(f"judge: least = {least}, expected a number of pixels above 0. Change it.")
    parts, count = _joined(inside)
    if count and centre is not None:
        parts, count = _cut_up(parts, count, _peaks(centre, near))
    area = np.bincount(parts.ravel(), minlength=count + 1)[1:]
    large = np.argsort(-area, kind="stable")[:MOST]
    kept = np.sort(large[area[large] >= least])  # parts are numbered from the top, then from the left
    number = np.zeros(count + 1, np.uint8)
    number[kept + 1] = np.arange(1, len(kept) + 1)
    mask = number[parts]
    box = [[rows.start, columns.start, rows.stop, columns.stop] for rows, columns in ndimage.find_objects(mask)]
    middle = ndimage.center_of_mass(mask > 0, mask, range(1, len(kept) + 1))
    return Objects(
        mask, np.array(box, np.int64).reshape(-1, 4), np.array(middle, np.float64).reshape(-1, 2), area[kept]
    )


def _joined(inside: Bool[np.ndarray, "y x"]) -> tuple[Int[np.ndarray, "y x"], int]:
    """The number of each pixel's connected part, from 1 at the top, and how many there are."""
    parts = np.zeros(inside.shape, np.int64)
    return parts, int(ndimage.label(inside, _ROUND, parts))  # pyright: ignore[reportArgumentType]


def _peaks(centre: Float[np.ndarray, "y x"], near: int) -> Int64[np.ndarray, "peak 2"]:
    """Points of at least one half that are the largest for `near` pixels around; of equal ones that are near, one."""
    highest = (centre >= 0.5) & (centre == ndimage.maximum_filter(centre, 2 * near + 1, mode="constant"))
    together, count = _joined(ndimage.binary_dilation(highest, np.ones((near, near))))
    found = ndimage.center_of_mass(highest, together, range(1, count + 1))
    return np.rint(np.array(found, np.float64)).astype(np.int64).reshape(-1, 2)


def _cut_up(
    parts: Int[np.ndarray, "y x"], count: int, peaks: Int64[np.ndarray, "peak 2"]
) -> tuple[Int[np.ndarray, "y x"], int]:
    """Parts that hold several peaks, each pixel with the peak that is nearest; numbered from the top anew."""
    y, x = np.nonzero(parts)
    part = parts[y, x]
    # the middle of a ring is not in it: a peak is of the part that is nearest, if that is near enough
    distance = (y[:, None] - peaks[:, 0]) ** 2 + (x[:, None] - peaks[:, 1]) ** 2
    owner = np.where(distance.min(0) <= HOLE**2, part[distance.argmin(0)], 0)
    nearest = np.where(owner == part[:, None], distance, np.iinfo(np.int64).max).argmin(1) if len(peaks) else 0
    _, first, again = np.unique(part * (len(peaks) + 1) + nearest, return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(first))
    found = np.zeros_like(parts)
    found[y, x] = order[again] + 1
    return found, len(first)
