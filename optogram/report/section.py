"""Room report: a section as an object: what it needs, what it shows, and what it has to say on one unit of a model."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from optogram.report.findings import Findings, Model
from optogram.report.panels import Context, Panel, Tile


@dataclass(frozen=True)
class Page:
    """One file of the report: its path, the template that renders it, and what this gets."""

    path: str
    template: str
    content: dict[str, Any]


@dataclass(frozen=True)
class Unit:
    """One head, neuron, class or channel (`kind`) of a model; its page asks every section what it has on it.

    `file` is the page and `anchor` the place on it, as units may share a page. `heading` is the line above the name;
    `named` what the unit is named, with its colour. `of` is what its own section knows of it, `grid` where it lies
    among the heads, `toolbar` a template that stands once on the page, above the units.
    """

    kind: str
    name: str
    model: Model
    file: str
    anchor: str
    heading: str
    named: tuple[str, str] | None = None
    of: Any = None
    grid: dict[str, Any] | None = None
    toolbar: str = ""


@dataclass
class Part:
    """What one section says on one unit: a heading, how to read it, and a panel as a template shows it.

    The panel's tiles stand at the head of the unit's page. A part without a title is tiles alone.
    """

    title: str
    reading: str
    panel: Panel
    template: str = "panel.html"


def _nothing(*_: Any) -> tuple[()]:
    return ()


@dataclass(frozen=True)
class Section:
    """A section of the report, declared once.

    `needs` are templates of the names of artifacts that it reads: `{model}` stands for a CLIP, `{classifier}` for a
    classifier, `{prior}` for a model that draws, `{group}` for models that are looked at together, other braces for
    whatever there is (`neurons/{model}/{layer}`). A section of groups is of those of which there is one of its kinds.
    `build` gives the panel of one of them, or of the run where `needs` names none of these (its model is None then).
    All else is optional: `tiles` are the key numbers on one model; `headline` are the sentences with which the report
    opens, on the models that are shown together (one CLIP, all classifiers, or all that draw); `units` are the units
    that have a page, `unit` is what the section says on one of them, whichever section it is of; `pages` are further
    pages. `template` is panel.html or one that extends it.
    """

    key: str
    title: str
    reading: str
    needs: tuple[str, ...]
    build: Callable[[Context, Any], Panel]
    tiles: Callable[[Context, Model], Sequence[Tile]] = _nothing
    headline: Callable[[Context, Sequence[Model]], Sequence[str]] = _nothing
    units: Callable[[Context, Model], Sequence[Unit]] = _nothing
    unit: Callable[[Context, Unit], Sequence[Part]] = _nothing
    pages: Callable[[Context, Model], Iterable[Page]] = _nothing
    template: str = "panel.html"

    @property
    def subject(self) -> str:
        """What a panel is of: "model" (a CLIP), "classifier", "prior" (that draws), "group" (of models), or "run"."""
        kinds = ("model", "classifier", "prior", "group")
        return next((kind for kind in kinds if any(f"{{{kind}}}" in n for n in self.needs)), "run")

    def models(self, findings: Findings) -> list[Model]:
        """The models that it has panels of; none where it is of the run. Of groups, those that it has something of."""
        of = {
            "model": findings.models,
            "classifier": findings.classifiers,
            "prior": findings.priors,
            "group": [group for group in findings.groups if {*group.parts} & self._kinds],
        }
        return of.get(self.subject, [])

    @property
    def _kinds(self) -> set[str]:
        return {need.split("/")[0] for need in self.needs}


@dataclass
class Shown:
    """A section with its panels and with its headline by model (under "" that of several that are shown together)."""

    section: Section
    panels: list[Panel]
    headline: dict[str, list[str]] = field(default_factory=dict)

    @property
    def missing(self) -> str:
        """Why there is nothing to show; "" where there is."""
        if not self.panels:
            if self.section.subject == "prior":
                return "params.yaml has nothing drawn: sample.models and generate.models are empty."
            if self.section.subject == "group":
                kind = self.section.needs[0].split("/")[0]
                return f"params.yaml has no groups of models for this: {kind}.groups is empty."
            return "params.yaml names no classifiers."
        reasons = [panel.skipped for panel in self.panels]
        return "" if not all(reasons) else " ".join(dict.fromkeys(reasons))


def shown(context: Context, section: Section) -> Shown:
    """The section with the panels of all its models, built."""
    models = section.models(context.findings)
    panels = [section.build(context, model) for model in (models or ([None] if section.subject == "run" else []))]
    for panel, model in zip(panels, models, strict=False):
        panel.tiles = [*section.tiles(context, model), *panel.tiles]
    together = section.subject in ("classifier", "prior", "group")
    groups = {"": models} if together else {model.slug: [model] for model in models}
    found = Shown(section, panels)
    if not found.missing:
        found.headline = {slug: list(section.headline(context, group)) for slug, group in groups.items()}
    return found
