"""Room report: a finding of a model -> the title, caption and sheet of its still figure; the numbers as they are."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float

from optogram.report.findings import Findings, Head, Model, labels
from optogram.report.formats import ABLATED, CONDITIONS, METHODS, METRICS, OURS, p_value, percent, points, words
from optogram.report.sheet import (
    INKS,
    MARGIN,
    NORMAL,
    SMALL,
    WIDTH,
    Sheet,
    fit,
    font,
    name_ticks,
    share_axis,
    tint,
    width_of,
)

Drawn = tuple[str, str, Sheet]
TINY = 8.0
MOST = 23
"""Attributes in a figure, at most; the report has them all."""
ACROSS = 8
"""Heads in a row of the map, so that a name fits into a cell."""


def ablation(findings: Findings, model: Model, found: xr.Dataset) -> Drawn:
    """Tables 2.1 and A.1: a panel a condition, a bar an attribute."""
    names, conditions = findings.attributes_of(found)[:MOST], labels(found, "condition")
    values = findings.by_attribute(found, "accuracy", "condition")[:, :MOST]
    chance = findings.by_attribute(found, "chance")[:MOST]
    title = "Zero-shot accuracy with parts of the model mean-ablated"
    reading = (
        "Each attribute is classified by the nearest text embedding. Above each panel is what is replaced by its mean "
        "over images; grey is the accuracy that this costs."
    )
    legend = [[("chance", _tick("--ink"))]]
    colours = [findings.colour(name) for name in names]
    sheet = _bars(
        title,
        model,
        reading,
        names,
        ["nothing ablated" if c == "none" else CONDITIONS.get(c, words(c)) for c in conditions],
        values,
        "zero-shot accuracy",
        colours=colours,
        whole=values[conditions.index("none")] if "none" in conditions else None,
        marks=chance,
        legend=legend,
    )
    caption = (
        f"Zero-shot accuracy of {model.name} on images/eval by attribute, with nothing ablated and with components "
        f"replaced by their mean over images. Ticks are chance, one over the number of values.{rest(findings, found)}"
    )
    return title, caption, sheet


def segmentation(findings: Findings, model: Model, found: xr.Dataset) -> Drawn:
    """Table 2.4: a panel a metric, a bar a method."""
    methods, metrics = labels(found, "method"), labels(found, "metric")
    score = found["score"].transpose("metric", "method").values.astype(np.float64)
    title = "Zero-shot segmentation, by method"
    reading = "Heatmaps of each method against the true masks of the objects. Higher is better; the best is in bold."
    sheet = _bars(
        title,
        model,
        reading,
        [METHODS.get(m, words(m)) for m in methods],
        [METRICS.get(m, words(m)) for m in metrics],
        score,
        "score",
        colours=[OURS.get(m, "--s2") for m in methods],
        bold=True,
    )
    ours = "Ours is the decomposition into image tokens' contributions. " if "decomposition" in methods else ""
    if "neurons" in methods:
        ours += "By neurons: the activation maps of those that write most along the class. "
    caption = f"Segmentation scores of heatmaps from {model.name} on images/eval. {ours}Higher is better."
    return title, caption, sheet


def spurious(findings: Findings, model: Model, found: xr.Dataset) -> Drawn:
    """Table 2.3: a row an ablation, how far it moves the worst group from where it was."""
    conditions = labels(found, "ablation")
    worst, overall = (found[name].values.astype(np.float64) for name in ("worst", "overall"))
    cue = str(found.attrs.get("attribute", "the cue"))
    heads = [str(text) for text in found["heads"].values]
    base = float(worst[conditions.index("base")])
    draws = _draws(found)
    title = "Worst group when the heads of a spurious cue are ablated"
    legend = [
        ("worst group", _point("--s0", "o", 8)),
        ("all images", {**_point("--s0", "o", 7), "markerfacecolor": "white"}),
    ]
    if draws:
        legend.append(("worst group of one random draw", _tick("--s2", 9)))
    reading = (
        "Heads are mean-ablated, and accuracy is taken in each group. A bar leads from the worst group of the "
        "unaltered model: blue is a gain, red a loss."
    )
    everything = np.concatenate([worst, overall, *draws.values()])
    low, high, at = share_span(float(everything.min()), float(everything.max()))
    if low > 0:
        reading += " The axis does not start at zero."
    names = [ABLATED.get(c, words(c)) for c in conditions]
    room = max(width_of(name) for name in names) + 0.15
    step, left = 0.46, MARGIN + room
    right = WIDTH - MARGIN - 1.75
    sheet = Sheet(title, model.name, reading, step * len(names) + 0.85, [legend])
    top = sheet.top + 0.1
    axes = sheet.axes(left, top, right - left, step * len(names))
    axes.set_ylim(len(names) - 0.5, -0.5)
    share_axis(axes.xaxis, (low, high), at)
    name_ticks(axes.yaxis, range(len(names)), names, NORMAL, "--ink")
    axes.axvline(base, color=INKS["--s0"], linewidth=1, linestyle="dashed", zorder=1)
    for k, condition in enumerate(conditions):
        colour = "--s0" if condition in ("base", "chosen") else "--s1"
        gain = worst[k] - base
        shade = tint("--cold" if gain >= 0 else "--hot", 0.45)
        axes.plot([base, worst[k]], [k, k], color=shade, linewidth=7, solid_capstyle="butt", zorder=1.5)
        if condition in draws:
            axes.plot(draws[condition], [k] * len(draws[condition]), **_tick("--s2", 13), zorder=1.7)
        axes.plot([overall[k]], [k], **{**_point(colour, "o", 7), "markerfacecolor": "white"}, clip_on=False)
        axes.plot([worst[k]], [k], **_point(colour, "o", 8), clip_on=False)
        y, chosen = top + step * (k + 0.5) + 0.05, condition == "chosen"
        sheet.text(WIDTH - MARGIN - 0.95, y, percent(float(worst[k])), ha="right", bold=chosen)
        if condition != "base":
            sheet.text(WIDTH - MARGIN, y, f"{points(float(gain))} points", ha="right", bold=chosen, colour="--muted")
    sheet.text((left + right) / 2, top + step * len(names) + 0.5, "zero-shot accuracy", ha="center")
    ablated = heads[conditions.index("chosen")] if "chosen" in conditions else ""
    caption = (
        f"Worst-group accuracy of {model.name} with the heads ablated that its texts name {cue} "
        f"({ablated or 'none'}), beside random heads, and as many random heads (Table 2.3)."
    )
    return title, caption, sheet


def roles(findings: Findings, model: Model, found: xr.Dataset) -> Drawn | None:
    """What each head's descriptions name over what its ablation breaks; None where the roles were not checked."""
    if "agreement" not in found.attrs or not model.heads:
        return None
    heads = {(head.layer, head.head): head for head in model.heads}
    layers = sorted({layer for layer, _ in heads}, reverse=True)
    columns = sorted({head for _, head in heads})
    lines = -(-len(columns) // ACROSS)
    across = -(-len(columns) // lines)
    compared, agreement, chance = (float(found.attrs[name]) for name in ("heads", "agreement", "chance"))
    agree = (
        f"{percent(agreement, 0)} of {compared:.0f} heads agree by accuracy, {percent(chance, 0)} would by chance "
        f"({p_value(float(found.attrs['p_value']))})"
    )
    title = "Named role of each head, and what its ablation breaks"
    reading = (
        "Above: the attribute that the head's descriptions name, and its share of the variance. Below: the attribute "
        f"whose accuracy falls most when the head is mean-ablated, and by how many points. Framed where both agree: "
        f"{agree}."
    )
    high, gap, apart = 0.98, 0.07, 0.1
    band = lines * (high + gap) + apart
    sheet = Sheet(title, model.name, reading, len(layers) * band + 0.35)
    left = MARGIN + 0.75
    wide = (WIDTH - MARGIN - left - gap * (across - 1)) / across
    for row, layer in enumerate(layers):
        top = sheet.top + 0.1 + row * band
        sheet.text(MARGIN, top + (band - apart - gap) / 2 + 0.05, f"layer {layer}")
        for k, column in enumerate(columns):
            head = heads.get((layer, column))
            if head is not None:
                line, place = divmod(k, across)
                _cell(sheet, findings, head, left + place * (wide + gap), top + line * (high + gap), wide, high)
    by_margin = ""
    if "agreement_by_margin" in found.attrs:
        by_margin, chance = (percent(float(found.attrs[f"{name}_by_margin"]), 0) for name in ("agreement", "chance"))
        by_margin = f" Measured by the mean logit margin instead, {by_margin} agree; {chance} would by chance."
    caption = (
        f"Each head of {model.name}: the attribute that its text descriptions name, over the attribute that its "
        f"mean-ablation hurts most; {agree}.{by_margin}"
    )
    return title, caption, sheet


def _cell(sheet: Sheet, findings: Findings, head: Head, x: float, y: float, wide: float, high: float) -> None:
    """A head's cell: its number, what it is named, what it is measured to do."""
    number, half = 0.17, (high - 0.17) / 2
    sheet.text(x + 0.02, y + number - 0.05, head.name, size=SMALL, colour="--muted")
    agrees = bool(head.named) and head.named == head.measured
    fall = f"{points(-head.drop)} points" if points(-head.drop) != "0.0" else "< 0.1 points"
    rows = (head.named, f"{percent(head.share, 0)} variance", "no name"), (head.measured, fall, "breaks nothing")
    for k, (name, figure, none) in enumerate(rows):
        top = y + number + k * half
        sheet.box(x, top, wide, half, facecolor=tint(findings.colour(name), 0.42), edgecolor="none")
        if name:
            sheet.text(x + 0.07, top + 0.18, sheet.name(name, wide - 0.1, NORMAL), colour="--ink")
            sheet.text(x + 0.07, top + 0.34, fit(figure, wide - 0.07, TINY), size=TINY)
        else:
            sheet.text(x + 0.07, top + half / 2 + 0.04, fit(none, wide - 0.07, SMALL), size=SMALL, colour="--muted")
    if agrees:
        sheet.box(x, y + number, wide, 2 * half, facecolor="none", edgecolor=INKS["--ink"], linewidth=1.6)


def _bars(
    title: str,
    model: Model,
    reading: str,
    rows: Sequence[str],
    panels: Sequence[str],
    values: Float[np.ndarray, "panel row"],
    unit: str,
    *,
    colours: Sequence[str],
    whole: Float[np.ndarray, " row"] | None = None,
    marks: Float[np.ndarray, " row"] | None = None,
    bold: bool = False,
    legend: Sequence[Sequence[tuple[str, Any]]] = (),
) -> Sheet:
    """Panels side by side with a bar a row; `whole` is the length before a loss, `bold` marks each panel's best."""
    across = min(4, max(1, len(panels)))
    lines = -(-len(panels) // across)
    step, gap = 0.33, 0.22
    tall = step * len(rows)
    band = tall + 0.75
    sheet = Sheet(title, model.name, reading, lines * band + 0.2, legend)
    shown = [sheet.name(name, 1.7) for name in rows]
    left = MARGIN + max(width_of(name) for name in shown) + 0.12
    wide = (WIDTH - left - MARGIN - gap * (across - 1)) / across
    end = 1 + 0.5 / (wide - 0.5)
    for k, panel in enumerate(panels):
        line, column = divmod(k, across)
        x, y = left + column * (wide + gap), sheet.top + 0.3 + line * band
        axes = sheet.axes(x, y, wide, tall)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        share_axis(axes.xaxis, (0, end), (0, 0.5, 1))
        if column:
            axes.set_yticks([])
        else:
            name_ticks(axes.yaxis, range(len(rows)), shown, NORMAL, "--ink")
        if whole is not None:
            axes.barh(range(len(rows)), whole, height=0.62, color=INKS["--line"])
        axes.barh(range(len(rows)), values[k], height=0.62, color=[INKS[c] for c in colours])
        if marks is not None:
            axes.plot(marks, range(len(rows)), **_tick("--ink"))
        best = np.round(values[k], 3) == np.round(values[k], 3).max()
        for row, value in enumerate(values[k].tolist()):
            look = font(SMALL, bold and bool(best[row]))
            axes.text(
                end, row, percent(value), fontproperties=look, ha="right", va="center_baseline", color=INKS["--ink"]
            )
        sheet.text(x, y - 0.1, fit(panel, wide + gap - 0.06, NORMAL, True), bold=True)
        sheet.text(x + wide / end / 2, y + tall + 0.4, unit, ha="center", size=SMALL, colour="--muted")
    return sheet


def _tick(colour: str, size: float = 11) -> dict[str, Any]:
    return {"marker": "|", "markersize": size, "markeredgewidth": 1.6, "color": INKS[colour], "linestyle": "none"}


def _point(colour: str, marker: str, size: float) -> dict[str, Any]:
    return {"marker": marker, "markersize": size, "color": INKS[colour], "linestyle": "none", "markeredgewidth": 1.4}


def _draws(found: xr.Dataset) -> dict[str, np.ndarray]:
    """The worst group's accuracy in every random draw, at the row that shows the draws' mean."""
    if "draw_worst" not in found:
        return {}
    names = [f"{name} mean" for name in labels(found, "baseline")]
    return dict(zip(names, found["draw_worst"].transpose("baseline", "draw").values.astype(np.float64), strict=True))


def share_span(low: float, high: float) -> tuple[float, float, list[float]]:
    """Ends and ticks of an axis of shares that shows `low` to `high`, in steps that people count in."""
    for step in (0.01, 0.02, 0.05, 0.1, 0.2):
        first, last = int(np.floor(low / step - 0.3)), int(np.ceil(high / step + 0.1))
        first, last = max(first, 0), min(last, round(1 / step))
        if last - first <= 7:
            break
    return first * step, last * step, [k * step for k in range(first, last + 1)]


def rest(findings: Findings, found: xr.Dataset) -> str:
    """How many attributes a figure leaves out, as a sentence; "" if none."""
    more = len(findings.attributes_of(found)) - MOST
    return f" {more} more attributes are in the report." if more > 0 else ""
