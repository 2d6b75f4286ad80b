"""Room report: the family generative: what models that draw were asked for, and what is seen in what they drew."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from optogram.metrics.drawn import least
from optogram.metrics.intervals import Interval
from optogram.report.charts import generative as charts
from optogram.report.charts.plotly import plot
from optogram.report.evidence import counted, within
from optogram.report.findings import Model, labels, strings
from optogram.report.labels import count, number, percent, words
from optogram.report.panels import Context, Gallery, Panel, Picture, Table, Tile
from optogram.report.section import Section

ACROSS, DOWN = 8, 12
"""Samples of a class, and of what was asked for nothing, on the contact sheet; and classes, at most."""
KINDS = ("samples", "drawn", "fidelity", "round_trip")


def drawings(context: Context, model: Model) -> Panel:
    """The contact sheet, the truth of what was asked for, distances to real images, and the training's losses."""
    panel = context.panel(model, *KINDS)
    samples, drawn, fidelity, round_trip = (model.part(kind) for kind in KINDS)
    if samples is None:
        return panel
    panel.galleries = [Gallery(_sheet(context, model, samples, drawn))]
    panel.pictures_first = True
    if drawn is not None and least(drawn):
        panel.plots.append(plot(f"truth-{model.slug}", charts.truth(drawn)))
        panel.tables.append(_truth_table(drawn))
    if "loss" in samples:
        panel.plots.append(plot(f"losses-{model.slug}", charts.losses(samples)))
    if fidelity is not None:
        panel.tables.append(_distances(fidelity))
    if round_trip is not None:
        panel.tables.append(_codec(round_trip))
    if drawn is not None:
        panel.notes += _notes(drawn)
        panel.folded.append(_values(drawn))
    return panel


def tiles(context: Context, model: Model) -> list[Tile]:
    """What is met least, held-out shapes, objects, the distance to real images, copies."""
    drawn, fidelity, found = model.part("drawn"), model.part("fidelity"), []
    if drawn is not None and (place := least(drawn)):
        attribute, eye = place
        here = drawn.sel(combination="all", eye=eye, attribute=attribute)
        beside = f"{words(attribute)}, by {charts.EYES[eye][0]}; real scenes {percent(float(here.real_share))}"
        found.append(Tile("attribute that is met least", percent(float(here.share)), beside))
        held = drawn["share"].sel(combination="held_out", eye="judge")
        if "shape" in labels(drawn, "attribute") and np.isfinite(float(held.sel(attribute="shape"))):
            told = percent(float(held.sel(attribute="shape")))
            found.append(Tile("shape, combinations that training lacked", told, "by the judge"))
    if drawn is not None:
        told = percent(float(drawn.found_share))
        found.append(Tile("samples with an object", told, f"real scenes {percent(float(drawn.real_found))}"))
    if fidelity is not None:
        first = fidelity.isel(space=0)
        found.append(Tile("FID", number(float(first.fid)), f"real images {number(float(first.fid_real))}"))
        found.append(
            Tile("copies", percent(float(fidelity.copied)), f"of real images {percent(float(fidelity.copied_real))}")
        )
        if total := int(fidelity.class_asked):
            beside = f"by the classifier, of {count(total)}; by chance {percent(float(fidelity.class_chance))}"
            found.append(Tile("class asked for is seen", percent(float(fidelity.class_accuracy)), beside))
    return found


def headline(context: Context, models: Sequence[Model]) -> list[str]:
    """One sentence a model, with what it misses."""
    told = []
    for model in models:
        drawn, fidelity = model.part("drawn"), model.part("fidelity")
        if drawn is not None and (place := least(drawn)):
            attribute, eye = place
            here = drawn.sel(combination="all", eye=eye, attribute=attribute)
            told.append(
                f"Of what captions ask {model.name} for, the {words(attribute)} is met least: in "
                f"{counted(float(here.share), int(here.asked))} samples by {charts.EYES[eye][0]} (by chance "
                f"{percent(float(here.chance))}, in real scenes {percent(float(here.real_share))}). All that a caption "
                f"states is met in {percent(float(drawn['whole'].sel(combination='all', eye='judge')))} by the judge."
            )
        elif drawn is not None:
            sentence = f"{model.name} draws an object in {percent(float(drawn.found_share))} of its samples"
            if np.isfinite(float(drawn.recall)):
                sentence += (
                    f", and {percent(float(drawn.recall))} of the training images' combinations of shape, colour and "
                    f"background (as many real images have {percent(float(drawn.expected))})"
                )
            told.append(f"{sentence}.")
        elif fidelity is not None and int(fidelity.class_asked):
            told.append(
                f"Of what captions ask {model.name} for, the classifier sees the class in "
                f"{counted(float(fidelity.class_accuracy), int(fidelity.class_asked))} samples (by chance "
                f"{percent(float(fidelity.class_chance))})."
            )
    return told


def _sheet(
    context: Context, model: Model, samples: xr.Dataset, drawn: xr.Dataset | None
) -> list[tuple[str, str, list[Picture]]]:
    """Rows of samples: those asked for each value of the first attribute, then those asked for nothing."""
    rows = _rows(samples, model.name)
    width = max(len(places) for _, places in rows)
    shown = np.concatenate([np.array(places, int) for _, places in rows])
    pixels = iter(samples["pixels"].isel(image=shown).transpose("image", "y", "x", "rgb").values)
    cells = np.zeros((len(rows), width, samples.sizes["y"], samples.sizes["x"], 3), np.uint8)
    for row, (_, places) in enumerate(rows):
        for column in range(len(places)):
            cells[row, column] = next(pixels)
    grid = context.thumbs.grid(f"drawn{model.slug}", cells)
    prompts = strings(samples["prompt"]) if "prompt" in samples else np.full(samples.sizes["image"], "")
    found = []
    for row, (name, places) in enumerate(rows):
        seen = [_seen(drawn, at) for at in places]
        pictures = [
            Picture(grid.thumb(row, column, f"sample {at}"), str(prompts[at]) or says, says=says)
            for column, (at, says) in enumerate(zip(places, seen, strict=True))
        ]
        found.append((name, "", pictures))
    return found


def _rows(samples: xr.Dataset, name: str) -> list[tuple[str, list[int]]]:
    """Names and places of the samples of each row."""
    if "label" not in samples:
        return [(f"samples of {name}", list(range(min(2 * ACROSS, samples.sizes["image"]))))]
    label = samples["label"].transpose("image", "attribute").values
    first = str(samples.attrs.get("class_attribute") or labels(samples, "attribute")[0])
    column = labels(samples, "attribute").index(first)
    names = strings(samples["value_name"])[column]
    rows = [
        (f"{words(first)}: {name}", np.flatnonzero(label[:, column] == value)[:ACROSS].tolist())
        for value, name in enumerate(names)
        if name
    ]
    rows = [(name, places) for name, places in rows if places][:DOWN]
    rows.append(("asked for nothing", np.flatnonzero((label < 0).all(1))[:ACROSS].tolist()))
    return [(name, places) for name, places in rows if places]


def _seen(drawn: xr.Dataset | None, at: int) -> str:
    """What the judge sees in a sample."""
    if drawn is None:
        return ""
    if not bool(drawn["found"].values[at]):
        return "the judge sees no object"
    names, values = strings(drawn["value_name"]), drawn["seen"].sel(eye="judge").transpose("image", "attribute").values
    return f"the judge sees {', '.join(names[k, value] for k, value in enumerate(values[at]) if value >= 0)}"


def _truth_table(drawn: xr.Dataset) -> Table:
    """An attribute a row: by both eyes, of all and of held-out combinations, beside chance and real scenes."""
    columns = ["attribute"]
    cells = []
    for eye in labels(drawn, "eye"):
        said = charts.EYES[eye][0]
        columns += [f"by {said}", "95% interval", "held out", "by chance", "real scenes"]
        every, held = (drawn.sel(eye=eye, combination=name) for name in ("all", "held_out"))
        ends = [within(Interval(*both)) for both in zip(every.share_low.values, every.share_high.values, strict=True)]
        shown = [every["share"], None, held["share"], every["chance"], every["real_share"]]
        cells += [ends if one is None else [percent(float(value)) for value in one.values] for one in shown]
    names = [words(name) for name in labels(drawn, "attribute")]
    rows = [[name, *(column[k] for column in cells)] for k, name in enumerate(names)]
    asked = int(drawn["asked"].sel(combination="all").max())
    held = int(drawn["asked"].sel(combination="held_out").max())
    return Table(columns, rows, f"Samples with the value asked for: of {count(asked)}, {count(held)} of them held out")


def _distances(fidelity: xr.Dataset) -> Table:
    """FID and KID in each space, of samples and of real images."""
    names = [words(name) for name in labels(fidelity, "space")]
    values = [fidelity[name].values for name in ("fid", "fid_real", "kid", "kid_real")]
    rows = [[name, *(number(float(column[k])) for column in values)] for k, name in enumerate(names)]
    columns = ["in features of the", "FID", "FID of real images", "KID", "KID of real images"]
    return Table(columns, rows, "Distances to real images; lower is nearer. Not to be set beside published ones")


def _codec(found: xr.Dataset) -> Table:
    """Who tells what a row: right before the codec and after it."""
    rows = []
    for at, name in enumerate(labels(found, "check")):
        before, after, *ends = (float(found[each][at]) for each in ("before", "after", "after_low", "after_high"))
        rows.append([name, percent(before), percent(after), within(Interval(*ends))])
    caption = (
        f"What the codec leaves: told right, of {count(int(found['count'].max()))} images; PSNR "
        f"{number(float(found['psnr'].mean()))} dB"
    )
    return Table(["by whom, and what", "images", "from the codec", "95% interval"], rows, caption)


def _values(drawn: xr.Dataset) -> Table:
    """Each value: how often it is seen where it was asked for, and where nothing was."""
    judge, names, rows = drawn.sel(eye="judge"), strings(drawn["value_name"]), []
    for k, attribute in enumerate(labels(drawn, "attribute")):
        for value, name in enumerate(names[k].tolist()):
            if not name:
                continue
            asked, share = int(judge["value_asked"].values[k, value]), float(judge["value_share"].values[k, value])
            told = counted(share, asked) if asked else "not asked for"
            rows.append([f"{words(attribute)} {name}", told, percent(float(judge["free"].values[k, value]))])
    unasked = count(int(drawn.attrs["unasked"]))
    return Table(["value", "seen where asked for", "seen unasked"], rows, f"By the judge; unasked in {unasked} samples")


def _notes(drawn: xr.Dataset) -> list[str]:
    """How much of the data's variety is drawn unasked."""
    if not np.isfinite(float(drawn.recall)):
        return []
    return [
        f"Unasked, {count(int(drawn.combinations_drawn))} different combinations of shape, colour and background are "
        f"drawn; of those of the training images {percent(float(drawn.recall))}, where as many real images have "
        f"{percent(float(drawn.expected))}."
    ]


SECTIONS: tuple[Section, ...] = (
    Section(
        "generative",
        "Models that draw",
        "Whether what a caption asks for is seen in what is drawn: by a judge trained for judging only, and by "
        "a CLIP. Point at a sample to read what the judge sees.",
        ("samples/{prior}", "drawn/{prior}", "fidelity/{prior}", "round_trip/{prior}"),
        drawings,
        tiles=tiles,
        headline=headline,
    ),
)
