"""Room report: counterfactuals of the family guidance: whether they show the class asked for, beside their controls."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import xarray as xr

from optogram.methods.guidance.conditions import FOUND, PIXELS, SWAPPED, agreed_flips
from optogram.metrics.counterfactual_summaries import against, summary
from optogram.metrics.intervals import Interval
from optogram.report import evidence
from optogram.report.charts import counterfactuals as charts
from optogram.report.charts.plotly import plot
from optogram.report.findings import Model, labels, params_of
from optogram.report.labels import count, number, percent, points, words
from optogram.report.panels import Context, Panel, Table, Tile
from optogram.report.section import Section
from optogram.report.sections import counterfactual_pictures as pictures
from optogram.report.sections.counterfactual_pictures import classifier_of, listed, lookers

KIND = "counterfactuals"
SHOWN = 4
"""Images of a group that are seen before anything is opened."""
FEWER = {"lower": "clearly fewer", "higher": "clearly more", evidence.NOT_APART: evidence.NOT_APART}


@dataclass(frozen=True)
class Measure:
    """A row of the tables: what it is, and the variable that it is a mean of; of `agreement` that of one model.

    every: of `agreement`, that all agree, over all images and not only over those that flipped.
    """

    title: str
    variable: str
    form: Literal["count", "share", "number"] = "number"
    model: str | None = None
    every: bool = False


def changed(context: Context, model: Model) -> Panel:
    """What was changed in each image, and the numbers of all conditions."""
    panel = context.panel(model, KIND)
    found = model.part(KIND)
    if found is None:
        return panel
    rows = pictures.changes(context, model, found)
    panel.extra = {"changes": rows[:SHOWN], "more": rows[SHOWN:]}
    panel.says = _says(model, found)
    panel.notes = _notes(model, found)
    panel.galleries = [pictures.controls(context, model, found)]
    panel.plots = [
        plot(f"counterfactual-loss-{model.slug}", charts.losses(found)),
        plot(f"counterfactual-cout-{model.slug}", charts.transitions(found)),
    ]
    panel.tables = [_table(model, found), _differences(model, found)]
    return panel


def tiles(context: Context, model: Model) -> list[Tile]:
    """What is flipped, by whom, what else stayed, and how good the inversions are."""
    found = model.part(KIND)
    if found is None:
        return []
    told, who = [], classifier_of(model, found)
    if lookers(found):
        told.append(_beside(f"flipped by {who} and by all that had no part", found, agreed_flips(found)))
    told.append(_beside(f"flipped by {who}", found, found["flip"]))
    if "kept" in found:
        mean = summary(found[["kept"]].sel(condition=FOUND, drop=True))
        told.append(
            Tile("other attributes kept, by the judge", percent(float(mean["kept"]), 0), _ends(mean, "kept", _share))
        )
    decibels = found["inversion_psnr"].values.astype(np.float64)
    beside = f"the worst {number(float(decibels.min()))} dB"
    told.append(Tile("PSNR of inversions, mean", f"{number(float(decibels.mean()))} dB", beside))
    return told


def headline(context: Context, models: Sequence[Model]) -> list[str]:
    """One sentence or two a group: how many are agreed on, beside the controls."""
    return [_said(model, found) for model in models if (found := model.part(KIND)) is not None]


def _said(model: Model, found: xr.Dataset) -> str:
    who, names, total = classifier_of(model, found), lookers(found), found.sizes["image"]
    if not names:
        hits, plain = (_hits(found["flip"], condition) for condition in (FOUND, PIXELS))
        return (
            f"{model.name}: {count(hits)} of {count(total)} counterfactuals flip {who}, and of pixels alone "
            f"{count(plain)}; nobody else looked, so that nothing tells whether they show what was asked for."
        )
    agreed = agreed_flips(found)
    hits, plain, start = (_hits(agreed, condition) for condition in (FOUND, PIXELS, SWAPPED))
    by_pixels, by_caption = (_apart(found, condition) for condition in (PIXELS, SWAPPED))
    told = (
        f"{model.name}: in {count(hits)} of {count(total)} counterfactuals {listed([who, *names])} all see the class "
        f"asked for; with pixels alone in {count(plain)} ({FEWER[by_pixels]}), with the caption swapped and no search "
        f"in {count(start)} ({FEWER[by_caption]})."
    )
    if by_pixels != "lower":
        told += " That they are more than pictures that deceive one model is not shown."
    elif by_caption != "lower":
        told += " That the search adds to the swapped caption is not shown."
    return told


def _beside(title: str, found: xr.Dataset, hits: xr.DataArray) -> Tile:
    """A count of hits with its interval, beside those of the controls."""
    total = found.sizes["image"]
    each = {name: evidence.counted(_hits(hits, name) / total, total) for name in labels(found, "condition")}
    value, _, ends = each.pop(FOUND).partition(" (")
    rest = ", ".join(f"{name} {told}" for name, told in each.items())
    return Tile(title, value, f"{ends.removesuffix(')')}; {rest}")


def _hits(hits: xr.DataArray, condition: str) -> int:
    return int(hits.sel(condition=condition).sum())


def _apart(found: xr.Dataset, condition: str) -> str:
    """Whether fewer or more pictures of a control are agreed on, as far as that can be told."""
    gain = against(*(_agreed(found, name) for name in (FOUND, condition)))
    return evidence.compared(Interval(float(gain["agreement_low"]), float(gain["agreement_high"])))


def _agreed(found: xr.Dataset, condition: str) -> xr.Dataset:
    """That all agree, under a name that is a share to `summary`."""
    return xr.Dataset({"agreement": agreed_flips(found).sel(condition=condition, drop=True).astype(np.float64)})


def _says(model: Model, found: xr.Dataset) -> str:
    which, to = ("wrongly", "their own class") if found.attrs["kind"] == "errors" else ("rightly", "another class")
    who, names = classifier_of(model, found), lookers(found)
    told = f"Images that {who} sees {which} are changed until it sees {to}; classes are of the "
    told += f"{words(str(found.attrs['attribute']))}. The pictures are drawn by {pictures.drawer_of(model, found)}. "
    return told + (f"Looked at by {listed(names)}, without a part." if names else "Nobody else looked at them.")


def _notes(model: Model, found: xr.Dataset) -> list[str]:
    """What a flip is worth, images that were left out, and searches that did not run to their end."""
    told, total = [_worth(model, found)], found.sizes["image"]
    chosen = int(found.attrs["chosen"])
    if left := chosen - total:
        params = params_of(found).get(KIND)
        least = params.get("least") if isinstance(params, dict) else None
        below = "was too poor" if least is None else f"has a PSNR below {least:g} dB"
        told.append(f"{count(left)} of {count(chosen)} images are left out, as their inversion {below}.")
    status = found["status"].values.astype(str).tolist()
    ends = {
        "stopped": "stopped early, as their loss was low enough",
        "diverged": "diverged; of these the best is shown",
    }
    told += [f"{count(status.count(s))} of {count(total)} searches {end}." for s, end in ends.items() if s in status]
    return told


def _worth(model: Model, found: xr.Dataset) -> str:
    who, names, total = classifier_of(model, found), lookers(found), found.sizes["image"]
    flips, plain = (_hits(found["flip"], condition) for condition in (FOUND, PIXELS))
    told = f"Of {count(total)} images {who} is flipped in {'all' if flips == total else count(flips)}"
    more = f"{'all' if plain == total else count(plain)}"
    told += f", but pixels alone do that in {more} too" if plain >= flips else f", with pixels alone in {more}"
    if not names:
        return f"{told}. What would tell the two apart is a model without a part, and there is none here."
    agreed = agreed_flips(found)
    mine, theirs = (count(_hits(agreed, condition)) for condition in (FOUND, PIXELS))
    return f"{told}. What tells is whether models without a part agree: in {mine}, against {theirs} with pixels alone."


def _measures(model: Model, found: xr.Dataset) -> list[Measure]:
    """The rows of the tables, those of which the artifact has something."""
    who = classifier_of(model, found)
    told = [Measure(f"flipped by {who}", "flip", "count")]
    for name, said in zip(labels(found, "model"), lookers(found), strict=True) if lookers(found) else ():
        told.append(Measure(f"{said} agrees, of those flipped", "agreement", "count", name))
    if lookers(found):
        told.append(Measure("flipped, and all without a part agree", "agreement", "count", every=True))
    told += [
        Measure("probability of the class asked for", "target_after", "share"),
        Measure("… above 80%", "confident", "count"),
        Measure("other attributes kept", "kept", "share"),
        Measure("attributes changed (MNAC)", "attributes_changed"),
        Measure("change outside of the object", "background_l1"),
        Measure("change inside of it", "inside_l1"),
        Measure("COUT", "cout"),
    ]
    return [one for one in told if one.variable in found]


def _table(model: Model, found: xr.Dataset) -> Table:
    """A measure a row, a condition a column."""
    conditions, measures = labels(found, "condition"), _measures(model, found)
    rows = [[one.title, *(_cell(one, summary(_of(found, one, name))) for name in conditions)] for one in measures]
    caption = (
        f"All conditions, over {count(found.sizes['image'])} images, with 95% intervals. Changes are mean absolute "
        "differences of colours in [0, 1]. The class asked for is the counterfactual's, also of the control that is "
        "led to another class"
    )
    return Table(["measure", *conditions], rows, caption)


def _differences(model: Model, found: xr.Dataset) -> Table:
    """How far counterfactuals are from each control on the same images."""
    controls, rows, clear = [name for name in labels(found, "condition") if name != FOUND], [], set()
    for at, one in enumerate(_measures(model, found)):
        row = [one.title]
        for column, name in enumerate(controls):
            gain = against(_of(found, one, FOUND), _of(found, one, name))
            row.append(_gain(one, gain, found.sizes["image"]))
            if int(gain[f"{one.variable}_of"]) and bool(_interval(one, gain).excludes_zero):
                clear.add((at, column))
        rows.append(row)
    caption = (
        "Counterfactuals less each control, image by image, with 95% intervals; shares in points. In bold what "
        "excludes 0. Intervals are of one difference each: of twenty that are nothing one is expected to exclude 0"
    )
    return Table(["measure", *(f"less {name}" for name in controls)], rows, caption, frozenset(clear))


def _of(found: xr.Dataset, one: Measure, condition: str) -> xr.Dataset:
    """The variable of a measure, of a condition, an image a row."""
    if one.every:
        return _agreed(found, condition)
    here = found[[one.variable]].sel(condition=condition, drop=True)
    return here if one.model is None else here.sel(model=one.model, drop=True)


def _interval(one: Measure, told: xr.Dataset) -> Interval:
    return Interval(*(float(told[f"{one.variable}_{end}"]) for end in ("low", "high")))


def _cell(one: Measure, told: xr.Dataset) -> str:
    """A count or mean, and its interval where there is one."""
    value, of = float(told[one.variable]), int(told[f"{one.variable}_of"])
    if not of:
        return "none" if one.variable == "agreement" else "n/a"
    if one.form == "count":
        return _unbroken(evidence.counted(value, of))
    write = number if one.form == "number" else _share
    return _unbroken(f"{write(value)} ({_ends(told, one.variable, write)})") if of > 1 else write(value)


def _gain(one: Measure, told: xr.Dataset, total: int) -> str:
    value, of = float(told[one.variable]), int(told[f"{one.variable}_of"])
    if not of:
        return "none in both" if one.variable == "agreement" else "n/a"
    write = number if one.form == "number" else points
    ends = f" ({_ends(told, one.variable, write)})" if np.isfinite(_interval(one, told).half) else ""
    return _unbroken(f"{write(value)}{ends}{f' of {count(of)}' if of < total else ''}")


def _share(value: float) -> str:
    """As per cent; the end of an interval of a mean of shares may lie outside of what a share can be."""
    return percent(float(np.clip(value, 0, 1)))


def _unbroken(cell: str) -> str:
    """A cell that breaks before its interval, if at all."""
    value, bracket, ends = cell.partition(" (")
    return value + bracket + ends.replace(" ", "\N{NO-BREAK SPACE}")


def _ends(told: xr.Dataset, name: str, write: Callable[[float], str]) -> str:
    """The ends of an interval; nothing is known of a mean of one."""
    low, high = (float(told[f"{name}_{end}"]) for end in ("low", "high"))
    return f"{write(low)} to {write(high)}" if np.isfinite(low) and np.isfinite(high) else "of one image"


SECTIONS: tuple[Section, ...] = (
    Section(
        KIND,
        "Images that become another class",
        "Universal visual counterfactuals (DiG-IN, section 5): an image is inverted into a diffusion model, the class "
        "in its caption is swapped, and the drawing is optimised until the classifier sees the other class, while what "
        "lies outside of the object stays. Any classifier can be flipped by changing pixels; a counterfactual shows "
        "something only if others, who had no part in the search, see the class too.",
        ("counterfactuals/{group}",),
        changed,
        tiles=tiles,
        headline=headline,
        template="counterfactuals.html",
    ),
)
