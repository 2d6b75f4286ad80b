"""Charts are described once: what plotly and matplotlib draw of a description is the same, and titles tell the data."""

import html
import json
import re

import numpy as np
import plotly.graph_objects as go
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.text import Text
from planted_visualisations import CLASSES

from optogram.metrics.intervals import Interval
from optogram.report.charts import applications, heads, matplotlib, neurons, plotly, sheet, visualisation
from optogram.report.charts.chart import (
    Axis,
    Bars,
    Cells,
    Chart,
    Dots,
    Facet,
    Labels,
    Level,
    Line,
    Spans,
    changes,
    named,
    share_span,
    shares,
)
from optogram.report.findings import collect
from optogram.report.labels import percent, points

STRANGE = ["</b><img src=x>", "2024-01-01", "$x_1$ {"]


def everything():
    """A chart of every kind of series, on names that are no words."""
    at = np.arange(3.0)
    ends = Interval(at / 4, at / 4 + 0.3)
    rows = (
        Spans(np.full(3, 0.1), at / 4, at, ["--hot", "--cold", "--cold"]),
        Level("chance", 0.3, along="y"),
        Dots("dots", at / 4 + 0.1, at, "--a0", "tick", 20, bars=ends),
        Dots("each", at / 3, at, ["--a0", "--a1", "--a0"], ["circle", "circle", "open diamond"], says=STRANGE),
        Bars("bars", at, at / 5, "--a2", 0.2, ends=ends),
        Labels(["a", "b", "c"], [True, False, False]),
    )
    x, y = shares("share", 0, 1, room=1.2), named(STRANGE)
    return Chart("A title", "A subtitle.", x, y, (Facet("one", rows), Facet("two", rows[2:4])), height=120)


def lines():
    at = np.array([1.0, 2, 4])
    gap = np.array([0.1, np.nan, 0.3])
    drawn = (
        Level("base", 0.2),
        Line("line", at, at / 5, "--a0", band=Interval(at / 6, at / 4)),
        Line("gap", at, gap, "--a1"),
    )
    bars = (Bars("standing", at, at / 8, ["--a0", "--a1", "--a2"], 0.3, lying=False, ends=Interval(at / 9, at / 7)),)
    x = Axis("how many", span=(0.5, 8.0), marks=(1.0, 2.0, 5.0), log=True)
    own = shares("own", 0.97, 0.99)
    return Chart(
        "A title", "", x, shares("share"), (Facet("lines", drawn, "", shares("own")), Facet("bars", bars, "", own))
    )


def cells():
    values = np.array([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]])
    says = [["a", "b", "c"], ["d", "e", "f"]]
    drawn = Cells(values, True, says, ["", "heads/x.html", ""], [["1", "2", "3"]] * 2, (1,), ((0, 1),), "points")
    return Chart("A title", "", named(STRANGE), named(["p", "q"]), (Facet("", (drawn,)),), height=120)


@pytest.fixture(scope="module")
def findings(scenes, classifiers):
    return collect(*scenes, {"resnet": classifiers["resnet"]})


def described(findings):
    """Every chart of a run's findings, by name."""
    model = findings.models[0]
    part = {kind: model.part(kind) for kind in model.parts}
    names = findings.attributes
    counts = np.arange(len(names) ** 2).reshape(len(names), -1)
    places = [
        (0.1, 0.5, "L0.N1", "a text", "neurons/a.html", (1, 1)),
        (2.0, 0.9, "L0.N2", "b", "neurons/b.html", (2, 1)),
    ]
    rng = np.random.default_rng(0)
    curves = {
        "vital": ("VITAL", np.arange(200), rng.random((2, 200))),
        "maco": ("MACO", np.arange(50), rng.random((1, 50))),
    }
    kinds, of = ["real", "real", "vital", "maco"], ["circle", "square", "circle", "circle"]
    at = np.array([0.0, 3.0, 0.5, 2.5])
    return {
        "accuracy": heads.accuracy(findings, part["ablation"]),
        "ablation": heads.ablation(findings, part["ablation"]),
        "layers": heads.layers(findings, part["ablation"]),
        "textspan": heads.textspan(findings, part["textspan"]),
        "drops": heads.drops(findings, model, part["roles"]),
        "agreement": heads.agreement(names, [heads.confusion(names, counts, "accuracy")]),
        "neuron_accuracies": neurons.accuracies(findings, part["neuron_ablation"]),
        "needed": neurons.needed(findings, part["neuron_ablation"]),
        "texts": neurons.texts(findings, part["neuron_ablation"]),
        "neuron_map": neurons.neuron_map([("layer 0", [("shape", "--a0", places)])]),
        "spurious": applications.spurious(part["spurious"]),
        "segmentation": applications.segmentation(part["segmentation"]),
        "labels": applications.value_shares("shape", ["train", "eval"], CLASSES, rng.dirichlet(np.ones(3), 2)),
        "convergence": visualisation.convergence([("a target", curves)]),
        "embedding": visualisation.embedding_map(at, at, kinds, of, {"vital": "VITAL", "maco": "MACO"}),
    }


NAMES = [
    *("accuracy", "ablation", "layers", "textspan", "drops", "agreement", "neuron_accuracies", "needed", "texts"),
    *("neuron_map", "spurious", "segmentation", "labels", "convergence", "embedding"),
]
OWN = {"everything": everything, "lines": lines, "cells": cells}


@pytest.fixture(scope="module")
def charts(findings):
    return {**described(findings), **{name: make() for name, make in OWN.items()}}


def of_plotly(chart):
    """By facet: numbers by name (sorted), names of rows and columns, ends of axes; and the legend."""
    figure = plotly.figure(chart, chart.facets)
    facets, layout = [], figure["layout"]
    for k in range(len(chart.facets)):
        own = "" if k == 0 else str(k + 1)
        numbers = {}
        for trace in (t for t in figure["data"] if t.get("xaxis", "x") == "x" + own and t.get("fill") is None):
            if trace["type"] == "heatmap":
                numbers.setdefault("cells", []).extend(np.ravel(trace["z"]).tolist())
            elif trace["x"] is not None and trace.get("mode") != "text" and list(trace["x"]) != [None]:
                along = "y" if trace["type"] == "bar" and trace.get("orientation") != "h" else "x"
                pairs = zip(trace["x"], trace["y"], strict=True)
                found = [(float(x), float(y)) for x, y in pairs if x is not None]
                numbers.setdefault(html.unescape(trace.get("name", "")), []).extend(found)
                error = trace.get(f"error_{along}")
                if error:
                    ends = np.stack([trace[along] - error["arrayminus"], trace[along] + error["array"]])
                    numbers.setdefault("intervals", []).extend(np.ravel(ends).tolist())
            elif trace.get("mode") == "text":
                numbers["labels"] = [re.sub("</?b>", "", text) for text in trace["text"]]
        bands = [t for t in figure["data"] if t.get("xaxis", "x") == "x" + own and t.get("fill")]
        if bands:
            numbers["bands"] = sorted({round(float(y), 9) for trace in bands for y in trace["y"]})
        axes = {letter: layout[f"{letter}axis{own}"] for letter in "xy"}
        for letter, axis in axes.items():
            ends = axis["range"]
            numbers[f"{letter} ends"] = [10**end for end in ends] if axis.get("type") == "log" else list(ends)
        facets.append(numbers)
    entries = [
        html.unescape(t["name"]) for t in figure["data"] if layout["showlegend"] and t.get("showlegend") is not False
    ]
    ticks = {letter: [html.unescape(t) for t in layout[f"{letter}axis"].get("ticktext", [])] for letter in "xy"}
    titles = {html.unescape(layout[f"{letter}axis"].get("title", {}).get("text", "")) for letter in "xy"}
    return facets, entries, ticks, titles, figure["title"]


def of_matplotlib(chart):
    """The same of a sheet, after it is drawn."""
    with sheet.plain_style():
        made = matplotlib.draw(chart, "demo")
        made.figure.draw_without_rendering()
    facets = []
    for axes in made.figure.axes:
        numbers = {}
        for line in axes.lines:
            name = line.get_label()
            name = "" if name.startswith("_child") else name
            xy = np.array(np.broadcast_arrays(line.get_xdata(), line.get_ydata()), float).T
            numbers.setdefault(name, []).extend(map(tuple, xy[~np.isnan(xy).any(1)].tolist()))
        for bars in axes.containers:
            for bar in bars:
                x, y = bar.get_x() + bar.get_width() / 2, bar.get_y() + bar.get_height() / 2
                lying = bars.orientation == "horizontal"
                pair = (bar.get_width(), y) if lying else (x, bar.get_height())
                numbers.setdefault(bars.get_label(), []).append(pair)
        bands = [path for found in axes.collections if isinstance(found, PolyCollection) for path in found.get_paths()]
        if bands:
            numbers["bands"] = sorted({round(float(y), 9) for path in bands for y in path.vertices[:, 1]})
        if axes.images:
            numbers = {"cells": np.ravel(axes.images[0].get_array()).tolist()}
        elif axes.texts:
            numbers["labels"] = [text.get_text() for text in axes.texts]
        numbers |= {"x ends": list(axes.get_xlim()), "y ends": list(axes.get_ylim())}
        facets.append(numbers)
    shown = [t.get_text() for t in made.figure.findobj(Text) if t.get_visible() and t.get_text()]
    return facets, shown, made


@pytest.mark.parametrize("name", [*NAMES, *OWN])
def test_both_drawings_have_the_same_numbers_and_words(charts, name):
    chart = charts[name]
    page, entries, ticks, titles, title = of_plotly(chart)
    still, shown, made = of_matplotlib(chart)
    assert len(page) == len(still) == len(chart.facets)
    stands_in = {short: full for short, full in made.shortened}
    for left, right in zip(page, still, strict=True):
        levels = {one.name: one for facet in chart.facets for one in facet.series if isinstance(one, Level)}
        assert set(left) - {"intervals"} == set(right)
        for key in set(right):
            if key in levels:  # through the whole plot: only its height is a number
                at = 1 if levels[key].along == "x" else 0
                assert {round(pair[at], 9) for pair in left[key]} == {round(pair[at], 9) for pair in right[key]}
            elif key in ("labels", "bands"):
                assert left[key] == right[key]
            else:
                assert np.array(sorted(left[key]) if "ends" not in key else left[key]) == pytest.approx(
                    np.array(sorted(right[key]) if "ends" not in key else right[key])
                )
    words = " ".join(shown)
    for entry in entries:
        assert entry in shown or entry in stands_in.values(), entry
    for full in (*chart.x.names, *chart.y.names):
        assert full in shown or full in stands_in.values(), full
    for letter, axis in (("x", chart.x), ("y", chart.y)):
        if axis.names:
            assert [tick[:20] for tick in ticks[letter]] == [full[:20] for full in axis.names]
    assert all(part.partition(",")[0] in words for part in titles)
    assert title == chart.title
    assert [word for word in sheet.drawable(chart.title).split() if word not in words.split()] == []


@pytest.mark.parametrize("name", [*NAMES, *OWN])
def test_plotly_takes_every_chart_and_the_legend_stands_below(charts, name):
    for _, figure in plotly.plot("an-id", charts[name]).options:
        plain = json.loads(re.sub(r"var\(--\w+\)", "#123456", json.dumps(plotly.plain(figure))))
        go.Figure({"data": plain["data"], "layout": plain["layout"]})
        legend, margin = figure["layout"]["legend"], figure["layout"]["margin"]
        assert (legend["y"], legend["yref"], legend["yanchor"]) == (0, "container", "bottom")
        assert margin["t"] >= 30, "room for the mode bar"
        assert figure["title"]


def test_a_still_has_the_intervals_of_the_page():
    page = of_plotly(everything())[0][0]["intervals"]
    with sheet.plain_style():
        axes = matplotlib.draw(everything(), "demo").figure.axes[0]
    drawn = [x for lines in axes.collections for segment in lines.get_segments() for x in segment[:, 0]]
    # plotly's lengths cannot be negative: an end on the wrong side of its value is the value itself
    assert set(np.round(drawn, 9)) >= set(np.round(page, 9)) - set(np.round(np.arange(3) / 5, 9))


def test_a_title_is_computed_from_what_is_drawn(scenes, findings):
    found = scenes[1]["demo"]["textspan"]
    chart = heads.textspan(findings, found)
    size = found["size"].values[2]
    mean = found.accuracy.sel(size=size).mean("attribute")
    assert percent(float(mean.sel(pool="descriptions"))) in chart.title
    assert percent(float(mean.sel(pool="random"))) in chart.title
    better = found.assign(accuracy=found.accuracy * 0.5)
    assert heads.textspan(findings, better).title != chart.title
    needed = scenes[1]["demo"]["neuron_ablation"]
    falls = (needed.accuracy.sel(condition="all") - needed.accuracy.sel(condition="none")).mean("attribute")
    assert points(float(falls.min())) in neurons.needed(findings, needed).title


def test_a_title_says_when_random_is_as_good(findings, scenes):
    found = scenes[1]["demo"]["textspan"].copy(deep=True)
    found["accuracy"][:] = found.accuracy.sel(pool="descriptions").values
    assert "not distinguishable" in heads.textspan(findings, found).title


def test_ablations_that_move_nothing_are_said_to(findings, scenes):
    found = scenes[1]["demo"]["ablation"].copy(deep=True)
    found["accuracy"][:] = found.accuracy.sel(condition="none").values
    found["lost"][:], found["gained"][:] = 0, 0
    assert heads.ablation(findings, found).title.startswith("No ablation is distinguishable")


def test_the_spurious_title_owns_to_chance(scenes):
    found = scenes[1]["demo"]["spurious"].copy(deep=True)
    found["gain_low"][:], found["gain_high"][:] = -0.1, 0.1
    assert "which may be chance" in applications.spurious(found).title


def test_the_map_counts_those_near_their_own_class():
    kinds, of = ["real", "real", "vital", "vital"], ["a", "b", "a", "a"]
    at = np.array([0.0, 4.0, 1.0, 3.0])
    assert "1 of 2 visualisations" in visualisation.embedding_map(at, at, kinds, of, {}).title


def test_values_near_each_other_get_an_axis_that_says_so():
    close, whole = shares("accuracy", [0.97, 0.99]), shares("accuracy", [0.02, 0.99])
    assert close.title == "accuracy, not from zero"
    assert 0.9 < close.span[0] < 0.97 < 0.99 < close.span[1]
    assert whole.title == "accuracy"
    assert whole.span[0] == 0


def test_differences_always_show_zero():
    axis = changes("change", [-0.031, -0.012])
    assert axis.span[0] < -0.031
    assert 0.0 in axis.marks
    assert axis.says(-0.02) == "\N{MINUS SIGN}2.0"
    assert changes("change", [0.0]).span[1] > 0


@pytest.mark.parametrize(("low", "high"), [(0.912, 0.982), (0.0, 1.0), (0.5, 0.5), (0.31, 0.95), (1.0, 1.0)])
def test_an_axis_spans_its_values_within_0_and_1(low, high):
    first, last, at = share_span(low, high)
    assert 0 <= first <= low <= high <= last <= 1
    assert first < last
    assert 2 <= len(at) <= 8


def test_a_click_leads_to_a_page_and_names_stay_text():
    plot = plotly.plot("an-id", everything())
    told = json.dumps(plot.spec)
    assert "<img" not in told
    (heat,) = [trace for trace in plotly.figure(cells(), cells().facets)["data"] if trace["type"] == "heatmap"]
    assert heat["customdata"][0][1][2] == "heads/x.html"
