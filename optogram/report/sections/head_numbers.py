"""Room report: the key numbers of the sections on heads, as tiles and as the sentences with which the report opens."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from optogram.metrics import intervals
from optogram.metrics.intervals import Interval
from optogram.report import evidence
from optogram.report.findings import Model, labels
from optogram.report.labels import p_value, percent, points
from optogram.report.panels import Context, Tile

SURE = 0.05
"""p below which names fit better than shuffled ones."""


def accuracy_tiles(context: Context, model: Model) -> list[Tile]:
    """Zero-shot accuracy on the class attribute."""
    found = model.part("ablation")
    if found is None:
        return []
    base = context.by_attribute(found.sel(condition="none"), "accuracy")[0]
    chance = context.by_attribute(found, "chance")[0]
    name, total = context.attributes(found)[0], evidence.counts(context.findings, found)[:1]
    return [Tile(f"Zero-shot accuracy on {name}", percent(base), f"{_sure(base, total)}; chance {percent(chance)}")]


def _sure(value: float, total: np.ndarray) -> str:
    half = intervals.share_of(value, total[0]).half
    return f"{evidence.plus_minus(half)} ({evidence.images_of(total)})"


def ablation_tiles(context: Context, model: Model) -> list[Tile]:
    """What mean-ablating all MLPs costs."""
    found = model.part("ablation")
    if found is None or "mlps" not in labels(found, "condition"):
        return []
    base, without = (context.by_attribute(found.sel(condition=c), "accuracy") for c in ("none", "mlps"))
    name, half = context.attributes(found)[0], evidence.changes(context.findings, found, "mlps").half
    beside = f"{evidence.plus_minus(half[0])} points of {name} accuracy"
    if len(base) > 1:
        worst = int((without - base).argmin())
        told = f"{points(float((without - base)[worst]))} {evidence.plus_minus(half[worst])}"
        beside += f"; worst attribute {told}"
    return [Tile("All MLPs mean-ablated", points(float(without[0] - base[0])), beside)]


def ablation_headline(context: Context, models: Sequence[Model]) -> list[str]:
    """How well the model tells the class attribute, and what remains of all attributes without any MLP."""
    (model,) = models
    found = model.part("ablation")
    if found is None or "mlps" not in labels(found, "condition"):
        return []
    base, without = (context.by_attribute(found.sel(condition=c), "accuracy") for c in ("none", "mlps"))
    chance, names = context.by_attribute(found, "chance"), context.attributes(found)
    change, ends = without - base, evidence.changes(context.findings, found, "mlps")
    told = []
    for at in dict.fromkeys((0, int(change.argmin()))):
        here = Interval(ends.low[at], ends.high[at])
        sure = evidence.moved(here) + ("" if here.excludes_zero else f": {evidence.NOT_APART} from none")
        told.append(f"on {names[at]} by {points(float(change[at]))} points ({sure})")
    return [
        f"{model.name} tells {names[0]} right on {percent(base[0])} of the images (chance {percent(chance[0])}); with "
        f"all MLPs mean-ablated, accuracy changes {', and most '.join(told)}."
    ]


def textspan_tiles(context: Context, model: Model) -> list[Tile]:
    """How much of the class attribute's accuracy some descriptions a head keep."""
    found = model.part("textspan")
    if found is None:
        return []
    spans = _spans(context, found)
    beside = f"{_sure(spans.value, spans.total)}; {spans.attribute} accuracy from {spans.size} {spans.pool} a head; "
    beside += f"unaltered {percent(spans.base)}"
    if spans.random:
        beside += f"; from random vectors {percent(spans.random[0])} ({spans.random[1]})"
    return [Tile("Explained in words", percent(spans.value), beside)]


def textspan_headline(context: Context, models: Sequence[Model]) -> list[str]:
    """Whether the descriptions keep more than random directions do."""
    (model,) = models
    found = model.part("textspan")
    if found is None:
        return []
    spans = _spans(context, found)
    told = f"Told in {spans.size} {spans.pool} a head, {model.name} keeps {percent(spans.value)} accuracy on "
    told += f"{spans.attribute} of its {percent(spans.base)}"
    if not spans.random:
        return [f"{told}."]
    value, side = spans.random
    says = {"lower": "less", "higher": "more: the random control is better"}
    verdict = says.get(side, f"{side}: the random control is as good")
    return [f"{told}; with as many random directions {percent(value)} ({verdict})."]


@dataclass(frozen=True)
class _Spans:
    """The accuracy that some of the first pool's descriptions keep, and what random vectors do (value, verdict)."""

    attribute: str
    size: str
    pool: str
    value: float
    base: float
    total: np.ndarray
    random: tuple[float, str] | None


def _spans(context: Context, found: xr.Dataset) -> _Spans:
    sizes, pools = labels(found, "size"), labels(found, "pool")
    # few picks tell pools apart; as many as a head has dimensions span it whichever texts they are
    at = len(sizes) // 2
    curves = context.by_attribute(found, "accuracy", "pool", "size")[:, at, 0]
    value, base = float(curves[0]), float(context.by_attribute(found, "base_accuracy")[0])
    name, total = context.attributes(found)[0], evidence.counts(context.findings, found)[:1]
    random = None
    if "random" in pools:
        other = float(curves[pools.index("random")])
        ends, other_ends = (intervals.share_of(of, total[0]) for of in (value, other))
        random = other, evidence.compared(intervals.difference(value, ends, other, other_ends))
    return _Spans(name, sizes[at], pools[0], value, base, total, random)


def roles_headline(context: Context, models: Sequence[Model]) -> list[str]:
    """Whether names agree with measured roles more often than shuffled names do."""
    (model,) = models
    found = model.part("roles")
    suffix = next((s for s in ("", "_by_margin") if found is not None and f"agreement{s}" in found.attrs), None)
    if found is None or suffix is None:
        return []
    value, chance, p = (float(found.attrs[key + suffix]) for key in ("agreement", "chance", "p_value"))
    compared = int(found.attrs[f"heads{suffix}"])
    measure = "margin" if suffix else "accuracy"
    told = f"Of {compared} heads with both a name and a measured role (by {measure}), {round(value * compared)} agree; "
    verdict = "" if p < SURE else f": {evidence.NOT_APART} from shuffled names"
    return [f"{told}by chance {percent(chance, 0)} would ({p_value(p)}){verdict}."]


def agreement_line(found: xr.Dataset, suffix: str) -> tuple[str, str] | None:
    """How many heads' names agree with what was measured, as a count, and what to compare it with; None if not told."""
    if f"agreement{suffix}" not in found.attrs:
        return None
    value, chance, p = (float(found.attrs[key + suffix]) for key in ("agreement", "chance", "p_value"))
    compared = int(found.attrs[f"heads{suffix}"])
    ends = evidence.within(intervals.share_of(value, compared))
    beside = f"heads that have both roles ({ends}); by chance {percent(chance, 0)}, {p_value(p)}"
    return f"{round(value * compared)} of {compared}", beside
