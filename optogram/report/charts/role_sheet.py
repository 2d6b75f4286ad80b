"""Room report: the picture of all heads: what each is named over what its ablation breaks."""

import xarray as xr

from optogram.report.charts.sheet import INKS, MARGIN, NORMAL, SMALL, TINY, WIDTH, Drawn, Sheet, fit, tint
from optogram.report.findings import Findings, Head, Model
from optogram.report.labels import percent, points
from optogram.report.sections.head_numbers import agreement_line

ACROSS = 8
"""Heads in a row of the map, so that a name fits into a cell."""


def roles(findings: Findings, model: Model, found: xr.Dataset) -> Drawn | None:
    """What each head's descriptions name over what its ablation breaks; None where the roles were not checked."""
    agreed = {by: agreement_line(found, suffix) for by, suffix in (("accuracy", ""), ("margin", "_by_margin"))}
    if not any(agreed.values()) or not model.heads:
        return None
    heads = {(head.layer, head.head): head for head in model.heads}
    layers = sorted({layer for layer, _ in heads}, reverse=True)
    columns = sorted({head for _, head in heads})
    lines = -(-len(columns) // ACROSS)
    across = -(-len(columns) // lines)
    having = sum(bool(head.measured) for head in model.heads)
    told = {by: "too few heads have one to compare" if line is None else " ".join(line) for by, line in agreed.items()}
    both = sum(bool(head.named) and head.named == head.measured for head in model.heads)
    title = f"{both} of {len(model.heads)} heads are named after the attribute that ablating them hurts most"
    reading = (
        "Above: the attribute that the head's descriptions name, and its share of the variance. Below: the attribute "
        f"whose accuracy falls most when the head is mean-ablated, and by how many points, where that is more than "
        f"chance would have it: {having} of {len(model.heads)} heads. Framed where both agree: {told['accuracy']}."
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
    caption = (
        f"Each head of {model.name}: the attribute that its text descriptions name, over the attribute that its "
        f"mean-ablation hurts most, where that is distinguishable from nothing. Both agree: {told['accuracy']}. "
        f"Measured by the mean logit margin instead: {told['margin']}."
    )
    return title, caption, sheet


def _cell(sheet: Sheet, findings: Findings, head: Head, x: float, y: float, wide: float, high: float) -> None:
    """A head's cell: its number, what it is named, what it is measured to do."""
    number, half = 0.17, (high - 0.17) / 2
    sheet.text(x + 0.02, y + number - 0.05, head.name, size=SMALL, colour="--muted")
    agrees = bool(head.named) and head.named == head.measured
    fall = f"{points(-head.drop)} points" if points(-head.drop) != "0.0" else "< 0.1 points"
    rows = (head.named, f"{percent(head.share, 0)} variance", "no name"), (head.measured, fall, "none seen to fall")
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
