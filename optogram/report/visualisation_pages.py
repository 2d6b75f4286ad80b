"""Room report: the section on feature visualisation, and the two pages of each classifier."""

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from optogram.report.figures import Plot
from optogram.report.findings import Model, labels, strings
from optogram.report.formats import percent
from optogram.report.made import artifact_name, made
from optogram.report.panels import Context, Panel
from optogram.report.visual_figures import convergence, embedding_map, mark
from optogram.report.visual_tables import REAL, cue_chance, cues, notes, score_table, set_rows
from optogram.report.visualisations import METHODS, Row, Visualisations, method_name, visualisations_of

KINDS = ("targets", *METHODS, "visual_scores", "reference_sets")
CLASSES = 10
"""Classes in the strips, at most; the page has them all."""
NOTHING = "Nothing to visualise: params.yaml names no classifiers."
READING = {
    "circuits": (
        "Circuits",
        "The channels of the penultimate layer on which a class rests most, by relevance (Figure 5).",
    ),
    "concepts": (
        "Concepts",
        "Directions that a factorisation of a class's patches found, most important first (Figures 30 to 33). The "
        "patches beside are those that show a concept most.",
    ),
    "splits": (
        "Polysemantic neurons, split",
        "The patches that excite a neuron, parted by k-means: the neuron as a whole, then each part (Figure 29). Parts "
        "that show different things tell of a neuron with several meanings.",
    ),
}


class Bench:
    """The classifiers of a run, each with its visualisations (None where there are none)."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._found = [(model, visualisations_of(context, model)) for model in context.findings.classifiers]
        self._parts = {model.slug: _parts(model, found) for model, found in self._found if found is not None}

    def section(self) -> list[Panel]:
        """A compact panel a classifier: Table 1, a strip of the classes by each method, the cue, links."""
        panels = [self._panel(model, found) for model, found in self._found]
        return panels or [Panel(skipped=NOTHING)]

    def pages(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Template, path and content of each page."""
        shown = [(model, found) for model, found in self._found if found is not None]
        inside = [(model, found) for model, found in shown if self._parts[model.slug]]
        for pages, template, folder in ((shown, "gallery.html", "visualisations"), (inside, "inside.html", "circuits")):
            for k, (model, found) in enumerate(pages):
                around = {"before": pages[k - 1][0], "after": pages[(k + 1) % len(pages)][0], "several": len(pages) > 1}
                common = {"model": model, "seeds": found.seeds, "methods": found.columns, "made": _made(model)}
                common["colours"] = {method: mark(method)[0] for method in found.methods}
                content = {"parts": self._parts[model.slug]} if pages is inside else self._gallery(model, found)
                yield template, f"{folder}/{model.slug}.html", common | around | content

    def _panel(self, model: Model, found: Visualisations | None) -> Panel:
        panel = Panel(made=_made(model), extra={"classifier": model})
        if found is None:
            missing = (model.missing(kind) for kind in ("targets", *METHODS))
            panel.skipped = next(why for why in missing if why)
            return panel
        panel.extra |= _scored(model)
        classes = found.of("class")
        few = classes[:CLASSES]
        panel.extra["strip"] = {
            "methods": found.columns,
            "rows": [
                (found.names[at], found.reference(at), [found.shot(at, k) for k in range(len(found.methods))])
                for at in few
            ],
            "more": len(classes) - len(few),
        }
        panel.extra["inner"] = [part["key"] for part in self._parts[model.slug]]
        return panel

    def _gallery(self, model: Model, found: Visualisations) -> dict[str, Any]:
        groups = []
        for kind, title in (("class", "Classes"), ("neuron", "Neurons")):
            places = found.of(kind)
            if places:
                groups.append((kind, title, found.rows(places)))
        return {
            **_scored(model),
            "groups": groups,
            "convergence": _convergence(model, found),
            "map": _map(model),
            "sets": set_rows(self._context, model, CLASSES),
            "no_sets": model.missing("reference_sets"),
            "inner": [part["key"] for part in self._parts[model.slug]],
            "facets": found.facets,
        }


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
    options = []
    for at, name in enumerate(found.names):
        curves = {}
        for method, curve in found.curves.items():
            seeds = found.defined(at, method)
            if seeds:
                diverged = found.diverged(at, method)
                says = ", ".join([method_name(method), *dict.fromkeys(diverged)])
                curves[method] = (says, curve.steps, curve.loss[at][seeds])
        options.append((name, convergence(curves)))
    label = "Loss of the optimisation against its step, a line a method and seed"
    return Plot("convergence", label, options, 360, choose="Target") if options else None


def _map(model: Model) -> Plot | None:
    """Figure 6."""
    scores = model.part("visual_scores")
    if scores is None or not scores.sizes.get("point"):
        return None
    x, y = (scores[name].values.astype(float) for name in ("map_x", "map_y"))
    kinds, of = (strings(scores[name]).tolist() for name in ("map_kind", "map_class"))
    names = {kind: method_name(kind) for kind in dict.fromkeys(kinds) if kind != REAL}
    label = "Map of real images and visualisations by the classifier's penultimate features"
    return Plot("map", label, [("", embedding_map(x, y, kinds, of, names))], 520, max_width=760)


def _parts(model: Model, found: Visualisations) -> list[dict[str, Any]]:
    """Circuits, concepts and splits: each a heading, how to read it, and groups of rows."""
    groups = {
        "circuits": _circuits(model, found),
        "concepts": [(of, found.rows(places)) for of, places in _by_parent(found, "concept")],
        "splits": [(of, _with_whole(found, of, places)) for of, places in _by_parent(found, "split")],
    }
    return [
        {"key": key, "title": title, "reading": reading, "groups": groups[key]}
        for key, (title, reading) in READING.items()
        if groups[key]
    ]


def _by_parent(found: Visualisations, kind: str) -> list[tuple[str, list[int]]]:
    places = sorted(found.of(kind), key=lambda at: found.parents.index(found.parents[at]))
    return [(of, list(group)) for of, group in groupby(places, key=lambda at: found.parents[at])]


def _with_whole(found: Visualisations, neuron: str, places: list[int]) -> list[Row]:
    whole = [at for at, name in enumerate(found.names) if name == neuron]
    return [found.row(at, "the neuron as a whole") for at in whole] + found.rows(places)


def _circuits(model: Model, found: Visualisations) -> list[tuple[str, list[Row]]]:
    targets = model.part("targets")
    if targets is None or "circuit" not in targets:
        return []
    names = strings(targets["circuit"].transpose("class", "k"))
    share = targets["circuit_relevance"].transpose("class", "k").values
    place = {name: at for at, name in enumerate(found.names)}
    groups = []
    for of, channels, parts in zip(labels(targets, "class"), names.tolist(), share.tolist(), strict=True):
        known = [(place[name], part) for name, part in zip(channels, parts, strict=True) if name in place]
        if not known:
            continue
        whole = [found.row(place[of], "the class itself")] if of in place else []
        parted = [found.row(at, f"{percent(part)} of the relevance", round(100 * part, 1)) for at, part in known]
        groups.append((of, whole + parted))
    return groups
