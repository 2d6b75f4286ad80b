"""Room report: what the page of one attention head shows."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from optogram.metrics.intervals import Interval
from optogram.report import evidence
from optogram.report.findings import Head, Model, labels, place, strings
from optogram.report.images import Thumb
from optogram.report.labels import number, percent, points
from optogram.report.panels import Context, Panel, Tile, bar, fill, span
from optogram.report.section import Part, Unit

Scored = tuple[Thumb | None, str, str]
"""A thumbnail (None if no split has the image), the image's id, and its score in words."""


@dataclass(frozen=True)
class Row:
    """A description: what it names, and its part of the head's variance as a bar that starts where the last ended."""

    rank: int
    text: str
    chips: list[tuple[str, str]]
    fill: str
    start: float
    width: float
    share: str
    cumulative: str
    images: list[Scored]


def head_units(context: Context, model: Model) -> list[Unit]:
    """The heads, a page each."""
    return [
        Unit(
            "head",
            head.name,
            model,
            f"heads/{head.page}",
            f"L{head.layer}H{head.head}",
            f"{model.name} · layer {head.layer}, head {head.head}",
            (head.named, context.findings.colour(head.named)) if head.named else None,
            head,
            head_grid(context, model, head),
        )
        for head in model.heads
    ]


def textspan_parts(context: Context, unit: Unit) -> list[Part]:
    """What a head writes, in words."""
    if unit.kind != "head":
        return []
    model, head = unit.model, unit.of
    pools = _pools(context, model, head)
    ranked = sorted(model.heads, key=lambda h: -h.variance)
    total = sum(h.variance for h in model.heads) or 1.0
    beside = f"rank {ranked.index(head) + 1} of {len(ranked)} heads, {percent(head.variance / total)} of their sum"
    panel = context.panel(model, "textspan")
    panel.tiles = [Tile("Variance of what it writes", number(head.variance), beside)]
    panel.extra = {"pools": pools}
    reading = (
        "The descriptions that TextSpan picked. Each bar is the part of the head's variance that the pick adds to "
        "those before it, on a scale from none to all of it; the share beside a pool's name is what its picks span "
        "together."
    )
    if pools and pools[0]["rows"] and pools[0]["rows"][0].images:
        reading += " Below are the images with the largest inner product of head contribution and description."
    return [Part("What it writes, in words", reading, panel, "head_texts.html")]


def roles_parts(context: Context, unit: Unit) -> list[Part]:
    """What a head is named and measured, what it is needed for, and what it finds alike."""
    model, head = unit.model, unit.of
    if unit.kind != "head" or model.part("roles") is None:
        return []
    panel = context.panel(model, "roles")
    panel.tiles = _facts(head)
    panel.extra = {"drops": _drops(context, model, head)}
    reading = (
        "Percentage points of zero-shot accuracy lost when this head alone is mean-ablated; a negative number is a "
        "gain. In small print the 95% interval, over the same images with and without the head. All heads share the "
        "scale."
    )
    parts = [Part("What it is needed for" if panel.extra["drops"] else "", reading, panel, "head_drops.html")]
    neighbours = _neighbours(context, model, head)
    if neighbours:
        reading = (
            "For each image on the left, those whose centred contribution of this head has the largest inner product "
            "with its own. A head with a role finds images that share that property and little else."
        )
        found = Panel(extra={"neighbours": neighbours})
        parts.append(Part("What it finds alike", reading, found, "head_neighbours.html"))
    return parts


def head_grid(context: Context, model: Model, here: Head | None = None) -> dict[str, object]:
    """The grid of heads for the template: rows of cells, last layer on top; `here` is marked."""
    most = max((head.variance for head in model.heads), default=0.0) or 1.0
    rows: dict[int, list[dict[str, object]]] = {}
    for head in model.heads:
        cell = {
            "head": head,
            "colour": context.findings.colour(head.named),
            "measured": context.findings.colour(head.measured) if head.measured else "",
            # area, not width, is proportional to the variance
            "size": round(22 + 78 * float(np.sqrt(head.variance / most))),
            "says": head_line(head),
            "here": here == head,
        }
        rows.setdefault(head.layer, []).append(cell)
    used = [a for a in context.findings.attributes if any(a in (h.named, h.measured) for h in model.heads)]
    legend = [(name, context.findings.colour(name)) for name in used]
    if any(not head.named for head in model.heads):
        legend.append(("no attribute named", "--none"))
    return {"rows": [(layer, rows[layer]) for layer in sorted(rows, reverse=True)], "legend": legend}


def head_line(head: Head) -> str:
    """One line on a head."""
    named = f"named {head.named} ({percent(head.share, 0)} of its variance)" if head.named else "no attribute named"
    measured = f"measured {head.measured} ({points(-head.drop)} points)" if head.measured else "measured none"
    text = f"“{head.texts[0]}”" if head.texts else ""
    return " · ".join(part for part in (head.name, named, measured, f"variance {number(head.variance)}", text) if part)


def _facts(head: Head) -> list[Tile]:
    if head.named:
        beside = f"{percent(head.share, 0)} of its variance lies along such texts"
        facts = [Tile("Named by its texts", head.named, beside)]
    else:
        facts = [Tile("Named by its texts", "nothing", "no description names an attribute")]
    falls = "no attribute's accuracy falls by more than chance would have it"
    if head.measured:
        ends = evidence.moved(Interval(-head.ends.high, -head.ends.low))
        falls = f"{points(-head.drop)} points without it ({ends})"
    by_margin = f"by margin {head.by_margin or 'none'}"
    return [*facts, Tile("Measured by ablation", head.measured or "none", f"{falls}; {by_margin}")]


def _pools(context: Context, model: Model, head: Head) -> list[dict[str, Any]]:
    spans, roles = model.part("textspan"), model.part("roles")
    at = None if spans is None else place(spans, head.layer, head.head)
    if spans is None or at is None:
        return []
    here = spans.isel(at)
    total = head.variance or 1.0
    top = None if roles is None or "top_image" not in roles else place(roles, head.layer, head.head)
    pools = []
    for p, pool in enumerate(labels(spans, "pool")):
        texts, attributes, values = (
            strings(here[name].isel(pool=p)) for name in ("text", "text_attribute", "text_value")
        )
        share = here["variance"].isel(pool=p).values.astype(np.float64) / total
        ends = np.cumsum(share)
        rows = []
        for step, text in enumerate(texts.tolist()):
            if not text:  # the pool was exhausted
                break
            chips = context.chips(str(attributes[step]), str(values[step]))
            images = [] if p or roles is None or top is None else _top(context, roles.isel(top), step)
            rows.append(
                Row(
                    step + 1,
                    text,
                    chips,
                    fill([colour for _, colour in chips]),
                    round(100 * float(ends[step] - share[step]), 2),
                    round(100 * float(share[step]), 2),
                    percent(float(share[step])),
                    percent(float(ends[step])),
                    images,
                )
            )
        first = sorted(rows, key=lambda row: not row.chips)
        moved = [row.rank for row in first] != [row.rank for row in rows]
        pools.append({"name": pool, "rows": first, "total": percent(float(ends[-1])), "moved": moved})
    return pools


def _top(context: Context, roles: Any, step: int) -> list[Scored]:
    if step >= roles.sizes["step"]:
        return []
    names, scores = strings(roles["top_image"].isel(step=step)), roles["top_score"].isel(step=step).values
    return _scored(context, names.tolist(), scores.tolist())


def _neighbours(context: Context, model: Model, head: Head) -> list[dict[str, Any]]:
    roles = model.part("roles")
    at = None if roles is None or "neighbour" not in roles else place(roles, head.layer, head.head)
    if roles is None or at is None:
        return []
    here = roles.isel(at)
    names = strings(here["neighbour"].transpose("query", ...))
    scores = here["neighbour_score"].transpose("query", ...).values
    queries = strings(roles["query"]).tolist()
    return [
        {"query": _scored(context, [query], [None])[0], "found": _scored(context, row.tolist(), score.tolist())}
        for query, row, score in zip(queries, names, scores, strict=True)
    ]


def _scored(context: Context, names: list[str], scores: list[Any]) -> list[Scored]:
    return [
        (context.thumbs.thumb(name), name, "" if score is None else f"score {number(float(score))}")
        for name, score in zip(names, scores, strict=True)
        if name
    ]


def _drops(context: Context, model: Model, head: Head) -> list[dict[str, Any]]:
    roles = model.part("roles")
    at = None if roles is None else place(roles, head.layer, head.head)
    if roles is None or at is None:
        return []
    names = context.attributes(roles)
    drop = context.by_attribute(roles.isel(at), "accuracy_drop")
    bounds = [context.by_attribute(roles.isel(at), f"accuracy_drop_{end}") for end in ("low", "high")]
    everywhere = context.by_attribute(roles, "accuracy_drop", "layer", "head")
    low, high = span(everywhere)  # one scale for all heads, so that pages compare
    return [
        {
            "name": name,
            "colour": context.findings.colour(name),
            "zero": bar(0.0, low, high)[0],
            "bar": bar(float(value), low, high),
            "says": points(float(value)).removeprefix("+"),
            "ends": evidence.moved(Interval(*ends)).replace("+", ""),
        }
        for name, value, *ends in zip(names, drop, *bounds, strict=True)
    ]
