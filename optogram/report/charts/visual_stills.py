"""Room report: a classifier's feature visualisations -> the title, caption and sheet of its still figures."""

import numpy as np
import xarray as xr
from jaxtyping import UInt8

from optogram.report.charts.sheet import MARGIN, SMALL, TINY, WIDTH, Drawn, Sheet, fit, width_of
from optogram.report.findings import Model, labels, strings
from optogram.report.sections.visual_rows import METHODS, method_name
from optogram.report.sections.visual_tables import score_table

CLASSES = 10
"""Classes in the gallery, at most."""
CELL, GAP = 1.15, 0.12
"""Inches a side of a picture, at most, and between two."""


def gallery(classifier: Model) -> Drawn | None:
    """Figure 4: classes down, a reference and each method's picture across; None where there are no pictures."""
    targets = classifier.part("targets")
    parts = [part for kind in METHODS if (part := classifier.part(kind)) is not None]
    if targets is None or not parts:
        return None
    names, kinds = labels(targets, "target"), strings(targets["kind"]).tolist()
    classes = [k for k, kind in enumerate(kinds) if kind == "class"]
    if not classes:
        return None
    columns = [(part, method) for part in parts for method in labels(part, "method")]
    title = "Class visualisations, by method"
    reading = "Each row is a class: a real image of it, then what each method drew for it, with the first seed."
    seen = _seen(classifier)
    if seen:
        reading += " Below each picture: the class that the classifier takes it for."
    shown, more = classes[:CLASSES], len(classes) - len(classes[:CLASSES])
    room = min(1.6, max(width_of(fit(names[k], 1.6)) for k in shown)) + 0.15
    side = min(CELL, (WIDTH - 2 * MARGIN - room) / (len(columns) + 1) - GAP)
    step = side + (0.32 if seen else 0.12)
    sheet = Sheet(title, classifier.name, reading, step * len(shown) + 0.5)
    top, left = sheet.top + 0.3, MARGIN + room
    heads = ["real", *(method_name(method) for _, method in columns)]
    for column, head in enumerate(heads):
        x = left + column * (side + GAP)
        sheet.text(x, top - 0.1, sheet.name(head, side + GAP - 0.05, SMALL), size=SMALL, colour="--muted")
    for row, at in enumerate(shown):
        y = top + row * step
        sheet.text(MARGIN, y + side / 2, sheet.name(names[at], room - 0.15), va="center")
        _picture(sheet, left, y, side, _pixels(targets.isel(target=at, shown=0)))
        for column, (part, method) in enumerate(columns, 1):
            x = left + column * (side + GAP)
            pixels, status = _drawn(part, names[at], method)
            if pixels is None:
                why = fit(status, side, TINY)
                sheet.text(x + side / 2, y + side / 2, why, size=TINY, colour="--muted", ha="center")
                continue
            _picture(sheet, x, y, side, pixels)
            predicted = status if status != "done" else seen.get((names[at], method), "")
            if predicted:
                right = predicted == names[at]
                mark = "" if status != "done" else "✓ " if right else "✗ "
                text = mark + sheet.name(predicted, side - width_of(mark, TINY), TINY)
                sheet.text(x, y + side + 0.15, text, size=TINY, colour="--a2" if right else "--hot")
    rest = f" {more} more classes are in the report." if more else ""
    caption = (
        f"Feature visualisations of the classes of {classifier.name} by {_listed(heads[1:])}, beside a real image of "
        f"each class (Figure 4).{rest}"
    )
    return title, caption, sheet


def visual_scores(classifier: Model) -> Drawn | None:
    """Tables 1 to 3 as a picture; None where nothing was scored."""
    scores = classifier.part("visual_scores")
    if scores is None:
        return None
    table = score_table(scores)
    title = "Feature visualisation in numbers"
    reading = f"{table.caption}."
    step, room = 0.34, 1.5
    columns = [name.replace("\N{NO-BREAK SPACE}", " ") for name in table.columns[1:]]
    sheet = Sheet(title, classifier.name, reading, step * (len(table.rows) + 1) + 0.45)
    wide = (WIDTH - 2 * MARGIN - room) / max(len(columns), 1)
    top = sheet.top + 0.3
    for column, name in enumerate(columns):
        words = _two_lines(name, wide - 0.12)
        for line, part in enumerate(words):
            y = top - 0.17 * (len(words) - 1 - line)
            sheet.text(MARGIN + room + wide * (column + 1), y, part, size=SMALL, colour="--muted", ha="right")
    for row, (name, *cells) in enumerate(table.rows):
        y = top + step * (row + 1)
        sheet.rule(MARGIN, WIDTH - MARGIN, y - 0.23, "--line", 0.8)
        sheet.text(MARGIN, y, sheet.name(name, room - 0.1))
        for column, cell in enumerate(cells):
            x, best = MARGIN + room + wide * (column + 1), (row, column) in table.best
            sheet.text(x, y, cell, ha="right", bold=best)
            if (row, column) in table.second:
                sheet.rule(x - width_of(cell), x, y + 0.04, "--ink", 1.0)
    caption = (
        f"Visualisations of {classifier.name} scored: accuracy of the classifier on those of classes, Fréchet distance "
        "to real images, zero-shot accuracy by CLIP, and AUC and MAD of inner neurons (Tables 1 to 3)."
    )
    return title, caption, sheet


def _seen(classifier: Model) -> dict[tuple[str, str], str]:
    """What the classifier takes each target's picture for, by target and method, with the first seed."""
    scores = classifier.part("visual_scores")
    if scores is None:
        return {}
    found = strings(scores["predicted"].transpose("target", "method", "seed").isel(seed=0))
    targets, methods = labels(scores, "target"), labels(scores, "method")
    return {(t, m): str(found[j, k]) for j, t in enumerate(targets) for k, m in enumerate(methods)}


def _drawn(part: xr.Dataset, target: str, method: str) -> tuple[UInt8[np.ndarray, "y x rgb"] | None, str]:
    """A picture and its status; None where it is not defined."""
    names = labels(part, "target")
    if target not in names:
        return None, "not run"
    here = part.isel(target=names.index(target), method=labels(part, "method").index(method), seed=0)
    status = str(here["status"].item())
    return (None if status.startswith("not ") else _pixels(here)), status


def _pixels(one: xr.Dataset) -> UInt8[np.ndarray, "y x rgb"]:
    return one["pixels"].transpose("y", "x", "rgb").values


def _picture(sheet: Sheet, left: float, top: float, side: float, pixels: UInt8[np.ndarray, "y x rgb"]) -> None:
    axes = sheet.axes(left, top, side, side)
    axes.imshow(pixels, interpolation="nearest", aspect="auto")


def _two_lines(text: str, room: float) -> list[str]:
    """A heading on as many lines as it needs."""
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}".strip()
        fits = width_of(longer, SMALL) <= room or not lines[-1]
        lines[-1:] = [longer] if fits else [lines[-1], word]
    return lines


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
