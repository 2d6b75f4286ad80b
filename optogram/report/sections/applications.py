"""Room report: what the decomposition is good for: spurious cues, segmentation, heads and tokens together."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float

from optogram.metrics import intervals
from optogram.metrics.intervals import Interval
from optogram.report import evidence
from optogram.report.charts import applications as charts
from optogram.report.charts.plotly import plot
from optogram.report.findings import Model, labels, strings
from optogram.report.images import heat_uri, mask_uri
from optogram.report.labels import ABLATED, METHODS, METRICS, OURS, count, number, percent, points, words
from optogram.report.panels import Context, Gallery, Panel, Picture, Table, Tile, percent_table
from optogram.report.section import Part, Unit


def spurious(context: Context, model: Model) -> Panel:
    """Table 2.3 and Tables A.7 to A.10."""
    panel = context.panel(model, "spurious")
    found = model.part("spurious")
    if found is None:
        return panel
    groups, conditions = ["overall", "worst group", *labels(found, "group")], labels(found, "ablation")
    parts = found["overall"].values, found["worst"].values, *found["accuracy"].transpose("group", "ablation").values
    values = np.stack(parts, axis=1).astype(np.float64)
    shown = [ABLATED.get(c, c) for c in conditions]
    sizes = found["count"].values
    ends = spurious_ends(found, values)
    panel.plots.append(plot(f"spurious-{model.slug}", charts.spurious(found)))
    caption = f"Zero-shot accuracy by group. {evidence.reach(ends.half, 'of one group or the worst')}"
    panel.tables.append(percent_table("ablated", groups, shown, values, caption=caption))
    panel.tables.append(_gains(found, shown))
    chosen = str(found["heads"].sel(ablation="chosen").item()).split()
    pages = {head.name: head.page for head in model.heads}
    sizes = [f"{group} {count(int(n))}" for group, n in zip(groups[2:], sizes, strict=True)]
    panel.extra = {
        "cue": str(found.attrs.get("attribute", "the cue")),
        "ablated": [(name, pages.get(name, "")) for name in chosen],
    }
    panel.says = f"Images: {', '.join(sizes)}."
    return panel


def spurious_ends(found: xr.Dataset, values: Float[np.ndarray, "ablation group"]) -> Interval:
    """Intervals of the accuracies over all images, of the worst group, and of each group.

    The worst group's are bootstrapped; the others are Wilson's.
    """
    sizes = found["count"].values
    fewest = sizes[found["accuracy"].transpose("ablation", "group").values.argmin(1)]
    total = np.column_stack([np.full(len(values), sizes.sum()), fewest, np.tile(sizes, (len(values), 1))])
    ends = intervals.share_of(values, total)
    ends.low[:, 1], ends.high[:, 1] = found["worst_low"].values, found["worst_high"].values
    return ends


def _gains(found: xr.Dataset, shown: list[str]) -> Table:
    """How far the worst group moves, and how far the chosen heads are ahead of others."""
    base = found["worst"].sel(ablation="base").values
    best = found["worst"].sel(ablation="chosen").values
    rows = []
    for k, name in enumerate(shown):
        if labels(found, "ablation")[k] == "base":
            continue
        row = [name]
        for key, value in (("gain", found["worst"].values[k] - base), ("lead", best - found["worst"].values[k])):
            ends = Interval(*(float(found[f"{key}_{end}"].values[k]) for end in ("low", "high")))
            row.append(f"{points(float(value))} ({evidence.moved(ends)})")
        rows.append(row if labels(found, "ablation")[k] != "chosen" else [*row[:2], "·"])
    caption = (
        "The worst group in percentage points, with 95% intervals bootstrapped over the images of each group; what "
        "includes 0 is not distinguishable. The best draw is chosen by this very number"
    )
    return Table(["ablated", "gain over nothing ablated", "the cue's heads ahead by"], rows, caption)


def segmentation(context: Context, model: Model) -> Panel:
    """Table 2.4 and the heatmaps beside the masks."""
    panel = context.panel(model, "segmentation")
    found = model.part("segmentation")
    if found is None:
        return panel
    methods = labels(found, "method")
    metrics = [METRICS.get(m, words(m)) for m in labels(found, "metric")]
    shown = [METHODS.get(m, words(m)) for m in methods]
    score = found["score"].transpose("method", "metric").values.astype(np.float64)
    panel.plots.append(plot(f"segmentation-{model.slug}", charts.segmentation(found)))
    caption = f"Higher is better. {segmentation_reach(found)}"
    best = evidence.level(found, score)
    panel.tables.append(percent_table("method", metrics, shown, score, caption=caption, best=best))
    if "decomposition" in methods:
        panel.folded.append(_segmentation_leads(found, shown, metrics))
    heat = found["heatmap"].transpose("image", "method", "gy", "gx").values
    rows = []
    for k, image in enumerate(labels(found, "image")):
        thumb, mask = context.thumbs.thumb(image), _mask(context, image)
        seen = [Picture(thumb), Picture(thumb, over=mask, kind="mask", says="mask") if mask else Picture(None, "none")]
        maps = [Picture(thumb, over=heat_uri(heat[k, j], signed=False), says=name) for j, name in enumerate(shown)]
        rows.append(("", "", [*seen, *maps]))
    panel.galleries.append(Gallery(rows, ("image", "mask", *shown), "Heatmaps"))
    return panel


def _segmentation_leads(found: xr.Dataset, shown: list[str], metrics: list[str]) -> Table:
    """How far the decomposition is above each other method."""
    methods, score = labels(found, "method"), found["score"].transpose("method", "metric").values
    ours, rows = methods.index("decomposition"), []
    low, high = (found[f"difference_{e}"].transpose("method", "other", "metric").values[ours] for e in ("low", "high"))
    for k, name in enumerate(shown):
        if k != ours:
            ends = zip(score[ours] - score[k], low[k], high[k], strict=True)
            rows.append([name, *(f"{points(float(d))} ({evidence.moved(Interval(a, b))})" for d, a, b in ends)])
    caption = "How many points the decomposition is above another method, with 95% intervals over the same images"
    return Table(["above", *metrics], rows, caption)


def segmentation_ends(found: xr.Dataset) -> Interval:
    """The intervals of the scores (method, metric)."""
    return Interval(*(found[f"score_{end}"].transpose("method", "metric").values for end in ("low", "high")))


def segmentation_reach(found: xr.Dataset) -> str:
    """How sure the scores are, and what is in bold."""
    of = f"bootstrapped over {count(int(found.attrs['images']))} images"
    reach = evidence.reach(segmentation_ends(found).half, of)
    return f"{reach} In bold the best, and what is {evidence.NOT_APART} from it."


def _mask(context: Context, image: str) -> str:
    found = context.thumbs.find(image)
    if found is None or "mask" not in context.findings.images[found[0]]:
        return ""
    return mask_uri(context.findings.images[found[0]]["mask"].isel(image=found[1]).values)


def joint(context: Context, model: Model) -> Panel:
    """Figure 2.6, for the head of each role that varies most."""
    panel = context.panel(model, "joint")
    if model.part("joint") is None:
        return panel
    chosen = {}
    for head in sorted(model.heads, key=lambda head: -head.variance):
        chosen.setdefault(head.named, head)
    chosen.pop("", None)
    heads = list(chosen.values())[:4] or model.heads[:4]
    shown = [(head, joint_examples(context, model, head.layer, head.head)[:4]) for head in heads]
    panel.extra = {"examples": [(head, Panel(extra={"examples": examples})) for head, examples in shown]}
    return panel


def joint_parts(context: Context, unit: Unit) -> list[Part]:
    """Which image tokens write a head's most and least similar description."""
    if unit.kind != "head":
        return []
    examples = joint_examples(context, unit.model, unit.of.layer, unit.of.head)
    if not examples:
        return []
    panel = context.panel(unit.model, "joint")
    panel.extra = {"examples": examples}
    reading = (
        "Which image tokens write the description with the largest and the smallest coefficient. Orange adds to the "
        "coefficient, blue takes away from it; point at an image to see it bare."
    )
    return [Part("Where it looks", reading, panel, "tokens.html")]


def joint_examples(context: Context, model: Model, layer: int, head: int) -> list[dict[str, Any]]:
    """One head's images with the heatmaps of their most and least similar descriptions; [] if there are none."""
    found = model.part("joint")
    if found is None or str(layer) not in labels(found, "layer") or str(head) not in labels(found, "head"):
        return []
    here = found.isel(layer=labels(found, "layer").index(str(layer)), head=labels(found, "head").index(str(head)))
    signs = labels(here, "sign")
    heat = here["heatmap"].transpose("k", "sign", "gy", "gx").values
    text, coefficient = strings(here["text"].transpose("k", "sign")), here["coefficient"].transpose("k", "sign").values
    examples = []
    for k, image in enumerate(strings(here["image"]).tolist()):
        maps = [
            {
                "sign": s,
                "text": text[k, j],
                "value": number(float(coefficient[k, j])),
                "heat": heat_uri(heat[k, j], signed=True),
            }
            for j, s in enumerate(signs)
        ]
        examples.append({"thumb": context.thumbs.thumb(image), "maps": maps})
    return examples


def spurious_tiles(context: Context, model: Model) -> list[Tile]:
    """The worst group before and after the cue's heads are ablated."""
    found = model.part("spurious")
    if found is None:
        return []
    worst, gain, lead = _worst(found)
    gained = points(worst["chosen"] - worst["base"])
    beside = f"from {percent(worst['base'])}: {gained} points ({evidence.moved(gain)})"
    best = f"best random draw {percent(worst['random best'])} ({evidence.compared(lead)})"
    return [Tile("Worst group, cue heads ablated", percent(worst["chosen"]), f"{beside}; {best}")]


def spurious_headline(context: Context, models: Sequence[Model]) -> list[str]:
    """Whether ablating the cue's heads helps the worst group, and more than random heads do."""
    (model,) = models
    found = model.part("spurious")
    if found is None:
        return []
    worst, gain, lead = _worst(found)
    cue, gained = found.attrs.get("attribute", "the cue"), points(worst["chosen"] - worst["base"])
    told = f"Ablating the heads named after {cue} moves the worst group from {percent(worst['base'])} to "
    told += f"{percent(worst['chosen'])}: {gained} points ({evidence.moved(gain)})"
    if not bool(gain.excludes_zero):
        told += f", {evidence.NOT_APART} from nothing"
    side = evidence.compared(lead)
    control = {evidence.NOT_APART: f"is as good, {evidence.NOT_APART}", "higher": "is better", "lower": "is worse"}
    return [f"{told}; the best draw of random heads gives {percent(worst['random best'])} and {control[side]}."]


def _worst(found: xr.Dataset) -> tuple[dict[str, float], Interval, Interval]:
    """The worst group's accuracy by what is ablated, its gain, and the lead over the best random draw."""
    worst = {c: float(found["worst"].sel(ablation=c)) for c in labels(found, "ablation")}
    gain, lead = (
        Interval(*(float(found[f"{key}_{end}"].sel(ablation=of)) for end in ("low", "high")))
        for key, of in (("gain", "chosen"), ("lead", "random best"))
    )
    return worst, gain, lead


def segmentation_tiles(context: Context, model: Model) -> list[Tile]:
    """mIoU of the decomposition beside the best other method and the neurons."""
    found = model.part("segmentation")
    if found is None or "miou" not in labels(found, "metric"):
        return []
    methods, score, half, others = _rivals(found)
    beside = [f"{evidence.plus_minus(half)} ({count(int(found.attrs['images']))} images)"]
    for says, (k, told) in others.items():
        name = "" if says == "by neurons" else f"{METHODS.get(methods[k], methods[k])}, "
        beside.append(f"{says} {percent(float(score[k]))} ({name}{told})")
    return [Tile("Segmentation mIoU", percent(float(score[methods.index("decomposition")])), "; ".join(beside))]


def segmentation_headline(context: Context, models: Sequence[Model]) -> list[str]:
    """Whether the decomposition segments better than the best other method."""
    (model,) = models
    found = model.part("segmentation")
    if found is None or "miou" not in labels(found, "metric"):
        return []
    methods, score, half, others = _rivals(found)
    ours = percent(float(score[methods.index("decomposition")]))
    k, told = others["best other"]
    return [
        f"The decomposition segments the object with an mIoU of {ours} ({evidence.plus_minus(half)}); the best other "
        f"method, {METHODS.get(methods[k], methods[k])}, has {percent(float(score[k]))} ({told})."
    ]


def _rivals(found: xr.Dataset) -> tuple[list[str], Float[np.ndarray, " method"], float, dict[str, tuple[int, str]]]:
    """The methods, their mIoU, the half interval of ours, and the places and verdicts of those it is compared with."""
    methods, at = labels(found, "method"), labels(found, "metric").index("miou")
    score = found["score"].transpose("method", "metric").values[:, at]
    ours = methods.index("decomposition")
    best = max((k for k, name in enumerate(methods) if name not in OURS), key=lambda k: score[k])
    places = {"best other": best} | ({"by neurons": methods.index("neurons")} if "neurons" in methods else {})
    others = {}
    for says, k in places.items():
        ends = (found[f"difference_{end}"].transpose("method", "other", "metric") for end in ("low", "high"))
        others[says] = k, evidence.compared(Interval(*(float(end[ours, k, at]) for end in ends)))
    return methods, score, float(segmentation_ends(found).half[ours, at]), others
