"""Metrics room, planted values: whether pictures show what a class was tied to more often than those they began as."""

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from jaxtyping import Bool

from optogram.errors import DataError, ShapeError
from optogram.metrics.intervals import Interval, mcnemar, paired_change, share

TIED, UNTIED = "all tied classes", "all other classes"
TIMES = 2
"""How many times the share before that after must be."""


def planted_values(
    before: Sequence[str], after: Sequence[str], classes: Sequence[str], ties: Mapping[str, str]
) -> xr.Dataset:
    """How often the value is seen that a class was tied to, in pictures of classes before and after a change.

    before, after: the value that is seen in each picture, "" for none; classes: the class of each. ties: class -> value
    that was planted with it. Of a class without a tie it is the mean share of all of these values, which nobody planted
    with it: what any change would give.

    Returns a Dataset with the coordinates `condition` ("start", "found") and `group`: the classes in the order in which
    they come, then all that are tied and all others, where there are some.
    - `planted`, `planted_low`, `planted_high` (condition, group): the share, with Wilson's 95 % interval.
    - `gain`, `gain_low`, `gain_high` (group): how much it grew on the same pictures, with Bonett and Price's interval;
      `gain_p` by McNemar.
    - `twice` (group) bool: it grew, and to at least twice the share.
    - `pictures` (group) int64.

    Raises ShapeError for lists of different lengths, DataError without pictures or ties.

    >>> from optogram.metrics.planted_values import planted_values
    >>> ties = {"circle": "water"}
    >>> found = planted_values(["sand", "water"], ["water", "water"], ["circle", "circle"], ties)
    >>> found["planted"].sel(group="circle").values.tolist(), found["twice"].sel(group="circle").item()
    ([0.5, 1.0], True)
    """
    if not len(before) == len(after) == len(classes):
        raise ShapeError(
            f"planted values: {len(classes)} classes, but {len(before)} values before and {len(after)} after. Give one "
            "of each a picture."
        )
    if not len(classes) or not ties:
        raise DataError("planted values: there are no pictures, or no ties. Give both.")
    names, of = list(dict.fromkeys(classes)), np.array(classes)
    tied = np.array([name in ties for name in classes])
    groups = {name: of == name for name in names}
    groups |= {name: rows for name, rows in ((TIED, tied), (UNTIED, ~tied)) if rows.any()}
    seen = [_planted(values, classes, ties) for values in (before, after)]
    parts = [
        _one(seen[0][rows], seen[1][rows], 1 if tied[rows].all() else len({*ties.values()})) for rows in groups.values()
    ]
    found = xr.concat(parts, "group").transpose("condition", "group")
    return found.assign_coords(group=[*groups], condition=["start", "found"])


def _planted(values: Sequence[str], classes: Sequence[str], ties: Mapping[str, str]) -> Bool[np.ndarray, " picture"]:
    """Whether the value of each picture is that of its class; of a class without a tie, any of them."""
    wanted = ({ties[name]} if name in ties else {*ties.values()} for name in classes)
    return np.array([value in these for value, these in zip(values, wanted, strict=True)])


def _one(before: Bool[np.ndarray, " picture"], after: Bool[np.ndarray, " picture"], of: int) -> xr.Dataset:
    """One group; a picture has one value, so that the mean share of `of` values is that of any over their number."""
    total, lost, gained = len(before), int((before & ~after).sum()), int((after & ~before).sum())
    hits = np.array([before.sum(), after.sum()])
    ends = share(hits, total)
    moved: Interval = paired_change(lost, gained, total)
    of_condition = {"planted": hits / total, "planted_low": ends.low, "planted_high": ends.high}
    of_group = {"gain": (gained - lost) / total, "gain_low": moved.low, "gain_high": moved.high}
    variables = {name: ("condition", np.asarray(value) / of) for name, value in of_condition.items()}
    variables |= {name: ((), float(value) / of) for name, value in of_group.items()}
    variables |= {
        "gain_p": ((), float(mcnemar(np.array([lost]), np.array([gained]))[0])),
        "twice": ((), bool(gained > lost and hits[1] >= TIMES * hits[0])),
        "pictures": ((), total),
    }
    return xr.Dataset(variables)


def real_share(found: xr.Dataset) -> float:
    """Of the real images of tied classes that the two disagree on, the share with what was planted; NaN without any.

    >>> from optogram.metrics.planted_values import real_share
    >>> counts = {"tied": ("class", ["water", ""]), "real_apart": ("class", [4, 9]), "real_planted": ("class", [3, 1])}
    >>> real_share(xr.Dataset(counts))
    0.75
    """
    if "real_planted" not in found:
        return float("nan")
    tied = found["tied"] != ""
    of = int(found["real_apart"].where(tied, 0).sum())
    return int(found["real_planted"].where(tied, 0).sum()) / of if of else float("nan")
