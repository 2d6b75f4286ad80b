"""Room report: the charts of the images, and of what a decomposition is good for: spurious cues, segmentation."""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from jaxtyping import Float

from optogram.metrics.intervals import Interval
from optogram.report import evidence
from optogram.report.charts.chart import (
    Bars,
    Chart,
    Dots,
    Facet,
    Labels,
    Level,
    Spans,
    beside,
    brief,
    named,
    shares,
)
from optogram.report.findings import labels
from optogram.report.labels import ABLATED, METHODS, METRICS, OURS, count, percent, points, words

SPLITS = ("--a0", "--a1", "--a2", "--a3", "--a4", "--a5", "--a6", "--a7")


def value_shares(
    attribute: str, splits: Sequence[str], values: Sequence[str], share: Float[np.ndarray, "split value"]
) -> Chart:
    """Share of the images of each split that have each value of an attribute."""
    at, width = np.arange(len(values), dtype=float), 0.72 / max(len(splits), 1)
    series = tuple(
        Bars(split, at + beside(k, len(splits), 0.72 - width), share[k], SPLITS[k % len(SPLITS)], width, lying=False)
        for k, split in enumerate(splits)
    )
    apart = float(np.ptp(share, axis=0).max(initial=0))
    title = f"Splits differ by at most {100 * apart:.1f} points in a value of {brief(attribute)}"
    facet, y = Facet(attribute, series), shares("share of images", 0, share)
    return Chart(title, "How often each label occurs.", named(values), y, (facet,), choose="Labels of")


def spurious(found: xr.Dataset) -> Chart:
    """Table 2.3: a row an ablation, how far it moves the worst group from where it was."""
    conditions = labels(found, "ablation")
    worst, overall = (found[name].values.astype(np.float64) for name in ("worst", "overall"))
    ends = Interval(*(found[f"worst_{end}"].values.astype(np.float64) for end in ("low", "high")))
    base, at = float(worst[conditions.index("base")]), np.arange(len(conditions), dtype=float)
    draws = {
        conditions.index(f"{name} mean"): found["draw_worst"].sel(baseline=name).values.astype(np.float64)
        for name in labels(found, "baseline")
        if f"{name} mean" in conditions
    }
    x = shares("zero-shot accuracy", worst, overall, ends.low, ends.high, *draws.values(), room=1.38)
    drawn = np.concatenate([*draws.values()]) if draws else np.zeros(0)
    rows = np.concatenate([np.full(len(values), float(row)) for row, values in draws.items()]) if draws else drawn
    moved = [
        "" if c == "base" else f"   {points(float(value))} points"
        for c, value in zip(conditions, worst - base, strict=True)
    ]
    told = [f"{percent(float(value))}{by}" for value, by in zip(worst, moved, strict=True)]
    series = (
        Spans(np.full(len(worst), base), worst, at, ["--cold" if value >= base else "--hot" for value in worst]),
        Level("nothing ablated", base, "dash", "--s0", along="y"),
        Dots("worst group of one random draw", drawn, rows, "--s2", "tick", 18),
        Dots("all images", overall, at, "--s0", "ring", 10),
        Dots("worst group", worst, at, "--s0", size=11, bars=ends),
        Labels(told, [condition == "chosen" for condition in conditions]),
    )
    chosen = str(found["heads"].sel(ablation="chosen").item()) if "chosen" in conditions else ""
    cue = str(found.attrs.get("attribute", "the cue"))
    subtitle = (
        f"The heads that their texts name after {brief(cue)} ({chosen or 'none'}) are mean-ablated, beside random "
        "heads, and as many random heads. Blue is what the worst group gains over nothing ablated, red what it loses. "
        "Thin lines are 95% intervals of the worst group, bootstrapped over the images of each group."
    )
    y = named([ABLATED.get(c, words(c)) for c in conditions])
    return Chart(_gain(found), subtitle, x, y, (Facet("", series),), height=46 * len(conditions))


def _gain(found: xr.Dataset) -> str:
    """How far the chosen heads lift the worst group, and whether further than the best random draw."""
    base, chosen, best = (float(found["worst"].sel(ablation=of)) for of in ("base", "chosen", "random best"))
    gain, lead = (
        Interval(*(float(found[f"{key}_{end}"].sel(ablation=of)) for end in ("low", "high")))
        for key, of in (("gain", "chosen"), ("lead", "random best"))
    )
    sure = "" if bool(gain.excludes_zero) else ", which may be chance"
    moved = f"Ablating the cue's heads moves the worst group from {percent(base)} to {percent(chosen)}{sure}"
    return f"{moved}; the best random draw reaches {percent(best)} ({evidence.compared(lead)})"


def segmentation(found: xr.Dataset) -> Chart:
    """Table 2.4: a facet a metric, a bar a method."""
    methods, metrics = labels(found, "method"), labels(found, "metric")
    score, low, high = (
        found[f"score{end}"].transpose("method", "metric").values.astype(np.float64) for end in ("", "_low", "_high")
    )
    best, at = evidence.level(found, score), np.arange(len(methods), dtype=float)
    colours = [OURS.get(method, "--s3") for method in methods]
    facets = []
    for k, metric in enumerate(metrics):
        bars = Bars("score", at, score[:, k], colours, ends=Interval(low[:, k], high[:, k]), listed=False)
        told = Labels([percent(float(value)) for value in score[:, k]], best[:, k].tolist())
        facets.append(Facet(METRICS.get(metric, words(metric)), (bars, told)))
    of = f"bootstrapped over {count(int(found.attrs['images']))} images"
    subtitle = (
        "Heatmaps of each method against the true masks; higher is better. Dark bars are ours: the decomposition into "
        "image tokens' contributions, and the activation maps of the neurons that write most along the class. In bold "
        f"the best, and what is {evidence.NOT_APART} from it."
    )
    note = evidence.reach((high - low) / 2, of)
    x, y = shares("score", 0, 1, room=1.4), named([METHODS.get(m, words(m)) for m in methods])
    return Chart(_ahead(found, score), subtitle, x, y, tuple(facets), note, height=30 * len(methods))


def _ahead(found: xr.Dataset, score: Float[np.ndarray, "method metric"]) -> str:
    """The decomposition beside the best of the other methods, by mIoU, or by the first metric."""
    methods, metrics = labels(found, "method"), labels(found, "metric")
    at = metrics.index("miou") if "miou" in metrics else 0
    metric, values = METRICS.get(metrics[at], words(metrics[at])), score[:, at]
    others = [k for k, method in enumerate(methods) if method not in OURS]
    if "decomposition" not in methods or not others:
        most = int(values.argmax())
        return f"{METHODS.get(methods[most], words(methods[most]))} reaches {metric} {percent(float(values[most]))}"
    ours, best = methods.index("decomposition"), max(others, key=lambda k: values[k])
    apart = Interval(
        *(
            float(found[f"difference_{e}"].transpose("method", "other", "metric")[ours, best, at])
            for e in ("low", "high")
        )
    )
    name = METHODS.get(methods[best], words(methods[best]))
    told = f"the best other, {name}, {percent(float(values[best]))} ({evidence.compared(apart)})"
    return f"The decomposition reaches {metric} {percent(float(values[ours]))}; {told}"
