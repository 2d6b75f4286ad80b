"""Metrics room, intervals: how far off a share, a difference or a mean may be, and what can be told apart, at 95 %."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int
from scipy import stats

from optogram.errors import DataError, ShapeError

LEVEL = 0.95
DRAWS = 2000
"""Bootstrap samples: their ends of an interval are then off by some hundredths of its width."""
_Z = float(stats.norm.ppf((1 + LEVEL) / 2))


class Interval(NamedTuple):
    """The ends of a 95 % confidence interval: numbers, or arrays of one shape.

    >>> from optogram.metrics.intervals import Interval
    >>> Interval(0.1, 0.5).half.item(), Interval(0.1, 0.5).excludes_zero.item()
    (0.2, True)
    """

    low: Any
    high: Any

    @property
    def excludes_zero(self) -> Any:
        """Whether zero lies outside."""
        return (np.asarray(self.low) > 0) | (np.asarray(self.high) < 0)

    @property
    def half(self) -> Any:
        """Half of its width."""
        return (np.asarray(self.high) - np.asarray(self.low)) / 2


def share(hits: Any, total: Any) -> Interval:
    """Of shares hits / total, arrays or numbers: Wilson's score interval (1927), which holds near 0 and 1 too.

    Where `total` is 0 nothing is known: 0 to 1. Raises DataError for hits below 0 or above `total`.

    >>> from optogram.metrics.intervals import share
    >>> low, high = share(8, 10)
    >>> round(low.item(), 3), round(high.item(), 3)
    (0.49, 0.943)
    """
    hits, total = np.broadcast_arrays(np.asarray(hits, np.float64), np.asarray(total, np.float64))
    if bool(((hits < 0) | (hits > total)).any()):
        raise DataError("a share has more hits than trials, or fewer than none. Count both over the same things.")
    n = np.maximum(total, 1)
    p, spread = hits / n, _Z**2 / n
    middle, half = (p + spread / 2) / (1 + spread), np.sqrt(p * (1 - p) * spread + spread**2 / 4) / (1 + spread)
    # at 0 and 1 the ends are exactly these, but for rounding
    low = np.where((hits == 0) | (total == 0), 0.0, middle - half)
    high = np.where((hits == total) | (total == 0), 1.0, middle + half)
    return Interval(low, high)


def share_of(value: Any, total: Any) -> Interval:
    """As `share`, from the shares themselves and the numbers that they are of.

    >>> from optogram.metrics.intervals import share, share_of
    >>> share_of(0.8, 10) == share(8, 10)
    True
    """
    return share(np.clip(np.rint(np.asarray(value, np.float64) * total), 0, total), total)


def paired_change(lost: Any, gained: Any, total: Any) -> Interval:
    """Of (gained - lost) / total: how far accuracy moves on the same images, of which some are lost and some gained.

    lost, gained: images right before and wrong after, and the other way. Bonett and Price's adjusted Wald interval
    (2012), one image more on each side, so that it has a width where nothing changed.

    >>> from optogram.metrics.intervals import paired_change
    >>> low, high = paired_change(5, 1, 100)
    >>> round(low.item(), 3), round(high.item(), 3)
    (-0.093, 0.015)
    """
    n = np.asarray(total, np.float64) + 2
    fell, rose = (np.asarray(lost, np.float64) + 1) / n, (np.asarray(gained, np.float64) + 1) / n
    half = _Z * np.sqrt((fell + rose - (rose - fell) ** 2) / n)
    return Interval(np.maximum(rose - fell - half, -1), np.minimum(rose - fell + half, 1))


def mcnemar(lost: Any, gained: Any) -> Float64[np.ndarray, "..."]:
    """Exact two-sided p-value that an image is lost as easily as gained (McNemar 1947): binomial on those that changed.

    1 where none did.

    >>> from optogram.metrics.intervals import mcnemar
    >>> mcnemar(np.array([8, 0]), np.array([1, 0])).round(3).tolist()
    [0.039, 1.0]
    """
    fewer = np.minimum(lost, gained)
    return np.minimum(1.0, 2 * stats.binom.cdf(fewer, np.asarray(lost) + np.asarray(gained), 0.5))


def mean_p(mean: Any, error: Any, total: Any) -> Float64[np.ndarray, "..."]:
    """Two-sided p-value of Student's test that a mean with this standard error is 0; 1 for fewer than two things.

    >>> from optogram.metrics.intervals import mean_p
    >>> mean_p([0.0, 2.0], [1.0, 0.5], 20).round(3).tolist()
    [1.0, 0.001]
    """
    mean, error, total = np.broadcast_arrays(*(np.asarray(each, np.float64) for each in (mean, error, total)))
    t = np.divide(np.abs(mean), error, out=np.where(mean == 0, 0.0, np.inf), where=error > 0)
    return np.where(total > 1, 2 * stats.t.sf(t, np.maximum(total - 1, 1)), 1.0)


def adjusted(p: Float[np.ndarray, "..."]) -> Float64[np.ndarray, "..."]:
    """P-values of many questions asked at once, by Benjamini and Hochberg (1995).

    Of the answers below 0.05 one in twenty is expected to be false; where there is nothing to find, there is none at
    all in 95 % of such families.

    >>> from optogram.metrics.intervals import adjusted
    >>> adjusted(np.array([0.01, 0.04, 0.5])).round(3).tolist()
    [0.03, 0.06, 0.5]
    """
    p = np.asarray(p, np.float64)
    return stats.false_discovery_control(p.ravel()).reshape(p.shape) if p.size else p


def mean_interval(values: Float[np.ndarray, "... unit"]) -> Interval:
    """Student's, of the mean over the last axis of independent things, such as repeats; of one nothing is known.

    >>> from optogram.metrics.intervals import mean_interval
    >>> low, high = mean_interval(np.array([1.0, 2.0, 3.0]))
    >>> round(float(low), 2), round(float(high), 2)
    (-0.48, 4.48)
    """
    values = np.asarray(values, np.float64)
    if values.shape[-1] < 2:
        return Interval(np.full(values.shape[:-1], -np.inf), np.full(values.shape[:-1], np.inf))
    n = values.shape[-1]
    half = stats.t.ppf((1 + LEVEL) / 2, n - 1) * values.std(-1, ddof=1) / np.sqrt(n)
    return Interval(values.mean(-1) - half, values.mean(-1) + half)


def resampled(total: int, *, seed: int | Sequence[int], draws: int = DRAWS) -> Int[np.ndarray, "draw unit"]:
    """How often each of `total` things is in each bootstrap sample of as many.

    seed: a number, or several: equally many things of another kind are drawn independently with another last one.

    >>> from optogram.metrics.intervals import resampled
    >>> drawn = resampled(5, seed=0, draws=100)
    >>> drawn.shape, set(drawn.sum(1).tolist())
    ((100, 5), {5})
    """
    return np.random.default_rng(seed).multinomial(total, np.full(total, 1 / total), draws)


def percentiles(drawn: Float[np.ndarray, "draw ..."]) -> Interval:
    """The bootstrap's interval: between the outer percentiles of what the samples gave.

    >>> from optogram.metrics.intervals import percentiles
    >>> low, high = percentiles(np.arange(101.0))
    >>> round(low.item(), 2), round(high.item(), 2)
    (2.5, 97.5)
    """
    tail = (1 - LEVEL) / 2
    return Interval(*np.quantile(drawn, [tail, 1 - tail], axis=0))


def level_with_best(
    values: Float[np.ndarray, "row column"], difference: Interval, *, more: bool = True
) -> Bool[np.ndarray, "row column"]:
    """The best row of each column, and those that cannot be told apart from it.

    difference: (row, row, column), of the first row's value less the second's. more: whether more is better.

    >>> from optogram.metrics.intervals import Interval, level_with_best
    >>> values = np.array([[0.9], [0.85], [0.2]])
    >>> apart = (values[:, None] - values)[..., 0, None]
    >>> level_with_best(values, Interval(apart - 0.1, apart + 0.1)).ravel().tolist()
    [True, True, False]
    """
    shape = (len(values), *values.shape)
    if np.shape(difference.low) != shape:
        raise ShapeError(f"differences have shape {np.shape(difference.low)}; expected {shape}, rows by rows.")
    best = values.argmax(0) if more else values.argmin(0)
    columns = np.arange(values.shape[1])
    found = ~Interval(difference.low[best, :, columns].T, difference.high[best, :, columns].T).excludes_zero
    found[best, columns] = True
    return found


def difference(first: Any, of_first: Interval, second: Any, of_second: Interval) -> Interval:
    """Of first - second, each with its own interval, by Newcombe's sum of squares (1998, method 10).

    It is for independent values. Of values of the same images, which are right and wrong together, it is too wide: it
    calls nothing different that is not.

    >>> from optogram.metrics.intervals import difference, share
    >>> low, high = difference(0.8, share(80, 100), 0.5, share(50, 100))
    >>> round(low.item(), 3), round(high.item(), 3)
    (0.169, 0.417)
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    below = np.hypot(first - of_first.low, of_second.high - second)
    above = np.hypot(of_first.high - first, second - of_second.low)
    return Interval(first - second - below, first - second + above)
