"""Room report: the charts of units that models share: how many beside chance, and in which layers."""

import numpy as np
import xarray as xr

from optogram.methods.rosetta.nulls import NULLS
from optogram.report.charts.chart import Axis, Chart, Dots, Facet, Symbol, beside, named, shares
from optogram.report.findings import strings
from optogram.report.labels import count, percent, plot_text, words

SAID: dict[str, tuple[str, str, Symbol]] = {
    "real": ("the models", "--s0", "circle"),
    "untrained": (NULLS["untrained"], "--a1", "square"),
    "rotated": (NULLS["rotated"], "--a3", "diamond"),
    "shuffled": (NULLS["shuffled"], "--s2", "tick"),
}


def pairs(found: xr.Dataset) -> Chart:
    """A row a match: best buddies above its threshold, of the models and of each null model."""
    names = [f"{one}, {other}" for one, other in zip(strings(found["first"]), strings(found["second"]), strict=True)]
    at = np.arange(len(names), dtype=float)
    series = []
    for k, (kind, (said, colour, symbol)) in enumerate(SAID.items()):
        values = found["count"].sel(kind=kind).values.astype(np.float64)
        series.append(Dots(said, values, at + beside(k, len(SAID), 0.4), colour, symbol, 9))
    counts = {kind: float(found["count"].sel(kind=kind).values[0]) for kind in SAID}
    near = max((kind for kind in SAID if kind != "real" and np.isfinite(counts[kind])), key=lambda kind: counts[kind])
    pair, nearest = names[0].replace(", ", " and "), count(round(counts[near]))
    title = f"{pair} share {count(int(counts['real']))} pairs of units; with {SAID[near][0]} it is {nearest}"
    subtitle = (
        "Pairs of units that are among each other's nearest, above the correlation at which images shuffled against "
        "each other give next to none. A pair that the null models have too is no finding of the training."
    )
    most = float(np.nanmax(found["count"].values, initial=1))
    x = Axis("pairs of units", span=(0.0, 1.06 * most))
    return Chart(title, subtitle, x, named(names), (Facet("", tuple(series)),), height=max(180, 84 * len(names)))


def layers(found: xr.Dataset) -> Chart:
    """A row a layer, model after model: which share of its units has partners in another model, and in all of them."""
    names = [
        f"{one} {layer}" for one, layer in zip(*map(strings, (found["layer_model"], found["layer_name"])), strict=True)
    ]
    some, every = (found[name].values.astype(np.float64) for name in ("layer_shared", "layer_shared_by_all"))
    at = np.arange(len(names), dtype=float)
    series = (
        Dots("in another model", some, at, "--s0", "circle", 9),
        Dots("in all the others", every, at, "--a1", "ring", 9),
    )
    top = int(some.argmax())
    title = f"Most is shared of {plot_text(names[top])}: {percent(float(some[top]))} of its units"
    subtitle = "The share of each layer's units that are best buddies of a unit of another model, from the first layer."
    return Chart(
        title, subtitle, shares("units with a partner"), named(names), (Facet("", series),), height=26 * len(names)
    )


def kind_words(kind: str) -> str:
    """What a null model is."""
    return SAID[kind][0] if kind in SAID else words(kind)
