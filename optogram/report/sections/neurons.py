"""Room report: the family neurons: second-order effects, concepts of images, and where the model can be misled."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
import xarray as xr

from optogram.metrics import intervals
from optogram.metrics.intervals import Interval
from optogram.report import evidence
from optogram.report.charts import neurons as charts
from optogram.report.charts.plotly import plot
from optogram.report.findings import Model, Neuron, labels
from optogram.report.labels import EFFECTS, NEURONS, number, p_value, percent, points, words
from optogram.report.panels import Context, Panel, Table, percent_table
from optogram.report.section import Section
from optogram.report.sections import neuron_numbers as told
from optogram.report.sections.adversarial import adversarial
from optogram.report.sections.concepts import concepts
from optogram.report.sections.neuron_pages import first_text, neuron_parts, neuron_units, neurons_of, value_chip

LARGEST = 20
"""Neurons of a layer in the table."""


def neurons(context: Context, model: Model) -> Panel:
    """Figures 3.3 and 3.4, Table 3.1, the labels' agreement, and the neurons themselves."""
    layers = [kind for kind in model.parts if kind.startswith("neurons/")]
    panel = context.panel(model, "neuron_ablation", *layers)
    found = model.part("neuron_ablation")
    if found is None and model.neuron_layers:
        panel.notes.append(f"Neurons were not ablated: {panel.skipped}")
        panel.skipped = ""
    if found is not None:
        _ablations(context, model, found, panel)
        _texts(context, model, found, panel)
    if model.neuron_layers:
        why = {str(part.attrs.get("truth_skipped") or "") for part in model.neuron_layers.values()} - {""}
        panel.notes += [f"Texts and images were not compared: {reason}" for reason in sorted(why)]
        panel.extra |= {"layers": _agreement(model), **_catalogue(context, model)}
    elif found is not None:
        panel.notes.append("The neurons themselves: " + (model.missing(layers[0]) if layers else "this was not run."))
    return panel


def _ablations(context: Context, model: Model, found: xr.Dataset, panel: Panel) -> None:
    layers, conditions = labels(found, "layer"), labels(found, "condition")
    values = context.by_attribute(found, "accuracy", "layer", "condition")
    total = evidence.counts(context.findings, found)
    panel.says = f"{evidence.accuracies(values, total)} The table of changes, on the same images, is surer."
    panel.tables.append(_changes(context, found))
    shown = [NEURONS.get(c, words(c)) for c in conditions]
    for name, curves, chance in _by_choice(context, found, values, context.by_attribute(found, "chance")):
        panel.folded.append(
            percent_table(
                "ablated",
                [f"layer {layer}" for layer in layers],
                shown,
                curves.T,
                caption=f"Accuracy, {name}; chance {percent(chance)}. {evidence.accuracies(values, total)}",
            )
        )
    panel.plots.append(plot(f"needed-{model.slug}", charts.needed(context.findings, found)))
    panel.plots.append(plot(f"neurons-{model.slug}", charts.accuracies(context.findings, found)))
    panel.tables.append(_indirect(context, found, values))


def _changes(context: Context, found: xr.Dataset) -> Table:
    """How far each way to ablate moves the accuracy, over the same images; the mean over attributes if several."""
    layers, rows = labels(found, "layer"), []
    for condition in labels(found, "condition"):
        if condition == "none":
            continue
        here, none = (context.by_attribute(found.sel(condition=c), "accuracy", "layer") for c in (condition, "none"))
        ends = evidence.mean_change(context.findings, found, condition, "layer")
        cells = [
            f"{points(float(value))} ({evidence.moved(Interval(low, high))})"
            for value, low, high in zip((here - none).mean(-1), *ends, strict=True)
        ]
        rows.append([NEURONS.get(condition, words(condition)), *cells])
    caption = "Change of accuracy in percentage points, mean over attributes, with 95% intervals over the same images"
    return Table(["ablated", *(f"layer {layer}" for layer in layers)], rows, caption)


def _by_choice(
    context: Context, found: xr.Dataset, values: np.ndarray, chance: np.ndarray
) -> list[tuple[str, np.ndarray, float]]:
    """Values with `attribute` last, for each attribute, and first their mean if there are several."""
    names = context.attributes(found)
    each = [(name, values[..., k], float(chance[k])) for k, name in enumerate(names)]
    return [("mean over attributes", values.mean(-1), float(chance.mean())), *each] if len(names) > 1 else each


def _indirect(context: Context, found: xr.Dataset, values: np.ndarray) -> Table:
    """Table 3.1."""
    names, conditions, effects = context.attributes(found), labels(found, "condition"), labels(found, "effect")
    shown = [f"accuracy on {names[0]}", "mean accuracy"] if len(names) > 1 else [f"accuracy on {names[0]}"]
    explained, *ends = (
        found[name].transpose("layer", "effect").values for name in ("explained", "explained_low", "explained_high")
    )
    half = Interval(*ends).half
    ablated = {"second_order": "all", "indirect": "indirect"}
    rows = []
    for k, layer in enumerate(labels(found, "layer")):
        for j, effect in enumerate(effects):
            condition = ablated.get(effect, "")
            at = values[k, conditions.index(condition)] if condition in conditions else None
            accuracy = ["·", "·"] if at is None else [percent(float(at[0])), percent(float(at.mean()))]
            name = f"layer {layer}, {EFFECTS.get(effect, words(effect))}"
            told = f"{percent(float(explained[k, j]))} {evidence.plus_minus(half[k, j])}"
            rows.append([name, *accuracy[: len(shown)], told])
    columns = ["effect", *shown, "explained by the first PC"]
    caption = (
        "Accuracy after mean-ablation, and variance explained (mean over neurons, with its 95% interval); same images: "
        f"those of the indirect effects. {evidence.accuracies(values, evidence.counts(context.findings, found))}"
    )
    return Table(columns, rows, caption)


def _texts(context: Context, model: Model, found: xr.Dataset, panel: Panel) -> None:
    """Figure 3.4."""
    pools, sizes = labels(found, "pool"), [int(size) for size in labels(found, "size")]
    conditions, chance = labels(found, "condition"), context.by_attribute(found, "chance")
    curves = context.by_attribute(found, "reconstructed", "layer", "pool", "size")
    values = context.by_attribute(found, "accuracy", "layer", "condition")
    total = evidence.counts(context.findings, found)
    kinds = {"nothing ablated": "none", "PC #1 itself": "rank_one", "w/o all neurons": "all"}
    for k, layer in enumerate(labels(found, "layer")):
        # of the attributes the class attribute alone, and their mean
        each = [_by_choice(context, found, of[k], chance)[:2] for of in (curves, values)]
        for (name, curve, _), (_, level, _) in zip(*each, strict=True):
            levels = {
                says: float(level[conditions.index(condition)])
                for says, condition in kinds.items()
                if condition in conditions
            }
            beside = ", ".join(f"{says} {percent(value)}" for says, value in levels.items())
            panel.folded.append(
                percent_table(
                    f"layer {layer}",
                    [str(s) for s in sizes],
                    pools,
                    curve,
                    caption=f"Accuracy by texts a neuron, {name}; {beside}. {evidence.accuracies(curves, total)}",
                )
            )
    panel.plots.append(plot(f"neuron-texts-{model.slug}", charts.texts(context.findings, found)))


def _agreement(model: Model) -> Table:
    """Whether texts and images of the neurons agree, and how many neurons are polysemantic, a row a layer."""
    rows = []
    for layer, part in model.neuron_layers.items():
        images, texts = (float((part[f"{name}_groups"].values > 1).mean()) for name in ("image", "text"))
        explained, neurons = part["explained"].values.astype(np.float64), part.sizes["neuron"]
        half = float(intervals.mean_interval(explained).half)
        row = [f"layer {layer}", f"{percent(float(explained.mean()))} {evidence.plus_minus(half)}"]
        chance = evidence.counted(float(part.attrs["polysemantic_chance"]), int(part.attrs["polysemantic_drawn"]))
        row += [evidence.counted(images, neurons), chance, evidence.counted(texts, neurons)]
        if "agreement" in part.attrs:
            p = p_value(float(part.attrs["p_value"])).removeprefix("p").removeprefix(" = ")
            fit = evidence.counted(float(part.attrs["agreement"]), int(part.attrs["neurons"]))
            row += [fit, percent(float(part.attrs["chance"])), p.strip()]
        else:
            row += ["n/a"] * 3
        rows.append(row)
    columns = ["MLP", "one direction", "groups of images", "by chance", "groups of texts"]
    caption = (
        "In brackets 95% intervals, each neuron taken as one draw: neurons of a layer are not quite independent. Texts "
        "and top images are of the same reference images"
    )
    return Table([*columns, "texts fit images", "by chance", "p"], rows, caption)


def _catalogue(context: Context, model: Model) -> dict[str, Any]:
    """The map of the neurons that have a page, the largest of each layer, and a link to every page."""
    layers, largest, links = [], [], []
    for layer, found in groupby(neurons_of(context, model), key=lambda neuron: neuron.layer):
        here = list(found)
        shown = [neuron for neuron in here if neuron.page]
        name = f"layer {layer}"
        layers.append((name, _map(context, shown)))
        top = sorted(here, key=lambda neuron: -neuron.norm)[:LARGEST]
        largest.append((name, [_row(context, neuron) for neuron in top]))
        links.append((name, [(neuron.neuron, neuron.page) for neuron in shown]))
    return {
        "map": plot(f"neuron-map-{model.slug}", charts.neuron_map(layers)),
        "largest": largest,
        "links": links,
        "pages": sum(len(found) for _, found in links),
    }


def _map(context: Context, shown: Sequence[Neuron]) -> list[tuple[str, str, list[charts.Place]]]:
    groups = []
    for attribute in [*context.findings.attributes, ""]:
        these = [neuron for neuron in shown if neuron.named[0] == attribute]
        colour = context.findings.colour(attribute)
        if these:
            groups.append((attribute or "no attribute named", colour, these))
    return [
        (name, colour, [(n.norm, n.explained, n.name, first_text(n), f"neurons/{n.page}", n.groups) for n in these])
        for name, colour, these in groups
    ]


def _row(context: Context, neuron: Neuron) -> dict[str, Any]:
    return {
        "name": neuron.name,
        "page": f"neurons/{neuron.page}" if neuron.page else "",
        "norm": number(neuron.norm),
        "explained": percent(neuron.explained, 0),
        "text": first_text(neuron),
        "named": value_chip(context, neuron.named),
        "shared": value_chip(context, neuron.shared),
    }


SECTIONS: tuple[Section, ...] = (
    Section(
        "neurons",
        "Neurons",
        "What the neurons of one MLP send to the output through the attention heads after it: their second-order "
        "effects. They are replaced by their means over images, all of them, or only where their norm is small or "
        "large, or by their part along one direction a neuron. Where the line without all neurons falls, the layer "
        "matters; where the reconstruction stays up, one direction a neuron says all that it writes.",
        ("neuron_ablation/{model}", "neurons/{model}/{layer}"),
        neurons,
        told.neurons_tiles,
        told.neurons_headline,
        neuron_units,
        neuron_parts,
        template="neurons.html",
    ),
    Section(
        "concepts",
        "Concepts of images",
        "On each image some neurons are active: their effect is larger than on nearly all others. The texts of these "
        "neurons, weighted by the effects, name what the model sees in it. A tick is true of the image, a cross is "
        "not, a question mark names nothing that the image is labelled by.",
        ("concepts/{model}",),
        concepts,
        told.concepts_tiles,
        told.concepts_headline,
        template="concepts.html",
    ),
    Section(
        "adversarial",
        "Where it can be misled",
        "A test of robustness. A neuron that writes for two things at once ties them together: phrases that the "
        "neurons of a pair of classes share are put into images of the one class, and it is counted how many the "
        "model takes for the other. What misleads it more than phrases of random neurons shows a cue to test for or "
        "to train against.",
        ("adversarial/{model}",),
        adversarial,
        told.adversarial_tiles,
        told.adversarial_headline,
        template="adversarial.html",
    ),
)
