"""Room report: feature visualisation in numbers: methods compared, the spurious cue, reference sets, the tiles."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float

from optogram.report.findings import Model, labels, strings
from optogram.report.formats import number, percent, words
from optogram.report.images import Thumb
from optogram.report.panels import Context, Table
from optogram.report.summary import Tile
from optogram.report.visualisations import UNDEFINED, method_name

NONE = "\N{EN DASH}"
REAL = "real"


@dataclass(frozen=True)
class Measure:
    """A column of the table: its variable and heading, whether more is better, how it is written; `absent` stands
    where there is none, `ranked` where methods compete in it."""

    variable: str
    title: str
    more: bool
    write: Callable[[float], str]
    absent: float = -1.0
    ranked: bool = True


MEASURES = (
    Measure("accuracy", "accuracy", True, percent),
    Measure("fid_own", "FID", False, number),
    Measure("fid_second", "FID, second model", False, number),
    Measure("zero_shot_1", "CLIP top 1", True, percent),
    Measure("zero_shot_5", "CLIP top 5", True, percent),
    Measure("auc_mean", "AUC", True, lambda value: f"{value:.2f}", UNDEFINED),
    Measure("mad_mean", "MAD", True, number, UNDEFINED),
    Measure("cue_shown", "cue seen", True, percent, ranked=False),
)
SETS = MEASURES[:2] + MEASURES[3:5]
SKIPPED = "skipped_"
FEW = {"few_own": "", "few_second": " (second model)"}


def measured(scores: xr.Dataset, measures: Sequence[Measure]) -> list[tuple[Measure, np.ndarray]]:
    """The measures that are defined somewhere, with their values."""
    found = [(m, scores[m.variable].values.astype(np.float64)) for m in measures if m.variable in scores]
    return [(m, values) for m, values in found if bool((values != m.absent).any())]


def score_table(scores: xr.Dataset) -> Table:
    """Tables 1 to 3: a row a method, real images first; best and second best of the methods marked."""
    methods = sorted(labels(scores, "method"), key=lambda method: method != REAL)
    order = [labels(scores, "method").index(method) for method in methods]
    found = measured(scores, MEASURES)
    rows = [[method_name(method)] for method in methods]
    best: set[tuple[int, int]] = set()
    second: set[tuple[int, int]] = set()
    competes = np.array([method != REAL for method in methods])
    for column, (measure, values) in enumerate(found):
        values = values[order]
        defined = values != measure.absent
        for row, value, there in zip(rows, values.tolist(), defined, strict=True):
            row.append(measure.write(value) if there else NONE)
        if measure.ranked:
            for marks, places in zip((best, second), _ranks(values, competes & defined, measure), strict=True):
                marks |= {(row, column) for row in places}
    caption = "Best in bold, second underlined, real images as a yardstick"
    return Table(["", *(heading(m) for m, _ in found)], rows, caption, frozenset(best), frozenset(second))


def heading(measure: Measure) -> str:
    """A measure with an arrow that says which way is better."""
    return f"{measure.title}\N{NO-BREAK SPACE}{'↑' if measure.more else '↓'}" if measure.ranked else measure.title


def _ranks(
    values: Float[np.ndarray, " method"], competes: Bool[np.ndarray, " method"], measure: Measure
) -> tuple[list[int], list[int]]:
    """The methods that are best and second best as the numbers are written; nobody where all are alike."""
    written = [measure.write(float(value)) for value in values]
    places = np.flatnonzero(competes).tolist()
    order = sorted(places, key=lambda k: -values[k] if measure.more else values[k])
    texts = list(dict.fromkeys(written[k] for k in order))
    if len(texts) < 2:
        return [], []
    first, second = ([k for k in places if written[k] == text] for text in texts[:2])
    return first, second


def notes(scores: xr.Dataset) -> list[str]:
    """What the table's numbers are, and why some are not there."""
    attrs = scores.attrs
    told = ["FID is the Fréchet distance to real images in penultimate features; real images: one half to the other."]
    few = [f"{number(attrs[name])}{of}" for name, of in FEW.items() if attrs.get(name, -1) >= 0]
    if few:
        told.append(f"As many real images as a method has pictures are {' and '.join(few)} away.")
    if attrs.get("second"):
        told.append(f"The second model is {attrs['second']}.")
    if attrs.get("clip"):
        told.append(f"CLIP is {attrs['clip']}.")
    if any(m.variable == "auc_mean" for m, _ in measured(scores, MEASURES)):
        told.append(
            "AUC and MAD: how far a neuron is more active on its visualisation than on its references, the patches "
            "that excite it most (alike: 0.5 and 0)."
        )
    skipped = sorted((key.removeprefix(SKIPPED), why) for key, why in attrs.items() if key.startswith(SKIPPED) and why)
    return told + [f"Without {words(name)}: {why}" for name, why in skipped]


def cues(scores: xr.Dataset) -> list[dict[str, Any]]:
    """For each class that goes with another attribute's value in the training images: how often CLIP sees this value
    in its visualisations, ours first."""
    if not {"cue", "seen"} <= set(scores):
        return []
    methods, targets, attributes = (labels(scores, dim) for dim in ("method", "target", "attribute"))
    seen = strings(scores["seen"].transpose("target", "method", "seed", "attribute"))
    found = []
    for name, cue in zip(labels(scores, "class"), strings(scores["cue"]).tolist(), strict=True):
        attribute, _, value = cue.partition(": ")
        if name not in targets or attribute not in attributes:
            continue
        here = seen[targets.index(name), :, :, attributes.index(attribute)]
        shares = []
        for method, values in zip(methods, here, strict=True):
            looked = [str(one) for one in values if one]
            if looked:
                shares.append((method_name(method), f"{looked.count(value)} of {len(looked)}"))
        if shares:
            ours = [share for share in shares if share[0] == method_name("vital")] or shares[:1]
            others = [share for share in shares if share not in ours and share[0] != method_name(REAL)]
            found.append({"class": name, "cue": f"{attribute} {value}", "ours": ours[0], "others": others})
    return found


def cue_chance(scores: xr.Dataset) -> str:
    """By chance CLIP would see a cue this often; "" if that is not known."""
    chance = scores.attrs.get("cue_chance")
    return percent(float(chance)) if isinstance(chance, int | float) and chance >= 0 else ""


def set_rows(context: Context, classifier: Model, most: int) -> dict[str, Any]:
    """Tables 5 and 6 with the visualisations that the numbers are about, of at most so many classes."""
    found = classifier.part("reference_sets")
    if found is None:
        return {}
    conditions, classes = labels(found, "condition"), labels(found, "class")[:most]
    pixels = found["pixels"].transpose("condition", "class", "y", "x", "rgb").values[:, :most]
    grid = context.thumbs.grid(f"sets-{classifier.slug}", pixels)
    measures = measured(found, SETS)
    rows: list[tuple[str, list[str], list[Thumb]]] = []
    for row, condition in enumerate(conditions):
        name = set_name(condition)
        cells = [m.write(float(v[row])) if v[row] != m.absent else NONE for m, v in measures]
        rows.append((name, cells, [grid.thumb(row, column, of, name) for column, of in enumerate(classes)]))
    return {"columns": [heading(m) for m, _ in measures], "classes": classes, "rows": rows}


def set_name(condition: str) -> str:
    """A way to choose references, in words."""
    if condition.isdigit():
        return f"{condition} references"
    first, _, count = condition.partition(" ")
    if first == "strangers" and count.isdigit():
        return f"{count} strangers among them"
    return "from another split"


def tiles(classifiers: Sequence[Model]) -> list[Tile]:
    """The key findings: whether each classifier's visualisations are recognised, and whether they show a cue."""
    found = []
    for classifier in classifiers:
        scores = classifier.part("visual_scores")
        if scores is None or "vital" not in labels(scores, "method"):
            continue
        of = f", {classifier.name}" if len(classifiers) > 1 else ""
        named = _tile(scores, "zero_shot_1", f"VITAL's pictures named by CLIP{of}", "best other")
        # without a CLIP the classifier itself has to tell
        found.append(named or _tile(scores, "accuracy", f"VITAL's pictures recognised{of}", "best other"))
        chance = cue_chance(scores)
        others = f"by chance {chance}; others at most" if chance else "others at most"
        found.append(_tile(scores, "cue_shown", f"Spurious cue in VITAL's pictures{of}", others))
    return [tile for tile in found if tile is not None]


def _tile(scores: xr.Dataset, variable: str, title: str, others_say: str) -> Tile | None:
    methods = labels(scores, "method")
    values = dict(zip(methods, scores[variable].values.tolist(), strict=True))
    if values["vital"] < 0:
        return None
    others = {m: v for m, v in values.items() if m not in ("vital", REAL) and v >= 0}
    beside = []
    if others:
        best = max(others, key=lambda method: others[method])
        beside.append(f"{others_say} {percent(others[best])} ({method_name(best)})")
    if values.get(REAL, -1) >= 0:
        beside.append(f"real images {percent(values[REAL])}")
    return Tile(title, percent(values["vital"]), "; ".join(beside), "visualisations")
