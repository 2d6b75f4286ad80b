"""Room report: a chart's description -> plotly figures, as plain dicts whose `var(--…)` colours report.js fills in.

User-made names never become axis categories (plotly would merge equal ones and read some as numbers or dates): marks
sit at 0, 1, 2, … and the names are tick texts. The legend stands below the plot and the mode bar above it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from optogram.metrics.intervals import Interval
from optogram.report.charts.chart import Axis, Bars, Cells, Chart, Dots, Facet, Labels, Level, Line, Series, Spans
from optogram.report.labels import plain, plot_text

Figure = dict[str, Any]
SYMBOLS = {"ring": "circle-open", "open diamond": "diamond-open", "triangle": "triangle-up", "tick": "line-ns"}
FORMATS = {"share": {"tickformat": ".1~%"}, "points": {}, "number": {}}
FADED = [[0, "var(--surface)"], [1, "var(--s0)"]]
SIGNED = [[0, "var(--cold)"], [0.5, "var(--surface)"], [1, "var(--hot)"]]
LEGEND = {"orientation": "h", "x": 0, "xanchor": "left", "y": 0, "yref": "container", "yanchor": "bottom"}
LOOK = {
    "gridcolor": "var(--line)",
    "linecolor": "var(--line)",
    "zerolinecolor": "var(--line)",
    "tickcolor": "var(--line)",
    "automargin": True,
    "zeroline": False,
}
SLANTED = 12
"""Names along the bottom from which on they stand on end."""
ABOVE, BELOW, APART, ENTRY = 36, 56, 0.06, 26
"""Pixels above a plot (the mode bar's) and below it (the axis'), share of the width between facets, a legend's row."""


@dataclass(frozen=True)
class Plot:
    """A figure, or several between which the reader chooses; `label` says in words what is seen."""

    id: str
    label: str
    options: list[tuple[str, Figure]]
    height: int = 320
    min_width: int = 0
    max_width: int = 0
    choose: str = "Show"
    title: str = ""
    subtitle: str = ""

    @property
    def spec(self) -> list[dict[str, Any]]:
        """For the page, as JSON."""
        return [plain({"name": name, **figure}) for name, figure in self.options]


def plot(id: str, *charts: Chart, max_width: int = 0) -> Plot:
    """The charts as one plot of a page, between whose facets the reader chooses where they are not side by side."""
    options: list[tuple[str, Figure]] = []
    for chart in charts:
        chosen = [(facet.name, [facet]) for facet in chart.facets] if chart.choose else [("", list(chart.facets))]
        options += [(name, figure(chart, facets)) for name, facets in chosen]
    first = charts[0]
    across = 1 if first.choose else min(first.columns, len(first.facets))
    down = 1 if first.choose else -(-len(first.facets) // first.columns)
    entries = sum(7 * len(name) + 45 for name in legend(first))
    height = ABOVE + down * first.height + BELOW * down + ENTRY * -(-entries // 800)
    if first.x.names:
        height += 6 * min(max(map(len, first.x.names)), 30)
    narrow = 220 * across if across > 1 else 18 * len(first.x.names)
    labels = [text for facet in first.facets for one in facet.series if isinstance(one, Labels) for text in one.texts]
    if labels:  # which would come to lie on what they tell of
        narrow = max(narrow, 300 + 14 * max(map(len, labels)))
    title, choose = str(options[0][1]["title"]), next((chart.choose for chart in charts if chart.choose), "Show")
    return Plot(id, title, options, height, narrow, max_width, choose, title, first.subtitle)


def legend(chart: Chart) -> list[str]:
    """The names in the legend, in its order."""
    series = [one for facet in chart.facets for one in facet.series]
    listed = [one for one in series if isinstance(one, Line | Level) or (isinstance(one, Dots | Bars) and one.listed)]
    names = list(dict.fromkeys(one.name for one in listed))
    return names if len(names) > 1 or any(isinstance(one, Level) for one in listed) else []


def figure(chart: Chart, facets: Sequence[Facet]) -> Figure:
    """Facets of a chart side by side, with the title of the only one."""
    columns = min(chart.columns, len(facets))
    rows = -(-len(facets) // columns)
    layout: dict[str, Any] = {"margin": {"l": 8, "r": 12, "t": ABOVE, "b": 8}, "hovermode": "closest", "shapes": []}
    layout |= {"showlegend": bool(legend(chart)), "legend": LEGEND, "annotations": [], "barmode": "overlay"}
    data: list[dict[str, Any]] = []
    known: set[str] = set()
    for k, facet in enumerate(facets):
        own = "" if k == 0 else str(k + 1)
        x, y = _axes(chart, facet, own, divmod(k, columns), (rows, columns))
        layout |= {f"xaxis{own}": x, f"yaxis{own}": y}
        if len(facets) > 1:
            layout["annotations"].append(_heading(facet.name, x, y))
        for series in facet.series:
            layout["shapes"] += _shapes(series, own)
            for trace in _traces(series, chart):
                # one entry of the legend for all facets; a click on it is on all of them
                entry = trace.setdefault("legendgroup", trace.get("name", ""))
                if trace.pop("listed", True) and entry not in known:
                    known.add(entry)
                else:
                    trace["showlegend"] = False
                data.append({**trace, **({"xaxis": "x" + own, "yaxis": "y" + own} if own else {})})
    title = (facets[0].title if len(facets) == 1 else "") or chart.title
    return {"title": title, "data": data, "layout": layout}


def _axes(chart: Chart, facet: Facet, own: str, at: tuple[int, int], grid: tuple[int, int]) -> tuple[Figure, Figure]:
    """The axes of the facet at (row, column) of a grid, whose marks and titles stand at its left and below."""
    (row, column), (rows, columns) = at, grid
    x, y = _axis(chart.x, "x") | {"anchor": "y" + own}, _axis(facet.y or chart.y, "y") | {"anchor": "x" + own}
    down = BELOW / (rows * chart.height + (rows - 1) * BELOW)
    for axis, place, count, apart in ((x, column, columns, APART), (y, rows - 1 - row, rows, down)):
        if count > 1:
            axis["domain"] = [place * (1 + apart) / count, (place + 1 - apart * (count - 1 - place)) / count]
    if row < rows - 1:
        x["title"] = {}
    if column:
        y |= {"showticklabels": facet.y is not None, "title": {}}
    if chart.equal:
        y |= {"scaleanchor": "x" + own, "constrain": "domain"}
        x["constrain"] = "domain"
    return x, y


def ticks(names: Sequence[str], **axis: Any) -> Figure:
    """An axis whose marks 0, 1, 2, … are named."""
    texts = [plot_text(name, 30) for name in names]
    return {"tickvals": list(range(len(names))), "ticktext": texts, "zeroline": False, **axis}


def _heading(name: str, x: Figure, y: Figure) -> Figure:
    at = {"x": x.get("domain", [0, 1])[0], "y": y.get("domain", [0, 1])[1], "xref": "paper", "yref": "paper"}
    return {**at, "text": f"<b>{plot_text(name)}</b>", "xanchor": "left", "yanchor": "bottom", "showarrow": False}


def _axis(axis: Axis, letter: str) -> Figure:
    drawn: Figure = {**LOOK, **FORMATS[axis.format]}
    if axis.title:
        font = {"size": 12, "color": "var(--muted)"}
        drawn["title"] = {"text": plot_text(axis.title, 90), "standoff": 10, "font": font}
    if axis.names:
        drawn |= ticks(axis.names, showgrid=False)
        if letter == "x" and len(axis.names) > SLANTED:
            drawn |= {"tickangle": -90, "tickfont": {"size": 10}}
    elif axis.marks:
        drawn |= {"tickvals": list(axis.marks)}
        if axis.format == "points":
            drawn["ticktext"] = [axis.says(value) for value in axis.marks]
    if axis.bare:
        drawn |= {"showticklabels": False, "ticks": "", "showgrid": False, "showline": False}
    if axis.log:
        drawn["type"] = "log"
    if axis.span is not None:
        ends = [float(np.log10(end)) for end in axis.span] if axis.log else list(axis.span)
        drawn["range"] = ends[::-1] if axis.names and letter == "y" else ends
    return drawn


def _traces(series: Series, chart: Chart) -> list[Figure]:
    """The traces of a series; `listed` is taken out again: whether it stands in the legend."""
    if isinstance(series, Line):
        return _line(series, chart)
    if isinstance(series, Dots):
        return _dots(series, chart)
    if isinstance(series, Bars):
        return [_bars(series, chart)]
    if isinstance(series, Level):
        return [_level(series, chart)]
    if isinstance(series, Spans):
        return [_span(series, k) for k in range(len(series.y))]
    if isinstance(series, Labels):
        return [_labels(series, chart)]
    return [_cells(series, chart)]


def _line(line: Line, chart: Chart) -> list[Figure]:
    gaps = np.isnan(line.y)
    y = [None if gap else float(value) for value, gap in zip(line.y, gaps, strict=True)]
    drawn: Figure = {
        "type": "scatter",
        "mode": "lines+markers" if line.symbol else "lines",
        "name": plot_text(line.name, 90),
    }
    drawn |= {"x": [None if gap else x for x, gap in zip(np.asarray(line.x).tolist(), gaps, strict=True)], "y": y}
    drawn["line"] = {"color": f"var({line.colour})", "width": line.width, "dash": line.dash}
    if line.symbol:
        drawn["marker"] = {"size": 7, "symbol": SYMBOLS.get(line.symbol, line.symbol)}
        drawn |= _hover(
            [_told(line.name, chart, x, v, line.band, k) for k, (x, v) in enumerate(zip(line.x, line.y, strict=True))]
        )
    else:  # long curves stay light
        drawn["hovertemplate"] = f"%{{fullData.name}}<br>{plot_text(chart.x.title)} %{{x}}<extra></extra>"
    if line.band is None:
        return [drawn]
    there = np.concatenate([line.x, line.x[::-1]])
    band = {"type": "scatter", "mode": "lines", "x": there, "y": np.concatenate([line.band.high, line.band.low[::-1]])}
    band |= {"fill": "toself", "fillcolor": f"var({line.colour})", "opacity": 0.13, "line": {"width": 0}}
    return [{**band, "hoverinfo": "skip", "listed": False, "legendgroup": drawn["name"], "name": drawn["name"]}, drawn]


def _told(name: str, chart: Chart, x: float, y: float, ends: Interval | None, k: int) -> str:
    """What is told of a point: its name, its place, its value and the interval of that."""
    value, axis, place, other = (y, chart.y, x, chart.x) if not chart.y.names else (x, chart.x, y, chart.y)
    between = "" if ends is None else f" ({axis.says(float(ends.low[k]))} to {axis.says(float(ends.high[k]))})"
    where = other.says(float(place))
    where = where if other.names else f"{other.title} {where}"
    return f"{plot_text(where)}<br>{plot_text(name)} {axis.says(float(value))}{between}"


def _hover(texts: Sequence[str]) -> Figure:
    return {"hovertext": list(texts), "hoverinfo": "text"}


def _dots(dots: Dots, chart: Chart) -> list[Figure]:
    several = not isinstance(dots.colour, str)
    own = [dots.symbol] * len(dots.x) if isinstance(dots.symbol, str) else list(dots.symbol)
    shown = [SYMBOLS.get(symbol, symbol) for symbol in own]
    marker: Figure = {"size": dots.size, "opacity": 0.5 if dots.faint else 0.95, "color": _colours(dots.colour)}
    marker["symbol"] = shown[0] if len(set(shown)) == 1 else shown
    if own and own[0] == "tick":
        marker["line"] = {"width": 2.5, "color": marker["color"]}
    elif several:
        marker["line"] = {"width": 1.2, "color": "var(--ink)"}
    drawn: Figure = {"type": "scatter", "mode": "markers", "name": plot_text(dots.name), "x": dots.x, "y": dots.y}
    drawn |= {"marker": marker, "listed": dots.listed and not several}
    if dots.bars is not None:
        drawn["error_x"] = _errors(dots.x, dots.bars)
    if chart.x.bare:
        told = [""] * len(dots.x)
    else:
        told = [_told(dots.name, chart, *at, dots.bars, k) for k, at in enumerate(zip(dots.x, dots.y, strict=True))]
    says = [plot_text(text, 90) for text in dots.says] or [""] * len(dots.x)
    drawn |= _hover(["<br>".join(part for part in parts if part) for parts in zip(says, told, strict=True)])
    if dots.links:
        drawn["customdata"] = [["", "", link] for link in dots.links]
    if not several:
        return [drawn]
    # the colour in the legend would be that of one point
    grey = {
        "type": "scatter",
        "mode": "markers",
        "name": drawn["name"],
        "x": [None],
        "y": [None],
        "listed": dots.listed,
    }
    return [drawn, {**grey, "marker": {**marker, "color": "var(--s3)", "symbol": shown[0] if shown else "circle"}}]


def _bars(bars: Bars, chart: Chart) -> Figure:
    drawn: Figure = {"type": "bar", "name": plot_text(bars.name), "width": bars.width, "listed": bars.listed}
    drawn |= {"x": bars.length, "y": bars.at, "orientation": "h"} if bars.lying else {"x": bars.at, "y": bars.length}
    drawn["marker"] = {"color": _colours(bars.colour)}
    if bars.ends is not None:
        drawn["error_x" if bars.lying else "error_y"] = _errors(bars.length, bars.ends)
    at = zip(np.asarray(drawn["x"]).tolist(), np.asarray(drawn["y"]).tolist(), strict=True)
    return drawn | _hover([_told(bars.name, chart, x, y, bars.ends, k) for k, (x, y) in enumerate(at)])


def _level(level: Level, chart: Chart) -> Figure:
    ends = (chart.x if level.along == "x" else chart.y).span or (0.0, 1.0)
    values = [level.value] * 2
    drawn = {"type": "scatter", "mode": "lines", "name": plot_text(level.name)}
    drawn |= {"x": list(ends), "y": values} if level.along == "x" else {"x": values, "y": list(ends)}
    line = {"color": f"var({level.colour})", "width": 1.5, "dash": level.dash}
    says = (chart.y if level.along == "x" else chart.x).says(level.value)
    return {**drawn, "line": line, **_hover([f"{plot_text(level.name)} {says}"] * 2)}


def _span(spans: Spans, k: int) -> Figure:
    line = {"color": f"var({spans.colours[k]})", "width": 9}
    drawn = {"type": "scatter", "mode": "lines", "x": [spans.low[k], spans.high[k]], "y": [spans.y[k]] * 2}
    return {**drawn, "line": line, "opacity": 0.4, "hoverinfo": "skip", "listed": False}


def _labels(labels: Labels, chart: Chart) -> Figure:
    end = (chart.x.span or (0.0, 1.0))[1]
    texts = [f"<b>{text}</b>" if bold else text for text, bold in zip(labels.texts, labels.bold, strict=True)]
    drawn = {"type": "scatter", "mode": "text", "x": [end] * len(texts), "y": list(range(len(texts))), "text": texts}
    return {**drawn, "textposition": "middle left", "hoverinfo": "skip", "cliponaxis": False, "listed": False}


def _cells(cells: Cells, chart: Chart) -> Figure:
    limit = float(np.abs(cells.values).max(initial=0)) or 1.0
    drawn: Figure = {"type": "heatmap", "z": cells.values, "zmin": -limit if cells.signed else 0, "zmax": limit}
    drawn |= {"colorscale": SIGNED if cells.signed else FADED, "xgap": 1, "ygap": 1, "listed": False}
    drawn |= {"hovertext": [[plot_text(text, 120) for text in row] for row in cells.says], "hoverinfo": "text"}
    if cells.written:
        drawn |= {"text": [list(row) for row in cells.written], "texttemplate": "%{text}"}
    if cells.links:
        drawn["customdata"] = [[["", "", link] for link in cells.links]] * len(cells.values)
    if cells.unit:
        bar = {"title": {"text": cells.unit, "side": "right"}, "thickness": 10, "outlinewidth": 0}
        return {**drawn, "colorbar": bar}
    return {**drawn, "showscale": False}


def _shapes(series: Series, own: str) -> list[Figure]:
    """Lines between the columns of cells, and frames around some."""
    if not isinstance(series, Cells):
        return []
    axes = {"xref": "x" + own, "yref": "y" + own}
    ink, rows = {"color": "var(--ink)", "width": 1.5}, len(series.values)
    lines = [{"type": "line", "x0": k - 0.5, "x1": k - 0.5, "y0": -0.5, "y1": rows - 0.5} for k in series.parted]
    boxes = [
        {"type": "rect", "x0": column - 0.5, "x1": column + 0.5, "y0": row - 0.5, "y1": row + 0.5}
        for row, column in series.framed
    ]
    return [{**shape, **axes, "line": ink} for shape in lines + boxes]


def _errors(values: Any, ends: Interval) -> Figure:
    """Intervals as thin bars on top of values."""
    # the ends of a share may lie on its own value, and rounding just beyond it
    above, below = np.maximum(ends.high - values, 0), np.maximum(values - ends.low, 0)
    look = {"color": "var(--ink)", "thickness": 1, "width": 2}
    return {"type": "data", "symmetric": False, "array": above, "arrayminus": below, **look}


def _colours(colour: str | Sequence[str]) -> str | list[str]:
    return f"var({colour})" if isinstance(colour, str) else [f"var({one})" for one in colour]
