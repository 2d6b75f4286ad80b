"""Method room, groups: into how many well-separated groups vectors fall, as of a polysemantic neuron (thesis 3.4).

The thesis shows by eye that some neurons write for images, and towards texts, of several unrelated kinds ("yacht" and
"cabriolet"). Here that is counted: average-linkage clusters by cosine distance, told apart by their silhouette.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Int16
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from optogram.errors import DataError, ParamError, ShapeError


class Groups(NamedTuple):
    """The group of every item, from 0, the largest first; -1 for items that are not valid. And how many there are."""

    groups: Int16[np.ndarray, "set item"]
    counts: Int16[np.ndarray, " set"]


def separated(
    vectors: Float[np.ndarray, "set item embed"],
    *,
    valid: Bool[np.ndarray, "set item"] | None = None,
    separation: float,
    most: int = 4,
) -> Groups:
    """How many well-separated groups the items of each set form, and which item is in which.

    Distances are 1 - cosine. Image embeddings of one model all have large cosines with each other, as they share a
    large mean: pass them less the mean of *all* images, so that the angle is between what sets two images apart from
    an average one. Texts likewise less the mean of their pool. A vector of length 0 is at distance 1 from all others.

    Items are joined by average linkage. Of the cuts into 2 to `most` groups in which every group has two items or
    more, the one with the largest mean silhouette is taken (the fewest groups among equals; an item's silhouette is
    (b - a) / max(a, b), with a its mean distance to its own group and b that to the nearest other), if that reaches
    `separation`; else all items are one group. Groups are numbered by size, equal ones by their first item.

    valid: which items to look at, all by default. A set without any has 0 groups.
    separation: over 0 and under 1. The largest of several silhouettes is above 0 for pure noise too, and the more so
        the fewer items and dimensions there are: look at random sets of the same size beside. At 0.3, of sets of
        16 vectors of noise 55% fall apart in 8 dimensions, 0.5% in 16, and none in 64; of sets of 8, 66%, 17% and none.

    Raises ParamError for a separation out of bounds or `most` below 1, ShapeError for vectors that are not (set, item,
    embed) or a `valid` that does not fit, DataError for a valid vector that is not finite.

    >>> from optogram.methods import separated
    >>> apart = np.array([[[1.0, 0.1], [1.0, 0.0], [-0.1, 1.0], [0.0, 1.0]]])
    >>> found = separated(apart, separation=0.3)
    >>> found.groups.tolist(), found.counts.tolist()
    ([[0, 0, 1, 1]], [2])
    """
    vectors = np.asarray(vectors)
    if vectors.ndim != 3 or (valid is not None and np.shape(valid) != vectors.shape[:2]):
        beside = "" if valid is None else f", and valid {np.shape(valid)}, expected (set, item)"
        raise ShapeError(f"vectors have shape {vectors.shape}, expected (set, item, embed){beside}.")
    if not 0 < separation < 1 or most < 1:
        raise ParamError(f"separation = {separation}, most = {most}; expected a number between 0 and 1, and 1 or more.")
    valid = np.ones(vectors.shape[:2], bool) if valid is None else np.asarray(valid, bool)
    broken = np.argwhere(valid & ~np.isfinite(vectors).all(2))
    if len(broken):
        raise DataError(
            f"item {broken[0, 1]} of set {broken[0, 0]} holds NaN or infinity.\n"
            "  Leave it out by `valid`, or compute its embedding again."
        )
    groups = np.full(valid.shape, -1, np.int16)
    for rows, chosen, into in zip(vectors, valid, groups, strict=True):
        if chosen.any():
            into[chosen] = _grouped(rows[chosen].astype(np.float64), separation, most)
    return Groups(groups, groups.max(1, initial=-1) + np.int16(1))


def _grouped(rows: Float[np.ndarray, "item embed"], separation: float, most: int) -> np.ndarray:
    """The group of each item of one set."""
    best, least = np.zeros(len(rows), int), separation
    most = min(most, len(rows) // 2)
    if most < 2:
        return best
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = rows / np.where(lengths > 0, lengths, 1)
    distance = np.clip(1 - unit @ unit.T, 0, 2)
    np.fill_diagonal(distance, 0)
    tree = linkage(squareform(distance, checks=False), "average")
    for count in range(2, most + 1):
        labels = fcluster(tree, count, "maxclust") - 1
        sizes = np.bincount(labels)
        # items that are joined at the same distance are not torn apart: there can be fewer groups
        if len(sizes) < count or sizes.min() < 2:
            continue
        silhouette = _silhouette(distance, labels, sizes)
        if silhouette > least or (silhouette == least and not best.any()):
            best, least = labels, silhouette
    _, first, labels, sizes = np.unique(best, return_index=True, return_inverse=True, return_counts=True)
    return np.argsort(np.lexsort((first, -sizes)))[labels]


def _silhouette(
    distance: Float[np.ndarray, "item item"], labels: Int[np.ndarray, " item"], sizes: Int[np.ndarray, " group"]
) -> float:
    """Mean silhouette (Rousseeuw 1987); every group has two items or more."""
    item = np.arange(len(labels))
    total = distance @ np.eye(len(sizes))[labels]
    own = total[item, labels] / (sizes[labels] - 1)
    means = total / sizes
    means[item, labels] = np.inf
    other = means.min(1)
    larger = np.maximum(own, other)
    return float(np.where(larger > 0, (other - own) / np.where(larger > 0, larger, 1), 0).mean())
