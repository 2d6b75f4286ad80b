"""Room report: what a section shows of one model, in the terms of the templates: tiles, plots, tables, galleries."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float

from optogram.report.charts.plotly import Plot
from optogram.report.findings import Findings, Model
from optogram.report.images import Thumb, Thumbnails
from optogram.report.labels import percent
from optogram.report.provenance import Made, artifact_name, made

Found = TypeVar("Found")


@dataclass(frozen=True)
class Tile:
    """A key number: what it is, the number, and what to compare it with."""

    title: str
    value: str
    beside: str


@dataclass(frozen=True)
class Picture:
    """An image (None if no split has it), what is written below it, and a data URI of what is laid over it.

    `kind` of what is laid over: "heat" or "mask". `says` is told where one points at it.
    """

    thumb: Thumb | None
    below: str = ""
    over: str = ""
    kind: str = "heat"
    says: str = ""


@dataclass(frozen=True)
class Gallery:
    """Pictures in rows, each row with a heading and a remark; below `columns`, or one after another without them."""

    rows: list[tuple[str, str, list[Picture]]]
    columns: tuple[str, ...] = ()
    title: str = ""


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
    """One model's part of a section. `skipped` says why there is nothing to show, `folded` tables open on request.

    `notes` are what is missing or to be known; `extra` is what a template of the section's own takes. On the first
    screen stand the tiles and the first plot, or with `pictures_first` the first gallery.
    """

    model: Model | None = None
    skipped: str = ""
    says: str = ""
    notes: list[str] = field(default_factory=list)
    tiles: list[Tile] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    galleries: list[Gallery] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    folded: list[Table] = field(default_factory=list)
    pictures_first: bool = False
    extra: dict[str, Any] = field(default_factory=dict)
    made: list[Made] = field(default_factory=list)


@dataclass(frozen=True)
class Context:
    """What every builder of a section or page gets."""

    findings: Findings
    thumbs: Thumbnails
    _shared: dict[Hashable, Any] = field(default_factory=dict)

    def once(self, key: Hashable, find: Callable[[], Found]) -> Found:
        """What `find` gives, found when first asked for under this key: several sections and many pages share it."""
        if key not in self._shared:
            self._shared[key] = find()
        return cast("Found", self._shared[key])

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
    best: Bool[np.ndarray, "row column"] | None = None,
) -> Table:
    """A table of shares; `best` says which are set in bold."""
    rows = [[name, *(percent(v) for v in row)] for name, row in zip(names, values.tolist(), strict=True)]
    marked = {(int(r), int(c)) for r, c in np.argwhere(best)} if best is not None else set()
    return Table([corner, *columns], rows, caption, frozenset(marked))
