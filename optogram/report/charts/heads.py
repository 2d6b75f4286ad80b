"""Room report: the charts of how a model decomposes: accuracy, mean-ablation, TextSpan, what heads are needed for."""

import numpy as np
import xarray as xr
from jaxtyping import Int

from optogram.metrics import intervals
from optogram.metrics.intervals import Interval
from optogram.report import evidence
from optogram.report.charts.chart import (
    DASHES,
    SHADES,
    SYMBOLS,
    Axis,
    Bars,
    Cells,
    Chart,
    Dots,
    Facet,
    Labels,
    Line,
    Symbol,
    beside,
    brief,
    levels,
    named,
    shares,
)
from optogram.report.findings import Findings, Model, labels, numbers
from optogram.report.labels import CONDITIONS, percent, points, words

ACCURACY = "zero-shot accuracy"
MARKS: tuple[tuple[str, Symbol], ...] = (
    ("--ink", "circle"),
    ("--a1", "square"),
    ("--a0", "diamond"),
    ("--a2", "triangle"),
)
"""Colour and symbol of each condition of the mean-ablation."""
HOLDS = 0.05
"""The fall of accuracy up to which a model is said to hold."""


def accuracy(findings: Findings, found: xr.Dataset) -> Chart:
    """Accuracy of each attribute as a bar with its interval, and chance as a tick across it."""
    names, total = findings.attributes_of(found), evidence.counts(findings, found)
    values, chance = (
        findings.by_attribute(found.sel(condition="none"), "accuracy"),
        findings.by_attribute(found, "chance"),
    )
    ends, at = intervals.share_of(values, total), np.arange(len(names), dtype=float)
    bars = Bars("accuracy", at, values, [findings.colour(name) for name in names], ends=ends, listed=False)
    tick = Dots("chance", chance, at, "--ink", "tick", 22)
    told = Labels([percent(float(value)) for value in values], [False] * len(names))
    above = int((ends.low > chance).sum())
    most, least = int(values.argmax()), int(values.argmin())
    title = f"{brief(names[most])} is told best, at {percent(float(values[most]))}"
    if len(names) > 1:
        worst = f"{brief(names[least])} worst, at {percent(float(values[least]))}"
        title = f"{above} of {len(names)} attributes are told above chance: {title}, {worst}"
    subtitle = "Thin lines are 95% intervals; a tick is chance, one over the number of values."
    facet = Facet("", (bars, tick, told))
    return Chart(title, subtitle, shares(ACCURACY, 0, 1, room=1.2), named(names), (facet,), height=34 * len(names))


def ablation(findings: Findings, found: xr.Dataset) -> Chart:
    """Tables 2.1 and A.1: a row an attribute, a mark a condition, with chance as a tick."""
    names, conditions = findings.attributes_of(found), labels(found, "condition")
    values, total = findings.by_attribute(found, "accuracy", "condition"), evidence.counts(findings, found)
    ends, at = intervals.share_of(values, total), np.arange(len(names), dtype=float)
    series: list[Dots] = [Dots("chance", findings.by_attribute(found, "chance"), at, "--hot", "tick", 22)]
    for k, condition in enumerate(conditions):
        colour, symbol = MARKS[k % len(MARKS)]
        shown = "nothing ablated" if condition == "none" else CONDITIONS.get(condition, words(condition))
        own = Interval(ends.low[k], ends.high[k])
        series.append(Dots(shown, values[k], at + beside(k, len(conditions)), colour, symbol, bars=own))
    subtitle = (
        "What is ablated is replaced by its mean over images. Thin lines are 95% intervals; a tick is chance, one over "
        "the number of values."
    )
    facet = Facet("", tuple(series))
    note = evidence.accuracies(values, total)
    height = 12 + max(30, 13 * len(conditions)) * len(names)
    return Chart(_worst(findings, found), subtitle, shares(ACCURACY), named(names), (facet,), note, height=height)


def _worst(findings: Findings, found: xr.Dataset) -> str:
    """Which condition moves the accuracy most, and whether that can be told from nothing."""
    moved = {}
    for condition in labels(found, "condition"):
        if condition != "none":
            after, before = (findings.by_attribute(found.sel(condition=c), "accuracy") for c in (condition, "none"))
            moved[condition] = float((after - before).mean())
    if not moved:
        return "Nothing was ablated"
    most = max(moved, key=lambda condition: abs(moved[condition]))
    sure = bool(evidence.mean_change(findings, found, most).excludes_zero)
    what, moves = CONDITIONS.get(most, words(most)), f"{points(moved[most])} points of mean accuracy"
    if not sure:
        return f"No ablation is distinguishable from none; the most is {what}, {moves}"
    return f"Ablating {what} moves the accuracy most: {moves}"


def layers(findings: Findings, found: xr.Dataset) -> Chart:
    """Figure 2.2: accuracy of each attribute over the attention layers that are ablated, together or alone."""
    names, at = findings.attributes_of(found), labels(found, "layer")
    base = findings.by_attribute(found.sel(condition="none"), "accuracy")
    total = evidence.counts(findings, found)
    up_to, alone = (
        np.vstack([base, findings.by_attribute(found, name, "layer")]) for name in ("cumulative", "single_layer")
    )
    mean = up_to.mean(1)
    falls = np.flatnonzero(mean < mean[0] - HOLDS)
    limit = "with all of them ablated" if not len(falls) else f"until layer {at[falls[0] - 1]} is ablated too"
    costs = alone[1:].mean(1) - alone[0].mean()
    worst = int(costs.argmin())
    facets = (
        ("all layers up to", up_to, f"Mean accuracy holds within {100 * HOLDS:.0f} points {limit}"),
        (
            "one layer alone",
            alone,
            f"Layer {at[worst]} costs most alone: {points(float(costs[worst]))} points on average",
        ),
    )
    place = np.arange(len(at) + 1, dtype=float)
    drawn = []
    for name, rows, title in facets:
        series = tuple(
            Line(
                attribute,
                place,
                rows[:, k],
                findings.colour(attribute),
                symbol=SYMBOLS[k % len(SYMBOLS)],
                band=intervals.share_of(rows[:, k], total[k]),
            )
            for k, attribute in enumerate(names)
        )
        ends = intervals.share_of(rows, total)
        drawn.append(Facet(name, series, title, shares(ACCURACY, ends.low, ends.high)))
    subtitle = "Attention layers are replaced by their means over images. Bands are 95% intervals."
    x = named(["none", *at], "ablated attention layer")
    note = evidence.accuracies(np.concatenate([up_to, alone]), total)
    return Chart(drawn[0].title, subtitle, x, shares(ACCURACY), tuple(drawn), note, "Ablate")


def textspan(findings: Findings, found: xr.Dataset) -> Chart:
    """Figure 2.3: accuracy against the descriptions on which each head is projected, a line a pool."""
    names, pools, sizes = findings.attributes_of(found), labels(found, "pool"), [int(s) for s in labels(found, "size")]
    values, total = findings.by_attribute(found, "accuracy", "pool", "size"), evidence.counts(findings, found)
    ends = intervals.share_of(values, total)
    kinds = {"unaltered model": "base_accuracy", "all mean-ablated": "ablated_accuracy", "chance": "chance"}
    heights = {name: findings.by_attribute(found, variable) for name, variable in kinds.items()}
    options = [
        (name, values[..., k], {n: at[k] for n, at in heights.items()}, ends.half[..., k])
        for k, name in enumerate(names)
    ]
    if len(names) > 1:
        means = {name: at.mean() for name, at in heights.items()}
        options.insert(0, ("mean over attributes", values.mean(-1), means, ends.half.mean(-1)))
    facets = tuple(
        Facet(name, (*levels(of), *pool_lines(pools, sizes, curve, half)), reached(pools, sizes, curve, half, "head"))
        for name, curve, of, half in options
    )
    subtitle = (
        "Each head is projected on its first TextSpan descriptions from a pool of texts, all else is mean-ablated. The "
        "sooner a line nears the unaltered model, the better these texts span what the heads say; random vectors are "
        "the yardstick. Bands are 95% intervals of the first pool and of random vectors."
    )
    x, y = counted("descriptions a head", sizes), shares(ACCURACY)
    return Chart(facets[0].title, subtitle, x, y, facets, evidence.accuracies(values, total), "Accuracy on", height=300)


def counted(title: str, sizes: list[int]) -> Axis:
    """An axis of numbers of texts."""
    pad = 0.04 * (max(sizes) - min(sizes)) or 0.5
    return Axis(title, span=(min(sizes) - pad, max(sizes) + pad), marks=tuple(map(float, sizes)))


def pool_lines(
    pools: list[str], sizes: list[int], curves: np.ndarray, half: np.ndarray | None = None
) -> tuple[Line, ...]:
    """A line a pool of texts: the first, which names heads and neurons, is darkest. half: of the intervals."""
    lines, at = [], np.array(sizes, float)
    for k, pool in enumerate(pools):
        colour = "--a1" if pool == "random" else SHADES[min(k, 3)]
        known = half[k] if half is not None and (k == 0 or pool == "random") else None
        band = None if known is None else Interval(curves[k] - known, curves[k] + known)
        lines.append(
            Line(pool, at, curves[k], colour, DASHES[k % 4], SYMBOLS[k % len(SYMBOLS)], 2.5 if k == 0 else 2, band)
        )
    return tuple(lines)


def reached(pools: list[str], sizes: list[int], curves: np.ndarray, half: np.ndarray, of: str) -> str:
    """What the first pool reaches with a middle number of texts, beside random vectors, as a title.

    Few texts tell pools apart; as many as there are dimensions span everything, whichever texts they are.
    """
    at = len(sizes) // 2
    value = float(curves[0, at])
    told = f"{brief(pools[0])[:1].upper()}{brief(pools[0])[1:]} reach {percent(value)} with {sizes[at]} a {of}"
    if "random" not in pools[1:]:
        return told
    other = pools.index("random")
    ends = [Interval(curves[k, at] - half[k, at], curves[k, at] + half[k, at]) for k in (0, other)]
    apart = intervals.difference(value, ends[0], float(curves[other, at]), ends[1])
    return f"{told}; random vectors {percent(float(curves[other, at]))} ({evidence.compared(apart)})"


def drops(findings: Findings, model: Model, roles: xr.Dataset) -> Chart:
    """How much each head's ablation costs each attribute: attributes down, heads across, layers parted by lines."""
    names, at, columns = findings.attributes_of(roles), numbers(roles, "layer"), numbers(roles, "head")
    drop, low, high = (
        findings.by_attribute(roles, f"accuracy_drop{end}", "layer", "head").reshape(-1, len(names))
        for end in ("", "_low", "_high")
    )
    heads = [f"L{layer}.H{head}" for layer in at for head in columns]
    pages = {head.name: f"heads/{head.page}" for head in model.heads}
    says = [
        [
            f"{head} · {name}: accuracy {'rises' if drop[k, j] < 0 else 'falls'} by {100 * abs(drop[k, j]):.1f} points "
            f"(95% interval {evidence.moved(Interval(-high[k, j], -low[k, j]))})"
            for k, head in enumerate(heads)
        ]
        for j, name in enumerate(names)
    ]
    k, j = np.unravel_index(int(drop.argmax()), drop.shape)
    title = f"The head that is missed most is {heads[k]}: {points(-float(drop[k, j]))} points of {brief(names[j])}"
    parted = tuple(len(columns) * row for row in range(1, len(at)))
    cells = Cells(100 * drop.T, True, says, [pages.get(head, "") for head in heads], parted=parted, unit="points")
    subtitle = "Fall in zero-shot accuracy when one head is mean-ablated, in points: red falls, blue rises."
    return Chart(title, subtitle, named(heads), named(names), (Facet("", (cells,)),), height=30 * len(names))


def confusion(names: list[str], counts: Int[np.ndarray, "named measured"], by: str) -> Facet:
    """How many heads are named one attribute and measured another by accuracy or margin; the framed ones agree."""
    both, total = int(np.trace(counts)), int(counts.sum())
    says = [
        [f"named {a}, measured {b}: {n} heads" for b, n in zip(names, row, strict=True)]
        for a, row in zip(names, counts, strict=True)
    ]
    written = [[str(n) if n else "" for n in row] for row in counts.tolist()]
    cells = Cells(counts.astype(float), says=says, written=written, framed=[(k, k) for k in range(len(names))])
    return Facet(by, (cells,), f"{both} of {total} heads are named after what they are measured to do, by {by}")


def agreement(names: list[str], facets: list[Facet]) -> Chart:
    """Named against measured roles, a facet a way to measure."""
    x = named(names, "measured: most hurt by ablating the head")
    subtitle = "Number of heads by the attribute that their texts name and by the one that ablating them hurts most."
    y = named(names, "named by its texts")
    return Chart(facets[0].title, subtitle, x, y, tuple(facets), choose="Measured by", height=42 * len(names))
