"""Room report: the charts of models that draw: whether what was asked for is seen, and how the training went."""

import numpy as np
import xarray as xr
from jaxtyping import Float

from optogram.metrics.drawn import least
from optogram.metrics.intervals import Interval
from optogram.report.charts.chart import Axis, Chart, Dots, Facet, Line, beside, named, shares
from optogram.report.findings import labels
from optogram.report.labels import count, number, percent, words

EYES = {"judge": ("the judge", "--s0", "circle"), "clip": ("the CLIP", "--a1", "square")}
ASKED = {"all": "all requests", "held_out": "combinations that training lacked"}
LOSSES = ("--s0", "--a1", "--a3", "--a4")


def truth(found: xr.Dataset) -> Chart:
    """A facet for all requests and one for held-out ones, a row an attribute, a mark an eye."""
    names = labels(found, "attribute")
    facets = []
    for combination, said in ASKED.items():
        part = found.sel(combination=combination)
        if not bool(np.isfinite(part["share"]).any()):
            continue
        facets.append(Facet(said, (*_eyes(part, names), _chance(part, names))))
    attribute, eye = least(found) or (names[0], "judge")
    share = float(found["share"].sel(combination="all", attribute=attribute, eye=eye))
    title = f"What is met least is the {words(attribute)}, in {percent(share)} of the samples by {EYES[eye][0]}"
    asked = int(found["asked"].sel(combination="all").max())
    subtitle = (
        f"The share of the samples, {count(asked)} at most, in which the value asked for is seen. Bars are 95% "
        "intervals, rings how often the same eyes are right on real scenes, and ticks the share if the samples were "
        "shuffled among the requests."
    )
    x = shares("samples with the value asked for")
    return Chart(title, subtitle, x, named([words(name) for name in names]), tuple(facets), height=46 * len(names))


def _eyes(part: xr.Dataset, names: list[str]) -> list[Dots]:
    """Each eye's shares, and what it sees rightly of real scenes."""
    found, at = [], np.arange(len(names), dtype=float)
    for k, (eye, (said, colour, symbol)) in enumerate(EYES.items()):
        one, y = part.sel(eye=eye), at + beside(k, len(EYES), 0.34)
        ends = Interval(*(_array(one[f"share_{end}"]) for end in ("low", "high")))
        found.append(Dots(f"real scenes, by {said}", _array(one["real_share"]), y, colour, "ring", 12, listed=False))
        found.append(Dots(f"by {said}", _array(one["share"]), y, colour, symbol, 9, bars=ends))  # type: ignore[arg-type]
    return found


def _chance(part: xr.Dataset, names: list[str]) -> Dots:
    chance = _array(part["chance"].sel(eye="judge"))
    return Dots("by chance, by the judge", chance, np.arange(len(names), dtype=float), "--s2", "tick", 18)


def losses(samples: xr.Dataset) -> Chart:
    """The losses of the training of the model that drew the samples."""
    steps, values = _array(samples["steps"]), samples["loss"].transpose("curve", "stretch").values.astype(np.float64)
    names = labels(samples, "curve")
    lines = tuple(
        Line(words(name), steps, np.round(row, 5), LOSSES[k % len(LOSSES)], symbol=None)
        for k, (name, row) in enumerate(zip(names, values, strict=True))
    )
    first, last = (float(values[0, part].mean()) for part in (slice(0, 5), slice(-5, None)))
    fell = f"The loss went from {number(first)} to {number(last)}"
    title = fell if len(names) == 1 else f"Losses of the training: {' and '.join(map(words, names))}"
    end = float(steps[-1])
    subtitle = f"{count(int(end))} steps, as means over {count(len(steps))} stretches of them."
    y = Axis("loss", span=(0.0, 1.05 * float(np.nanquantile(values, 0.995))))
    return Chart(title, subtitle, Axis("step", span=(0.0, 1.02 * end)), y, (Facet("", lines),), height=240)


def _array(array: xr.DataArray) -> Float[np.ndarray, " at"]:
    return array.values.astype(np.float64)
