"""Method room, reference sets: which images stand for a class, how many, and how many strangers are among them.

VITAL, section 3.2.2: a random selection of the class's images. Appendix C.4 varies its size (Table 5: 5 to 100) and
adds 5, 10 or 20 images from outside the class (Table 6). Functions of labels alone: pass the labels of another split to
take the images from there. Sets are nested, so that a larger one differs by what it adds, not by another draw.
"""

import numpy as np
from jaxtyping import Int, Int64

from optogram.errors import DataError, ParamError


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
