"""Room report: phrases of neurons that mislead the model, how often, and on which images."""

from typing import Any

import numpy as np
import xarray as xr

from optogram.metrics.adversarial import leads
from optogram.metrics.intervals import Interval
from optogram.report import evidence
from optogram.report.findings import Model, labels, strings
from optogram.report.images import Grid
from optogram.report.labels import MINED, count, number, percent, points, signed, words
from optogram.report.panels import Context, Panel, Table

PHRASES = 10
"""Phrases of a task that are listed."""


def adversarial(context: Context, model: Model) -> Panel:
    """Table 3.3, the phrases behind it, and some of the images."""
    panel = context.panel(model, "adversarial")
    found = model.part("adversarial")
    if found is None:
        return panel
    methods = labels(found, "method")
    order = sorted(range(len(methods)), key=lambda k: (list(MINED).index(methods[k]) if methods[k] in MINED else -1, k))
    found = found.isel(method=order)
    methods, tasks = labels(found, "method"), labels(found, "task")
    fooled, made_images = (found[name].transpose("task", "method", "repeat").values for name in ("fooled", "images"))
    share = fooled / np.maximum(made_images, 1)
    share, names = np.concatenate([share, share.mean(0, keepdims=True)]), [*tasks, "mean over tasks"]
    mean = 100 * share.mean(-1)
    clean = found["accuracy"].values.astype(np.float64)
    rows = [
        [name, *(f"{m:.1f} (±{s:.1f})" for m, s in zip(mean[k], 100 * share[k].std(-1), strict=True)), percent(right)]
        for k, (name, right) in enumerate(zip(names, [*clean, clean.mean()], strict=True))
    ]
    best = np.argwhere(_ahead_of_all(found))
    repeats = found.sizes["repeat"]
    caption = (
        f"Images of 100 taken for the other class (± standard deviation over {repeats} repeats of "
        f"{count(int(made_images.max()))} images). In bold what is ahead of every other method, where its 95% interval "
        "excludes 0: of few repeats little can be told"
    )
    columns = ["task", *(MINED.get(m, words(m)) for m in methods), "accuracy on eval"]
    panel.tables.append(Table(columns, rows, caption, frozenset((int(r), int(c)) for r, c in best)))
    if "second_order" in methods:
        panel.folded.append(_leads(found))
    # the images by the neurons' second-order effects, or by the only method there is
    shown = found.isel(method=methods.index("second_order") if "second_order" in methods else -1)
    pixels = shown["pixels"].transpose("task", "shown", "y", "x", "rgb").values
    grid = context.thumbs.grid(f"misled-{model.slug}", pixels)
    panel.extra = {"tasks": [_task(grid, row, shown) for row in range(len(tasks))]}
    return panel


def _ahead_of_all(found: xr.Dataset) -> np.ndarray:
    """Which method, if any, is distinguishably ahead of all others in each task, and in their mean."""
    every = [leads(found, method)["low"].values > 0 for method in labels(found, "method")]
    if len(every) < 2:
        return np.zeros((found.sizes["task"] + 1, len(every)), bool)
    return np.stack([np.delete(low, k, axis=1).all(1) for k, low in enumerate(every)], 1)


def _leads(found: xr.Dataset) -> Table:
    """How far second-order effects are ahead of each other method."""
    lead = leads(found)
    others = [method for method in labels(lead, "method") if method != "second_order"]
    rows = []
    for task in labels(lead, "task"):
        here = [lead.sel({"task": task, "method": method}) for method in others]
        rows.append([task, *(f"{points(float(o.lead))} ({evidence.moved(Interval(o.low, o.high))})" for o in here)])
    caption = "How many more of 100 images second-order effects mislead than each other method, with 95% intervals"
    return Table(["task", *(f"than {MINED.get(m, words(m)).lower()}" for m in others)], rows, caption)


def _task(grid: Grid, row: int, found: xr.Dataset) -> dict[str, Any]:
    """A task's phrases and images."""
    task, score = labels(found, "task")[row], found["score"].isel(task=row).values
    here = found.isel(task=row)
    phrases = [(str(text), number(float(score[k]))) for k, text in enumerate(strings(here["phrase"])) if text]
    images = [
        {
            "thumb": grid.thumb(row, k, f"{task}, {k + 1}"),
            "text": str(text),
            "margin": signed(float(here["margin"].values[k])),
        }
        for k, text in enumerate(strings(here["description"]))
        if text
    ]
    return {"name": task, "phrases": phrases[:PHRASES], "images": images}
