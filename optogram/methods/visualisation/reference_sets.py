"""Method room, reference sets: which images stand for a class, how many, and how many strangers are among them.

VITAL, section 3.2.2: a random selection of the class's images. Appendix C.4 varies its size (Table 5: 5 to 100) and
adds 5, 10 or 20 images from outside the class (Table 6). They are drawn by labels alone, which `class_labels` reads:
pass the labels of another split to take the images from there. Sets are nested, so that a larger one differs by what it
adds, not by another draw.

Facets part a class into groups of images that look alike, each with references of its own (Figure 17).
"""

from typing import Any

import numpy as np
from jaxtyping import Float, Int, Int64
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from optogram.errors import DataError, ParamError

_STARTS = 5  # of k-means
_TURNS = 20  # most moves of its centres between clusters of equal size


def class_references(
    labels: Int[np.ndarray, " image"], wanted: int, count: int, *, seed: int
) -> Int64[np.ndarray, " reference"]:
    """Rows of `count` images of the class `wanted`, drawn without replacement: the start of one order of them all.

    labels: -1 unknown. seed: 0 or more; classes are drawn independently, whichever others there are.

    Raises ParamError for a count below 1, DataError if the class has fewer images.
    """
    return _drawn(np.flatnonzero(np.asarray(labels) == wanted), count, f"of class {wanted}", (seed, wanted, 0))


def strangers(
    labels: Int[np.ndarray, " image"], wanted: int, count: int, *, seed: int
) -> Int64[np.ndarray, " reference"]:
    """Rows of `count` images of other classes than `wanted`, drawn as `class_references`; unknown labels are left out.

    Raises ParamError for a count below 1, DataError if there are fewer such images.
    """
    labels = np.asarray(labels)
    rows = np.flatnonzero((labels != wanted) & (labels >= 0))
    return _drawn(rows, count, f"of other classes than {wanted}", (seed, wanted, 1))


def corrupted_references(
    labels: Int[np.ndarray, " image"], wanted: int, count: int, others: int, *, seed: int
) -> Int64[np.ndarray, " reference"]:
    """The `count` references of the class, then `others` strangers: Corrupt-5, -10 and -20 of Table 6, for `others`.

    The paper adds strangers; nothing is taken out. Raises as `class_references` and `strangers`.
    """
    own = class_references(labels, wanted, count, seed=seed)
    return np.concatenate([own, strangers(labels, wanted, others, seed=seed)])


def facet_references(
    features: Float[np.ndarray, "image channel"], facets: int, count: int, *, seed: int
) -> Int64[np.ndarray, "facet reference"]:
    """Rows of the images nearest to the centre of each facet of a class, nearest first; at most `count` a facet.

    Facets are the clusters of k-means among those of equal size (of n images, n / facets, up to rounding): so the
    facets together are the class as it is, where plain k-means gives a few odd images as much weight as all the others.
    From the centres of plain k-means, images are assigned at the least squared distance, and centres moved, in turns.
    A facet comes before those whose first image comes after its own. No image is in two.

    Raises ParamError for fewer than two facets or one reference, DataError for fewer than two images a facet.
    """
    if facets < 2 or count < 1:
        raise ParamError(f"facets = {facets}, count = {count}; expected 2 or more, and 1 or more.")
    if len(features) < 2 * facets:
        raise DataError(
            f"there are {len(features)} images, but {facets} facets need two each.\n  Ask for fewer facets, or give "
            "more images."
        )
    features = np.asarray(features, np.float64)
    with threadpool_limits(1):  # sums in one order
        options: Any = {"n_clusters": facets, "n_init": _STARTS, "random_state": seed}
        centres = KMeans(**options).fit(features).cluster_centers_
        seats = np.arange(len(features)) % facets  # each image takes a seat of a facet
        facet = np.full(len(features), -1)
        for _ in range(_TURNS):
            away = np.square(features[:, None] - centres).sum(2)
            rows, taken = linear_sum_assignment(away[:, seats])
            before, facet[rows] = facet.copy(), seats[taken]
            if (facet == before).all():
                break
            centres = np.stack([features[facet == k].mean(0) for k in range(facets)])
        away = np.square(features[:, None] - centres).sum(2)
    members = sorted((np.flatnonzero(facet == k) for k in range(facets)), key=lambda rows: rows[0])
    each = min(count, len(features) // facets)
    return np.stack([rows[np.argsort(away[rows, facet[rows]], kind="stable")][:each] for rows in members])


def _drawn(
    rows: Int64[np.ndarray, " image"], count: int, which: str, seed: tuple[int, ...]
) -> Int64[np.ndarray, " reference"]:
    if count < 1:
        raise ParamError(f"count = {count} images {which}: expected 1 or more.")
    if len(rows) < count:
        raise DataError(
            f"there are {len(rows)} images {which}, but {count} are asked for.\n  Ask for fewer, or give more images."
        )
    return np.random.default_rng(seed).permutation(rows)[:count]
