"""Room report: pictures on which two classifiers disagree, what was planted in them, and real images like them."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from optogram.metrics.intervals import share
from optogram.metrics.planted_values import TIED, UNTIED, real_share
from optogram.report.findings import Model, labels, strings
from optogram.report.labels import count, p_value, percent, points, words
from optogram.report.panels import Context, Gallery, Panel, Picture, Table, Tile
from optogram.report.section import Section

KIND = "disagreement"
START, FOUND = "start", "found"
NEAREST = 12
"""Real images of a class in the gallery."""


def panel(context: Context, model: Model) -> Panel:
    """The wall of pictures, what was planted in them, who sees what, and real images like them."""
    shown = context.panel(model, KIND)
    if (found := model.part(KIND)) is None:
        return shown
    one, other = (str(found.attrs[name]) for name in ("one", "other"))
    shown.says = f"{model.name}: {one} is led to see the class, and {other} not to."
    shown.pictures_first = True
    shown.galleries = [_wall(context, model, found)]
    if "planted" in found:
        shown.tables.append(_planted(found))
    shown.tables.append(_confidences(found))
    if "near_image" in found:
        shown.tables.append(_near(found))
        shown.galleries.append(_similar(context, found))
    if "judged" in found and found.attrs["cue"]:
        shown.folded.append(_values(found))
    shown.notes = _notes(found)
    return shown


def tiles(context: Context, model: Model) -> list[Tile]:
    """How many pictures come to be disagreed on, and how many show what was planted."""
    if (found := model.part(KIND)) is None:
        return []
    one, other = (str(found.attrs[name]) for name in ("one", "other"))
    apart = [percent(float(found["disagree"].sel(condition=name).mean()), 0) for name in (START, FOUND)]
    told = [Tile(f"pictures of which {one} sees the class, {other} not", apart[1], f"at the start {apart[0]}")]
    for group, of in ((TIED, "classes that were tied to a"), (UNTIED, "other classes, with such a")):
        if "planted" in found and group in found["group"]:
            start, after = (percent(value, 0) for value in _shares(found, group))
            told.append(Tile(f"{of} {words(str(found.attrs['cue']))}: it is seen in", after, f"at the start {start}"))
    return told


def headline(context: Context, models: Sequence[Model]) -> list[str]:
    """One sentence or two a pair, negatives included."""
    return [_said(found) for model in models if (found := model.part(KIND)) is not None]


def _said(found: xr.Dataset) -> str:
    one, other = (str(found.attrs[name]) for name in ("one", "other"))
    if "planted" not in found or TIED not in found["group"]:
        start, after = (int(found["disagree"].sel(condition=name).sum()) for name in (START, FOUND))
        told = (
            f"{one} is led to see what {other} does not in {count(after)} of {count(found.sizes['image'])} pictures, "
        )
        return f"{told}at the start in {count(start)}."
    cue, here = words(str(found.attrs["cue"])), found.sel(group=TIED)
    start, after = (percent(value, 0) for value in _shares(found, TIED))
    told = f"Led to see what {other} does not, {one} gets the {cue} planted with the class in {after} of the pictures, "
    told += f"at the start in {start} ({p_value(float(here['gain_p']))})"
    real = real_share(found)
    among = f" Of the real images on which they disagree so, {percent(real, 0)} have it." if np.isfinite(real) else ""
    return f"{told}: {_verdict(found)}.{among}"


def _verdict(found: xr.Dataset) -> str:
    """Whether the search brings up what was planted, in tied classes and not elsewhere."""
    here = found.sel(group=TIED)
    if float(here["gain"]) <= 0:
        return "not more, so that this does not bring up what was planted"
    if float(here["gain_low"]) <= 0:
        return "too few more to be told from chance"
    if not bool(here["twice"]):
        return "more, but not twice as many"
    if UNTIED not in found["group"]:
        return "at least twice as many"
    before, later = (percent(value, 0) for value in _shares(found, UNTIED))
    beside = f"with classes that nothing was planted with each of these is in {later}, at the start in {before}"
    if bool(found["twice"].sel(group=UNTIED)):
        return f"at least twice as many; but so it is elsewhere, for {beside}"
    return f"at least twice as many; {beside}, which is not"


def _shares(found: xr.Dataset, group: str) -> list[float]:
    return [float(found["planted"].sel(group=group, condition=name)) for name in (START, FOUND)]


def _wall(context: Context, model: Model, found: xr.Dataset) -> Gallery:
    """A class a row: each start beside what was found from it, both confidences beneath."""
    pixels = found["pixels"].transpose("image", "condition", "y", "x", "rgb").values
    grid = context.thumbs.grid(f"disagreement{model.slug}", pixels)
    confidence = found["confidence"].transpose("image", "condition", "model").values
    conditions, ids = labels(found, "condition"), labels(found, "image")
    wanted, rows = strings(found["wanted"]), []
    for name in labels(found, "class"):
        pictures = []
        for at in np.flatnonzero(wanted == name).tolist():
            for column, condition in enumerate(conditions):
                thumb = grid.thumb(at, column, f"{ids[at]}, {condition}")
                below = ("→ " if condition == FOUND else "") + _both(confidence[at, column])
                pictures.append(Picture(thumb, below, says=_seen(found, at, column)))
        rows.append((name, _tie(found, name), pictures))
    one, other = labels(found, "model")[:2]
    return Gallery(
        rows, title=f"Each start, then what was found from it; below, how sure {one} | {other} are of the class"
    )


def _seen(found: xr.Dataset, at: int, column: int) -> str:
    """Who says what of a picture."""
    said = strings(found["says"].transpose("image", "condition", "model"))[at, column]
    told = ", ".join(f"{name} sees {value}" for name, value in zip(labels(found, "model"), said, strict=True))
    if "judged" in found:
        seen = strings(found["judged"].transpose("image", "condition", "attribute"))[at, column]
        told += f"; the judge: {', '.join(value for value in seen if value) or 'nothing'}"
    return told


def _tie(found: xr.Dataset, name: str) -> str:
    value = strings(found["tied"])[labels(found, "class").index(name)]
    return f"planted with {words(str(found.attrs['cue']))} {value}" if value else ""


def _both(confidence: np.ndarray) -> str:
    return " | ".join(percent(float(value), 0) for value in confidence[:2])


def _planted(found: xr.Dataset) -> Table:
    """A class a row, then all together."""
    cue, rows = words(str(found.attrs["cue"])), []
    tied = dict(zip(labels(found, "class"), strings(found["tied"]), strict=True))
    for name in labels(found, "group"):
        here = found.sel(group=name)
        known = [here[of].values.tolist() for of in ("planted", "planted_low", "planted_high")]
        cells = ["{} ({} to {})".format(*(percent(value, 0) for value in of)) for of in zip(*known, strict=True)]
        moved = [points(float(here[of])) for of in ("gain", "gain_low", "gain_high")]
        row = [name, tied.get(name) or ("their own" if name == TIED else "each of these"), *cells]
        row += [f"{moved[0]} ({moved[1]} to {moved[2]})", p_value(float(here["gain_p"]))]
        rows.append([*row, "yes" if bool(here["twice"]) else "no", count(int(here["pictures"]))])
    columns = ["class", f"planted {cue}", "seen at the start", "as found", "gain in points", "by chance", "twice"]
    caption = f"Pictures in which the judge sees the planted {cue}, with 95% intervals"
    return Table([*columns, "pictures"], rows, caption)


def _confidences(found: xr.Dataset) -> Table:
    """A class a row: on how many pictures the two disagree, and how sure all models are of the class."""
    wanted, rows = strings(found["wanted"]), []
    for name in labels(found, "class"):
        here = found.isel(image=np.flatnonzero(wanted == name))
        row = [
            name,
            *(f"{int(here['disagree'].sel(condition=at).sum())} of {here.sizes['image']}" for at in (START, FOUND)),
        ]
        for model in labels(found, "model"):
            means = [float(here["confidence"].sel(condition=at, model=model).mean()) for at in (START, FOUND)]
            row.append(" → ".join(percent(mean, 0) for mean in means))
        rows.append(row)
    columns = ["class", "disagree at the start", "as found", *labels(found, "model")]
    return Table(
        columns, rows, "Pictures on which the two disagree, and mean confidences in the class, before and after"
    )


def _values(found: xr.Dataset) -> Table:
    """A class a row: which values of the cue the judge sees, before and after."""
    cue = str(found.attrs["cue"])
    seen = strings(found["judged"].sel(attribute=cue).transpose("image", "condition"))
    wanted, rows = strings(found["wanted"]), []
    values = sorted({*seen.ravel()} - {""})
    for name in labels(found, "class"):
        here = seen[wanted == name]
        rows.append([name, *(f"{int((here[:, 0] == v).sum())} → {int((here[:, 1] == v).sum())}" for v in values)])
    return Table(
        [words(cue), *values], rows, f"In how many pictures the judge sees each {words(cue)}, before and after"
    )


def _near(found: xr.Dataset) -> Table:
    """A class a row: do the two disagree on real images that look like the found pictures more often than on any?"""
    rows, real = [], int(found["real_images"])
    for at, name in enumerate(labels(found, "class")):
        cells = []
        for hits, total in (
            (int(found["near_apart"][at]), int(found["near_images"][at])),
            (int(found["real_apart"][at]), real),
        ):
            ends = share(hits, total)
            told = f"{percent(hits / total)} ({percent(float(ends.low))} to {percent(float(ends.high))})"
            cells.append(f"{told}, of {count(total)}")
        if "real_planted" in found:
            cells.append(f"{count(int(found['real_planted'][at]))} of {count(int(found['real_apart'][at]))}")
        rows.append([name, *cells])
    one, other = (str(found.attrs[name]) for name in ("one", "other"))
    caption = f"Real images of which {one} sees the class and {other} does not, with 95% intervals"
    columns = ["class", "those most like the found pictures", "all images"]
    if "real_planted" in found:
        columns.append(f"of these, with a planted {words(str(found.attrs['cue']))}")
    return Table(columns, rows, caption)


def _similar(context: Context, found: xr.Dataset) -> Gallery:
    """The nearest real images of each class, each once, those first that look most like a found picture."""
    names, wanted = strings(found["near_image"].transpose("image", "near")), strings(found["wanted"])
    cosine = found["near_similarity"].transpose("image", "near").values
    confidence = found["near_confidence"].transpose("image", "near", "model").values
    apart, rows = found["near_disagree"].transpose("image", "near").values, []
    for name in labels(found, "class"):
        own = np.argwhere((wanted == name)[:, None] & np.ones_like(apart))
        order = sorted(own.tolist(), key=lambda place: -cosine[place[0], place[1]])
        first = {str(names[at, near]): (at, near) for at, near in reversed(order)}
        ranked = sorted(first.items(), key=lambda item: -cosine[item[1]])[:NEAREST]
        pictures = [
            Picture(context.thumbs.thumb(image), _both(confidence[place]) + (" ≠" if apart[place] else ""))
            for image, place in ranked
        ]
        rows.append((name, "", pictures))
    one, other = labels(found, "model")[:2]
    title = f"Real images that look most like what was found, by a CLIP; below, {one} | {other}, ≠ where they disagree"
    return Gallery(rows, title=title)


def _notes(found: xr.Dataset) -> list[str]:
    told = []
    if failed := int((strings(found["status"]) == "diverged").sum()):
        told.append(
            f"{count(failed)} searches ended early, as numbers grew out of bounds; their best until then is shown."
        )
    if "planted" in found and UNTIED in found["group"]:
        cue = words(str(found.attrs["cue"]))
        told.append(
            f"Of a class with which no {cue} was planted, the share is the mean over those that were planted with "
            "others: what any search would give."
        )
    return told


SECTIONS: tuple[Section, ...] = (
    Section(
        KIND,
        "Where classifiers disagree",
        "Pictures that start from a caption with the name of the class alone, and are changed until one classifier "
        "sees the class and another does not (DiG-IN, section 4): what comes up is what the one takes for the class. "
        "Models and a judge that had no part look too.",
        ("disagreement/{group}",),
        panel,
        tiles=tiles,
        headline=headline,
    ),
)
