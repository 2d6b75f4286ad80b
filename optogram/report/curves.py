"""Room report: the still figures that are curves: accuracy against descriptions, layers, or texts a neuron."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float

from optogram.report.drawings import MOST, Drawn, rest, share_span
from optogram.report.findings import Findings, Model, labels
from optogram.report.formats import NEURONS, words
from optogram.report.sheet import INKS, MARGIN, NORMAL, WIDTH, Sheet, name_ticks, share_axis

MARKERS = ("o", "s", "D", "P", "X")
DASHES = ("solid", "dashed", "dashdot", "dotted")
EVERYTHING = (0.0, 1.03, [0.0, 0.25, 0.5, 0.75, 1.0])
"""Ends and ticks of the axis of accuracies."""
LOOKS = {
    "all": ("--s0", "solid", 2.2, "o"),
    "small": ("--s1", "dashed", 1.6, "s"),
    "large": ("--s1", "dashdot", 1.6, "D"),
    "rank_one": ("--cold", "solid", 2.2, "*"),
}
"""Colour, dash, width and marker of each way to ablate second-order effects."""
Panel = tuple[str, Float[np.ndarray, "line at"], dict[str, Any]]
"""A panel: its name, its lines, and its levels by name: numbers, or one for each place along the axis."""


def textspan(findings: Findings, model: Model, found: xr.Dataset) -> Drawn:
    """Figure 2.3: a panel an attribute, and one for their mean; a line a pool."""
    pools, sizes = labels(found, "pool"), [int(size) for size in labels(found, "size")]
    kinds = {
        "unaltered model": ("base_accuracy", "solid"),
        "all mean-ablated": ("ablated_accuracy", "dashed"),
        "chance": ("chance", "dotted"),
    }
    levels = {name: findings.by_attribute(found, variable) for name, (variable, _) in kinds.items()}
    panels = _panels(findings, found, findings.by_attribute(found, "accuracy", "pool", "size"), levels)
    title = "Accuracy with each head reduced to a few descriptions"
    reading = (
        "Each head is projected on its first TextSpan descriptions from a pool of texts, all else is mean-ablated. The "
        "sooner a line nears the unaltered model, the better these texts span what the heads say."
    )
    looks = {pool: _pool_line(k, pool) for k, pool in enumerate(pools)}
    dashes = {name: dash for name, (_, dash) in kinds.items()}
    sheet = _curves(title, model, reading, panels, looks, dashes, sizes, "descriptions a head")
    caption = (
        f"Accuracy of {model.name} on images/eval against the number of TextSpan descriptions on which each head is "
        f"projected, by pool of texts (Figure 2.3); random vectors are the yardstick.{rest(findings, found)}"
    )
    return title, caption, sheet


def neurons(findings: Findings, model: Model, found: xr.Dataset) -> Drawn:
    """Figure 3.3: a panel an attribute, and one for their mean; a line a way to ablate a layer's neurons."""
    conditions, layers = labels(found, "condition"), [int(layer) for layer in labels(found, "layer")]
    values = findings.by_attribute(found, "accuracy", "condition", "layer")
    levels = {"nothing ablated": values[conditions.index("none"), 0]} if "none" in conditions else {}
    lines = [k for k, condition in enumerate(conditions) if condition in LOOKS]
    panels = _panels(findings, found, values[lines], levels)
    title = "Mean-ablation of neurons' second-order effects"
    reading = (
        "What the neurons of one MLP write through later attention is replaced by its mean over images: for all, "
        "or only where its norm is small or large; or by its part along one direction a neuron."
    )
    looks = {}
    for k in lines:
        colour, dash, width, marker = LOOKS[conditions[k]]
        look = {"color": INKS[colour], "linestyle": dash, "linewidth": width, "marker": marker, "markersize": 5}
        looks[NEURONS.get(conditions[k], words(conditions[k]))] = look
    dashes = {name: "solid" for name in levels}
    sheet = _curves(title, model, reading, panels, looks, dashes, layers, "MLP layer", _close(panels))
    caption = (
        f"Zero-shot accuracy of {model.name} on images/eval with the second-order effects of one MLP layer's neurons "
        f"ablated or simplified (Figure 3.3).{rest(findings, found)}"
    )
    return title, caption, sheet


def neuron_texts(findings: Findings, model: Model, found: xr.Dataset) -> Drawn:
    """Figure 3.4: a panel an MLP layer, accuracy averaged over attributes; a line a pool."""
    pools, sizes = labels(found, "pool"), [int(size) for size in labels(found, "size")]
    conditions = labels(found, "condition")
    curves = findings.by_attribute(found, "reconstructed", "layer", "pool", "size").mean(-1)
    values = findings.by_attribute(found, "accuracy", "condition", "layer").mean(-1)
    kinds = {"nothing ablated": ("none", "solid"), "one direction a neuron": ("rank_one", "dashdot")}
    kinds |= {"w/o all neurons": ("all", "dashed")}
    kinds = {name: kind for name, kind in kinds.items() if kind[0] in conditions}
    panels = [
        (f"layer {layer}", curves[k], {n: values[conditions.index(c), k] for n, (c, _) in kinds.items()})
        for k, layer in enumerate(labels(found, "layer"))
    ]
    title = "Accuracy with each neuron rebuilt from a few texts"
    reading = (
        "The direction of every neuron of one MLP is replaced by a sum of texts from a pool. The sooner a line nears "
        "one direction a neuron, the better these texts say what the neurons write."
    )
    looks = {pool: _pool_line(k, pool) for k, pool in enumerate(pools)}
    dashes = {name: dash for name, (_, dash) in kinds.items()}
    sheet = _curves(title, model, reading, panels, looks, dashes, sizes, "texts a neuron", _close(panels))
    names = findings.attributes_of(found)
    of = f"the mean over {', '.join(names)}" if len(names) > 1 else names[0]
    caption = (
        f"Zero-shot accuracy of {model.name} on images/eval ({of}) against the number of texts from which each "
        "neuron's direction is rebuilt, by MLP layer and pool of texts (Figure 3.4)."
    )
    return title, caption, sheet


def _panels(
    findings: Findings, found: xr.Dataset, values: Float[np.ndarray, "line at attribute"], levels: Mapping[str, Any]
) -> list[Panel]:
    """A panel an attribute, and one for their mean before them if there are several."""
    names = findings.attributes_of(found)[:MOST]
    panels = [(name, values[..., k], {n: float(at[k]) for n, at in levels.items()}) for k, name in enumerate(names)]
    if values.shape[-1] > 1:
        means = {name: float(at.mean()) for name, at in levels.items()}
        panels.insert(0, ("mean over attributes", values.mean(-1), means))
    return panels


def _close(panels: Sequence[Panel]) -> tuple[float, float, list[float]]:
    """Ends and ticks of an axis that just holds the lines and levels of all panels."""
    values = np.concatenate([np.append(lines.ravel(), [*levels.values()]) for _, lines, levels in panels])
    return share_span(float(values.min()), float(values.max()))


def _curves(
    title: str,
    model: Model,
    reading: str,
    panels: Sequence[Panel],
    looks: Mapping[str, dict[str, Any]],
    dashes: Mapping[str, str],
    at: Sequence[int],
    unit: str,
    shares: tuple[float, float, list[float]] = EVERYTHING,
) -> Sheet:
    """Panels of curves (`looks` of each line, `at` along the axis) over levels (`dashes` of each)."""
    if shares[0] > 0:
        reading += " The axis does not start at zero."
    levels = {name: {"color": INKS["--hot"], "linewidth": 1.4, "linestyle": dash} for name, dash in dashes.items()}
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    left, gap, tall = MARGIN + 0.75, 0.3, 1.55 if columns > 1 else 3.0
    wide = (WIDTH - left - MARGIN - gap * (columns - 1)) / columns
    step = tall + 0.5
    sheet = Sheet(title, model.name, reading, rows * step + 0.6, [list(looks.items()), list(levels.items())])
    for k, (name, curves, heights) in enumerate(panels):
        row, column = divmod(k, columns)
        x, y = left + column * (wide + gap), sheet.top + 0.35 + row * step
        axes = sheet.axes(x, y, wide, tall)
        for level, look in levels.items():
            axes.axhline(heights[level], **look, zorder=1.5)
        for curve, look in reversed(list(zip(curves, looks.values(), strict=True))):
            axes.plot(at, curve, **look, clip_on=False)
        share_axis(axes.yaxis, shares[:2], shares[2])
        pad = 0.04 * (max(at) - min(at)) or 0.5
        axes.set_xlim(min(at) - pad, max(at) + pad)
        shown = _apart(at, 0.26 * (max(at) - min(at)) / wide)
        name_ticks(axes.xaxis, shown, [str(value) for value in shown])
        if column:
            axes.set_yticks(axes.get_yticks(), [])
        elif row == (rows - 1) // 2:
            middle = sheet.top + (rows * step) / 2
            sheet.text(MARGIN + 0.12, middle, "zero-shot accuracy", rotation=90, ha="center", va="center")
        sheet.text(x, y - 0.1, sheet.name(name, wide, NORMAL, True), bold=True)
        if k + columns >= len(panels):
            sheet.text(x + wide / 2, y + tall + 0.45, unit, ha="center")
    return sheet


def _pool_line(k: int, pool: str) -> dict[str, Any]:
    """The first pool, which names heads and neurons, is darkest."""
    colour = INKS["--s3" if pool == "random" else f"--s{min(k, 3)}"]
    return {
        "color": colour,
        "linestyle": DASHES[k % len(DASHES)],
        "linewidth": 2.2 if k == 0 else 1.6,
        "marker": MARKERS[k % len(MARKERS)],
        "markersize": 5,
    }


def _apart(values: Sequence[int], least: float) -> list[int]:
    """The values that lie at least so far from the one kept before, the last one for certain."""
    kept: list[int] = []
    for value in reversed(values):
        if not kept or kept[-1] - value >= least:
            kept.append(value)
    return kept[::-1]
