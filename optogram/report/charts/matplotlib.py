"""Room report: a chart's description -> the sheet of a still figure, drawn by matplotlib within `sheet.plain_style`."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from optogram.report.charts.chart import Axis, Bars, Cells, Chart, Dash, Dots, Labels, Level, Line, Series, Spans
from optogram.report.charts.sheet import (
    INKS,
    MARGIN,
    NORMAL,
    SMALL,
    WIDTH,
    Sheet,
    drawable,
    font,
    name_ticks,
    tint,
    width_of,
)

DASHES: dict[Dash, str] = {"solid": "solid", "dash": "dashed", "dashdot": "dashdot", "dot": "dotted"}
MARKERS = {"circle": "o", "ring": "o", "square": "s", "diamond": "D", "open diamond": "D", "cross": "P", "x": "X"}
MARKERS |= {"star": "*", "triangle": "^", "tick": "|"}
POINT = 0.72
"""Points of a still for a pixel of a page."""
GAP, OWN, ROOM, SLANTED = 0.3, 0.75, 1.9, 12
"""Inches between facets, also with axes of their own, and for names of rows, at most; more names stand on end."""


def draw(chart: Chart, model: str) -> Sheet:
    """All facets of a chart on one sheet, in rows of `chart.columns`, over the axes that they share."""
    columns = min(chart.columns, len(chart.facets))
    rows = -(-len(chart.facets) // columns)
    tall = chart.height / 100 if columns == 1 or chart.y.names else 1.6
    slanted = len(chart.x.names) > SLANTED
    # a heading above each facet, marks below it
    top, below = 0.35 if len(chart.facets) > 1 else 0.1, 1.2 if slanted else 0.3
    step = top + tall + below
    sheet = Sheet(chart.title, model, chart.caption, rows * step + (0.35 if chart.x.title else 0.1), _legend(chart))
    names = [sheet.name(name, ROOM) for name in chart.y.names]
    own = any(facet.y for facet in chart.facets)
    left = MARGIN + (max(map(width_of, names), default=0.6) + 0.12 if names else 0.85)
    gap = OWN if own else GAP
    wide = (WIDTH - left - MARGIN - gap * (columns - 1)) / columns
    room = 0.9 if slanted else wide / max(len(chart.x.names), 1) - 0.05
    under = [sheet.name(name, room, SMALL) for name in chart.x.names]
    for k, facet in enumerate(chart.facets):
        row, column = divmod(k, columns)
        x, y = left + column * (wide + gap), sheet.top + row * step + top
        axes = sheet.axes(x, y, wide, tall)
        hidden = column > 0 and not own
        _axis(axes.xaxis, chart.x, under, wide)
        _axis(axes.yaxis, facet.y or chart.y, [""] * len(names) if hidden else names, tall, hidden)
        if chart.equal:
            axes.set_aspect("equal", adjustable="box")
        for series in facet.series:
            _series(axes, series, chart)
        if len(chart.facets) > 1:
            sheet.text(x, y - 0.1, sheet.name(facet.name, wide, NORMAL, True), bold=True)
        if row == rows - 1 and chart.x.title:
            title = _fitting(chart.x.title, wide)
            sheet.text(x + wide / 2, y + tall + below + 0.2, title, ha="center", size=SMALL)
    # the longest says of some facets that they do not start at zero
    title = max(((facet.y or chart.y).title for facet in chart.facets), key=len)
    if title:
        middle = sheet.top + rows * step / 2
        sheet.text(MARGIN + 0.12, middle, drawable(title), rotation=90, ha="center", va="center", size=SMALL)
    return sheet


def _fitting(title: str, room: float) -> str:
    """A title of an axis, or what of it stands before the comma where there is no room for all."""
    return drawable(title if width_of(title, SMALL) <= room else title.partition(",")[0])


def _legend(chart: Chart) -> list[list[tuple[str, dict[str, Any]]]]:
    """The entries of the legend, in the order of the chart, levels last."""
    found: dict[str, dict[str, Any]] = {}
    levels: dict[str, dict[str, Any]] = {}
    for series in (one for facet in chart.facets for one in facet.series):
        if isinstance(series, Level):
            levels.setdefault(
                series.name, {"color": INKS[series.colour], "linestyle": DASHES[series.dash], "linewidth": 1.4}
            )
        elif isinstance(series, Line):
            found.setdefault(series.name, _stroke(series))
        elif isinstance(series, Dots) and series.listed:
            several = not isinstance(series.colour, str)
            colour = "--s3" if several else str(series.colour)
            first = series.symbol if isinstance(series.symbol, str) else next(iter(series.symbol), "circle")
            found.setdefault(series.name, _mark(first, colour, series.size))
        elif isinstance(series, Bars) and series.listed:
            colour = series.colour if isinstance(series.colour, str) else series.colour[0]
            found.setdefault(series.name, _mark("square", colour, 10))
    if len(found) + len(levels) < 2 and not levels:
        return []
    return [part for part in ([*found.items()], [*levels.items()]) if part]


def _axis(axis: Any, told: Axis, names: Sequence[str], inches: float, hidden: bool = False) -> None:
    """Ends, marks and grid of an axis."""
    letter = axis.axis_name
    if told.log:
        axis.axes.set(**{f"{letter}scale": "log"})
        axis.axes.tick_params(which="both", length=0)
        axis.minorticks_off()
    if told.span is not None:
        ends = told.span[::-1] if told.names and letter == "y" else told.span
        axis.axes.set(**{f"{letter}lim": ends})
    if told.bare:
        axis.set_ticks([])
    elif told.names:
        size, colour = (NORMAL, "--ink") if letter == "y" else (SMALL, "--muted")
        name_ticks(axis, range(len(names)), names, size, colour)
        if letter == "x" and len(names) > SLANTED:
            axis.set_tick_params(rotation=90)
    else:
        shown = _apart(told, inches) if letter == "x" else list(told.marks)
        name_ticks(axis, shown, ["" if hidden else told.says(value).replace(".0%", "%") for value in shown])
        axis.grid(True, color=INKS["--line"], linewidth=0.8)


def _apart(axis: Axis, inches: float) -> list[float]:
    """The marks whose numbers do not touch, the last one for certain."""
    low, high = axis.span or (0.0, 1.0)
    place = (lambda v: np.log(v / low) / np.log(high / low)) if axis.log else (lambda v: (v - low) / (high - low))
    kept: list[float] = []
    for value in reversed(axis.marks):
        room = width_of(axis.says(value), SMALL) + 0.08
        if not kept or (place(kept[-1]) - place(value)) * inches >= room:
            kept.append(value)
    return kept[::-1]


def _series(axes: Any, series: Series, chart: Chart) -> None:
    if isinstance(series, Line):
        axes.plot(series.x, series.y, **_stroke(series), label=series.name, clip_on=False)
        if series.band is not None:
            look = {"color": INKS[series.colour], "alpha": 0.13, "linewidth": 0}
            axes.fill_between(series.x, series.band.low, series.band.high, **look, zorder=1.2)
    elif isinstance(series, Dots):
        _dots(axes, series)
    elif isinstance(series, Bars):
        _bars(axes, series)
    elif isinstance(series, Level):
        look = {"color": INKS[series.colour], "linestyle": DASHES[series.dash], "linewidth": 1.4, "zorder": 1.5}
        (axes.axhline if series.along == "x" else axes.axvline)(series.value, **look, label=series.name)
    elif isinstance(series, Spans):
        for low, high, y, colour in zip(series.low, series.high, series.y, series.colours, strict=True):
            axes.plot([low, high], [y, y], color=tint(colour, 0.4), linewidth=7, solid_capstyle="butt", zorder=1.5)
    elif isinstance(series, Labels):
        end = (chart.x.span or (0.0, 1.0))[1]
        for row, (text, bold) in enumerate(zip(series.texts, series.bold, strict=True)):
            look = {"fontproperties": font(SMALL, bold), "ha": "right", "va": "center_baseline", "color": INKS["--ink"]}
            axes.text(end, row, text, **look)
    else:
        _cells(axes, series)


def _stroke(line: Line) -> dict[str, Any]:
    look = {"color": INKS[line.colour], "linestyle": DASHES[line.dash], "linewidth": 0.85 * line.width}
    return {**look, "marker": MARKERS[line.symbol], "markersize": 5} if line.symbol else look


def _mark(symbol: str, colour: str, size: float) -> dict[str, Any]:
    look = {"marker": MARKERS[symbol], "markersize": POINT * size, "color": INKS[colour], "linestyle": "none"}
    hollow = {"markerfacecolor": "white"} if symbol in ("ring", "open diamond") else {}
    return {**look, **hollow, "markeredgewidth": 1.6 if symbol == "tick" else 1.2}


def _dots(axes: Any, dots: Dots) -> None:
    colours = [dots.colour] * len(dots.x) if isinstance(dots.colour, str) else list(dots.colour)
    symbols = [dots.symbol] * len(dots.x) if isinstance(dots.symbol, str) else list(dots.symbol)
    edge = {} if isinstance(dots.colour, str) else {"markeredgecolor": INKS["--ink"]}
    # a call for each way to look: matplotlib has one marker a line
    for look in dict.fromkeys(zip(symbols, colours, strict=True)):
        at = [k for k, own in enumerate(zip(symbols, colours, strict=True)) if own == look]
        drawn = {**_mark(*look, dots.size), **edge, "alpha": 0.5 if dots.faint else 1.0, "label": dots.name}
        axes.plot(np.asarray(dots.x)[at], np.asarray(dots.y)[at], **drawn, clip_on=False, zorder=2.5)
    if dots.bars is not None:
        axes.hlines(dots.y, dots.bars.low, dots.bars.high, color=INKS["--ink"], linewidth=0.8, zorder=2.2)


def _bars(axes: Any, bars: Bars) -> None:
    colours = INKS[bars.colour] if isinstance(bars.colour, str) else [INKS[colour] for colour in bars.colour]
    look = {"color": colours, "label": bars.name, "zorder": 1.5}
    thin = {"color": INKS["--ink"], "linewidth": 0.8, "zorder": 2.2}
    if bars.lying:
        axes.barh(bars.at, bars.length, height=bars.width, **look)
        if bars.ends is not None:
            axes.hlines(bars.at, bars.ends.low, bars.ends.high, **thin)
    else:
        axes.bar(bars.at, bars.length, width=bars.width, **look)
        if bars.ends is not None:
            axes.vlines(bars.at, bars.ends.low, bars.ends.high, **thin)


def _cells(axes: Any, cells: Cells) -> None:
    # here and not above, as `sheet` must be the first to import matplotlib: quietly
    from matplotlib.colors import LinearSegmentedColormap

    limit = float(np.abs(cells.values).max(initial=0)) or 1.0
    inks = [INKS["--cold"], "#ffffff", INKS["--hot"]] if cells.signed else ["#ffffff", INKS["--s0"]]
    scale = LinearSegmentedColormap.from_list("inks", inks)
    axes.imshow(cells.values, cmap=scale, vmin=-limit if cells.signed else 0, vmax=limit, aspect="auto")
    rows, columns = cells.values.shape
    axes.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5))
    for row, texts in enumerate(cells.written):
        for column, text in enumerate(texts):
            dark = not cells.signed and cells.values[row, column] > limit / 2
            look = {"ha": "center", "va": "center", "color": "white" if dark else INKS["--ink"]}
            axes.text(column, row, text, fontproperties=font(SMALL), **look)
    for place in cells.parted:
        axes.axvline(place - 0.5, color=INKS["--ink"], linewidth=1)
    for row, column in cells.framed:
        x, y = column - 0.5, row - 0.5
        axes.plot([x, x + 1, x + 1, x, x], [y, y, y + 1, y + 1, y], color=INKS["--ink"], linewidth=1.2)
