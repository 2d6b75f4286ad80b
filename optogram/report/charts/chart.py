"""Room report: a chart, described: what it shows and what it says of it, and nothing of a library that draws it.

`plotly.py` draws a description for a page, `matplotlib.py` for a still, with the same numbers and the same words.
Colours are the names of report.css ("--a0"). Arrays are one-dimensional and as long as each other unless a field says
otherwise. Names of users are text: they are never read as numbers, dates or markup.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from optogram.metrics.intervals import Interval
from optogram.report.labels import number, percent, points

Format = Literal["share", "points", "number"]
Dash = Literal["solid", "dash", "dashdot", "dot"]
Symbol = Literal["circle", "ring", "square", "diamond", "open diamond", "cross", "x", "star", "triangle", "tick"]
SHADES = ("--s0", "--s1", "--s2", "--s3", "--s4")
DASHES: tuple[Dash, ...] = ("solid", "dash", "dashdot", "dot")
SYMBOLS: tuple[Symbol, ...] = ("circle", "square", "diamond", "cross", "x", "star", "triangle")
LONGEST = 24
"""Characters of a user-made name in a title, at most."""


@dataclass(frozen=True)
class Axis:
    """What an axis measures, where it begins and ends, and which of its places are marked.

    names: what stands at 0, 1, 2, … instead of numbers; on a vertical axis the first is on top. marks: the places with
    numbers; where there are none the drawer chooses. format: a share is written as per cent, points with their sign.
    bare: neither marks nor grid, for a plane whose directions mean nothing.
    """

    title: str = ""
    format: Format = "number"
    span: tuple[float, float] | None = None
    marks: tuple[float, ...] = ()
    names: tuple[str, ...] = ()
    log: bool = False
    bare: bool = False

    def says(self, value: float) -> str:
        """A place on the axis in words: its name, or the number as people read it."""
        if self.names:
            return self.names[round(value)]
        return {"share": percent, "points": points, "number": number}[self.format](value)


@dataclass(frozen=True, eq=False)
class Line:
    """Values joined by a line; a gap where y is NaN. band: the interval of each value, as a faint band."""

    name: str
    x: Float[np.ndarray, " at"]
    y: Float[np.ndarray, " at"]
    colour: str
    dash: Dash = "solid"
    symbol: Symbol | None = "circle"
    width: float = 2
    band: Interval | None = None


@dataclass(frozen=True, eq=False)
class Dots:
    """Points in the plane. bars: the interval of each x, as a thin bar; says: what is told of a point beside its
    numbers; links: the page that a click leads to.

    Colours and symbols are of all points, or one each; then the legend shows the first symbol in grey.
    """

    name: str
    x: Float[np.ndarray, " at"]
    y: Float[np.ndarray, " at"]
    colour: str | Sequence[str]
    symbol: Symbol | Sequence[Symbol] = "circle"
    size: float = 9
    faint: bool = False
    bars: Interval | None = None
    says: Sequence[str] = ()
    links: Sequence[str] = ()
    listed: bool = True


@dataclass(frozen=True, eq=False)
class Bars:
    """Bars from zero at the places `at`: lying ones on a vertical axis of names, else standing ones."""

    name: str
    at: Float[np.ndarray, " at"]
    length: Float[np.ndarray, " at"]
    colour: str | Sequence[str]
    width: float = 0.62
    lying: bool = True
    ends: Interval | None = None
    listed: bool = True


@dataclass(frozen=True)
class Level:
    """A line through the whole plot at one value of an axis, to compare with: chance, or the unaltered model."""

    name: str
    value: float
    dash: Dash = "dot"
    colour: str = "--hot"
    along: Literal["x", "y"] = "x"
    """The axis that the line runs along."""


@dataclass(frozen=True, eq=False)
class Spans:
    """Thick pale strokes from `low` to `high` at the places y: how far a value moved; one colour each."""

    low: Float[np.ndarray, " at"]
    high: Float[np.ndarray, " at"]
    y: Float[np.ndarray, " at"]
    colours: Sequence[str]


@dataclass(frozen=True, eq=False)
class Labels:
    """Words at the right end of each row, the chosen ones in bold."""

    texts: Sequence[str]
    bold: Sequence[bool]


@dataclass(frozen=True, eq=False)
class Cells:
    """A heatmap: a value for each name of the vertical and of the horizontal axis.

    signed: colours are red above zero and blue below, else from pale to dark. written: the text of each cell. parted:
    columns before which a line is drawn. framed: cells (row, column) with a frame. unit: of the colour bar; "" for
    none.
    """

    values: Float[np.ndarray, "row column"]
    signed: bool = False
    says: Sequence[Sequence[str]] = ()
    links: Sequence[str] = ()
    written: Sequence[Sequence[str]] = ()
    parted: Sequence[int] = ()
    framed: Sequence[tuple[int, int]] = ()
    unit: str = ""


Series = Line | Dots | Bars | Level | Spans | Labels | Cells


@dataclass(frozen=True)
class Facet:
    """One plot of a chart: its name, what is in it, and its own conclusion where it has one."""

    name: str
    series: tuple[Series, ...]
    title: str = ""
    y: Axis | None = None
    """A vertical axis of its own, in place of the chart's."""


@dataclass(frozen=True)
class Chart:
    """Plots over the same axes.

    title: the conclusion, computed from what is drawn. subtitle: what is drawn and how to read it. note: how sure the
    numbers are, for places that do not say it beside the chart. choose: on a page the facets are shown one at a time,
    and this is the word before the choice; without it they stand side by side. row: pixels of a row of names.
    """

    title: str
    subtitle: str
    x: Axis
    y: Axis
    facets: tuple[Facet, ...]
    note: str = ""
    choose: str = ""
    columns: int = 3
    height: int = 260
    equal: bool = False
    """Both axes have the same scale."""

    @property
    def caption(self) -> str:
        """All that is said of the chart."""
        return " ".join(part for part in (self.subtitle, self.note) if part)


def named(names: Sequence[str], title: str = "") -> Axis:
    """An axis of names, with room of half a place at both ends."""
    return Axis(title, span=(-0.5, max(len(names), 1) - 0.5), names=tuple(names))


def shares(title: str, *values: Any, room: float = 1.0) -> Axis:
    """An axis of shares from 0 to 1; `room` more on the right for labels, as a factor.

    Where values are given and lie close together it only just holds them, and its title says that it leaves out zero.
    """
    if not values:
        return Axis(title, "share", (0.0, 1.03 * room), (0.0, 0.25, 0.5, 0.75, 1.0))
    everything = np.concatenate([np.ravel(np.asarray(part, float)) for part in values])
    low, high, marks = share_span(float(np.nanmin(everything)), float(np.nanmax(everything)))
    end = low + (high - low) * 1.03 * room
    begin = low - 0.03 * (high - low) if low else 0.0
    return Axis(title if low == 0 else f"{title}, not from zero", "share", (begin, end), tuple(marks))


def changes(title: str, *values: Any) -> Axis:
    """An axis of differences of shares, in points, that holds zero and the values."""
    everything = np.concatenate([[0.0], *(np.ravel(np.asarray(part, float)) for part in values)])
    step = _step(float(np.nanmin(everything)), float(np.nanmax(everything)), 6)
    first, last = int(np.floor(np.nanmin(everything) / step)), int(np.ceil(np.nanmax(everything) / step))
    last = last if last > first else first + 1
    marks = tuple(round(k * step, 6) for k in range(first, last + 1))
    pad = 0.03 * (last - first) * step
    return Axis(f"{title}, in points", "points", (first * step - pad, last * step + pad), marks)


def share_span(low: float, high: float) -> tuple[float, float, list[float]]:
    """Ends and marks of an axis of shares that shows `low` to `high`, in steps that people count in."""
    step = _step(low, high, 7)
    first, last = int(np.floor(low / step - 0.3)), int(np.ceil(high / step + 0.1))
    first, last = max(first, 0), min(last, round(1 / step))
    first = min(first, last - 1)
    return first * step, last * step, [round(k * step, 6) for k in range(first, last + 1)]


def _step(low: float, high: float, most: int) -> float:
    """The smallest step of 1, 2 or 5 times a power of ten of which at most so many fill the span."""
    steps = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
    return next((step for step in steps if (high - low) / step <= most - 1.4), 1.0)


def beside(k: int, count: int, room: float = 0.66) -> float:
    """How far the k-th of `count` marks lies from the middle of its row, so that none covers another."""
    return 0.0 if count < 2 else room * (k / (count - 1) - 0.5)


def brief(name: str) -> str:
    """A user-made name as it stands in a sentence: cut where it is long."""
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


def levels(values: Mapping[str, float], colour: str = "--hot") -> tuple[Level, ...]:
    """Level lines, told apart by their dashes."""
    return tuple(
        Level(name, float(value), DASHES[k % len(DASHES)], colour) for k, (name, value) in enumerate(values.items())
    )
