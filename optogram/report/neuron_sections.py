"""Room report: the sections on neurons: second-order effects, concepts of images, and where the model can be misled."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
import xarray as xr

from optogram.report import figures
from optogram.report.figures import Plot
from optogram.report.findings import Findings, Model, Neuron, labels, params_of, strings
from optogram.report.formats import EFFECTS, MINED, NEURONS, count, number, p_value, percent, signed, words
from optogram.report.neurons import first_text, value_chip
from optogram.report.panels import Context, Panel, Table, percent_table

LARGEST = 20
"""Neurons of a layer in the table."""
SHOWN = 8
"""Images whose concepts are shown, at most."""
CLOSE = 0.2
"""Range of accuracies below which they are also shown close up."""
PHRASES = 10
"""Phrases of a task that are listed."""
MARKS = {1: ("true", "✓", "true of this image"), 0: ("false", "✗", "not true of this image"), -1: ("open", "?", "open")}


def neurons(context: Context, model: Model) -> Panel:
    """Figures 3.3 and 3.4, Table 3.1, the labels' agreement, and the neurons themselves."""
    layers = [kind for kind in model.parts if kind.startswith("neurons/")]
    panel = context.panel(model, "neuron_ablation", *layers)
    found = model.part("neuron_ablation")
    if found is None and model.neuron_layers:
        panel.extra["note"] = f"Neurons were not ablated: {panel.skipped}"
        panel.skipped = ""
    if found is not None:
        _ablations(context, model, found, panel)
        _texts(context, model, found, panel)
    if model.neuron_layers:
        why = {str(part.attrs.get("truth_skipped") or "") for part in model.neuron_layers.values()} - {""}
        panel.extra |= {"why": sorted(why), "layers": _agreement(model), **_catalogue(context, model)}
    elif found is not None:
        panel.extra["note"] = "The neurons themselves: " + (model.missing(layers[0]) if layers else "this was not run.")
    return panel


def _ablations(context: Context, model: Model, found: xr.Dataset, panel: Panel) -> None:
    layers, conditions = labels(found, "layer"), labels(found, "condition")
    values = context.by_attribute(found, "accuracy", "layer", "condition")
    shown = [NEURONS.get(c, words(c)) for c in conditions]
    options = []
    for name, curves, chance in _by_choice(context, found, values, context.by_attribute(found, "chance")):
        figure = figures.condition_lines(conditions, shown, layers, curves.T, chance)
        options.append((name, figure))
        near = [k for k, condition in enumerate(conditions) if condition not in ("first_order", "indirect")]
        if curves[:, near].min() > chance and np.ptp(curves[:, near]) < CLOSE:
            names = [shown[k] for k in near]
            figure = figures.condition_lines([conditions[k] for k in near], names, layers, curves.T[near], None)
            options.append((f"{name}, close up", figure))
        panel.folded.append(
            percent_table(
                "ablated",
                [f"layer {layer}" for layer in layers],
                shown,
                curves.T,
                caption=f"Accuracy, {name}; chance {percent(chance)}",
            )
        )
    label = "Zero-shot accuracy against the MLP layer whose neurons are ablated or simplified, by condition"
    title = "What a layer's neurons are needed for"
    panel.plots.append(Plot(f"neurons-{model.slug}", label, options, 420, choose="Accuracy on", title=title))
    panel.tables.append(_indirect(context, found, values))


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
    explained = found["explained"].transpose("layer", "effect").values
    ablated = {"second_order": "all", "indirect": "indirect"}
    rows = []
    for k, layer in enumerate(labels(found, "layer")):
        for j, effect in enumerate(effects):
            condition = ablated.get(effect, "")
            at = values[k, conditions.index(condition)] if condition in conditions else None
            accuracy = ["·", "·"] if at is None else [percent(float(at[0])), percent(float(at.mean()))]
            name = f"layer {layer}, {EFFECTS.get(effect, words(effect))}"
            rows.append([name, *accuracy[: min(2, len(names))], percent(float(explained[k, j]))])
    columns = ["effect", f"accuracy on {names[0]}", *["mean accuracy"][: len(names) - 1], "explained by the first PC"]
    caption = "Accuracy after mean-ablation, and variance explained; same images: those of the indirect effects"
    return Table(columns, rows, caption)


def _texts(context: Context, model: Model, found: xr.Dataset, panel: Panel) -> None:
    """Figure 3.4."""
    pools, sizes = labels(found, "pool"), [int(size) for size in labels(found, "size")]
    conditions, chance = labels(found, "condition"), context.by_attribute(found, "chance")
    curves = context.by_attribute(found, "reconstructed", "layer", "pool", "size")
    values = context.by_attribute(found, "accuracy", "layer", "condition")
    kinds = {"nothing ablated": "none", "PC #1 itself": "rank_one", "w/o all neurons": "all"}
    options = []
    for k, layer in enumerate(labels(found, "layer")):
        # of the attributes the class attribute alone, and their mean
        each = [_by_choice(context, found, of[k], chance)[:2] for of in (curves, values)]
        for (name, curve, _), (_, level, _) in zip(*each, strict=True):
            levels = {
                says: float(level[conditions.index(condition)])
                for says, condition in kinds.items()
                if condition in conditions
            }
            figure = figures.size_curves(pools, sizes, curve, levels, per="texts a neuron")
            figures.close_up(figure, np.concatenate([curve.ravel(), [*levels.values()]]))
            options.append((f"layer {layer}, {name}", figure))
            beside = ", ".join(f"{says} {percent(value)}" for says, value in levels.items())
            panel.folded.append(
                percent_table(
                    f"layer {layer}",
                    [str(s) for s in sizes],
                    pools,
                    curve,
                    bold=True,
                    caption=f"Accuracy by texts a neuron, {name}; {beside}",
                )
            )
    label = "Zero-shot accuracy with each neuron rebuilt from texts, against their number, by pool"
    title = "How many texts make a neuron"
    panel.plots.append(Plot(f"neuron-texts-{model.slug}", label, options, 400, choose="Show", title=title))


def _agreement(model: Model) -> Table:
    """Whether texts and images of the neurons agree, and how many neurons are polysemantic, a row a layer."""
    rows = []
    for layer, part in model.neuron_layers.items():
        images, texts = (float((part[f"{name}_groups"].values > 1).mean()) for name in ("image", "text"))
        row = [f"layer {layer}", percent(float(part["explained"].mean()))]
        row += [percent(images), percent(float(part.attrs.get("polysemantic_chance", np.nan))), percent(texts)]
        if "agreement" in part.attrs:
            row += [percent(float(part.attrs[name])) for name in ("agreement", "chance")]
            p = p_value(float(part.attrs["p_value"])).removeprefix("p").removeprefix(" = ")
            row += [p.strip(), count(int(part.attrs["neurons"]))]
        else:
            row += ["n/a"] * 4
        rows.append(row)
    columns = ["MLP", "one direction", "groups of images", "by chance", "groups of texts"]
    return Table([*columns, "texts fit images", "by chance", "p", "compared"], rows)


def _catalogue(context: Context, model: Model) -> dict[str, Any]:
    """The map of the neurons that have a page, the largest of each layer, and a link to every page."""
    options, largest, links = [], [], []
    for layer, found in groupby(context.neurons[model.name], key=lambda neuron: neuron.layer):
        here = list(found)
        shown = [neuron for neuron in here if neuron.page]
        name = f"layer {layer}"
        options.append((name, _map(context, shown)))
        top = sorted(here, key=lambda neuron: -neuron.norm)[:LARGEST]
        largest.append((name, [_row(context, neuron) for neuron in top]))
        links.append((name, [(neuron.neuron, neuron.page) for neuron in shown]))
    label = "Neurons by the norm of their largest effects and by how far one direction explains these"
    return {
        "map": Plot(f"neuron-map-{model.slug}", label, options, 460, choose="MLP"),
        "largest": largest,
        "links": links,
        "pages": sum(len(found) for _, found in links),
    }


def _map(context: Context, shown: Sequence[Neuron]) -> figures.Figure:
    groups = []
    for attribute in [*context.findings.attributes, ""]:
        these = [neuron for neuron in shown if neuron.named[0] == attribute]
        colour = context.findings.colour(attribute)
        if these:
            groups.append((attribute or "no attribute named", colour, these))
    return figures.neuron_map(
        [
            (name, colour, [(n.norm, n.explained, n.name, first_text(n), f"neurons/{n.page}", n.groups) for n in these])
            for name, colour, these in groups
        ]
    )


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


def concepts(context: Context, model: Model) -> Panel:
    """Concept discovery in images (appendix B)."""
    panel = context.panel(model, "concepts")
    found = model.part("concepts")
    if found is None:
        return panel
    params = params_of(found).get("concepts")
    asked = params.get("shown", SHOWN) if isinstance(params, dict) else SHOWN
    some = found.isel(image=slice(min(int(asked), SHOWN)))
    texts, scores, true = (some[name].transpose("image", "k").values for name in ("text", "score", "true"))
    images = []
    for row, image in enumerate(labels(some, "image")):
        most = float(scores[row].max(initial=0)) or 1.0
        rows = [
            (str(text), MARKS[int(true[row, k])], round(100 * float(scores[row, k]) / most, 1))
            for k, text in enumerate(texts[row])
            if text
        ]
        active = f"{count(int(some['active'].values[row]))} active neurons"
        images.append({"thumb": context.thumbs.thumb(image), "id": image, "active": active, "rows": rows})
    panel.extra = {"concepts": images, "tiles": [], "why": str(found.attrs.get("truth_skipped") or "")}
    if "precision" in found.attrs:
        chance, p = float(found.attrs["chance"]), float(found.attrs["p_value"])
        beside = (
            f"of {count(int(found.attrs['concepts']))} that name a value; by chance {percent(chance)}, {p_value(p)}"
        )
        panel.extra["tiles"].append(
            ("Concepts that are true of their image", percent(found.attrs["precision"]), beside)
        )
    if "active" in found.attrs:
        beside = f"of {count(int(found.attrs['neurons']))}, on the mean image"
        panel.extra["tiles"].append(("Active neurons", number(float(found.attrs["active"])), beside))
    return panel


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
    shown = np.round(mean, 1)
    best = np.argwhere((shown == shown.max(1, keepdims=True)) & (shown > shown.min(1, keepdims=True)))
    caption = "Images of 100 taken for the other class (± standard deviation over repeats); most in bold"
    columns = ["task", *(MINED.get(m, words(m)) for m in methods), "accuracy on eval"]
    panel.tables.append(Table(columns, rows, caption, frozenset((int(r), int(c)) for r, c in best)))
    panel.extra = {"tasks": [_task(context, model, found.isel(task=k), task) for k, task in enumerate(tasks)]}
    return panel


def _task(context: Context, model: Model, found: xr.Dataset, task: str) -> dict[str, Any]:
    """A task's phrases and images, by the neurons' second-order effects (or by the only method there is)."""
    method = "second_order" if "second_order" in labels(found, "method") else labels(found, "method")[-1]
    here = found.isel(method=labels(found, "method").index(method))
    score = here["score"].values
    phrases = [(str(text), number(float(score[k]))) for k, text in enumerate(strings(here["phrase"])) if text]
    images = [
        {
            "thumb": context.thumbs.thumb(misleading_image(model, task, method, k)),
            "text": str(text),
            "margin": signed(float(here["margin"].values[k])),
        }
        for k, text in enumerate(strings(here["description"]))
        if text
    ]
    return {"name": task, "phrases": phrases[:PHRASES], "images": images}


def misleading_image(model: Model, task: str, method: str, k: int) -> str:
    """The id of an image of `adversarial`, which belongs to no split."""
    return f"adversarial/{model.name}/{task}/{method}/{k}"


def misleading_images(findings: Findings) -> dict[str, xr.Dataset]:
    """The images of `adversarial` like splits of images without labels, for the thumbnails."""
    found = {}
    for model in findings.models:
        part = model.part("adversarial")
        if part is None:
            continue
        pixels = part["pixels"].transpose("task", "method", "shown", "y", "x", "rgb")
        ids = [
            misleading_image(model, task, method, k)
            for task in labels(part, "task")
            for method in labels(part, "method")
            for k in range(pixels.sizes["shown"])
        ]
        found[f"adversarial/{model.name}"] = xr.Dataset(
            {
                "pixels": (("image", "y", "x", "rgb"), pixels.values.reshape(-1, *pixels.shape[3:])),
                "label": (("image", "attribute"), np.empty((len(ids), 0), np.int16)),
                "value_name": (("attribute", "value"), np.empty((0, 0), str)),
            },
            {"image": ids},
        )
    return found
