"""Room report: what a section shows of one model, in the terms of the templates: tiles, plots, tables, galleries."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float

from optogram.report.figures import Plot
from optogram.report.findings import Findings, Model, Neuron
from optogram.report.formats import percent
from optogram.report.images import Thumbnails
from optogram.report.made import Made, artifact_name, made


@dataclass(frozen=True)
class Table:
    """A table of texts: its first column names the rows; `best` marks cells (row, column) to be set in bold, `second`
    to be underlined.
    """

    columns: list[str]
    rows: list[list[str]]
    caption: str = ""
    best: frozenset[tuple[int, int]] = frozenset()
    second: frozenset[tuple[int, int]] = frozenset()


@dataclass
class Panel:
    """One model's part of a section. `skipped` says why there is nothing to show, `folded` tables open on request."""

    model: Model | None = None
    skipped: str = ""
    says: str = ""
    plots: list[Plot] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    folded: list[Table] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)
    made: list[Made] = field(default_factory=list)


@dataclass
class Section:
    """A section of the index page: a heading, how to read it, and a panel a model."""

    key: str
    title: str
    reading: str
    panels: list[Panel]


@dataclass(frozen=True)
class Context:
    """What every builder of a section or page gets; `neurons` are by the model's name, by layer and neuron."""

    findings: Findings
    thumbs: Thumbnails
    neurons: Mapping[str, Sequence[Neuron]]

    def panel(self, model: Model, *kinds: str) -> Panel:
        """An empty panel that says how `kinds` were made, and why the first of them is missing if it is."""
        there = [kind for kind in kinds if kind in model.parts]
        return Panel(
            model,
            skipped=model.missing(kinds[0]),
            made=[made(artifact_name(kind, model.name), model.parts[kind]) for kind in there],
        )

    def by_attribute(self, dataset: xr.Dataset, name: str, *dims: str) -> Float[np.ndarray, "... attribute"]:
        """A variable with `attribute` last, in the report's order of attributes."""
        return self.findings.by_attribute(dataset, name, *dims)

    def attributes(self, dataset: xr.Dataset) -> list[str]:
        """The attributes that a dataset has, in the report's order."""
        return self.findings.attributes_of(dataset)

    def colours(self, names: Sequence[str]) -> list[str]:
        """The attributes' colours."""
        return [self.findings.colour(name) for name in names]

    def chips(self, attribute: str, value: str) -> list[tuple[str, str]]:
        """What a text names, with its colour: one attribute and value, or several joined by "+"."""
        known = self.findings.attributes
        pairs = list(zip(attribute.split("+"), value.split("+"), strict=False))
        if attribute in known or not all(a in known for a, _ in pairs):
            pairs = [(attribute, value)] if attribute else []
        return [(f"{a} {v}".strip(), self.findings.colour(a)) for a, v in pairs]


def fill(colours: Sequence[str]) -> str:
    """The CSS background of a bar that belongs to these colours in equal parts."""
    if len(colours) < 2:
        return f"var({colours[0] if colours else '--none'})"
    ends = [f"var({c}) {100 * k // len(colours)}% {100 * (k + 1) // len(colours)}%" for k, c in enumerate(colours)]
    return f"linear-gradient({', '.join(ends)})"


def span(values: Float[np.ndarray, "..."]) -> tuple[float, float]:
    """The ends of a scale for bars that start at zero, to the right where positive and to the left where negative."""
    low, high = min(0.0, float(np.min(values, initial=0))), max(0.0, float(np.max(values, initial=0)))
    return low, high if high > low else low + 1.0


def bar(value: float, low: float, high: float) -> tuple[float, float]:
    """Where a bar from zero to the value begins, and how long it is, in per cent of a scale from low to high."""
    room = high - low
    return round(100 * (min(value, 0.0) - low) / room, 1), round(100 * abs(value) / room, 1)


def percent_table(
    corner: str,
    columns: Sequence[str],
    names: Sequence[str],
    values: Float[np.ndarray, "row column"],
    *,
    caption: str = "",
    bold: bool = False,
) -> Table:
    """A table of shares; `bold` marks the largest of each column."""
    rows = [[name, *(percent(v) for v in row)] for name, row in zip(names, values.tolist(), strict=True)]
    shown = np.round(values, 3)
    largest = (shown == shown.max(axis=0)) & (shown > shown.min(axis=0))
    best = {(int(r), int(c)) for r, c in np.argwhere(largest)} if bold else set()
    return Table([corner, *columns], rows, caption, frozenset(best))
