"""Room report: what a section shows of one model, in the terms of the templates: tiles, plots, tables, galleries."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float

from optogram.report.figures import Plot
from optogram.report.findings import Findings, Model
from optogram.report.formats import percent
from optogram.report.images import Thumbnails
from optogram.report.made import Made, artifact_name, made


@dataclass(frozen=True)
class Table:
    """A table of texts: its first column names the rows; `best` marks cells (row, column) to be set in bold."""

    columns: list[str]
    rows: list[list[str]]
    caption: str = ""
    best: frozenset[tuple[int, int]] = frozenset()


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
    """What every builder of a section gets."""

    findings: Findings
    thumbs: Thumbnails

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
