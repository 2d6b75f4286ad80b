"""Room report: the curves and the map of feature visualisations, and the small inline drawings of curves."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from optogram.report.charts.chart import Axis, Chart, Dash, Dots, Facet, Line, Symbol
from optogram.report.labels import number

MARKS: dict[str, tuple[str, Symbol, Dash]] = {
    "vital": ("--a0", "square", "solid"),
    "fourier": ("--a1", "circle", "dash"),
    "maco": ("--a2", "triangle", "dashdot"),
    "deepinversion": ("--a3", "star", "dot"),
    "pii": ("--a6", "diamond", "solid"),
}
"""Colour of each method's curves, its symbol on the map (as in Figure 6), and its dash."""
OTHER: tuple[str, Symbol, Dash] = ("--s1", "cross", "solid")
COLOURS = 8
SPARK, DRAWN = 40, 80
"""Points of a small curve, and of one on the plot, at most."""
WIDE, HIGH = 96, 40
NEAR = 0.1
"""How near to its lowest loss, on its own scale, a curve is said to have settled."""


def mark(method: str) -> tuple[str, Symbol, Dash]:
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


Curves = Mapping[str, tuple[str, Int[np.ndarray, " step"], Float[np.ndarray, "seed step"]]]
"""By method: its name with what is to be said of it, the steps, and the loss."""


def convergence(targets: Sequence[tuple[str, Curves]]) -> Chart:
    """The loss of each target against the step, a line a seed in the colour of its method, each on its own scale."""
    facets = []
    for target, curves in targets:
        lines = []
        for method, (name, steps, loss) in curves.items():
            colour, _, dash = mark(method)
            at = _some(len(steps), DRAWN)
            gap = [np.nan]
            x = np.concatenate([part for _ in loss for part in (steps[at].astype(float), gap)])[:-1]
            y = np.concatenate([part for curve in loss for part in (np.round(scaled(curve)[at], 3), gap)])[:-1]
            start, end = (number(float(loss[:, k].mean())) for k in (0, -1))
            lines.append(Line(f"{name}: {start} → {end}", x, y, colour, dash, None))
        facets.append(Facet(target, tuple(lines), _settled(curves)))
    last = max((int(steps[-1]) for _, curves in targets for _, steps, _ in curves.values()), default=1) or 1
    step = next(unit * 10**power for power in range(9) for unit in (1, 2, 5) if last <= 6 * unit * 10**power)
    x = Axis("step", span=(-0.02 * last, 1.02 * last), marks=tuple(float(k) for k in range(0, last + 1, step)))
    y = Axis("loss: 0 is a curve's lowest, 1 its highest", span=(-0.03, 1.05), marks=(0.0, 0.5, 1.0))
    subtitle = "A line a method and seed; the legend has the mean loss at the first and at the last step."
    return Chart(facets[0].title, subtitle, x, y, tuple(facets), choose="Target", height=280)


def _settled(curves: Curves) -> str:
    """Which method is first, and which last, within a tenth of its lowest loss, in the mean over seeds."""
    if not curves:
        return "Nothing was drawn"
    when = {}
    for name, steps, loss in curves.values():
        far = np.mean([scaled(curve) for curve in loss], axis=0) > NEAR
        when[name] = int(steps[min(int(np.flatnonzero(far)[-1]) + 1, len(steps) - 1)]) if far.any() else int(steps[0])
    first, last = min(when, key=lambda name: when[name]), max(when, key=lambda name: when[name])
    told = f"{first} settles by step {when[first]}"
    return told if first == last else f"{told}, {last} by step {when[last]}"


def embedding_map(
    x: Float[np.ndarray, " point"],
    y: Float[np.ndarray, " point"],
    kinds: Sequence[str],
    of: Sequence[str],
    names: Mapping[str, str],
) -> Chart:
    """Figure 6: real images as faint dots in the colour of their class, visualisations as the symbol of their method.

    `kinds` is "real" or a method, `of` a class, of each point; `names` are the methods as people call them.
    """
    classes = list(dict.fromkeys(of))
    colour = {name: f"--a{k % COLOURS}" for k, name in enumerate(classes)}
    series = []
    for name in classes:
        at = [k for k, (kind, own) in enumerate(zip(kinds, of, strict=True)) if kind == "real" and own == name]
        if at:
            says = [f"{name}, real"] * len(at)
            series.append(Dots(name, x[at], y[at], colour[name], size=6, faint=True, says=says))
    for kind in dict.fromkeys(kinds):
        if kind != "real":
            at = [k for k, own in enumerate(kinds) if own == kind]
            shown = names.get(kind, kind)
            says = [f"{of[k]}, by {shown}" for k in at]
            series.append(Dots(shown, x[at], y[at], [colour[of[k]] for k in at], mark(kind)[1], 11, says=says))
    ends = [(float(v.min()), float(v.max())) for v in (x, y)]
    plane = [Axis(span=(low - 0.04 * (high - low), high + 0.04 * (high - low)), bare=True) for low, high in ends]
    subtitle = "Faint dots are real images in the colour of their class; symbols are visualisations, one a method."
    title = _nearest(np.stack([x, y], 1), kinds, of)
    return Chart(title, subtitle, plane[0], plane[1], (Facet("", tuple(series)),), height=440, equal=True)


def _nearest(at: Float[np.ndarray, "point 2"], kinds: Sequence[str], of: Sequence[str]) -> str:
    """How many visualisations lie nearest to a real image of their own class."""
    real = [k for k, kind in enumerate(kinds) if kind == "real"]
    drawn = [k for k, kind in enumerate(kinds) if kind != "real"]
    if not real or not drawn:
        return "Real images and visualisations by the classifier's penultimate features"
    nearest = np.square(at[drawn][:, None] - at[real][None]).sum(-1).argmin(1)
    right = sum(of[k] == of[real[n]] for k, n in zip(drawn, nearest.tolist(), strict=True))
    return f"On this map {right} of {len(drawn)} visualisations lie nearest to a real image of their own class"


def _some(total: int, most: int) -> Int[np.ndarray, " k"]:
    """At most so many of the places 0, 1, …, the first and the last among them."""
    return np.unique(np.linspace(0, total - 1, min(most, total)).round().astype(int))
