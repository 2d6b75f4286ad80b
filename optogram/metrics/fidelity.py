"""Metrics room, fidelity of drawn pictures: how far features are from real images' features, and what is a copy."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int64

from optogram.errors import DataError, ShapeError

ROWS = 512
"""Rows whose distances are found at once: bounds the memory."""


def kernel_distance(ours: Float[np.ndarray, "own channel"], theirs: Float[np.ndarray, "other channel"]) -> float:
    """KID (Binkowski et al. 2018, section 4): the unbiased squared MMD with the kernel (x . y / channels + 1) ** 3.

    Unlike the Fréchet distance, its expectation does not depend on the number of images; it may fall below 0.

    Raises ShapeError if the two differ in channels, DataError for fewer than two images or features not finite.

    >>> from optogram.metrics.fidelity import kernel_distance
    >>> features = np.eye(3)
    >>> round(kernel_distance(features, features), 3)
    -0.457
    """
    a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ShapeError(
            f"features have shapes {a.shape} and {b.shape}; expected (image, channel), channels alike. Take both from "
            "the same layer."
        )
    if min(len(a), len(b)) < 2:
        raise DataError(f"a kernel distance needs two images or more on each side, found {min(len(a), len(b))}.")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise DataError("features are not finite. Look at the model that gave them.")

    def kernel(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        return (one @ other.T / a.shape[1] + 1) ** 3

    def within(one: np.ndarray) -> float:
        pairs = kernel(one, one)
        return float((pairs.sum() - np.trace(pairs)) / len(one) / (len(one) - 1))

    return within(a) + within(b) - 2 * float(kernel(a, b).mean())


class Nearest(NamedTuple):
    """Of each picture the nearest of others: which one, and how far, as the root mean square over features."""

    index: Int64[np.ndarray, " image"]
    distance: Float64[np.ndarray, " image"]


def nearest_rows(
    ours: Float[np.ndarray, "image channel"],
    theirs: Float[np.ndarray, "other channel"],
    itself: Int64[np.ndarray, " image"] | None = None,
) -> Nearest:
    """The nearest of `theirs` to each of `ours`, by squared distances in float64.

    itself: rows of `theirs` that are ours, which do not count.

    Raises ShapeError if the two differ in channels, DataError where there is nothing to be near to.

    >>> from optogram.metrics.fidelity import nearest_rows
    >>> nearest_rows(np.array([[0.0, 0.9]]), np.eye(2)).index.tolist()
    [1]
    """
    if ours.ndim != 2 or theirs.ndim != 2 or ours.shape[1] != theirs.shape[1]:
        raise ShapeError(
            f"features have shapes {ours.shape} and {theirs.shape}; expected (image, channel), channels alike."
        )
    if len(theirs) < (1 if itself is None else 2):
        raise DataError(f"{len(theirs)} images to be near to are too few. Give more.")
    other = np.asarray(theirs, np.float64)
    squares, index, distance = (other**2).sum(1), [], []
    for start in range(0, len(ours), ROWS):
        part = np.asarray(ours[start : start + ROWS], np.float64)
        apart = squares - 2 * part @ other.T
        if itself is not None:
            apart[np.arange(len(part)), itself[start : start + ROWS]] = np.inf
        index.append(apart.argmin(1))
        # exactly 0 for a copy, which the expanded square is not
        distance.append(np.sqrt(((part - other[index[-1]]) ** 2).mean(1)))
    return Nearest(np.concatenate(index or [np.empty(0, np.int64)]), np.concatenate(distance or [np.empty(0)]))
