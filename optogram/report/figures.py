"""Room report: findings as plotly figures, written as plain dicts; `var(--…)` colours are filled in by report.js.

User-made names never become axis categories (plotly would merge equal ones and read some as numbers or dates): marks
sit at 0, 1, 2, … and the names are tick texts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from optogram.report.formats import plain, plot_text

Figure = dict[str, Any]
SHARE = {"tickformat": ".0%", "rangemode": "tozero"}
SHADES = ("--s0", "--s1", "--s2", "--s3", "--s4")
DASHES = ("solid", "dash", "dashdot", "dot")
SYMBOLS = ("circle", "square", "diamond", "cross", "x")
FADED = [[0, "var(--surface)"], [1, "var(--s0)"]]
SIGNED = [[0, "var(--cold)"], [0.5, "var(--surface)"], [1, "var(--hot)"]]


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

    @property
    def spec(self) -> list[dict[str, Any]]:
        """For the page, as JSON."""
        return [plain({"name": name, **figure}) for name, figure in self.options]


def ticks(names: Sequence[str], **axis: Any) -> Figure:
    """An axis whose marks 0, 1, 2, … are named."""
    return {
        "tickvals": list(range(len(names))),
        "ticktext": [plot_text(n, 24) for n in names],
        "zeroline": False,
        **axis,
    }


def accuracy_bars(
    names: Sequence[str], colours: Sequence[str], accuracy: Float[np.ndarray, " a"], chance: Float[np.ndarray, " a"]
) -> Figure:
    """Accuracy of each attribute as a bar, chance as a tick across it."""
    at = list(range(len(names)))
    safe = [plot_text(n) for n in names]
    bars = {
        "type": "bar",
        "orientation": "h",
        "y": at,
        "x": accuracy,
        "customdata": list(zip(safe, chance.tolist(), strict=True)),
        "marker": {"color": [f"var({c})" for c in colours]},
        "width": 0.62,
        "name": "accuracy",
        "showlegend": False,
        "hovertemplate": "%{customdata[0]}<br>accuracy %{x:.1%}<br>chance %{customdata[1]:.1%}<extra></extra>",
    }
    marks = {
        "type": "scatter",
        "mode": "markers",
        "y": at,
        "x": chance,
        "customdata": safe,
        "name": "chance",
        "marker": {"symbol": "line-ns", "size": 24, "line": {"width": 2.5, "color": "var(--ink)"}},
        "hovertemplate": "%{customdata}<br>chance %{x:.1%}<extra></extra>",
    }
    figures = {
        "type": "scatter",
        "mode": "text",
        "y": at,
        "x": [1.1] * len(names),
        "text": [f"{100 * v:.1f}%" for v in accuracy],
        "textposition": "middle left",
        "hoverinfo": "skip",
        "showlegend": False,
    }
    axis = {**SHARE, "range": [0, 1.1], "tickvals": [0, 0.25, 0.5, 0.75, 1]}
    layout = {"yaxis": ticks(names, autorange="reversed", showgrid=False), "xaxis": axis}
    return {"data": [bars, marks, figures], "layout": layout}


def grouped_bars(
    groups: Sequence[str],
    series: Sequence[str],
    values: Float[np.ndarray, "series group"],
    *,
    marks: Float[np.ndarray, " group"] | None = None,
    shades: Sequence[str] = SHADES,
    patterns: Sequence[str] = (),
) -> Figure:
    """Bars of every series side by side in every group; `marks` (chance) as ticks across each group."""
    data: list[dict[str, Any]] = []
    safe = [plot_text(g) for g in groups]
    for k, name in enumerate(series):
        marker: dict[str, Any] = {"color": f"var({shades[k % len(shades)]})"}
        if k < len(patterns) and patterns[k]:
            marker["pattern"] = {
                "shape": patterns[k],
                "fillmode": "overlay",
                "fgcolor": "var(--surface)",
                "size": 6,
                "solidity": 0.25,
            }
        data.append(
            {
                "type": "bar",
                "name": plot_text(name),
                "x": list(range(len(groups))),
                "y": values[k],
                "customdata": safe,
                "marker": marker,
                "hovertemplate": "%{customdata}<br>%{fullData.name} %{y:.1%}<extra></extra>",
            }
        )
    if marks is not None:
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": "chance",
                "x": list(range(len(groups))),
                "y": marks,
                "customdata": safe,
                "marker": {"symbol": "line-ew", "size": 46, "line": {"width": 2, "color": "var(--hot)"}},
                "hovertemplate": "%{customdata}<br>chance %{y:.1%}<extra></extra>",
            }
        )
    layout = {"barmode": "group", "bargap": 0.25, "xaxis": ticks(groups, showgrid=False), "yaxis": dict(SHARE)}
    return {"data": data, "layout": layout}


def layer_lines(
    names: Sequence[str],
    colours: Sequence[str],
    at: Sequence[str],
    accuracy: Float[np.ndarray, "layer a"],
    chance: Float[np.ndarray, " a"],
    title: str,
) -> Figure:
    """Accuracy of each attribute over the ablated layers."""
    data = []
    for k, name in enumerate(names):
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": plot_text(name),
                "x": list(range(len(at))),
                "y": accuracy[:, k],
                "line": {"color": f"var({colours[k]})", "width": 2},
                "marker": {"size": 7, "symbol": SYMBOLS[k % len(SYMBOLS)]},
                "customdata": [plot_text(a) for a in at],
                "meta": float(chance[k]),
                "hovertemplate": "%{fullData.name} %{y:.1%} (chance %{meta:.1%})<br>%{customdata}<extra></extra>",
            }
        )
    return {"data": data, "layout": {"xaxis": ticks(at, title={"text": title}), "yaxis": {**SHARE, "range": [0, 1.03]}}}


def size_curves(
    pools: Sequence[str],
    sizes: Sequence[int],
    accuracy: Float[np.ndarray, "pool size"],
    levels: dict[str, float],
    per: str = "descriptions a head",
) -> Figure:
    """Accuracy against the number of texts each part is told in, a line a pool, with levels to compare it with."""
    data = []
    ends = [min(sizes), max(sizes)]
    for (name, value), dash in zip(levels.items(), ("solid", "dash", "dot"), strict=False):
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": name,
                "x": ends,
                "y": [value, value],
                "line": {"color": "var(--hot)", "width": 1.5, "dash": dash},
                "hovertemplate": f"{name} %{{y:.1%}}<extra></extra>",
            }
        )
    for k, pool in enumerate(pools):
        shade = "--s3" if pool == "random" else SHADES[min(k, 3)]
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": plot_text(pool),
                "x": list(sizes),
                "y": accuracy[k],
                "line": {"color": f"var({shade})", "width": 2.5 if k == 0 else 2, "dash": DASHES[k % len(DASHES)]},
                "marker": {"size": 7, "symbol": SYMBOLS[k % len(SYMBOLS)]},
                "hovertemplate": f"%{{fullData.name}}, %{{x}} {per}: %{{y:.1%}}<extra></extra>",
            }
        )
    axis = {"title": {"text": per}, "zeroline": False, "tickvals": list(sizes)}
    return {"data": data, "layout": {"xaxis": axis, "yaxis": {**SHARE, "range": [0, 1.03]}}}


CONDITIONS = {
    "none": ("--hot", "solid", "circle-open", 1.5),
    "all": ("--s0", "solid", "circle", 2.5),
    "small": ("--s1", "dash", "square", 2),
    "large": ("--s1", "dashdot", "diamond", 2),
    "rank_one": ("--cold", "solid", "star", 2.5),
    "first_order": ("--s2", "dot", "triangle-up", 2),
    "indirect": ("--s2", "dash", "x", 2),
}
"""Colour, dash, symbol and width of each way to ablate neurons."""


def condition_lines(
    conditions: Sequence[str],
    names: Sequence[str],
    layers: Sequence[str],
    accuracy: Float[np.ndarray, "condition layer"],
    chance: float | None,
) -> Figure:
    """Accuracy against the MLP layer, a line a way to ablate its neurons; chance dotted, or if None all close up."""
    at = list(range(len(layers)))
    data: list[dict[str, Any]] = []
    if chance is not None:
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": "chance",
                "x": [at[0] - 0.2, at[-1] + 0.2],
                "y": [chance, chance],
                "line": {"color": "var(--hot)", "width": 1.5, "dash": "dot"},
                "hovertemplate": "chance %{y:.1%}<extra></extra>",
            }
        )
    for k, (condition, name) in enumerate(zip(conditions, names, strict=True)):
        colour, dash, symbol, width = CONDITIONS.get(condition, ("--s3", "dot", "cross", 2))
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": plot_text(name),
                "x": at,
                "y": accuracy[k],
                "customdata": [f"layer {layer}" for layer in layers],
                "line": {"color": f"var({colour})", "width": width, "dash": dash},
                "marker": {"size": 8, "symbol": symbol},
                "hovertemplate": "%{fullData.name} %{y:.1%}<br>%{customdata}<extra></extra>",
            }
        )
    axis = ticks(layers, title={"text": "MLP layer"}, range=[at[0] - 0.2, at[-1] + 0.2])
    layout = {"xaxis": axis, "yaxis": {**SHARE, "range": [0, 1.03], "title": {"text": "zero-shot accuracy"}}}
    figure = {"data": data, "layout": layout}
    return figure if chance is not None else close_up(figure, accuracy)


def close_up(figure: Figure, values: Float[np.ndarray, "..."]) -> Figure:
    """The figure with an axis of accuracies that only just holds the values, and says so where it leaves out zero."""
    low, high = float(values.min()), float(values.max())
    pad = 0.08 * max(high - low, 0.005)
    low, high = max(0.0, low - pad), min(1.03, high + pad)
    title = "zero-shot accuracy" if low == 0 else "zero-shot accuracy, not from zero"
    ticks = ".0%" if high - low > 0.05 else ".1%"
    figure["layout"]["yaxis"] = {"tickformat": ticks, "range": [low, high], "title": {"text": title}}
    return figure


Point = tuple[float, float, str, str, str, tuple[int, int]]
"""A neuron: norm, explained variance, its name, its first text, its page, groups of images and of texts."""


def neuron_map(groups: Sequence[tuple[str, str, Sequence[Point]]]) -> Figure:
    """Neurons by norm and explained variance, in the colours of what they are named; diamonds are polysemantic."""
    data = []
    for name, colour, points in groups:
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": plot_text(name),
                "x": [point[0] for point in points],
                "y": [point[1] for point in points],
                "customdata": [[called, plot_text(text), page] for _, _, called, text, page, _ in points],
                "marker": {
                    "color": f"var({colour})",
                    "size": 8,
                    "opacity": 0.8,
                    "symbol": ["diamond-open" if max(point[5]) > 1 else "circle" for point in points],
                },
                "hovertemplate": "%{customdata[0]}: %{customdata[1]}<br>norm %{x:.3g}, one direction explains %{y:.0%}"
                "<extra></extra>",
            }
        )
    axes = {
        "xaxis": {
            "type": "log",
            "dtick": "D2",
            "title": {"text": "mean norm of the largest effects (log scale)"},
            "zeroline": False,
        },
        "yaxis": {"tickformat": ".0%", "title": {"text": "explained by one direction"}, "zeroline": False},
    }
    return {"data": data, "layout": axes}


def drop_map(
    names: Sequence[str],
    heads: Sequence[str],
    links: Sequence[str],
    breaks: Sequence[int],
    drop: Float[np.ndarray, "head a"],
) -> Figure:
    """How much each head's ablation costs each attribute: attributes down, heads across, layers parted by lines."""
    limit = float(np.abs(drop).max()) or 1.0
    cells = {
        "type": "heatmap",
        "z": 100 * drop.T,
        "zmin": -100 * limit,
        "zmax": 100 * limit,
        "colorscale": SIGNED,
        "xgap": 1,
        "ygap": 1,
        "customdata": [
            [[head, plot_text(name), link] for head, link in zip(heads, links, strict=True)] for name in names
        ],
        "text": [[f"{'rises' if v < 0 else 'falls'} by {100 * abs(v):.1f} points" for v in row] for row in drop.T],
        "hovertemplate": "%{customdata[0]} · %{customdata[1]}<br>accuracy %{text}<extra></extra>",
        "colorbar": {"title": {"text": "points", "side": "right"}, "thickness": 10, "outlinewidth": 0},
    }
    lines = [
        {
            "type": "line",
            "x0": b - 0.5,
            "x1": b - 0.5,
            "y0": -0.5,
            "y1": len(names) - 0.5,
            "line": {"color": "var(--ink)", "width": 1},
        }
        for b in breaks
    ]
    axis = ticks(heads, showgrid=False, tickangle=-90, tickfont={"size": 10})
    layout = {"xaxis": axis, "yaxis": ticks(names, autorange="reversed", showgrid=False), "shapes": lines}
    return {"data": [cells], "layout": layout}


def confusion(names: Sequence[str], counts: Int[np.ndarray, "named measured"]) -> Figure:
    """How many heads are named one attribute and measured another; the diagonal agrees."""
    safe = [plot_text(n) for n in names]
    cells = {
        "type": "heatmap",
        "z": counts,
        "zmin": 0,
        "colorscale": FADED,
        "xgap": 2,
        "ygap": 2,
        "showscale": False,
        "text": [[str(v) if v else "" for v in row] for row in counts.tolist()],
        "texttemplate": "%{text}",
        "customdata": [[[named, measured] for measured in safe] for named in safe],
        "hovertemplate": "named %{customdata[0]}, measured %{customdata[1]}<br>%{z} heads<extra></extra>",
    }
    boxes = [
        {
            "type": "rect",
            "x0": k - 0.5,
            "x1": k + 0.5,
            "y0": k - 0.5,
            "y1": k + 0.5,
            "line": {"color": "var(--ink)", "width": 1.5},
        }
        for k in range(len(names))
    ]
    layout = {
        "xaxis": ticks(names, showgrid=False, title={"text": "measured: most hurt by ablating the head"}),
        "yaxis": ticks(names, showgrid=False, autorange="reversed", title={"text": "named by its texts"}),
        "shapes": boxes,
    }
    return {"data": [cells], "layout": layout}


def value_shares(splits: Sequence[str], values: Sequence[str], share: Float[np.ndarray, "split value"]) -> Figure:
    """Share of the images of each split that have each value of an attribute."""
    figure = grouped_bars(values, splits, share)
    figure["layout"]["yaxis"]["title"] = {"text": "share of images"}
    return figure
