"""Metrics room, drawn pictures: whether what was asked for is seen in them, and how much of the data's variety is."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float64, Int, Int64

from optogram.errors import DataError, ShapeError, nearest
from optogram.metrics.intervals import share

COMBINATIONS = ("all", "known", "held_out")
NOTHING = "no sample was asked for it"


def drawn(
    asked: xr.DataArray,
    seen: xr.DataArray,
    value_name: xr.DataArray,
    held_out: Bool[np.ndarray, " image"] | None = None,
) -> xr.Dataset:
    """How often the value that a sample was asked for is the one that is seen in it, attribute by attribute.

    asked, seen: (image, attribute) integers with an `attribute` coordinate, indices into `value_name` (attribute,
    value) as an images artifact has it, a row a sample. -1 in `asked`: the attribute was left free, and the sample is
    left out of its numbers. -1 in `seen`: no value is seen, which is none of those asked for. Whose eyes it is seen
    with does not matter here; a judge's `value` will do.
    held_out: samples whose combination the model never saw in training. None: of no sample is that known.

    Returns, over `combination` (all samples, those of `known` combinations, those of `held_out` ones):
    - `share` (combination, attribute), with `share_low` and `share_high`, Wilson's interval; `asked` the samples.
    - `chance`, likewise: the share expected if the samples were shuffled among the requests, sum_v P(asked = v)
      P(seen = v). A model that always draws the same has this share too.
    - `whole` (combination) and its interval: all asked values of a sample are seen; `wholes` the samples.
    Over values:
    - `value_share` (attribute, value) and its interval: of the samples asked for the value; `value_asked` of how many.
    - `free` (attribute, value) and its interval: of all samples, whatever they were asked for. To know what the model
      draws unasked, pass what is seen in its unconditional samples to `value_shares`.
    Shares of no samples are NaN.

    Raises ShapeError if the arrays do not go together, DataError for a value that `value_name` lacks.

    >>> from optogram.metrics.drawn import drawn
    >>> seen = scenes.label.copy()
    >>> seen[:3, 0] = -1
    >>> found = drawn(scenes.label, seen, scenes.value_name, scenes.held_out.values)
    >>> found.share.sel(combination="all").values.tolist()
    [0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    """
    asked, seen = (each.transpose("image", "attribute") for each in (asked, seen))
    _check_alike(asked, seen, held_out)
    values, labels = np.asarray(asked.values, np.int64), np.asarray(seen.values, np.int64)
    names = value_name.transpose("attribute", "value").values.astype(str)
    _check_values(values, names, asked)
    _check_values(labels, names, asked)
    hit, wanted = values == labels, values >= 0
    groups = _groups(len(values), held_out)
    count = np.stack([(wanted & rows[:, None]).sum(0) for rows in groups])
    hits = np.stack([(wanted & hit & rows[:, None]).sum(0) for rows in groups])
    named = wanted.any(1)
    wholes = np.array([(named & rows).sum() for rows in groups])
    whole = np.array([(named & rows & (hit | ~wanted).all(1)).sum() for rows in groups])
    each = values[:, :, None] == np.arange(names.shape[1])
    variables = {
        **shares_of("share", hits, count, ("combination", "attribute")),
        **shares_of("whole", whole, wholes, ("combination",)),
        **shares_of("value_share", (each & hit[:, :, None]).sum(0), each.sum(0), ("attribute", "value")),
        "asked": (("combination", "attribute"), count),
        "wholes": (("combination",), wholes),
        "value_asked": (("attribute", "value"), each.sum(0)),
        "chance": (("combination", "attribute"), _chance(values, labels, names.shape[1], groups), {"missing": NOTHING}),
    }
    free = value_shares(seen, value_name).rename(share="free", low="free_low", high="free_high")
    coordinates = {"combination": list(COMBINATIONS), "attribute": asked["attribute"].values.astype(str)}
    return xr.Dataset(variables, coordinates).merge(free)


def value_shares(seen: xr.DataArray, value_name: xr.DataArray) -> xr.Dataset:
    """Of all samples, the `share` (attribute, value) in which each value is seen, with `low`, `high` (Wilson).

    Arguments and errors as `drawn`. Shares of an attribute add up to 1 less the samples in which none is seen; a value
    that an attribute does not have has the share 0.

    >>> from optogram.metrics.drawn import value_shares
    >>> value_shares(scenes.label, scenes.value_name).share.sum("value").round(3).values.tolist()
    [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    """
    labels = np.asarray(seen.transpose("image", "attribute").values, np.int64)
    names = value_name.transpose("attribute", "value").values.astype(str)
    _check_values(labels, names, seen)
    count = (labels[:, :, None] == np.arange(names.shape[1])).sum(0)
    found = shares_of("share", count, np.full(count.shape, len(labels)), ("attribute", "value"))
    named = {"share": found["share"], "low": found["share_low"], "high": found["share_high"]}
    return xr.Dataset(named, {"attribute": seen["attribute"].values.astype(str)})


def least(found: xr.Dataset) -> tuple[str, str] | None:
    """The attribute that is met least, and the eye that says so; None where nothing was asked for.

    found: what `drawn` returned, of several eyes along `eye`. Attributes of which one value only was asked for are left
    out: their share is what chance gives.

    >>> from optogram.metrics.drawn import drawn, least
    >>> parts = [drawn(scenes.label, scenes.label, scenes.value_name)]
    >>> least(xr.concat(parts, "eye").assign_coords(eye=["judge"]))[1]
    'judge'
    """
    several = (found["value_asked"] > 0).sum("value") > 1
    shares = found["share"].sel(combination="all").where(several).transpose("eye", "attribute")
    if not bool(np.isfinite(shares).any()):
        return None
    eye, attribute = np.unravel_index(int(np.nanargmin(shares.values)), shares.shape)
    return str(shares["attribute"].values[attribute]), str(shares["eye"].values[eye])


def combination_recall(seen: xr.DataArray, data: xr.DataArray, attributes: Sequence[str]) -> xr.Dataset:
    """How many of the data's combinations of values occur in what a model draws, and how many others do.

    seen, data: (image, attribute) integers with an `attribute` coordinate; a row with -1 in one of the `attributes`
    has no combination. A combination is the values of all `attributes` together.

    Returns scalars:
    - `recall`: of the combinations that occur in the data, the share that occur in the samples.
    - `expected`: what `recall` would be on average if as many samples were drawn from the data themselves, with
      replacement: the mean of 1 - (1 - p)^n over combinations. Few samples cannot show all, however good the model is.
    - `covered`: of the data's images, the share whose combination occurs in the samples, with `covered_low` and
      `covered_high`, Wilson's interval.
    - `known`: of the samples, the share whose combination occurs in the data, with its interval; samples without a
      combination count as not.
    - `combinations` and `drawn`: how many different ones the data and the samples have; `samples`, of how many.

    Raises DataError for an attribute that is not there (with the nearest), and if the data have no combination.

    >>> from optogram.metrics.drawn import combination_recall
    >>> half = scenes.label.isel(image=slice(0, 6))
    >>> found = combination_recall(half, scenes.label, ("shape", "colour"))
    >>> found.combinations.item(), round(found.recall.item(), 2), found.known.item()
    (9, 0.44, 1.0)
    """
    ours, samples = _rows(seen, attributes)
    theirs, images = _rows(data, attributes)
    if not len(theirs):
        raise DataError(f"no image of the data has a value of each of {', '.join(attributes)}. Label the data.")
    kinds, count = np.unique(theirs, axis=0, return_counts=True)
    data_kinds, drawn_kinds = ({tuple(row) for row in rows.tolist()} for rows in (kinds, ours))
    occurs = np.array([tuple(row) in drawn_kinds for row in kinds.tolist()])
    known = sum(tuple(row) in data_kinds for row in ours.tolist())
    expected = float(np.mean(1 - (1 - count / count.sum()) ** samples))
    found = {"recall": occurs.mean(), "expected": expected, "combinations": len(kinds), "drawn": len(drawn_kinds)}
    variables = {name: ((), value) for name, value in {**found, "samples": samples}.items()}
    variables |= shares_of("covered", np.array(count[occurs].sum()), np.array(count.sum()), ())
    variables |= shares_of("known", np.array(known), np.array(samples), ())
    return xr.Dataset(variables, attrs={"attributes": list(attributes), "images": images})


def shares_of(
    name: str, hits: Int[np.ndarray, "..."], total: Int[np.ndarray, "..."], dims: tuple[str, ...]
) -> dict[str, tuple[Any, ...]]:
    """Variables `name`, `name_low`, `name_high`: hits / total and Wilson's interval; NaN where the total is 0.

    >>> from optogram.metrics.drawn import shares_of
    >>> shares_of("share", np.array([1, 0]), np.array([4, 0]), ("image",))["share"][1].tolist()
    [0.25, nan]
    """
    low, high = share(hits, total)
    value = np.divide(hits, total, out=np.full(np.shape(hits), np.nan), where=np.asarray(total) > 0)
    ends = {"": value, "_low": np.where(np.isnan(value), np.nan, low), "_high": np.where(np.isnan(value), np.nan, high)}
    return {f"{name}{end}": (dims, array, {"missing": NOTHING}) for end, array in ends.items()}


def _chance(
    asked: Int64[np.ndarray, "image attribute"],
    seen: Int64[np.ndarray, "image attribute"],
    values: int,
    groups: Sequence[Bool[np.ndarray, " image"]],
) -> Float64[np.ndarray, "group attribute"]:
    """The share of hits if samples were shuffled among requests; NaN where no sample was asked."""
    found = np.full((len(groups), asked.shape[1]), np.nan)
    for place, rows in enumerate(groups):
        for at in range(asked.shape[1]):
            those = rows & (asked[:, at] >= 0)
            if those.any():
                both = [np.bincount(each[those, at] + 1, minlength=values + 1)[1:] for each in (asked, seen)]
                found[place, at] = (both[0] * both[1]).sum() / those.sum() ** 2
    return found


def _groups(count: int, held_out: Bool[np.ndarray, " image"] | None) -> list[Bool[np.ndarray, " image"]]:
    """Which samples are of each of `COMBINATIONS`."""
    if held_out is None:
        return [np.ones(count, bool), np.zeros(count, bool), np.zeros(count, bool)]
    return [np.ones(count, bool), ~held_out, held_out]


def _rows(labels: xr.DataArray, attributes: Sequence[str]) -> tuple[Int64[np.ndarray, "row attribute"], int]:
    """The combinations of those images that have one, and how many images there are."""
    names = labels["attribute"].values.astype(str).tolist()
    for name in attributes:
        if name not in names:
            raise DataError(f"no attribute {name!r}; the labels have {', '.join(names)}.{nearest(name, names)}")
    values = labels.transpose("image", "attribute").values[:, [names.index(name) for name in attributes]]
    return np.asarray(values, np.int64)[(values >= 0).all(1)], len(values)


def _check_alike(asked: xr.DataArray, seen: xr.DataArray, held_out: np.ndarray | None) -> None:
    names = [each["attribute"].values.astype(str).tolist() for each in (asked, seen)]
    if asked.shape != seen.shape or names[0] != names[1]:
        raise ShapeError(
            f"asked has shape {asked.shape} of {', '.join(names[0])}; seen {seen.shape} of {', '.join(names[1])}. Give "
            "a row a sample and the same attributes in both."
        )
    if held_out is not None and held_out.shape != asked.shape[:1]:
        raise ShapeError(f"held_out has shape {held_out.shape}, but there are {len(asked)} samples; give one each.")


def _check_values(labels: np.ndarray, names: np.ndarray, of: xr.DataArray) -> None:
    attributes = of["attribute"].values.astype(str).tolist()
    if len(attributes) != len(names):
        raise ShapeError(
            f"labels have {len(attributes)} attributes, value_name has {len(names)}. Take both from the same images."
        )
    for name, column, values in zip(attributes, labels.T, names, strict=True):
        known = [str(value) for value in values if value]
        if len(column) and not -1 <= int(column.min()) <= int(column.max()) < len(known):
            wrong = int(column.min()) if column.min() < -1 else int(column.max())
            raise DataError(
                f"{name}: the value {wrong} is none of its {len(known)} ({', '.join(known)}), nor -1 for none. Number "
                "values as value_name does."
            )
