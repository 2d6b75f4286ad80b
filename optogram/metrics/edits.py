"""Metrics room, edits: whether what an edit asked for is seen in the picture, and what else changed.

All are of what `Judge.parse` says of the pictures before and after. A number is NaN where nothing can be said: of a
picture in which there was not one object to begin with.
"""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float64

from optogram.errors import ParamError, ShapeError, nearest


def moved(before: xr.Dataset, after: xr.Dataset) -> Float64[np.ndarray, "image 2"]:
    """How far the middle of the object's box went down and to the right, in pixels; NaN unless there is one after too.

    Raises ShapeError for different numbers of pictures.
    """
    _check(before, after)
    alone = _alone(before) & _alone(after)
    return np.where(alone[:, None], _middle(after) - _middle(before), np.nan)


def enlarged(before: xr.Dataset, after: xr.Dataset) -> Float64[np.ndarray, " image"]:
    """The object's area after over that before; NaN unless there is one after too. Raises ShapeError as `moved`."""
    _check(before, after)
    alone = _alone(before) & _alone(after)
    areas = [seen["area"].transpose("image", "object").values[:, 0].astype(np.float64) for seen in (before, after)]
    return np.where(alone, areas[1] / np.where(alone, areas[0], 1), np.nan)


def succeeded(
    edit: str, before: xr.Dataset, after: xr.Dataset, *, side: int, share: float = 0.25
) -> Float64[np.ndarray, " image"]:
    """1 where an edit is seen in the picture, 0 where it is not, NaN where there was not one object before.

    edit: "zoom in", the object has at least twice the area, of four times that are asked for; "shift right", it went to
    the right by at least half of `share` of `side`, and less than that up or down; "copy and paste", there are two
    objects or more. An object that is gone, or has become several, was neither zoomed nor shifted.

    Raises ParamError for another edit, ShapeError as `moved`.

    >>> from optogram.metrics.edits import succeeded
    >>> seen = judge.parse(scenes.pixels.values)
    >>> np.nanmax(succeeded("zoom in", seen, seen, side=32))
    0.0
    """
    _check(before, after)
    if edit == "zoom in":
        hit = enlarged(before, after) >= 2
    elif edit == "shift right":
        step = moved(before, after)
        hit = (step[:, 1] >= share * side / 2) & (np.abs(step[:, 0]) < share * side / 2)
    elif edit == "copy and paste":
        hit = after["count"].values >= 2
    else:
        known = ["zoom in", "shift right", "copy and paste"]
        raise ParamError(f"edits: {edit!r} is unknown; expected one of {', '.join(known)}.{nearest(edit, known)}")
    return np.where(_alone(before), hit.astype(np.float64), np.nan)


def kept(before: xr.Dataset, after: xr.Dataset, attributes: Sequence[str]) -> Float64[np.ndarray, " image"]:
    """The share of these attributes whose value is as before, of those that had one; NaN if there was not one object.

    Raises ShapeError as `moved`, ParamError for an unknown attribute.
    """
    _check(before, after)
    known = before["attribute"].values.astype(str).tolist()
    for name in attributes:
        if name not in known:
            raise ParamError(
                f"edits: attribute {name!r} is unknown; there are {', '.join(known)}.{nearest(name, known)}"
            )
    had, has = (
        seen["value"].sel(attribute=list(attributes)).transpose("image", "attribute").values for seen in (before, after)
    )
    there = had >= 0
    return np.where(_alone(before) & there.any(1), ((had == has) & there).sum(1) / np.maximum(there.sum(1), 1), np.nan)


def _alone(seen: xr.Dataset) -> Bool[np.ndarray, " image"]:
    return seen["count"].values == 1


def _middle(seen: xr.Dataset) -> Float64[np.ndarray, "image 2"]:
    """Row and column of the middle of the first object's box."""
    box = seen["box"].values.astype(np.float64)[:, 0]
    return (box[:, :2] + box[:, 2:]) / 2


def _check(before: xr.Dataset, after: xr.Dataset) -> None:
    if before.sizes["image"] != after.sizes["image"]:
        raise ShapeError(
            f"edits: there are {before.sizes['image']} pictures before and {after.sizes['image']} after. Judge both of "
            "the same."
        )
