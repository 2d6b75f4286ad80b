"""Methods, rosetta: which units of two models are each other's nearest, and how many of them chance would give."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int64
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from optogram.errors import ParamError

ROWS = 1024
"""Rows of a table that are sorted at once."""


class Neighbours(NamedTuple):
    """The K units of the other model that each unit correlates with most, from the nearest.

    a, b: their numbers, of each unit of the one model and of the other. Where fewer than K correlations are above 0,
    the rest of the row is -1. r: the correlations of `a`, 0 there.
    """

    a: Int64[np.ndarray, "unit_a k"]
    b: Int64[np.ndarray, "unit_b k"]
    r: Float64[np.ndarray, "unit_a k"]


class Pairs(NamedTuple):
    """Pairs of units, from the largest correlation to the least.

    rank_a: which neighbour `b` is of `a`, from 1; rank_b: which `a` is of `b`.
    """

    a: Int64[np.ndarray, " pair"]
    b: Int64[np.ndarray, " pair"]
    r: Float64[np.ndarray, " pair"]
    rank_a: Int64[np.ndarray, " pair"]
    rank_b: Int64[np.ndarray, " pair"]


def best_buddies(
    correlation: Float[np.ndarray, "unit_a unit_b"], k: int = 5, *, least: float | None = None
) -> Int64[np.ndarray, "pair 2"]:
    """Pairs of units that are among each other's `k` nearest (eq. 4.3), from the largest correlation to the least.

    Rosetta neurons are correlated positively: units whose correlation is 0 or below are nobody's neighbours, which
    leaves out those that are constant. least: pairs below this correlation are dropped. Of equals the first is nearer.

    Raises ParamError for a `k` below 1.

    >>> from optogram.methods.rosetta.matching import best_buddies
    >>> best_buddies(np.array([[0.9, 0.8], [0.7, 0.1]]), 1)
    array([[0, 0]])
    """
    found = paired(neighbours(correlation, k))
    kept = found.r >= (-np.inf if least is None else least)
    return np.stack([found.a, found.b], 1)[kept]


def neighbours(correlation: Float[np.ndarray, "unit_a unit_b"], k: int, *, itself: bool = True) -> Neighbours:
    """The `k` nearest of each unit in both directions.

    itself: False for a model with itself, of which no unit is its own neighbour. Raises ParamError for `k` below 1.
    """
    nearest = Nearest(k, itself=itself)
    nearest.add(correlation)
    return nearest.found()


class Nearest:
    """`neighbours` of a table that comes in blocks of rows, the first rows first; no more than one is ever held.

    Arguments and errors as `neighbours`.
    """

    def __init__(self, k: int, *, itself: bool = True) -> None:
        if k < 1:
            raise ParamError(f"best buddies: k = {k}, expected at least 1. The thesis takes 5.")
        self._k, self._itself, self._rows = k, itself, 0
        self._of_a: list[np.ndarray] = []
        self._r: list[np.ndarray] = []
        self._of_b: tuple[np.ndarray, np.ndarray] | None = None

    def add(self, correlation: Float[np.ndarray, "unit_a unit_b"]) -> Int64[np.ndarray, "unit_a k"]:
        """Take in the next rows; returns the neighbours of each."""
        own = None if self._itself else self._rows
        near, r = _nearest(correlation, self._k, own)
        self._of_a.append(near)
        self._r.append(r)
        back, back_r = _nearest(correlation.T, self._k, None if own is None else -own)
        back = np.where(back >= 0, back + self._rows, -1)
        if self._of_b is not None:
            # those of earlier rows stand first, as of equals the first is nearer
            back, back_r = (np.concatenate(each, 1) for each in zip(self._of_b, (back, back_r), strict=True))
            order = np.argsort(-back_r, axis=1, kind="stable")[:, : self._k]
            back, back_r = (np.take_along_axis(each, order, 1) for each in (back, back_r))
        self._of_b = back, back_r
        self._rows += len(correlation)
        return near

    def found(self) -> Neighbours:
        """Of all rows so far, at least one block of them."""
        assert self._of_b is not None
        return Neighbours(np.concatenate(self._of_a), self._of_b[0], np.concatenate(self._r))


def _nearest(correlation: np.ndarray, k: int, own: int | None) -> tuple[np.ndarray, np.ndarray]:
    """The nearest of each row, and their correlations. own: which column is the first row itself, the next one next."""
    found, r = np.full((len(correlation), k), -1), np.zeros((len(correlation), k))
    for start in range(0, len(correlation), ROWS):
        part = np.array(correlation[start : start + ROWS], dtype=np.float64)
        if own is not None:
            rows = np.arange(len(part))
            columns = own + start + rows
            inside = (columns >= 0) & (columns < part.shape[1])
            part[rows[inside], columns[inside]] = 0
        order = _largest(part, k)
        values = np.take_along_axis(part, order, 1)
        found[start : start + ROWS, : order.shape[1]] = np.where(values > 0, order, -1)
        r[start : start + ROWS, : order.shape[1]] = np.maximum(values, 0)
    return found, r


def _largest(rows: np.ndarray, k: int) -> Int64[np.ndarray, "row _k"]:
    """Where the `k` largest of each row are, the largest first, and of equals the first."""
    if k >= rows.shape[1]:
        return np.argsort(-rows, axis=1, kind="stable")
    least = np.partition(rows, -k, axis=1)[:, -k, None]
    found = np.empty((len(rows), k), np.int64)
    for row, (values, bound) in enumerate(zip(rows, least, strict=True)):
        above = np.flatnonzero(values >= bound)  # more than k where several equal the last
        found[row] = above[np.argsort(-values[above], kind="stable")[:k]]
    return found


def paired(near: Neighbours) -> Pairs:
    """The pairs of units that are each other's neighbours."""
    of_a, rank_a = np.nonzero(near.a >= 0)
    b, r = near.a[of_a, rank_a], near.r[of_a, rank_a]
    back = near.b[b] == of_a[:, None]
    mutual = back.any(1)
    a, b, rank_a, rank_b = of_a[mutual], b[mutual], rank_a[mutual] + 1, back[mutual].argmax(1) + 1
    r = r[mutual]
    order = np.lexsort((b, a, -r))
    return Pairs(a[order], b[order], r[order], rank_a[order], rank_b[order])


def false_discovery_threshold(
    real: Float64[np.ndarray, " pair"], nulls: Sequence[Float64[np.ndarray, " _null_pair"]], rate: float = 0.01
) -> float:
    """The least correlation from which at most a share `rate` of the best buddies are such as chance gives.

    real: correlations of the best buddies. nulls: those of the best buddies of models whose images were shuffled
    against each other, an array a shuffle. The share is (1 + null pairs) / shuffles / real pairs, of those at least as
    large: the 1 keeps a few pairs just above the largest chance one from counting as found (Barber & Candès 2015,
    eq. 1.9). Infinite if there is no such correlation.
    """
    chance, rows = np.sort(np.concatenate([*nulls, np.empty(0)])), np.sort(real)
    above = len(chance) - np.searchsorted(chance, rows, side="left")
    share = (1 + above) / max(1, len(nulls)) / np.arange(len(rows), 0, -1)
    return float(min(rows[share <= rate], default=np.inf))


def assigned(correlation: Float[np.ndarray, "unit_a unit_b"]) -> Int64[np.ndarray, "pair 2"]:
    """The one-to-one assignment of units with the largest sum of correlations; pairs at 0 or below are left out."""
    a, b = linear_sum_assignment(np.maximum(correlation, 0), maximize=True)
    kept = np.asarray(correlation)[a, b] > 0
    return np.stack([a, b], 1)[kept]


def merged(pairs: Mapping[str, Int64[np.ndarray, "_pair 2"]]) -> dict[int, dict[str, list[int]]]:
    """Units of one model, and the partners that each has in the others (eq. 4.4), from the nearest.

    pairs: best buddies of the one model with each other model, by the latter's name. A unit with partners in all of
    them is a Rosetta neuron; it may have several in one.
    """
    found: dict[int, dict[str, list[int]]] = {}
    for name, rows in pairs.items():
        for unit, partner in np.asarray(rows).tolist():
            found.setdefault(unit, {}).setdefault(name, []).append(partner)
    return dict(sorted(found.items()))


def concepts(units: Iterable[int], alike: Int64[np.ndarray, "pair 2"]) -> list[list[int]]:
    """Groups of units that are best buddies of each other within their own model (section 4.3), directly or by others.

    units: those that are grouped. alike: best buddies of their model with itself. Each group is in the units' order,
    and groups are in that of their first units.
    """
    members = list(dict.fromkeys(units))
    place = {unit: at for at, unit in enumerate(members)}
    inside = np.array([(place[a], place[b]) for a, b in np.asarray(alike).tolist() if a in place and b in place], int)
    rows, columns = inside.reshape(-1, 2).T
    graph = coo_matrix((np.ones(len(rows)), (rows, columns)), (len(members), len(members)))
    _, group = connected_components(graph, directed=False)
    found: dict[int, list[int]] = {}
    for unit, number in zip(members, group.tolist(), strict=True):
        found.setdefault(number, []).append(unit)
    return list(found.values())
