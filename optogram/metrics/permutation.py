"""Method room, chance: how often pairs agree, and how often they do as well when one side is shuffled."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

_DRAWN = 1 << 22  # numbers shuffled at once


class Paired(NamedTuple):
    """How often two labellings of the same things agree, beside chance; see `paired`."""

    agreement: float
    chance: float
    p_value: float


def paired(left: Int[np.ndarray, " item"], right: Int[np.ndarray, " item"], *, seed: int, permutations: int) -> Paired:
    """How often two labellings agree, from codes that count from 0, at least one item.

    agreement: share of the items with equal labels. chance: the share expected were the two independent with the label
    counts that they have. p_value: of `shuffled_p`.

    >>> from optogram.metrics.permutation import paired
    >>> labels = np.array([0, 0, 1, 1, 2, 2])
    >>> found = paired(labels, labels, seed=0, permutations=999)
    >>> found.agreement, round(found.chance, 3), found.p_value < 0.05
    (1.0, 0.333, True)
    """
    observed = float((left == right).mean())
    counted = 1 + max(left.max(), right.max())
    shares = [np.bincount(side, minlength=counted) / len(left) for side in (left, right)]
    p_value = shuffled_p(
        observed, lambda order: (right[order] == left).mean(1), len(left), seed=seed, permutations=permutations
    )
    return Paired(observed, float(shares[0] @ shares[1]), p_value)


def shuffled_p(
    observed: float,
    value_of: Callable[[Int[np.ndarray, "draw item"]], Float[np.ndarray, " draw"]],
    items: int,
    *,
    seed: int,
    permutations: int,
) -> float:
    """Share of random orders of the items, the given one among them, that do at least as well as `observed`.

    value_of: how well each of some orders does; an order holds the positions 0 to `items` - 1.

    >>> from optogram.metrics.permutation import shuffled_p
    >>> in_place = lambda order: (order == np.arange(6)).mean(1)
    >>> shuffled_p(1.0, in_place, 6, seed=0, permutations=999) < 0.05
    True
    """
    rng, at_least = np.random.default_rng(seed), 0
    step = max(1, _DRAWN // items)
    for start in range(0, permutations, step):
        order = rng.permuted(np.tile(np.arange(items), (min(step, permutations - start), 1)), axis=1)
        at_least += int((value_of(order) >= observed - 1e-12).sum())
    return (1 + at_least) / (1 + permutations)
