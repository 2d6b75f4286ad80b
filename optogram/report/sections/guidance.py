"""Room report: the family guidance: what moves the logits of classifiers, and how much of it lies outside objects."""

import json
from collections.abc import Sequence

import numpy as np
import xarray as xr

from optogram.report.charts import guidance as charts
from optogram.report.charts.plotly import plot
from optogram.report.findings import Model, labels, strings
from optogram.report.images import heat_uri
from optogram.report.labels import count, number, percent, words
from optogram.report.panels import Context, Gallery, Panel, Picture, Table, Tile
from optogram.report.section import Section
from optogram.report.sections import counterfactuals, disagreement, neuron_pictures

NPCA, SCORES = "npca", "spurious_scores"
ROWS = 4
"""Units and components of each kind in the gallery."""


def spurious(context: Context, model: Model) -> Panel:
    """The scores as a chart, the maps of what lies furthest outside and furthest inside, and all as tables."""
    panel = context.panel(model, SCORES, NPCA)
    found, parts = model.part(SCORES), model.part(NPCA)
    if parts is not None:
        panel.folded.append(_components(parts))
    if found is None:
        return panel
    layer = str(found.attrs["layer"])
    if not layer:
        panel.notes.append(_unsummed(found, labels(found, "layer")[-1]))
        return panel
    panel.plots = [plot(f"scores-{model.slug}", charts.scores(found, layer))]
    panel.galleries = [Gallery(rows, title=title) for title, rows in _galleries(context, found, layer)]
    panel.tables = [_separation(found)]
    panel.folded.insert(0, _scores(found))
    panel.notes = _notes(found, layer)
    return panel


def tiles(context: Context, model: Model) -> list[Tile]:
    """What is spurious, and how surely it is told from what is core."""
    found = model.part(SCORES)
    if found is None or not found.attrs["layer"]:
        return []
    here = found.sel(layer=str(found.attrs["layer"]), group="all")
    cue, core = (words(str(found.attrs[name])) for name in ("attribute", "class_attribute"))
    total = count(found.sizes["target"])
    told = [Tile(f"units and components that follow the {cue}", count(int(here["spurious"])), f"of {total}")]
    above, less = (float(here["above"].sel(metric=metric)) for metric in labels(found, "metric"))
    if np.isfinite(above):
        beside = f"with the masks of other images {percent(float(here['shuffled_above']), 0)}; "
        beside += f"less the area outside {percent(less, 0)}"
        told.append(
            Tile(f"pairs in which they lie further outside than what follows the {core}", percent(above, 0), beside)
        )
    return told


def headline(context: Context, models: Sequence[Model]) -> list[str]:
    """One sentence a classifier of which there are scores."""
    return [
        sentence for model in models if (found := model.part(SCORES)) is not None for sentence in [_said(model, found)]
    ]


def _said(model: Model, found: xr.Dataset) -> str:
    cue, core = (words(str(found.attrs[name])) for name in ("attribute", "class_attribute"))
    if not (layer := str(found.attrs["layer"])):
        return f"{model.name}: no map of its units can be normalised, so that nothing is told of the {cue}."
    here = found.sel(layer=layer)
    every = here.sel(group="all", metric="outside")
    if not int(every["spurious"]):
        return f"{model.name}: none of {count(found.sizes['target'])} units and components follows the {cue}."
    if not np.isfinite(float(every["above"])):
        return f"{model.name}: nothing follows the {core}, which the {cue} could be compared with."
    told = f"{model.name}: what follows the {cue} lies further outside the objects than what follows the {core} in "
    told += f"{percent(float(every['above']), 0)} of the pairs, with the masks of other images in "
    told += f"{percent(float(every['shuffled_above']), 0)}"
    units = here.sel(group="unit")
    if np.isfinite(float(units["above"].sel(metric="outside"))):
        whole = [bool(units["least"].sel(metric=m) > units["most"].sel(metric=m)) for m in labels(found, "metric")]
        told += "; all units of the one lie above all of the other" if whole[0] else "; not all units do"
        told += ", but less the area outside all do" if whole[1] and not whole[0] else ""
    return f"{told}."


def _galleries(
    context: Context, found: xr.Dataset, layer: str
) -> list[tuple[str, list[tuple[str, str, list[Picture]]]]]:
    """Of what follows the one and of what follows the other, those with the highest and with the lowest scores."""
    score, truth = found["score"].sel(layer=layer).values.astype(np.float64), strings(found["truth"])
    score = np.where(np.isfinite(score), score, -np.inf)
    told = []
    for name, sign in ((str(found.attrs["attribute"]), -1), (str(found.attrs["class_attribute"]), 1)):
        own = [
            int(at) for at in np.argsort(sign * score, kind="stable") if truth[at] == name and np.isfinite(score[at])
        ]
        if own:
            title = f"What follows the {words(name)}: where its maps are {'' if sign < 0 else 'least '}outside"
            told.append((title, [_row(context, found, at, layer) for at in own[:ROWS]]))
    return told


def _row(context: Context, found: xr.Dataset, at: int, layer: str) -> tuple[str, str, list[Picture]]:
    """The images that activate a target most; orange adds to its activation, blue takes away."""
    names = strings(found["image"])[at]
    maps = found["map"].transpose("target", "layer", "rank", "gy", "gx").values[at]
    finest = _finest(found)
    pictures = [
        Picture(context.thumbs.thumb(name), over=heat_uri(heat, signed=True))
        for name, heat in zip(names, maps[finest], strict=True)
        if name
    ]
    one = found.isel(target=at).sel(layer=layer)
    told = f"{percent(float(one['score']), 0)} outside, the area {percent(float(one['area']), 0)}"
    return str(found["target"].values[at]), f"{told}; maps of {labels(found, 'layer')[finest]}", pictures


def _finest(found: xr.Dataset) -> int:
    """The first layer at which the maps of most images can be normalised: its grid is the finest."""
    counted, dropped = (found[name].transpose("layer", "target").values.sum(1) for name in ("count", "unsummed"))
    return int(np.flatnonzero(counted > dropped)[0])


def _separation(found: xr.Dataset) -> Table:
    """Table 2, by layer and group."""
    cue, core = (words(str(found.attrs[name])) for name in ("attribute", "class_attribute"))
    columns = ["layer, group", cue, core, f"lowest, {cue}", f"highest, {core}", "pairs in order", "less the area"]
    columns += ["with other masks", f"{cue} above 60%", f"{core} below 40%", "least possible"]
    rows = []
    for layer in labels(found, "layer"):
        least = (
            float(found["lowest"].sel(layer=layer).mean())
            if found["lowest"].sel(layer=layer).notnull().any()
            else np.nan
        )
        for group in labels(found, "group"):
            here = found.sel(layer=layer, group=group)
            counts = [int(here[name]) for name in ("spurious", "core")]
            row = [f"{layer}, {group}", *map(count, counts)]
            row += [percent(float(here[name].sel(metric="outside"))) for name in ("least", "most")]
            row += [percent(float(value)) for value in (*here["above"].values, here["shuffled_above"])]
            row += [count(int(here[name])) for name in ("spurious_above", "core_below")]
            rows.append([*row, percent(least)])
    caption = (
        "How far outside the objects lies what follows each. Least possible is the mean score of maps that have all in "
        "the cell that the object fills most"
    )
    return Table(columns, rows, caption)


def _scores(found: xr.Dataset) -> Table:
    """A unit or component a row."""
    layers, rows = labels(found, "layer"), []
    cue, core = (str(found.attrs[name]) for name in ("attribute", "class_attribute"))
    columns = ["unit or component", "weight", "follows", f"{words(cue)}, in its class", f"{words(core)}, of all"]
    for layer in layers:
        columns += [f"{layer}", "area", "other masks", "images"]
    truth, value = strings(found["truth"]), strings(found["value"])
    for at, name in enumerate(labels(found, "target")):
        one = found.isel(target=at)
        weight = float(one["weight"])
        row = [name, number(weight) if np.isfinite(weight) else ""]
        row += [f"{words(truth[at])} {value[at]}".strip() or "neither"]
        row += [percent(float(one["follows_in_class"].sel(attribute=cue)), 0)]
        row += [percent(float(one["follows"].sel(attribute=core)), 0)]
        for layer in layers:
            here = one.sel(layer=layer)
            half = (float(here["high"]) - float(here["low"])) / 2
            told = (
                f"{percent(float(here['score']))} ± {100 * half:.1f}"
                if np.isfinite(half)
                else percent(float(here["score"]))
            )
            row += [told, percent(float(here["area"])), percent(float(here["shuffled"])), count(int(here["count"]))]
        rows.append(row)
    return Table(columns, rows, "All scores, with 95% intervals in points")


def _components(found: xr.Dataset) -> Table:
    """A class a row: how much of its logit each component moves."""
    columns = ["class", *(f"component {int(k) + 1}" for k in found["component"].values), "largest unit", "images"]
    shares, largest = found["share"].transpose("class", "component").values, found["unit_share"].values
    rows = []
    for at, name in enumerate(labels(found, "class")):
        told = [percent(float(share)) for share in (*shares[at], largest[at])]
        rows.append([name, *told, count(int(found["images"].values[at]))])
    left = json.loads(str(found.attrs["left_out"]))
    without = f"; without {', '.join(left)}, of which there are fewer than three images" if left else ""
    return Table(columns, rows, f"Shares of the variance of each class's logit{without}")


def _notes(found: xr.Dataset, layer: str) -> list[str]:
    cue, core = (words(str(found.attrs[name])) for name in ("attribute", "class_attribute"))
    told = [
        f"It follows the {cue} if more than half of its variance over the images of its class lies between values of "
        f"the {cue}, else the {core} if more than half over all images lies between values of the {core}."
    ]
    least = float(found["lowest"].sel(layer=layer).mean())
    told.append(
        f"Objects are small against the cells of {layer}: no map without negative values has less than "
        f"{percent(least, 0)} outside, in the mean. The paper's 40% and less can be had on finer maps only."
        if least > 0.4
        else f"On the cells of {layer} a map without negative values can have {percent(least, 0)} outside, in the mean."
    )
    dropped = found["unsummed"].transpose("layer", "target").values.sum(1)
    told += [_unsummed(found, name) for name, left in zip(labels(found, "layer"), dropped, strict=True) if left]
    if unseen := int(found.attrs["unseen"]):
        told.append(f"{count(unseen)} images were left out: no object, or nothing but one.")
    return told


def _unsummed(found: xr.Dataset, layer: str) -> str:
    here = found.sel(layer=layer)
    dropped = int(here["unsummed"].sum())
    whole = dropped + int(here["count"].sum())
    told = f"{layer}: {count(dropped)} of {count(whole)} maps add up to too little to be normalised"
    if dropped == whole:
        told += (
            ". So does every map before a normalisation of the whole image, such as a LayerNorm before the last layer"
        )
    return f"{told}."


SECTIONS: tuple[Section, ...] = (
    Section(
        SCORES,
        "Spurious or core?",
        "Where the units and components that move a class's logit are active, and how much of that lies outside the "
        "objects (DiG-IN, Table 2). Components are parts of the logit that vary together over the images of the class "
        "(neural PCA).",
        ("npca/{classifier}", "spurious_scores/{classifier}"),
        spurious,
        tiles=tiles,
        headline=headline,
    ),
    *counterfactuals.SECTIONS,
    *disagreement.SECTIONS,
    *neuron_pictures.SECTIONS,
)
