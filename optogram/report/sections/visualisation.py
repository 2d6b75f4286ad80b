"""Room report: the family visualisation: its section, a gallery of each classifier, its classes and channels."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from optogram.report.charts.plotly import Plot, plot
from optogram.report.charts.visualisation import convergence, embedding_map, mark
from optogram.report.findings import Model, labels, strings
from optogram.report.labels import percent
from optogram.report.panels import Context, Panel, Table
from optogram.report.provenance import artifact_name, made
from optogram.report.section import Page, Part, Section, Unit
from optogram.report.sections.visual_rows import METHODS, UNITS, Row, Visualisations, method_name, visualisations_of
from optogram.report.sections.visual_tables import (
    REAL,
    cue_chance,
    cues,
    headline,
    notes,
    score_table,
    set_rows,
    tiles,
)

KINDS = ("targets", *METHODS, "visual_scores", "reference_sets")
CLASSES = 10
"""Classes in the strips, at most; the page has them all."""


@dataclass(frozen=True)
class Target:
    """A class or channel of a classifier: its place among the targets."""

    at: int
    found: Visualisations


def visualisations(context: Context, model: Model) -> Panel:
    """Table 1, a strip of the classes by each method, the cue, links."""
    found = visualisations_of(context, model)
    panel = Panel(model, made=_made(model))
    if found is None:
        panel.skipped = next(why for kind in ("targets", *METHODS) if (why := model.missing(kind)))
        return panel
    scored = _scored(model)
    panel.notes = scored.pop("notes")
    panel.extra |= scored
    classes = found.of("class")
    few = classes[:CLASSES]
    panel.extra["strip"] = {
        "methods": found.columns,
        "rows": [
            (found.names[at], found.reference(at), [found.shot(at, k) for k in range(len(found.methods))]) for at in few
        ],
        "more": len(classes) - len(few),
    }
    panel.extra["units"] = found.file if any(kind in UNITS for kind in found.kinds) else ""
    return panel


def pages(context: Context, model: Model) -> Iterator[Page]:
    """The gallery of a classifier: all classes and channels by each method."""
    shown = [one for one in context.findings.classifiers if visualisations_of(context, one) is not None]
    found = visualisations_of(context, model)
    if found is None:
        return
    k, groups = shown.index(model), []
    for kind, title in (("class", "Classes"), ("neuron", "Channels")):
        places = found.of(kind)
        if places:
            groups.append((kind, title, found.rows(places)))
    around = {"before": shown[k - 1], "after": shown[(k + 1) % len(shown)], "several": len(shown) > 1}
    yield Page(
        f"visualisations/{model.slug}.html",
        "gallery.html",
        {
            **_scored(model),
            **_looks(found),
            **around,
            "model": model,
            "made": _made(model),
            "groups": groups,
            "convergence": _convergence(model, found),
            "map": _map(model),
            "sets": set_rows(context, model, CLASSES),
            "no_sets": model.missing("reference_sets"),
            "facets": found.facets,
        },
    )


def _looks(found: Visualisations) -> dict[str, Any]:
    """What the rows of targets need beside themselves."""
    colours = {method: mark(method)[0] for method in found.methods}
    return {"seeds": found.seeds, "methods": found.columns, "colours": colours}


def units(context: Context, model: Model) -> list[Unit]:
    """The classes and channels that were visualised, all on one page."""
    found = visualisations_of(context, model)
    if found is None:
        return []
    return [
        Unit(
            UNITS[found.kinds[at]],
            found.names[at],
            model,
            found.file,
            found.anchors[found.names[at]],
            f"{model.name} · {UNITS[found.kinds[at]]}",
            of=Target(at, found),
            toolbar="controls.html",
        )
        for kind in UNITS
        for at in found.of(kind)
    ]


def parts(context: Context, unit: Unit) -> list[Part]:
    """How a class or channel looks by each method; its circuit, concepts, or parts."""
    if not isinstance(unit.of, Target):
        return []
    found, at = unit.of.found, unit.of.at
    looks = _looks(found) | {"page": f"../visualisations/{unit.model.slug}.html"}

    def part(title: str, reading: str, rows: list[Row]) -> Part:
        return Part(title, reading, Panel(extra={"rows": rows, **looks}), "targets.html")

    told = [
        part("How each method draws it", "Its first references, then its picture by each method.", found.rows([at]))
    ]
    told[0].panel.made = _made(unit.model)
    circuit = _circuit(found, unit.name)
    if circuit:
        reading = "The channels of the penultimate layer on which the class rests most, by relevance (Figure 5)."
        told.append(part("Its circuit", reading, circuit))
    concepts = [k for k in found.of("concept") if found.parents[k] == unit.name]
    if concepts:
        reading = (
            "Directions that a factorisation of the class's patches found, most important first (Figures 30 to 33). "
            "The patches beside are those that show a concept most."
        )
        told.append(part("Its concepts", reading, found.rows(concepts)))
    splits = [k for k in found.of("split") if found.parents[k] == unit.name]
    if splits:
        reading = (
            "The patches that excite the channel, parted by k-means (Figure 29). Parts that show different things tell "
            "of a channel with several meanings."
        )
        told.append(part("Its parts", reading, found.rows(splits)))
    rests = [[of, percent(share)] for of, channel, share in _circuits(found) if channel == unit.name]
    if rests:
        panel = Panel(tables=[Table(["class", "share of its relevance"], rests)])
        told.append(Part("Which classes rest on it", "The classes in whose circuit the channel is.", panel))
    return told


def _circuits(found: Visualisations) -> list[tuple[str, str, float]]:
    """Every class, each channel of its circuit, and the share of the relevance that this has."""
    targets = found.classifier.part("targets")
    if targets is None or "circuit" not in targets:
        return []
    names = strings(targets["circuit"].transpose("class", "k")).tolist()
    share = targets["circuit_relevance"].transpose("class", "k").values.tolist()
    return [
        (of, channel, part)
        for of, channels, shares in zip(labels(targets, "class"), names, share, strict=True)
        for channel, part in zip(channels, shares, strict=True)
        if channel in found.anchors
    ]


def _circuit(found: Visualisations, name: str) -> list[Row]:
    return [
        found.row(found.names.index(channel), f"{percent(share)} of the relevance", round(100 * share, 1))
        for of, channel, share in _circuits(found)
        if of == name
    ]


def _made(model: Model) -> list[Any]:
    return [made(artifact_name(kind, model.name), model.parts[kind]) for kind in KINDS if kind in model.parts]


def _scored(model: Model) -> dict[str, Any]:
    """The table, what its numbers are, the cues, and what is missing."""
    scores = model.part("visual_scores")
    return {
        "table": None if scores is None else score_table(scores),
        "told": [] if scores is None else notes(scores),
        "cues": [] if scores is None else cues(scores),
        "chance": "" if scores is None else cue_chance(scores),
        "notes": _missing(model),
    }


def _missing(model: Model) -> list[str]:
    """What is not there beside the pictures, and why."""
    names = {
        "vital": "No pictures by VITAL",
        "baselines": "No pictures by others",
        "visual_scores": "Not scored",
    }
    return [f"{name}: {why}" for kind, name in names.items() if (why := model.missing(kind))]


def _convergence(model: Model, found: Visualisations) -> Plot | None:
    """A curve a method and seed, for one target at a time."""
    targets = []
    for at, name in enumerate(found.names):
        curves = {}
        for method, curve in found.curves.items():
            seeds = found.defined(at, method)
            if seeds:
                diverged = found.diverged(at, method)
                says = ", ".join([method_name(method), *dict.fromkeys(diverged)])
                curves[method] = (says, curve.steps, curve.loss[at][seeds])
        targets.append((name, curves))
    return plot("convergence", convergence(targets)) if targets else None


def _map(model: Model) -> Plot | None:
    """Figure 6."""
    scores = model.part("visual_scores")
    if scores is None or not scores.sizes.get("point"):
        return None
    x, y = (scores[name].values.astype(float) for name in ("map_x", "map_y"))
    kinds, of = (strings(scores[name]).tolist() for name in ("map_kind", "map_class"))
    names = {kind: method_name(kind) for kind in dict.fromkeys(kinds) if kind != REAL}
    return plot("map", embedding_map(x, y, kinds, of, names), max_width=760)


SECTIONS: tuple[Section, ...] = (
    Section(
        "visualisations",
        "Feature visualisation",
        "Images that a method drew so that a classifier sees in them as much as it can of a class, a neuron or a "
        "concept: VITAL, which matches the features of reference images, beside its rivals, at the same budget. A "
        "picture helps if others than the model itself recognise what it is of: CLIP does, if it can be understood.",
        tuple(f"{kind}/{{classifier}}" for kind in KINDS),
        visualisations,
        tiles,
        headline,
        units,
        parts,
        pages,
        "visualisations.html",
    ),
)
