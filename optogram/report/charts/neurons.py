"""Room report: the charts of neurons: what a layer's are needed for, how many texts make one, and their map."""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from jaxtyping import Float

from optogram.metrics import intervals
from optogram.metrics.intervals import Interval
from optogram.report import evidence
from optogram.report.charts.chart import (
    SHADES,
    SYMBOLS,
    Axis,
    Chart,
    Dash,
    Dots,
    Facet,
    Level,
    Line,
    Symbol,
    beside,
    brief,
    changes,
    levels,
    named,
    shares,
)
from optogram.report.charts.heads import ACCURACY, counted, pool_lines, reached
from optogram.report.findings import Findings, labels
from optogram.report.labels import NEURONS, percent, points, words

LOOKS: dict[str, tuple[str, Dash, Symbol, float]] = {
    "none": ("--hot", "solid", "ring", 1.5),
    "all": ("--s0", "solid", "circle", 2.5),
    "small": ("--s1", "dash", "square", 2),
    "large": ("--s1", "dashdot", "diamond", 2),
    "rank_one": ("--cold", "solid", "star", 2.5),
    "first_order": ("--s2", "dot", "triangle", 2),
    "indirect": ("--s2", "dash", "x", 2),
}
"""Colour, dash, symbol and width of each way to ablate neurons."""
OTHER: tuple[str, Dash, Symbol, float] = ("--s3", "dot", "cross", 2)
SECOND_ORDER = ("all", "small", "large", "rank_one")
"""The ways to ablate second-order effects: the others may cost so much more that these would lie on each other."""
Place = tuple[float, float, str, str, str, tuple[int, int]]
"""A neuron: norm, explained variance, its name, its first text, its page, groups of images and of texts."""


def by_choice(names: Sequence[str], *values: Float[np.ndarray, "... attribute"]) -> list[tuple[str, list[np.ndarray]]]:
    """The values of each attribute, and first their mean where there are several."""
    each = [(name, [of[..., k] for of in values]) for k, name in enumerate(names)]
    return [("mean over attributes", [of.mean(-1) for of in values]), *each] if len(names) > 1 else each


def accuracies(findings: Findings, found: xr.Dataset) -> Chart:
    """Figure 3.3: accuracy against the MLP layer, a line a way to ablate its neurons, with chance."""
    conditions, layers = labels(found, "condition"), labels(found, "layer")
    values, at = findings.by_attribute(found, "accuracy", "condition", "layer"), np.arange(len(layers), dtype=float)
    facets = []
    for name, (curves, chance) in by_choice(
        findings.attributes_of(found), values, findings.by_attribute(found, "chance")
    ):
        series: list[Level | Line] = [Level("chance", float(chance))]
        for condition, curve in zip(conditions, curves, strict=True):
            colour, dash, symbol, width = LOOKS.get(condition, OTHER)
            shown = NEURONS.get(condition, words(condition))
            series.append(Line(shown, at, curve, colour, dash, symbol, width))
        facets.append(Facet(name, tuple(series), _least(conditions, layers, curves)))
    subtitle = "What the neurons of one MLP write is replaced by its mean over images, in all the ways of the legend."
    note = evidence.accuracies(values, evidence.counts(findings, found))
    x, y = named(layers, "MLP layer"), shares(ACCURACY)
    return Chart(facets[0].title, subtitle, x, y, tuple(facets), note, "Accuracy on", height=300)


def _least(conditions: list[str], layers: list[str], curves: Float[np.ndarray, "condition layer"]) -> str:
    """The layer and the way to ablate it that leave the least accuracy."""
    row, column = np.unravel_index(int(curves.argmin()), curves.shape)
    shown = NEURONS.get(conditions[row], words(conditions[row]))
    return f"Accuracy is lowest, {percent(float(curves[row, column]))}, {shown} of layer {layers[column]}"


def needed(findings: Findings, found: xr.Dataset) -> Chart:
    """Figure 3.3 as differences: how far each way to ablate second-order effects moves the accuracy, with intervals.

    The changes are over the same images, so that they are known better than the accuracies.
    """
    layers, names = labels(found, "layer"), findings.attributes_of(found)
    conditions = [condition for condition in labels(found, "condition") if condition in SECOND_ORDER]
    moved, low, high = [], [], []
    for condition in conditions:
        after, before = (
            findings.by_attribute(found.sel(condition=c), "accuracy", "layer") for c in (condition, "none")
        )
        ends = evidence.changes(findings, found, condition, "layer")
        moved.append(after - before)
        low.append(ends.low)
        high.append(ends.high)
    whole = findings.by_attribute(found.sel(condition="none"), "accuracy", "layer")
    facets, rows = [], np.arange(len(conditions), dtype=float)
    stacked = [np.stack(part) for part in (moved, low, high)]
    for name, (change, below, above, base) in by_choice(names, *stacked, whole):
        series: list[Dots | Level] = [Level("nothing ablated", 0.0, "dash", "--s0", along="y")]
        for k, layer in enumerate(layers):
            at, ends = rows + beside(k, len(layers)), Interval(below[:, k], above[:, k])
            colour = SHADES[min(k, 3)] if len(layers) > 1 else "--s0"
            series.append(Dots(f"layer {layer}", change[:, k], at, colour, SYMBOLS[k % len(SYMBOLS)], bars=ends))
        facets.append(Facet(name, tuple(series), _needed(conditions, layers, change, base)))
    subtitle = (
        "What the neurons of one MLP write through later attention is replaced by its mean over images: for all, or "
        "only where its norm is small or large; or by its part along one direction a neuron. Thin lines are 95% "
        "intervals over the same images."
    )
    drawn = [series for facet in facets for series in facet.series if isinstance(series, Dots)]
    x = changes("change of accuracy", *(end for dots in drawn if dots.bars for end in (*dots.bars, dots.x)))
    y, height = named([NEURONS.get(c, words(c)) for c in conditions]), 10 + (20 + 12 * len(layers)) * len(conditions)
    return Chart(facets[0].title, subtitle, x, y, tuple(facets), "", "Accuracy on", height=height)


def _needed(
    conditions: list[str],
    layers: list[str],
    change: Float[np.ndarray, "condition layer"],
    base: Float[np.ndarray, " layer"],
) -> str:
    """The layer that is missed most, and what one direction a neuron keeps of it."""
    if "all" not in conditions:
        return f"The largest change is {points(float(change.flat[np.abs(change).argmax()]))} points"
    without = change[conditions.index("all")]
    at = int(without.argmin())
    told = f"Layer {layers[at]} is missed most: {points(float(without[at]))} points without its neurons"
    if "rank_one" not in conditions:
        return told
    kept = float(change[conditions.index("rank_one"), at])
    return f"{told}; one direction a neuron keeps {percent(float(base[at]) + kept)} of {percent(float(base[at]))}"


def texts(findings: Findings, found: xr.Dataset) -> Chart:
    """Figure 3.4: accuracy against the texts from which each neuron is rebuilt, a line a pool, a facet a layer.

    Of the attributes only the first is shown, and before it their mean.
    """
    pools, sizes = labels(found, "pool"), [int(size) for size in labels(found, "size")]
    conditions, names = labels(found, "condition"), findings.attributes_of(found)
    curves = findings.by_attribute(found, "reconstructed", "layer", "pool", "size")
    values = findings.by_attribute(found, "accuracy", "layer", "condition")
    half = intervals.share_of(curves, evidence.counts(findings, found)).half
    kinds = {"nothing ablated": "none", "one direction a neuron": "rank_one", "w/o all neurons": "all"}
    facets = []
    for k, layer in enumerate(labels(found, "layer")):
        for name, (curve, accuracy, ends) in by_choice(names, curves[k], values[k], half[k])[:2]:
            known = {says: float(accuracy[conditions.index(c)]) for says, c in kinds.items() if c in conditions}
            series = (*levels(known), *pool_lines(pools, sizes, curve))
            title, y = reached(pools, sizes, curve, ends, "neuron"), shares(ACCURACY, curve, *known.values())
            facets.append(Facet(f"layer {layer}, {name}", series, title, y))
    told = [brief(name) for name in names]
    of = f"mean over {', '.join(told)}, and the first of them" if len(names) > 1 else f"on {told[0]}"
    subtitle = (
        f"The direction of every neuron of one MLP is replaced by a sum of texts from a pool; accuracy {of}. The "
        "sooner a line nears one direction a neuron, the better these texts say what the neurons write."
    )
    note = evidence.accuracies(curves, evidence.counts(findings, found))
    columns, x = min(len(names), 2), counted("texts a neuron", sizes)
    return Chart(facets[0].title, subtitle, x, shares(ACCURACY), tuple(facets), note, "Show", columns, height=300)


def neuron_map(layers: Sequence[tuple[str, Sequence[tuple[str, str, Sequence[Place]]]]]) -> Chart:
    """Neurons by norm and explained variance, in the colours of what they are named; open ones are polysemantic.

    layers: a facet each: its name, and groups of neurons with a name and a colour.
    """
    facets = []
    for name, groups in layers:
        series = []
        for called, colour, places in groups:
            norm, explained, known, first, pages, several = zip(*places, strict=True)
            says = [f"{own}: {text}" for own, text in zip(known, first, strict=True)]
            symbols: list[Symbol] = ["open diamond" if max(counts) > 1 else "circle" for counts in several]
            for symbol in dict.fromkeys(symbols):
                at = [k for k, own in enumerate(symbols) if own == symbol]
                # one entry a name: the two symbols are in the subtitle
                listed = symbol == symbols[0]
                series.append(
                    Dots(
                        called,
                        np.array(norm)[at],
                        np.array(explained)[at],
                        colour,
                        symbol,
                        8,
                        says=[says[k] for k in at],
                        links=[pages[k] for k in at],
                        listed=listed,
                    )
                )
        facets.append(Facet(name, tuple(series), _explained(groups)))
    subtitle = (
        "Diamonds are polysemantic: their top images or their texts fall into separate groups. A click leads to a "
        "neuron's page."
    )
    norms = np.concatenate([dots.x for facet in facets for dots in facet.series] or [np.ones(1)])
    parts = np.concatenate([dots.y for facet in facets for dots in facet.series] or [np.ones(1)])
    y = shares("explained by one direction", parts)
    x = _log_axis("mean norm of the largest effects (log scale)", float(norms.min()), float(norms.max()))
    return Chart(
        facets[0].title if facets else "No neuron has a page", subtitle, x, y, tuple(facets), choose="MLP", height=360
    )


def _explained(groups: Sequence[tuple[str, str, Sequence[Place]]]) -> str:
    places = [place for _, _, found in groups for place in found]
    share = float(np.median([place[1] for place in places])) if places else 0.0
    several = sum(max(place[5]) > 1 for place in places)
    told = f"One direction explains {percent(share, 0)} of the median neuron"
    return f"{told}; {several} of {len(places)} have several meanings"


def _log_axis(title: str, low: float, high: float) -> Axis:
    low, high = max(low, 1e-9) / 1.1, max(high, 1e-9) * 1.1
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    marks = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    return Axis(title, span=(low, high), marks=tuple(mark for mark in marks if low <= mark <= high), log=True)
