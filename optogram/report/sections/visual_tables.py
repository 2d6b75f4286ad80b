"""Room report: feature visualisation in numbers: methods compared, the spurious cue, reference sets, the tiles."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float

from optogram.metrics import intervals
from optogram.metrics.intervals import Interval
from optogram.report import evidence
from optogram.report.findings import Model, labels, strings
from optogram.report.images import Thumb
from optogram.report.labels import count, number, percent, words
from optogram.report.panels import Context, Table, Tile
from optogram.report.sections.visual_rows import method_name

NONE = "\N{EN DASH}"
REAL = "real"


@dataclass(frozen=True)
class Measure:
    """A column of the table: its variable and heading, whether more is better, how it is written; `ranked` where
    methods compete in it, `of` what says how many it is a share of. NaN is a value that there is not."""

    variable: str
    title: str
    more: bool
    write: Callable[[float], str]
    ranked: bool = True
    of: str = ""

    def cell(self, value: float, total: float) -> str:
        """The value, with its count or interval where it is a share of `total`."""
        if math.isnan(value):
            return NONE
        if not self.of:
            return self.write(value)
        if total < evidence.FEW:
            return evidence.share(value, total)
        return f"{self.write(value)} {evidence.plus_minus(intervals.share_of(value, total).half)}"


MEASURES = (
    Measure("accuracy", "accuracy", True, percent, of="pictures"),
    Measure("fid_own", "FID", False, number),
    Measure("fid_second", "FID, second model", False, number),
    Measure("zero_shot_1", "CLIP top 1", True, percent, of="judged"),
    Measure("zero_shot_5", "CLIP top 5", True, percent, of="judged"),
    Measure("auc_mean", "AUC", True, lambda value: f"{value:.2f}"),
    Measure("mad_mean", "MAD", True, number),
    Measure("cue_shown", "cue seen", True, percent, ranked=False, of="cue_pictures"),
)
SETS = MEASURES[:2] + MEASURES[3:5]
SKIPPED = "skipped_"
FEW = {"few_own": "", "few_second": " (second model)"}


def measured(scores: xr.Dataset, measures: Sequence[Measure]) -> list[tuple[Measure, np.ndarray]]:
    """The measures that are defined somewhere, with their values."""
    found = [(m, scores[m.variable].values.astype(np.float64)) for m in measures if m.variable in scores]
    return [(m, values) for m, values in found if not np.isnan(values).all()]


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
        values, total = values[order], totals(scores, measure)[order]
        defined = ~np.isnan(values)
        for row, value, of in zip(rows, values.tolist(), total.tolist(), strict=True):
            row.append(measure.cell(value, of))
        if measure.ranked:
            if measure.of:
                best |= {(row, column) for row in _level(values, total, competes & defined)}
                continue
            for marks, places in zip((best, second), _ranks(values, competes & defined, measure), strict=True):
                marks |= {(row, column) for row in places}
    return Table(["", *(heading(m) for m, _ in found)], rows, caption(scores), frozenset(best), frozenset(second))


def caption(scores: xr.Dataset) -> str:
    """What is bold in the table, and how many pictures stand behind it."""
    methods, pictures = labels(scores, "method"), scores["pictures"].values
    most = max((int(n) for m, n in zip(methods, pictures, strict=True) if m != REAL), default=0)
    return (
        f"Of {most} pictures a method; real images as a yardstick. Of shares the best in bold, and all that are "
        f"{evidence.NOT_APART} from it (95%); of distances and of {_channels(scores)} the lowest or highest in bold, "
        "the second underlined: of so few they have no interval"
    )


def _channels(scores: xr.Dataset) -> str:
    most = int(scores["channels"].values.max())
    return f"means over {most} channels" if most else "means over channels"


def totals(scores: xr.Dataset, measure: Measure) -> Float[np.ndarray, " method"]:
    """How many pictures a measure is a share of, by method; 0 of what is no share."""
    return scores[measure.of].values.astype(np.float64) if measure.of else np.zeros(scores.sizes["method"])


def _level(
    values: Float[np.ndarray, " method"], total: Float[np.ndarray, " method"], competes: Bool[np.ndarray, " method"]
) -> list[int]:
    """The methods with the largest share, and those not distinguishable from it; nobody where that is all of them."""
    places = np.flatnonzero(competes)
    if not len(places):
        return []
    best = places[values[places].argmax()]
    ends = intervals.share_of(np.where(competes, values, 0), total)
    apart = intervals.difference(values[best], Interval(ends.low[best], ends.high[best]), values, ends)
    found = [int(k) for k in places if k == best or not apart.excludes_zero[k]]
    return [] if len(found) == len(places) else found


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
    few = [f"{number(attrs[name])}{of}" for name, of in FEW.items() if name in attrs]
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
    return percent(float(chance)) if isinstance(chance, int | float) else ""


def set_rows(context: Context, classifier: Model, most: int) -> dict[str, Any]:
    """Tables 5 and 6 with the visualisations that the numbers are about, of at most so many classes."""
    found = classifier.part("reference_sets")
    if found is None:
        return {}
    classes = labels(found, "class")[:most]
    pixels = found["pixels"].transpose("condition", "class", "y", "x", "rgb").values[:, :most]
    grid = context.thumbs.grid(f"sets-{classifier.slug}", pixels)
    table = set_table(found)
    rows: list[tuple[str, list[str], list[Thumb]]] = []
    for row, (name, *cells) in enumerate(table.rows):
        rows.append((name, cells, [grid.thumb(row, column, of, name) for column, of in enumerate(classes)]))
    return {"columns": table.columns[1:], "classes": classes, "rows": rows}


def set_table(found: xr.Dataset) -> Table:
    """Tables 5 and 6 in numbers alone."""
    measures, total = measured(found, SETS), int(found.attrs["pictures"])
    rows = [
        [set_name(condition), *(m.cell(float(values[row]), total) for m, values in measures)]
        for row, condition in enumerate(labels(found, "condition"))
    ]
    says = f"Each of {count(total)} pictures; FID has no interval"
    return Table(["", *(heading(m) for m, _ in measures)], rows, says)


def set_name(condition: str) -> str:
    """A way to choose references, in words."""
    if condition.isdigit():
        return f"{condition} references"
    first, _, count = condition.partition(" ")
    if first == "strangers" and count.isdigit():
        return f"{count} strangers among them"
    return "from another split"


def tiles(context: Context, classifier: Model) -> list[Tile]:
    """The key findings: whether a classifier's visualisations are recognised, and whether they show a cue."""
    scores = classifier.part("visual_scores")
    if scores is None or "vital" not in labels(scores, "method"):
        return []
    # without a CLIP the classifier itself has to tell
    named = _tile(scores, "zero_shot_1", "VITAL's pictures named by CLIP", "best other")
    named = named or _tile(scores, "accuracy", "VITAL's pictures recognised", "best other")
    cue = _tile(scores, "cue_shown", "Spurious cue in VITAL's pictures", _others_of_cue(scores))
    return [tile for tile in (named, cue) if tile is not None]


def headline(context: Context, classifiers: Sequence[Model]) -> list[str]:
    """Whether CLIP names what VITAL drew, and sees the planted cue in it, of all classifiers."""
    named, cue = [], []
    for classifier in classifiers:
        scores = classifier.part("visual_scores")
        if scores is None or "vital" not in labels(scores, "method"):
            continue
        for told, variable, says in (
            (named, "zero_shot_1", "best other"),
            (cue, "cue_shown", _others_of_cue(scores)),
        ):
            found = _against(scores, variable, says)
            if found is not None:
                value, _, others = found
                told.append(f"{classifier.name} {value}{f', {others}' if others else ''}")
    sentences = ("CLIP names VITAL's pictures of classes", named), ("CLIP sees the planted cue in them", cue)
    return [f"{says}: {'; '.join(told)}." for says, told in sentences if told]


def _others_of_cue(scores: xr.Dataset) -> str:
    chance = cue_chance(scores)
    return f"by chance {chance}, others at most" if chance else "others at most"


def _tile(scores: xr.Dataset, variable: str, title: str, others_say: str) -> Tile | None:
    found = _against(scores, variable, others_say)
    if found is None:
        return None
    value, ends, others = found
    methods = labels(scores, "method")
    beside = [ends, *([others] if others else [])]
    if REAL in methods and scores[variable].values[methods.index(REAL)] >= 0:
        beside.append(f"real images {_written(scores, variable)[REAL]}")
    return Tile(title, value, "; ".join(beside))


def _written(scores: xr.Dataset, variable: str) -> dict[str, str]:
    """A measure of each method as the table has it."""
    measure = next(m for m in MEASURES if m.variable == variable)
    found = zip(scores[variable].values.tolist(), totals(scores, measure).tolist(), strict=True)
    return dict(zip(labels(scores, "method"), [measure.cell(*one) for one in found], strict=True))


def _against(scores: xr.Dataset, variable: str, others_say: str) -> tuple[str, str, str] | None:
    """VITAL's value, its interval, and the best other method with the verdict; None where there is no value."""
    methods = labels(scores, "method")
    values = dict(zip(methods, scores[variable].values.tolist(), strict=True))
    if not values["vital"] >= 0:
        return None
    measure = next(m for m in MEASURES if m.variable == variable)
    total = dict(zip(methods, totals(scores, measure).tolist(), strict=True))
    written, ends = _written(scores, variable), evidence.within(intervals.share_of(values["vital"], total["vital"]))
    others = {m: v for m, v in values.items() if m not in ("vital", REAL) and v >= 0}
    if not others:
        return written["vital"], ends, ""
    best = max(others, key=lambda method: others[method])
    sides = (side for m in ("vital", best) for side in (values[m], intervals.share_of(values[m], total[m])))
    told = evidence.compared(intervals.difference(*sides))
    return written["vital"], ends, f"{others_say} {written[best]} ({method_name(best)}, {told})"
