"""Room report: what the page of one attention head shows."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from optogram.report.applications import joint_examples
from optogram.report.findings import Head, Model, labels, place, strings
from optogram.report.formats import number, percent, points
from optogram.report.images import Thumb
from optogram.report.made import Made, artifact_name, made
from optogram.report.neurons import writers
from optogram.report.panels import Context, bar, fill, span
from optogram.report.sections import head_grid

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


def head_page(context: Context, model: Model, head: Head) -> dict[str, Any]:
    """Everything on one head, for the template."""
    k = model.heads.index(head)
    before, after = model.heads[k - 1], model.heads[(k + 1) % len(model.heads)]
    return {
        "model": model,
        "head": head,
        "before": before,
        "after": after,
        "colour": context.findings.colour(head.named),
        "measured_colour": context.findings.colour(head.measured),
        "facts": _facts(model, head),
        "grid": head_grid(context, model, head),
        "pools": _pools(context, model, head),
        "drops": _drops(context, model, head),
        "neighbours": _neighbours(context, model, head),
        "joint": joint_examples(context, model, head.layer, head.head),
        "writers": writers(context, model, head),
        "made": _made(model),
    }


def _facts(model: Model, head: Head) -> list[tuple[str, str, str]]:
    ranked = sorted(model.heads, key=lambda h: -h.variance)
    total = sum(h.variance for h in model.heads) or 1.0
    variance = f"rank {ranked.index(head) + 1} of {len(ranked)} heads, {percent(head.variance / total)} of their sum"
    facts = []
    if head.named:
        facts.append(
            ("Named by its texts", head.named, f"{percent(head.share, 0)} of its variance lies along such texts")
        )
    elif model.part("roles") is not None:
        facts.append(("Named by its texts", "nothing", "no description names an attribute"))
    if head.measured:
        facts.append(
            (
                "Measured by ablation",
                head.measured,
                f"{points(-head.drop)} points without it; by margin {head.by_margin or 'nothing'}",
            )
        )
    facts.append(("Variance of what it writes", number(head.variance), variance))
    return facts


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
        pools.append({"name": pool, "rows": rows, "total": percent(float(ends[-1]))})
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
    everywhere = context.by_attribute(roles, "accuracy_drop", "layer", "head")
    low, high = span(everywhere)  # one scale for all heads, so that pages compare
    return [
        {
            "name": name,
            "colour": context.findings.colour(name),
            "zero": bar(0.0, low, high)[0],
            "bar": bar(float(value), low, high),
            "says": points(float(value)).removeprefix("+"),
        }
        for name, value in zip(names, drop, strict=True)
    ]


def _made(model: Model) -> list[Made]:
    kinds = [kind for kind in ("textspan", "roles", "joint") if kind in model.parts]
    return [made(artifact_name(kind, model.name), model.parts[kind]) for kind in kinds]
