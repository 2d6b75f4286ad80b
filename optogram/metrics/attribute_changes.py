"""Metrics room, changes of attributes: how many of them an edit changed, and whether those that go together in data."""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from jaxtyping import Float64

from optogram.errors import DataError, ParamError, ShapeError, nearest


def attributes_changed(
    before: xr.DataArray, after: xr.DataArray, attributes: Sequence[str] | None = None
) -> Float64[np.ndarray, " image"]:
    """How many attributes of each picture have another value after an edit; the mean of it is the rivals' MNAC.

    before, after: (image, attribute) integers with an `attribute` coordinate, such as `value` of `Judge.parse`. An
    attribute without a value before (-1) does not count; one that has lost its value has changed, as in `edits.kept`.
    NaN where none had a value. attributes: those that count. None: all of them, as Jeanneret et al. (DiME, 2022) have
    it: a counterfactual that changes what was asked for, and nothing else, has 1.

    Raises ShapeError if the arrays are not of the same images and attributes, ParamError for an unknown attribute.

    >>> from optogram.metrics.attribute_changes import attributes_changed
    >>> labels = scenes.label.isel(image=slice(0, 3))
    >>> edited = labels.copy()
    >>> edited[0, :2] += 1
    >>> attributes_changed(labels, edited).tolist()
    [2.0, 0.0, 0.0]
    """
    names = _check_alike(before, after)
    chosen = names if attributes is None else list(attributes)
    columns = [_place(name, names) for name in chosen]
    had, has = (each.transpose("image", "attribute").values[:, columns] for each in (before, after))
    there = had >= 0
    return np.where(there.any(1), ((had != has) & there).sum(1).astype(np.float64), np.nan)


def presence(labels: xr.DataArray, value_name: xr.DataArray) -> xr.DataArray:
    """Whether each value of each attribute is there: (image, attribute) float64, whose attributes are as "shape: star".

    labels, value_name: as an images artifact and `Judge.parse` have them. 1 where the image has the value, 0 where it
    has another one, NaN where it has none (-1). This is what `correlation_difference` takes.

    Raises ShapeError if the two differ in attributes, DataError for a value that `value_name` lacks.

    >>> from optogram.metrics.attribute_changes import presence
    >>> found = presence(scenes.label, scenes.value_name)
    >>> bool((found.sum("attribute") == scenes.sizes["attribute"]).all())
    True
    """
    attributes = labels["attribute"].values.astype(str).tolist()
    values = labels.transpose("image", "attribute").values.astype(np.int64)
    names = value_name.transpose("attribute", "value").values.astype(str)
    if len(names) != len(attributes):
        raise ShapeError(
            f"labels have {len(attributes)} attributes, value_name has {len(names)}. Take both from the same images."
        )
    found, kinds = [], []
    for column, attribute, row in zip(values.T, attributes, names, strict=True):
        known = [str(name) for name in row if name]
        if len(column) and not -1 <= int(column.min()) <= int(column.max()) < len(known):
            raise DataError(
                f"{attribute}: labels reach from {column.min()} to {column.max()}; expected -1, for none, to "
                f"{len(known) - 1}. Number values as value_name does."
            )
        found += [np.where(column < 0, np.nan, column == index) for index in range(len(known))]
        kinds += [f"{attribute}: {name}" for name in known]
    return xr.DataArray(np.stack(found, 1).astype(np.float64), {"attribute": kinds}, ("image", "attribute"))


def correlation_difference(data: xr.DataArray, before: xr.DataArray, after: xr.DataArray, target: str) -> xr.Dataset:
    """CD (Jeanneret et al. 2022, DiME): do attributes change with the target attribute as they go with it in data?

    data: (image, attribute) of 0 and 1, NaN where unknown, with an `attribute` coordinate: labels of other images.
    before, after: the same attributes as another model sees them in originals and counterfactuals; give both directions
    of the target attribute, or failures too. `presence` makes such arrays of attributes of many values.

    Returns over `attribute`:
    - `in_data`: Pearson's correlation r of the attribute with the target over images.
    - `in_changes`: r' of after - before of the attribute with that of the target, over pairs. 0 for an attribute that
      never changes, as the published code has it; `changed` says how many pairs it changes in.
    - `difference`: |r' - r|; NaN where a correlation cannot be said: of an attribute that does not vary in the data, or
      where the target changes alike in all pairs.
    - `cd` (): the sum of `difference` over those that have one, of which there are `counted` (); NaN if there are none.
    0 is best. The sum grows with the number of attributes: compare it among the same ones.

    Raises ShapeError if the arrays do not have the same attributes, or before and after not the same images,
    ParamError for an unknown target, DataError for values other than these.

    >>> from optogram.metrics.attribute_changes import correlation_difference
    >>> names = {"attribute": ["smile", "hat"]}
    >>> data = xr.DataArray([[0, 0], [1, 1], [0, 1], [1, 0]], names, ("image", "attribute"))
    >>> after = xr.DataArray([[1, 1], [0, 0], [1, 1], [0, 0]], names, ("image", "attribute"))
    >>> found = correlation_difference(data, data, after, "smile")
    >>> found.in_data.values.tolist(), found.in_changes.values.round(3).tolist()
    ([1.0, 0.0], [1.0, 0.707])
    """
    names = _check_alike(before, after)
    if data["attribute"].values.astype(str).tolist() != names:
        raise ShapeError(
            f"data have the attributes {', '.join(data['attribute'].values.astype(str))}, pictures {', '.join(names)}. "
            "Give the same ones, in one order."
        )
    at = _place(target, names)
    labels, had, has = (_checked(*each) for each in (("data", data), ("before", before), ("after", after)))
    change = has - had
    in_data, in_changes = (
        np.array([_correlation(column, side[:, at]) for column in side.T]) for side in (labels, change)
    )
    still = np.array([_constant(column, change[:, at]) for column in change.T])
    in_changes = np.where(still, 0.0, in_changes)
    difference = np.abs(in_changes - in_data)
    counted = int(np.isfinite(difference).sum())
    missing = {"missing": "the attribute does not vary in the data, or the target's changes do not"}
    each = {"in_data": in_data, "in_changes": in_changes, "difference": difference}
    return xr.Dataset(
        {
            **{name: (("attribute",), values, missing) for name, values in each.items()},
            "changed": (("attribute",), (np.abs(np.nan_to_num(change)) > 0).sum(0)),
            "cd": ((), np.nansum(difference) if counted else np.nan, missing),
            "counted": ((), counted),
        },
        {"attribute": names},
    )


def _known(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    both = np.isfinite(one) & np.isfinite(other)
    return one[both], other[both]


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson's, of images where both are known; NaN if one of them does not vary there."""
    one, other = _known(one, other)
    if len(one) < 2 or not np.ptp(one) or not np.ptp(other):
        return np.nan
    return float(np.corrcoef(one, other)[0, 1])


def _constant(one: np.ndarray, target: np.ndarray) -> bool:
    """Whether an attribute changes alike in all pairs while the target does not."""
    one, target = _known(one, target)
    return len(one) > 1 and not np.ptp(one) and bool(np.ptp(target))


def _checked(what: str, values: xr.DataArray) -> Float64[np.ndarray, "image attribute"]:
    found = values.transpose("image", "attribute").values.astype(np.float64)
    if not (np.isnan(found) | (found == 0) | (found == 1)).all():
        raise DataError(
            f"attributes in {what} have values other than 0, 1 and NaN. Threshold probabilities at one half, and make "
            "`presence` of attributes that have many values."
        )
    return found


def _place(name: str, names: list[str]) -> int:
    if name not in names:
        raise ParamError(f"attribute {name!r} is unknown; there are {', '.join(names)}.{nearest(name, names)}")
    return names.index(name)


def _check_alike(before: xr.DataArray, after: xr.DataArray) -> list[str]:
    """The attributes of both."""
    names = [each["attribute"].values.astype(str).tolist() for each in (before, after)]
    if names[0] != names[1] or before.sizes["image"] != after.sizes["image"]:
        raise ShapeError(
            f"before there are {before.sizes['image']} images with {', '.join(names[0])}, after {after.sizes['image']} "
            f"with {', '.join(names[1])}. Give the same images, and the same attributes in one order."
        )
    return names[0]
