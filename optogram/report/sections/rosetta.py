"""Room report: the family rosetta: the units that models share, and how many of them chance would give."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import xarray as xr

from optogram.report.charts import rosetta as charts
from optogram.report.charts.plotly import plot
from optogram.report.findings import Model, labels, strings
from optogram.report.images import Grid, heat_uri
from optogram.report.labels import count, number, percent
from optogram.report.panels import Context, Gallery, Panel, Picture, Table, Tile
from optogram.report.section import Part, Section, Unit
from optogram.report.sections import rosetta_pictures as pictures
from optogram.report.sections.rosetta_partners import of_page

KIND, INVERSION, EDITS = "rosetta", "rosetta_inversion", "rosetta_edits"
ROWS = 8
"""Concepts in the section; each has a page besides."""
ALONE = (
    "Latents are changed until this one unit is active where its partner is in the image. What the pictures of its "
    "partner's map have in common, and the control has not, is what the unit stands for. The control, the last row, is "
    "led as far by the map of another concept. Numbers are the similarity to the first map (eq. 4.6)."
)


def shared(context: Context, model: Model) -> Panel:
    """How many pairs there are beside chance, the first concepts, sharedness by layer, and all matches as a table."""
    panel = context.panel(model, KIND, INVERSION, EDITS)
    found, inverted, edited = (model.part(kind) for kind in (KIND, INVERSION, EDITS))
    if found is None:
        return panel
    panel.plots = [plot(f"pairs-{model.slug}", charts.pairs(found)), plot(f"layers-{model.slug}", charts.layers(found))]
    if "maps" in found:
        pages = [(one.name, one.file) for one in concept_units(context, model)]
        panel.extra = {"dictionary": _dictionary(context, model, found), "concepts": pages}
    panel.tables = [_matches(found)]
    panel.notes = _notes(found)
    if inverted is not None:
        panel.galleries.append(pictures.inverted(context, model, inverted))
        panel.tables.append(pictures.inversions(inverted))
        if "sketch" in inverted:
            panel.galleries.append(pictures.sketches(context, model, inverted))
            panel.tables.append(pictures.sketch_scores(inverted))
    if edited is not None:
        panel.galleries.append(pictures.edited(context, model, edited))
        panel.tables.append(pictures.edits(edited))
        if "concept" in edited.dims:
            panel.galleries.append(pictures.concepts(context, model, edited))
            panel.tables.append(pictures.causes(edited))
    return panel


def tiles(context: Context, model: Model) -> list[Tile]:
    """Pairs beside those of an untrained model, concepts, names."""
    found = model.part(KIND)
    if found is None:
        return []
    first = found.isel(match=0)
    names = f"{first['first'].item()} and {first['second'].item()}"
    real, twin, rotated = (first["count"].sel(kind=kind) for kind in ("real", "untrained", "rotated"))
    everywhere = int((found["concept_models"] == found.sizes["model"]).sum())
    told = [
        Tile(f"pairs of units, {names}", _whole(real), f"with one of them untrained {_whole(twin)}"),
        Tile("the same with the channels of one rotated", _whole(rotated), "which no training has made units"),
        Tile("concepts in all the models", count(everywhere), f"of {count(found.sizes['concept'])} in two or more"),
    ]
    if "agreement" in found and np.isfinite(float(first["agreement"].values[0])):
        way = labels(found, "naming")[0]
        here = first.sel(naming=way)
        chance = percent(float(here["agreement_chance"]))
        beside = f"of {_whole(here['agreement_of'])}, named by {way}; paired at random {chance}"
        told.append(Tile("pairs of which both units have one name", percent(float(here["agreement"])), beside))
    return told


def headline(context: Context, models: Sequence[Model]) -> list[str]:
    """One sentence a group, with the null that comes nearest."""
    told = []
    for model in models:
        found = model.part(KIND)
        if found is None:
            continue
        first = found.isel(match=0)
        counts = {kind: float(first["count"].sel(kind=kind)) for kind in labels(found, "kind")}
        nulls = {kind: value for kind, value in counts.items() if kind != "real" and np.isfinite(value)}
        near = max(nulls, key=lambda kind: nulls[kind])
        sentence = (
            f"{first['first'].item()} and {first['second'].item()} share {count(int(counts['real']))} pairs of units "
            f"above chance by shuffled images; the null model that comes nearest, {charts.kind_words(near)}, has "
            f"{count(round(nulls[near]))}."
        )
        if nulls[near] >= counts["real"]:
            sentence += " That units are shared is then no property of single units."
        told.append(sentence)
    return told


def concept_units(context: Context, model: Model) -> list[Unit]:
    """The concepts of which there are pictures, a page each."""
    found = model.part(KIND)
    if found is None or "maps" not in found:
        return []
    return [
        Unit(
            "concept",
            _concept_name(found, at),
            model,
            f"units/{KIND}-{model.slug}-{at + 1}.html",
            f"concept-{at + 1}",
            f"{model.name} · units that correlate over images and places",
            of=at,
        )
        for at in range(found.sizes["shown"])
    ]


def concept_parts(context: Context, unit: Unit) -> Sequence[Part]:
    """Of a concept its unit in every model; of a channel of a classifier or a neuron of a CLIP, its best partners."""
    if unit.kind != "concept":
        return of_page(context, unit)
    found = unit.model.part(KIND)
    assert found is not None
    panel = Panel(made=context.panel(unit.model, KIND).made)
    panel.galleries = [Gallery(_rows(context, unit.model, found, unit.of))]
    panel.tables = [_units_table(found, unit.of)]
    panel.pictures_first = True
    models, first = int(found["concept_models"].values[unit.of]), labels(found, "model")[0]
    reading = (
        f"The units of {models} models, over the images in which that of {first} is strongest, then the middle one and "
        "the weakest: orange is where they are active. Chance is the share of best buddies of shuffled images that "
        "correlate as much."
    )
    parts = [Part("Where its units are active", reading, panel)]
    inverted = unit.model.part(INVERSION)
    if inverted is not None and "alone" in inverted.dims:
        numbers = inverted["alone_concept"].values.tolist()
        if unit.of in numbers:
            alone = Panel(made=context.panel(unit.model, INVERSION).made)
            alone.galleries = [pictures.alone(context, unit.model, inverted, numbers.index(unit.of))]
            parts.append(Part(f"Its unit of {first} alone", ALONE, alone))
    return parts


def _dictionary(context: Context, model: Model, found: xr.Dataset) -> Gallery:
    """The first concepts, a row each: the image in which it is strongest, and the map of its unit in every model."""
    names, rows = labels(found, "model"), []
    for at in range(min(ROWS, found.sizes["shown"])):
        maps = {name: (remark, pictures[0]) for name, remark, pictures in _rows(context, model, found, at)}
        bare = maps["images"][1]
        cells = [replace(bare, below=_concept_name(found, at))]
        for name in names:
            remark, one = maps.get(name, ("", Picture(None)))
            cells.append(replace(one, says=remark))
        rows.append(("", "", cells))
    return Gallery(rows, ("concept", *names))


def _concept_name(found: xr.Dataset, at: int) -> str:
    """Its number, and what its first unit stands for."""
    unit = int(found["concept_unit"].transpose("concept", "model").values[at, 0])
    said = [strings(found[f"name_{way}"])[unit] for way in ("labels", "texts") if f"name_{way}" in found]
    return f"Concept {at + 1}: {next((name for name in said if name), 'no name')}"


def _rows(context: Context, model: Model, found: xr.Dataset, at: int) -> list[tuple[str, str, list[Picture]]]:
    grid = _grid(context, model, found)
    names, units = labels(found, "model"), found["concept_unit"].transpose("concept", "model").values[at]
    maps = found["maps"].transpose("shown", "model", "example", "my", "mx").values[at].astype(np.float64)
    numbers = found["image_number"].transpose("shown", "example").values[at]
    thumbs = [grid.thumb(at, column, f"image {value}") for column, value in enumerate(numbers.tolist())]
    rows = [("images", "", [Picture(thumb) for thumb in thumbs])]
    for column, name in enumerate(names):
        if np.isfinite(units[column]):
            pictures = [
                Picture(thumb, over=heat_uri(heat[::2, ::2], signed=False))
                for thumb, heat in zip(thumbs, maps[column], strict=True)
            ]
            rows.append((name, _unit_words(found, int(units[column])), pictures))
    return rows


def _grid(context: Context, model: Model, found: xr.Dataset) -> Grid:
    cells = found["pixels"].transpose("shown", "example", "y", "x", "rgb").values
    return context.thumbs.grid(f"rosetta{model.slug}", cells)


def _unit_words(found: xr.Dataset, unit: int) -> str:
    told = f"{strings(found['layer_of'])[unit]}, channel {int(found['channel'].values[unit])}"
    said = [strings(found[f"name_{way}"])[unit] for way in ("labels", "texts") if f"name_{way}" in found]
    return ": ".join([told, " · ".join(name for name in said if name)]).rstrip(": ")


def _units_table(found: xr.Dataset, at: int) -> Table:
    names, rows = labels(found, "model"), []
    columns = ["model", "layer", "channel"]
    ways = [way for way in ("labels", "texts") if f"name_{way}" in found]
    columns += [f"name by {way}" for way in ways] + ["correlation", "chance"]
    for column, name in enumerate(names):
        value = found["concept_unit"].transpose("concept", "model").values[at, column]
        if not np.isfinite(value):
            continue
        unit = int(value)
        here = found.isel(concept=at, model=column)
        r, chance = (float(here[f"concept_{of}"]) for of in ("r", "chance"))
        row = [name, strings(found["layer_of"])[unit], str(int(found["channel"].values[unit]))]
        row += [strings(found[f"name_{way}"])[unit] or "nothing clear" for way in ways]
        rows.append([*row, *([number(r), number(chance)] if np.isfinite(r) else ["", ""])])
    units = int(found["concept_units"].values[at])
    return Table(columns, rows, f"Its units; {count(units)} of {names[0]} are alike" if units > 1 else "Its units")


def _matches(found: xr.Dataset) -> Table:
    """A match a row."""
    columns = ["models", "threshold", *(charts.kind_words(kind) for kind in labels(found, "kind"))]
    columns += ["in both halves", "one to one"]
    ways = labels(found, "naming") if "agreement" in found else []
    columns += [f"one name, by {way}" for way in ways]
    rows = []
    for at in range(found.sizes["match"]):
        one = found.isel(match=at)
        row = [
            f"{one['first'].item()}, {one['second'].item()}",
            number(float(one["threshold"])) if np.isfinite(one["threshold"]) else "none",
        ]
        row += [_whole(one["count"].sel(kind=kind)) for kind in labels(found, "kind")]
        row += [_share(float(one["stable"])), _whole(one["assigned"])]
        for way in ways:
            here = one.sel(naming=way)
            row.append(f"{_share(float(here['agreement']))}, chance {_share(float(here['agreement_chance']))}")
        rows.append(row)
    return Table(columns, rows, "Pairs of units above the threshold, and as many of null models")


def _notes(found: xr.Dataset) -> list[str]:
    told = [
        f"Correlations are over {count(int(found.attrs['images']))} images and all places. A threshold is the least "
        "correlation at which shuffled images account for as few pairs as params.yaml allows (rosetta.rate)."
    ]
    if constant := int(found["constant"].sum()):
        told.append(f"{count(constant)} of {count(found.sizes['unit'])} units are constant on the images.")
    return told


def _whole(value: xr.DataArray) -> str:
    return count(round(float(value))) if np.isfinite(float(value)) else "not made"


def _share(value: float) -> str:
    return percent(value, 0) if np.isfinite(value) else "no pair"


SECTIONS: tuple[Section, ...] = (
    Section(
        KIND,
        "Units that models share",
        "Rosetta neurons: units of different models that are active at the same places of the same images. The counts "
        "mean something only beside those of models whose images were shuffled, whose channels were rotated, or that "
        "were never trained.",
        ("rosetta/{group}", "rosetta_inversion/{group}", "rosetta_edits/{group}"),
        shared,
        tiles=tiles,
        headline=headline,
        units=concept_units,
        unit=concept_parts,
        template="rosetta.html",
    ),
)
