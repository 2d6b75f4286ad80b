"""Room report: the curves and the map of feature visualisations, as plotly figures and as small inline drawings."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from optogram.report.figures import Figure
from optogram.report.formats import plot_text

MARKS = {
    "vital": ("--a0", "square", "solid"),
    "fourier": ("--a1", "circle", "dash"),
    "maco": ("--a2", "triangle-up", "dashdot"),
    "deepinversion": ("--a3", "star", "dot"),
    "pii": ("--a6", "diamond", "solid"),
}
"""Colour of each method's curves, its symbol on the map (as in Figure 6), and its dash."""
OTHER = ("--s1", "cross", "solid")
COLOURS = 8
SPARK, DRAWN = 40, 80
"""Points of a small curve, and of one on the plot, at most."""
WIDE, HIGH = 96, 40


def mark(method: str) -> tuple[str, str, str]:
    """Colour, symbol and dash of a method."""
    return MARKS.get(method, OTHER)


def spark(steps: Int[np.ndarray, " step"], loss: Float[np.ndarray, " step"]) -> str:
    """A convergence curve as the path of a small SVG drawing, 96 by 40, from its lowest to its highest loss."""
    at = _some(len(steps), SPARK)
    x = WIDE * (steps[at] - steps[0]) / max(int(steps[-1] - steps[0]), 1)
    y = HIGH - 1 - (HIGH - 2) * scaled(loss)[at]
    return "M" + "L".join(f"{a:.0f} {b:.1f}".removesuffix(".0") for a, b in zip(x, y, strict=True))


def scaled(loss: Float[np.ndarray, " step"]) -> Float[np.ndarray, " step"]:
    """A curve between its own lowest value (0) and its highest (1): the losses of methods have no common unit."""
    low, high = float(loss.min()), float(loss.max())
    return (loss - low) / (high - low) if high > low else np.zeros_like(loss)


def convergence(curves: Mapping[str, tuple[str, Int[np.ndarray, " step"], Float[np.ndarray, "seed step"]]]) -> Figure:
    """The loss of a target against the step, a line a seed in the colour of its method, each on a scale of its own.

    `curves` are by method: its name with what is to be said of it, the steps, and the loss.
    """
    data = []
    for method, (name, steps, loss) in curves.items():
        colour, _, dash = mark(method)
        at = _some(len(steps), DRAWN)
        x: list[Any] = []
        y: list[Any] = []
        for curve in loss:
            x += [*steps[at].tolist(), None]
            y += [*np.round(scaled(curve)[at], 3).tolist(), None]
        start, end = (f"{float(loss[:, k].mean()):.3g}".replace("-", "\N{MINUS SIGN}") for k in (0, -1))
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": plot_text(f"{name}: {start} → {end}", 90),
                "x": x[:-1],
                "y": y[:-1],
                "line": {"color": f"var({colour})", "width": 2, "dash": dash},
                "hovertemplate": "%{fullData.name}<br>step %{x}<extra></extra>",
            }
        )
    layout = {
        "xaxis": {"title": {"text": "step"}, "rangemode": "tozero", "zeroline": False},
        "yaxis": {
            "title": {"text": "loss: 0 is a curve's lowest, 1 its highest"},
            "range": [-0.03, 1.05],
            "tickvals": [0, 0.5, 1],
            "zeroline": False,
        },
        "hovermode": "closest",
        "showlegend": True,
    }
    return {"data": data, "layout": layout}


def embedding_map(
    x: Float[np.ndarray, " point"],
    y: Float[np.ndarray, " point"],
    kinds: Sequence[str],
    of: Sequence[str],
    names: Mapping[str, str],
) -> Figure:
    """Figure 6: real images as faint dots in the colour of their class, visualisations as the symbol of their method.

    `kinds` is "real" or a method, `of` a class, of each point; `names` are the methods as people call them.
    """
    classes = list(dict.fromkeys(of))
    colour = {name: f"var(--a{k % COLOURS})" for k, name in enumerate(classes)}
    data: list[dict[str, Any]] = []
    for name in classes:
        at = [k for k, (kind, own) in enumerate(zip(kinds, of, strict=True)) if kind == "real" and own == name]
        if at:
            look = {"color": colour[name], "size": 6, "opacity": 0.45}
            says = "%{fullData.name}, real<extra></extra>"
            data.append(_dots(plot_text(name), x[at], y[at], look, says))
    for kind in dict.fromkeys(kinds):
        if kind == "real":
            continue
        at = [k for k, own in enumerate(kinds) if own == kind]
        line = {"width": 1.2, "color": "var(--ink)"}
        look = {"color": [colour[of[k]] for k in at], "size": 11, "symbol": mark(kind)[1], "line": line}
        group, shown = f"method {kind}", plot_text(names.get(kind, kind))
        drawn = _dots(shown, x[at], y[at], look, "%{customdata}, by %{fullData.name}<extra></extra>")
        data.append({**drawn, "customdata": [plot_text(of[k]) for k in at], "legendgroup": group, "showlegend": False})
        # the colour in the legend would be that of one class
        grey = {"color": "var(--s3)", "size": 11, "symbol": mark(kind)[1], "line": line}
        data.append({**_dots(shown, [None], [None], grey, ""), "legendgroup": group})
    plane = {"showticklabels": False, "ticks": "", "zeroline": False, "showgrid": False}
    layout = {"xaxis": plane, "yaxis": {**plane, "scaleanchor": "x"}, "hovermode": "closest"}
    return {"data": data, "layout": layout}


def _dots(name: str, x: Any, y: Any, look: dict[str, Any], says: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": x,
        "y": y,
        "marker": look,
        "hovertemplate": says,
    }


def _some(total: int, most: int) -> Int[np.ndarray, " k"]:
    """At most so many of the places 0, 1, …, the first and the last among them."""
    return np.unique(np.linspace(0, total - 1, min(most, total)).round().astype(int))
