"""Room report: the key numbers of the sections on neurons, as tiles and as sentences at the head of the report."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from optogram.metrics.adversarial import leads
from optogram.metrics.intervals import Interval
from optogram.report import evidence
from optogram.report.findings import Model, labels
from optogram.report.labels import MINED, count, p_value, percent, points
from optogram.report.panels import Context, Tile

SURE = 0.05
"""p below which concepts are true more often than by chance."""


def neurons_tiles(context: Context, model: Model) -> list[Tile]:
    """What the layer that matters most costs, and what one direction a neuron keeps of it."""
    found = _ablated(model)
    if found is None:
        return []
    layer, none, without, kept = _worst_layer(context, found)
    half = float(evidence.mean_change(context.findings, found, "all", "layer").half[layer])
    beside = f"{evidence.plus_minus(half)} points of accuracy, mean over attributes"
    if found.sizes["layer"] > 1:
        beside += f", the most of {found.sizes['layer']} layers"
    beside += f"; a direction a neuron keeps {percent(kept)} of {percent(none)}"
    return [Tile(f"Without the neurons of layer {labels(found, 'layer')[layer]}", points(without - none), beside)]


def neurons_headline(context: Context, models: Sequence[Model]) -> list[str]:
    """Whether any layer's neurons are needed, and whether one direction a neuron says what they write."""
    (model,) = models
    found = _ablated(model)
    if found is None:
        return []
    layer, none, without, kept = _worst_layer(context, found)
    change, left = (
        Interval(*(float(end[layer]) for end in evidence.mean_change(context.findings, found, c, "layer")))
        for c in ("all", "rank_one")
    )
    name = labels(found, "layer")[layer]
    cost = f"changes mean accuracy by {points(without - none)} points ({evidence.moved(change)})"
    if not bool(change.excludes_zero):
        cost += f", {evidence.NOT_APART} from nothing"
    keeps = f"one direction a neuron keeps {percent(kept)} of {percent(none)}"
    if not bool(left.excludes_zero):
        keeps += f", {evidence.NOT_APART}"
    return [f"Ablating the second-order effects of layer {name}'s neurons {cost}; {keeps}."]


def _ablated(model: Model) -> xr.Dataset | None:
    found = model.part("neuron_ablation")
    return found if found is not None and {"none", "all", "rank_one"} <= set(labels(found, "condition")) else None


def _worst_layer(context: Context, found: xr.Dataset) -> tuple[int, float, float, float]:
    """The place of the layer whose neurons cost most, and its accuracy with all, without, and from one direction."""
    none, without, kept = (
        context.by_attribute(found.sel(condition=c), "accuracy", "layer").mean(-1) for c in ("none", "all", "rank_one")
    )
    layer = int(np.argmax(none - without))
    return layer, float(none[layer]), float(without[layer]), float(kept[layer])


def concepts_tiles(context: Context, model: Model) -> list[Tile]:
    """How many concepts are true of their image."""
    found = model.part("concepts")
    if found is None or "precision" not in found.attrs:
        return []
    return [Tile("Concepts true of their image", *concepts_line(found))]


def concepts_headline(context: Context, models: Sequence[Model]) -> list[str]:
    """Whether concepts are true more often than by chance."""
    (model,) = models
    found = model.part("concepts")
    if found is None or "precision" not in found.attrs:
        return []
    value, chance, p = (float(found.attrs[name]) for name in ("precision", "chance", "p_value"))
    verdict = "" if p < SURE else f": {evidence.NOT_APART} from chance"
    told = f"Of the concepts that active neurons name on an image, {percent(value)} are true of it; by chance "
    return [f"{told}{percent(chance)} would be ({p_value(p)}){verdict}."]


def concepts_line(found: xr.Dataset) -> tuple[str, str]:
    """The share of concepts that are true of their image, and what stands behind it."""
    value, chance, p = (float(found.attrs[name]) for name in ("precision", "chance", "p_value"))
    total = int(found.attrs["concepts"])
    ends = evidence.within(Interval(*(float(found.attrs[f"precision_{end}"]) for end in ("low", "high"))))
    beside = f"{ends}; {count(round(value * total))} of {count(total)} that name a value; "
    return percent(value), f"{beside}by chance {percent(chance)}, {p_value(p)}"


def adversarial_tiles(context: Context, model: Model) -> list[Tile]:
    """How many images of 100 are misled, beside every other way to find phrases."""
    found = model.part("adversarial")
    if found is None or "second_order" not in labels(found, "method"):
        return []
    ours, others = _misled(found)
    beside = [f"mean of {found.sizes['task']} pairs, {found.sizes['repeat']} repeats"]
    beside += [f"{name.lower()} {value:.1f} ({told})" for name, value, told in others]
    return [Tile("Misled, of 100 images", f"{ours:.1f}", "; ".join(beside))]


def adversarial_headline(context: Context, models: Sequence[Model]) -> list[str]:
    """Whether phrases of the neurons mislead the model more than others do."""
    (model,) = models
    found = model.part("adversarial")
    if found is None or "second_order" not in labels(found, "method"):
        return []
    ours, others = _misled(found)
    told = f"Phrases that neurons share mislead {model.name} on {ours:.1f} of 100 images"
    beside = "; ".join(f"{name.lower()} {value:.1f} ({verdict})" for name, value, verdict in others)
    return [f"{told}; {beside}." if beside else f"{told}."]


def _misled(found: xr.Dataset) -> tuple[float, list[tuple[str, float, str]]]:
    """Of 100 images those misled by second-order effects; by each other method, with whether it is lower or higher."""
    share = 100 * (found["fooled"] / found["images"].clip(1)).mean("task").transpose("method", "repeat").values
    means = dict(zip(labels(found, "method"), share.mean(1).tolist(), strict=True))
    lead, others = leads(found).sel(task="mean over tasks"), []
    for name in MINED:
        if name in means and name != "second_order":
            apart = Interval(*(float(lead[end].sel({"method": name})) for end in ("low", "high")))
            others.append((MINED[name], means[name], evidence.compared(apart)))
    return means["second_order"], others
