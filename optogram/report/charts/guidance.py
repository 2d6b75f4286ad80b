"""Room report: the chart of spurious scores: how far outside the objects lies what units and components answer to."""

import numpy as np
import xarray as xr

from optogram.metrics.intervals import Interval
from optogram.report.charts.chart import Axis, Chart, Dots, Facet, named
from optogram.report.findings import labels, strings
from optogram.report.labels import percent, words

SYMBOLS = {"unit": "circle", "component": "diamond"}


def scores(found: xr.Dataset, layer: str) -> Chart:
    """A row a unit or component, the score with its interval, beside that of a map that is the same everywhere."""
    here = found.sel(layer=layer)
    score, area = (here[name].values.astype(np.float64) for name in ("score", "area"))
    truth, kind = strings(found["truth"]), strings(found["kind"])
    cue, core = (str(found.attrs[name]) for name in ("attribute", "class_attribute"))
    there = np.flatnonzero(np.isfinite(score))
    rank = {cue: 0, core: 1}
    rows = np.array(sorted(there, key=lambda at: (rank.get(truth[at], 2), -score[at])), int)
    at = np.arange(len(rows), dtype=float)
    names = [labels(found, "target")[row] for row in rows]
    series: list[Dots] = [Dots("the area outside", area[rows], at, "--s2", "tick", 14)]
    for name, colour in ((cue, "--hot"), (core, "--a0"), ("", "--s3")):
        own = truth[rows] == name if name else ~np.isin(truth[rows], [cue, core])
        if own.any():
            ends = Interval(*(_known(here[end].values[rows][own], score[rows][own]) for end in ("low", "high")))
            said = f"follows the {words(name)}" if name else "follows neither"
            marks = [SYMBOLS[each] for each in kind[rows][own]]
            series.append(Dots(said, score[rows][own], at[own], colour, marks, 9, bars=ends))  # type: ignore[arg-type]
    shown = np.concatenate([score[rows], area[rows], *(here[end].values[rows] for end in ("low", "high"))])
    title = _title(found, layer, cue, core)
    subtitle = (
        f"The share of the map at {layer} that lies outside the objects, in the images that activate it most, with 95% "
        "intervals. Ticks are the share of the area outside: what a map that is the same everywhere has. Circles are "
        "units, diamonds components."
    )
    x = _axis(float(np.nanmin(shown)), float(np.nanmax(shown)))
    return Chart(title, subtitle, x, named(names), (Facet("", tuple(series)),), height=max(160, 22 * len(rows)))


def _axis(low: float, high: float) -> Axis:
    """An axis of shares, which can lie below 0 and above 1."""
    step = next((each for each in (0.02, 0.05, 0.1, 0.2, 0.5) if (high - low) / each <= 7), 1.0)
    first, last = int(np.floor(low / step)), int(np.ceil(high / step))
    marks = tuple(round(k * step, 6) for k in range(first, last + 1))
    return Axis("share of the map outside the objects", "share", (marks[0] - 0.2 * step, marks[-1] + 0.2 * step), marks)


def _title(found: xr.Dataset, layer: str, cue: str, core: str) -> str:
    """The conclusion, over all targets."""
    here = found.sel(layer=layer, group="all", metric="outside")
    spurious, kept = int(here["spurious"]), int(here["core"])
    if not spurious:
        return f"Nothing follows the {words(cue)}"
    if not kept:
        return f"Nothing follows the {words(core)}"
    if float(here["least"]) > float(here["most"]):
        return f"All that follows the {words(cue)} lies further outside than all that follows the {words(core)}"
    share = percent(float(here["above"]), 0)
    return (
        f"In {share} of the pairs what follows the {words(cue)} is further outside than what follows the {words(core)}"
    )


def _known(ends: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The ends of intervals; the value itself where one image is too few for one."""
    return np.where(np.isfinite(ends), ends, values)
