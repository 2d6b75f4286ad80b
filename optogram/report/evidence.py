"""Room report: how much stands behind a number: its interval or its count, and whether two can be told apart."""

from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float

from optogram.metrics import intervals
from optogram.metrics.intervals import Interval
from optogram.report.findings import Findings
from optogram.report.labels import count, percent, points

FEW = 100
"""Below so many a share is written as a count: a per cent of them would be less than one."""
NOT_APART = "not distinguishable"


def counts(findings: Findings, found: xr.Dataset) -> Float[np.ndarray, " attribute"]:
    """How many images the accuracies of a finding are of, in the report's order of attributes."""
    return findings.by_attribute(found, "count")


def images_of(total: Float[np.ndarray, " attribute"]) -> str:
    """2,000 images; or 1,800 to 2,000 where some are not labelled by all attributes."""
    low, high = int(np.min(total)), int(np.max(total))
    return f"{count(high)} images" if low == high else f"{count(low)} to {count(high)} images"


def plus_minus(half: Any) -> str:
    """Half an interval in percentage points: 0.0213 -> ± 2.1."""
    return f"\N{PLUS-MINUS SIGN}\N{NO-BREAK SPACE}{100 * float(half):.1f}"


def reach(halves: Any, of: str) -> str:
    """Of a whole table or figure: 95% intervals are at most ± 2.1 points (2,000 images)."""
    return f"95% intervals are at most {plus_minus(np.max(halves))} points ({of})."


def accuracies(values: Float[np.ndarray, "... attribute"], total: Float[np.ndarray, " attribute"]) -> str:
    """`reach` of a table of accuracies."""
    return reach(intervals.share_of(values, total).half, images_of(total))


def within(interval: Interval, digits: int = 0) -> str:
    """31% to 58%."""
    return f"{percent(float(interval.low), digits)} to {percent(float(interval.high), digits)}"


def moved(interval: Interval) -> str:
    """A difference's ends in percentage points: −0.4 to +2.9."""
    return f"{points(float(interval.low))} to {points(float(interval.high))}"


def share(value: float, total: float) -> str:
    """A share of some things: 1 of 4; of many 15.7%."""
    return f"{round(value * total)} of {round(total)}" if total < FEW else percent(value)


def counted(value: float, total: float) -> str:
    """A share with what stands behind it: 13 of 32 (26% to 58%)."""
    return f"{count(round(value * total))} of {count(round(total))} ({within(intervals.share_of(value, total))})"


def changes(findings: Findings, found: xr.Dataset, condition: str, *dims: str) -> Interval:
    """How far each attribute's accuracy is from the unaltered model's, on the same images."""
    here = found.sel(condition=condition)
    lost, gained = (findings.by_attribute(here, name, *dims) for name in ("lost", "gained"))
    return intervals.paired_change(lost, gained, counts(findings, found))


def mean_change(findings: Findings, found: xr.Dataset, condition: str, *dims: str) -> Interval:
    """As `changes`, of the mean over attributes."""
    after, before = (findings.by_attribute(found.sel(condition=c), "accuracy", *dims) for c in (condition, "none"))
    mean, half = (after - before).mean(-1), changes(findings, found, condition, *dims).half.mean(-1)
    return Interval(mean - half, mean + half)


def compared(apart: Interval) -> str:
    """Whether another value is lower or higher, as far as that can be told.

    apart: the interval of this value less the other.
    """
    if not bool(apart.excludes_zero):
        return NOT_APART
    return "lower" if apart.low > 0 else "higher"


def level(found: xr.Dataset, values: Float[np.ndarray, "method metric"]) -> Bool[np.ndarray, "method metric"]:
    """The best of each metric and what is not distinguishable from it."""
    ends = (found[f"difference_{end}"].transpose("method", "other", "metric").values for end in ("low", "high"))
    return intervals.level_with_best(values, Interval(*ends))
