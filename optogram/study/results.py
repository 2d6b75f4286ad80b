"""What people answered, as tables for the terminal and as a page with plots."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from optogram.report.charts.chart import SHADES
from optogram.report.charts.plotly import Figure, Plot, ticks
from optogram.report.html_pages import write_page
from optogram.report.labels import p_value, percent, plot_text
from optogram.report.panels import Table
from optogram.study.analysis import Estimate, Part, Score, normalised
from optogram.study.answers import Answered, Answers
from optogram.study.form import AGES, GENDERS, QUESTIONS, refuse_existing
from optogram.study.preferences import Pairs

TITLES = {
    "name": "Name it: what does the picture show?",
    "word": "Classes, rated against their word",
    "references": "Inner neurons, rated against reference images",
    "pairs": "Counterfactuals, two by two",
}
ASKS = {
    "realistic": "more realistic",
    "close": "closer to the original",
    "class": "shows the class better",
    "better": "better all in all",
}
"""The questions of a pair, in short."""
MOST_SAID = 5


def score_table(part: Part) -> Table:
    """The methods of a part: scores with 95% intervals, the best mean in bold."""
    naming = part.name == "name"
    columns = ["method", "answers", *(("similarity", "same word") if naming else ("mean score", "scores 4-5"))]
    columns += ["5%", "median", "95%"]
    rows = [
        [
            score.method,
            str(len(score.values)),
            _interval(score.mean, _two),
            _interval(score.high, _percent),
            *(_two(q) for q in score.quantiles),
        ]
        for score in part.scores
    ]
    means = [score.mean.value for score in part.scores]
    highest = max((mean for mean in means if math.isfinite(mean)), default=math.nan)
    best = {(k, 1) for k, mean in enumerate(means) if len(means) > 1 and mean == highest}
    return Table(columns, rows, "with 95% intervals", frozenset(best))


def difference_table(part: Part) -> Table:
    """Pairs of methods; in bold the differences whose interval leaves out zero."""
    rows, best = [], set()
    for k, difference in enumerate(part.differences):
        mean = difference.mean
        rows.append([f"{difference.first} \N{MINUS SIGN} {difference.second}", _interval(mean, _signed)])
        if mean.low > 0 or mean.high < 0:
            best.add((k, 0))
    return Table(["pair", "difference"], rows, "in bold: zero is outside the 95% interval", frozenset(best))


def target_table(part: Part) -> Table:
    """Mean score of each target and method (Figures 40 to 42)."""
    rows = [[name, *map(_two, row)] for name, row in zip(part.targets, part.by_target.tolist(), strict=True)]
    return Table(["target", *(score.method for score in part.scores)], rows, "means")


def preference_table(pairs: Pairs) -> Table:
    """The questions; in bold the methods whose share of answers holds for other people and pairs too."""
    first, second = pairs.methods
    rows, best = [], set()
    for k, found in enumerate(pairs.preferences):
        rows.append(
            [
                ASKS[found.question],
                f"{found.preferred} of {found.answered}",
                _interval(found.share, _percent),
                p_value(found.p) if found.answered else "n/a",
                _interval(found.over, _percent),
            ]
        )
        if found.over.low > 0.5 or found.over.high < 0.5:
            best.add((k, 3))
    columns = ["question", "answers", "share", "binomial", "people and pairs"]
    note = f"answers for {first}, of all; the rest is for {second}; in bold: a half is outside the interval"
    return Table(columns, rows, note, frozenset(best))


def pair_table(pairs: Pairs) -> Table:
    """Share of the answers that are for the first method, of each pair."""
    rows = [[name, *map(_percent, row)] for name, row in zip(pairs.targets, pairs.by_target.tolist(), strict=True)]
    return Table(["pair", *ASKS.values()], rows, f"answers for {pairs.methods[0]}")


def says_pairs(pairs: Pairs) -> str:
    """How many answered, what is missing, and what the shares are."""
    first, second = pairs.methods
    answered = sum(found.answered for found in pairs.preferences)
    missing = pairs.shown * len(QUESTIONS) - answered
    people = f"{pairs.participants} {_plural('participant', pairs.participants)}"
    agree = ", ".join(f"{ASKS[found.question]} {_two(found.agreement)}" for found in pairs.preferences)
    return (
        f"{people}, {len(pairs.targets)} pairs of {first!r} and {second!r}, {answered} answers, {missing} left out. "
        f"Shares are of answers for {first!r}, with Wilson's interval and an exact binomial test, which take every "
        "answer for one of its own; the interval over people and pairs does not. Agreement of people "
        f"(Krippendorff's alpha): {agree}."
    )


def says(part: Part) -> str:
    """How many answered, what is missing, and how far people agree."""
    missing = part.shown - part.answered
    text = f"{part.participants} {_plural('participant', part.participants)}, {part.answered} of {part.shown} pictures "
    text += f"answered, {missing} left out."
    if part.name != "name":
        agree = _two(part.agreement) if math.isfinite(part.agreement) else "not defined"
        text += f" Agreement of raters (Krippendorff's alpha, interval): {agree}."
    return text


def write_results(
    path: Path,
    answered: Answered,
    parts: Sequence[Part],
    pairs: Pairs | None = None,
    *,
    encoder: str = "",
    force: bool = False,
) -> None:
    """The results as a standalone page. Raises ArtifactError for a `path` that is there, or is no page's name."""
    refuse_existing(path, force)
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    panels = [
        {
            "title": TITLES[one.name],
            "says": says(one),
            "kind": one.name,
            "tables": [score_table(one), *([difference_table(one)] if one.differences else [])],
            "folded": [("By target", target_table(one)), *([("What was written", _said(one))] if one.said else [])],
            "plot": Plot(
                f"plot-{one.name}",
                f"{TITLES[one.name]}: answers of each method",
                [("", _violins(one.scores) if one.name == "name" else _scores(one.scores))],
                height=320 if one.name == "name" else 110 + 44 * len(one.scores),
                min_width=320,
            ),
        }
        for one in parts
    ]
    if pairs:
        panels.append(_pairs_panel(pairs))
    try:
        write_page(
            part,
            "study_results.html",
            plots=True,
            key=answered.key,
            participants=len(answered.answers),
            panels=panels,
            people=_people(answered.answers),
            encoder=encoder,
            rated=bool(parts),
        )
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _pairs_panel(pairs: Pairs) -> dict[str, Any]:
    return {
        "title": TITLES["pairs"],
        "says": says_pairs(pairs),
        "kind": "pairs",
        "tables": [preference_table(pairs)],
        "folded": [("By pair", pair_table(pairs))],
        "plot": Plot(
            "plot-pairs",
            f"{TITLES['pairs']}: answers for {pairs.methods[0]}",
            [("", _shares(pairs))],
            height=110 + 44 * len(pairs.preferences),
            min_width=320,
        ),
    }


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"


def _two(value: float) -> str:
    return f"{value:.2f}".replace("-", "\N{MINUS SIGN}") if math.isfinite(value) else "n/a"


def _percent(value: float) -> str:
    return percent(value, 0) if math.isfinite(value) else "n/a"


def _signed(value: float) -> str:
    return ("+" if value > 0 else "") + _two(value)


def _interval(found: Estimate, text: Callable[[float], str]) -> str:
    if not math.isfinite(found.low):
        return text(found.value)
    return f"{text(found.value)} [{text(found.low)}, {text(found.high)}]"


def _said(part: Part) -> Table:
    """The most frequent answers of each target and method, equal ones counted."""
    rows = []
    for (target, method), texts in sorted(part.said.items()):
        counts = sorted(
            Counter(normalised(text) or text.strip() for text in texts).items(), key=lambda c: (-c[1], c[0])
        )
        shown = [f"{text} ({count})" if count > 1 else text for text, count in counts[:MOST_SAID]]
        more = [f"and {len(counts) - MOST_SAID} more"] if len(counts) > MOST_SAID else []
        rows.append([target, method, ", ".join([*shown, *more])])
    return Table(["target", "method", "answers"], rows)


def _people(answers: Sequence[Answers]) -> Table:
    rows = []
    for title, field, options in (("age", "age", AGES), ("gender", "gender", GENDERS)):
        counts = Counter(getattr(one.about, field) for one in answers)
        rows += [[title, option, str(counts[option])] for option in (*options, "") if counts[option]]
    return Table(["", "", "participants"], [[a, b or "not said", c] for a, b, c in rows])


def _scores(scores: Sequence[Score]) -> Figure:
    """How often each method got each score (Figures 7a and 7b), as shares."""
    at = list(range(len(scores)))
    counts = np.array([[sum(value == k for value in score.values) for k in range(1, 6)] for score in scores])
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    bars = [
        {
            "type": "bar",
            "orientation": "h",
            "name": f"score {k + 1}",
            "y": at,
            "x": share[:, k],
            "customdata": [[plot_text(s.method), int(n)] for s, n in zip(scores, counts[:, k], strict=True)],
            "marker": {"color": f"var({SHADES[4 - k]})", "line": {"color": "var(--surface)", "width": 1}},
            "hovertemplate": f"%{{customdata[0]}}<br>score {k + 1}: %{{customdata[1]}} (%{{x:.0%}})<extra></extra>",
        }
        for k in range(5)
    ]
    names = ticks([score.method for score in scores], autorange="reversed", showgrid=False)
    layout = {"barmode": "stack", "bargap": 0.35, "yaxis": names, "xaxis": {"tickformat": ".0%", "range": [0, 1]}}
    # plotly would turn the order of stacked bars round
    legend = {"traceorder": "normal", "orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"}
    return {"data": bars, "layout": {**layout, "legend": legend}}


def _shares(pairs: Pairs) -> Figure:
    """The share of answers for the first method, by question, with the interval over people and pairs."""
    shown = [found for found in pairs.preferences if found.answered]
    value, low, high = (np.array([getattr(one.over, end) for one in shown]) for end in ("value", "low", "high"))
    # one person or pair has no interval
    more, less = (np.nan_to_num(end) for end in (high - value, value - low))
    bars = {"type": "data", "symmetric": False, "array": more, "arrayminus": less, "color": "var(--ink)"}
    dots = {
        "type": "scatter",
        "mode": "markers",
        "x": value,
        "y": list(range(len(shown))),
        "error_x": {**bars, "thickness": 1.5, "width": 6},
        "customdata": [[plot_text(ASKS[one.question]), one.preferred, one.answered] for one in shown],
        "marker": {"size": 9, "color": "var(--ink)"},
        "hovertemplate": "%{customdata[0]}<br>%{customdata[1]} of %{customdata[2]} answers<extra></extra>",
        "showlegend": False,
    }
    half = {"type": "line", "x0": 0.5, "x1": 0.5, "yref": "paper", "y0": 0, "y1": 1}
    names = ticks([ASKS[one.question] for one in shown], autorange="reversed", showgrid=False)
    title = {"text": f"answers for {plot_text(pairs.methods[0])}"}
    across = {"tickformat": ".0%", "range": [-0.03, 1.03], "tickvals": [0, 0.25, 0.5, 0.75, 1], "title": title}
    layout = {"yaxis": names, "xaxis": across}
    return {"data": [dots], "layout": {**layout, "shapes": [{**half, "line": {"color": "var(--none)", "width": 1}}]}}


def _violins(scores: Sequence[Score]) -> Figure:
    """The similarities of each method's answers, with 5%, 50% and 95% quantiles (Figure 7c)."""
    data = []
    for k, score in enumerate(scores):
        data.append(
            {
                "type": "violin",
                "x": [k] * len(score.values),
                "y": score.values,
                "width": 0.8,
                "spanmode": "hard",
                "points": False,
                "line": {"color": "var(--s2)", "width": 1},
                "fillcolor": "var(--s4)",
                "hoverinfo": "skip",
                "showlegend": False,
            }
        )
    low, middle, high = (np.array([score.quantiles[k] for score in scores]) for k in range(3))
    data.append(
        {
            "type": "scatter",
            "mode": "markers",
            "x": list(range(len(scores))),
            "y": middle,
            "error_y": {
                "type": "data",
                "symmetric": False,
                "array": high - middle,
                "arrayminus": middle - low,
                "color": "var(--ink)",
                "thickness": 1.5,
                "width": 6,
            },
            "customdata": [
                [plot_text(s.method), a, b] for s, a, b in zip(scores, low.tolist(), high.tolist(), strict=True)
            ],
            "marker": {"size": 9, "color": "var(--ink)"},
            "hovertemplate": "%{customdata[0]}<br>median %{y:.2f}, 5% %{customdata[1]:.2f}, 95% %{customdata[2]:.2f}"
            "<extra></extra>",
            "showlegend": False,
        }
    )
    names = ticks([score.method for score in scores], showgrid=False)
    return {"data": data, "layout": {"xaxis": names, "yaxis": {"title": {"text": "similarity to the class"}}}}
