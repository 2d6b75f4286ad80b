"""Room report: the charts of counterfactuals: how the search went, and how early the pixels that moved turn a class."""

import numpy as np
import xarray as xr
from jaxtyping import Float

from optogram.methods.guidance.conditions import FOUND, PIXELS
from optogram.metrics.counterfactual_summaries import against
from optogram.metrics.intervals import Interval, mean_interval
from optogram.report.charts.chart import Axis, Chart, Dots, Facet, Line, shares
from optogram.report.evidence import NOT_APART, compared
from optogram.report.findings import labels
from optogram.report.labels import count, number

FLOOR = 1e-3
"""The lowest loss that is drawn, a probability of 99.9%: what lies below is drawn here."""
CURVES = (("target", "the class asked for", "--a0"), ("source", "the class that was seen before", "--a1"))


def losses(found: xr.Dataset) -> Chart:
    """A line an image against the iterate, their median, and the iterates that were taken."""
    loss = found["loss"].transpose("image", "iterate").values.astype(np.float64)
    best, steps = found["best"].values, np.arange(loss.shape[1], dtype=float)
    start, taken = loss[:, 0], loss[np.arange(len(loss)), best]
    drawn, gap = np.maximum(loss, FLOOR), [np.nan]
    each = (
        np.concatenate([part for _ in drawn for part in (steps, gap)]),
        np.concatenate([part for row in drawn for part in (row, gap)]),
    )
    middle = np.array([_median(column) for column in drawn.T])
    series = (
        Line("an image", *each, "--s3", symbol=None, width=1),
        Line("median", steps, middle, "--s0", symbol=None, width=3),
        Dots("the iterate that was taken", best.astype(float), np.maximum(taken, FLOOR), "--a0", "circle", 7),
    )
    before, after = _median(start), _median(taken)
    way = f"from {number(before)} at the start to {number(after)} at the iterates taken"
    title = f"The median loss falls {way}" if after < before else f"The median loss does not fall: {way}"
    still = int((best == 0).sum())
    subtitle = (
        f"The loss is -log p of the class asked for; what is below {FLOOR:g} is drawn there. The start is the picture "
        f"of the swapped caption; it is taken in {count(still)} of {count(len(best))} images. What is taken has the "
        "least loss and distance from the original together."
    )
    seen = drawn[np.isfinite(drawn)]
    ends = (float(seen.min()) / 1.5, float(seen.max()) * 1.5) if seen.size else (FLOOR, 1.0)
    x = Axis("iterate", span=(-0.02 * max(steps[-1], 1), 1.02 * max(steps[-1], 1)))
    marks = tuple(10.0**power for power in range(-3, 4) if ends[0] <= 10.0**power <= ends[1])
    y = Axis("loss", span=ends, marks=marks, log=True)
    return Chart(title, subtitle, x, y, (Facet("", series),), height=240)


def transitions(found: xr.Dataset) -> Chart:
    """A facet a condition: the mean probabilities of both classes while pixels move from original to picture."""
    points = found["point"].values.astype(np.float64)
    facets = []
    for name in labels(found, "condition"):
        here = found.sel(condition=name)
        lines = tuple(
            Line(said, points, here[f"{of}_curve"].mean("image").values, colour, symbol=None, band=_band(here, of))
            for of, said, colour in CURVES
        )
        facets.append(Facet(name, lines))
    means = {name: float(found["cout"].sel(condition=name).mean("image")) for name in labels(found, "condition")}
    title = f"COUT of the counterfactuals is {number(means[FOUND])}"
    if PIXELS in means:
        gain = against(*(found[["cout"]].sel(condition=name, drop=True) for name in (FOUND, PIXELS)))
        way = compared(Interval(float(gain["cout_low"]), float(gain["cout_high"])))
        other = f"that of pixels alone {number(means[PIXELS])}"
        title += f", {other}: {NOT_APART}" if way == NOT_APART else f"; {other} is clearly {way}"
    told = ", ".join(f"{name} {number(value)}" for name, value in means.items())
    subtitle = (
        "Pixels take the new colours, those that change most first. COUT is the area under the curve of the class "
        f"asked for less that under the other: 1 if the first few pixels turn it. Means: {told}. Bands are 95% "
        "intervals over the images."
    )
    y = shares("mean probability")
    return Chart(title, subtitle, shares("pixels that moved"), y, tuple(facets), columns=4, height=220)


def _band(here: xr.Dataset, of: str) -> Interval | None:
    values = here[f"{of}_curve"].transpose("point", "image").values.astype(np.float64)
    if values.shape[1] < 2:
        return None
    return Interval(*(np.clip(end, 0, 1) for end in mean_interval(values)))


def _median(values: Float[np.ndarray, " image"]) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else float("nan")
