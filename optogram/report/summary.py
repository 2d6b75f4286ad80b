"""Room report: what was run, and its key findings as a strip of numbers."""

from dataclasses import dataclass

import numpy as np

from optogram.report.findings import Findings, Model, labels
from optogram.report.formats import METHODS, MINED, OURS, count, p_value, percent, points
from optogram.report.panels import Context


@dataclass(frozen=True)
class Tile:
    """One number of the strip: what it is, the number, what to compare it with, and the section it comes from."""

    title: str
    value: str
    beside: str
    section: str


def tiles(context: Context, model: Model) -> list[Tile]:
    """The key findings on one model, for the class attribute where there are several."""
    builders = _accuracy, _mlps, _textspan, _roles, _neurons, _concepts, _adversarial, _spurious, _segmentation
    return [tile for builder in builders if (tile := builder(context, model)) is not None]


def run_facts(findings: Findings) -> list[tuple[str, str]]:
    """What was run, in a few lines: models, images, texts, attributes."""
    images = ", ".join(f"{split} {count(d.sizes['image'])}" for split, d in findings.images.items())
    facts = [("Models", ", ".join(m.name for m in findings.models)), ("Images", images)]
    pools: dict[str, int] = {}
    for model in findings.models:
        for kind, dataset in model.parts.items():
            if kind.startswith("embeddings/") and kind != "embeddings/zeroshot" and "text" in dataset.sizes:
                pools.setdefault(kind.removeprefix("embeddings/"), dataset.sizes["text"])
    if pools:
        facts.append(("Texts", ", ".join(f"{pool} {count(n)}" for pool, n in pools.items())))
    facts.append(("Attributes", ", ".join(findings.attributes)))
    shapes = []
    for model in findings.models:
        if model.heads:
            layers = sorted({h.layer for h in model.heads})
            shapes.append(f"{model.name}: {len(model.heads)} heads in layers {layers[0]} to {layers[-1]}")
    if shapes:
        facts.append(("Decomposed", "; ".join(shapes)))
    for model in findings.models:
        if model.neuron_layers:
            total = count(sum(part.sizes["neuron"] for part in model.neuron_layers.values()))
            shown = f"{model.name}: {total} in MLP layers {', '.join(map(str, model.neuron_layers))}"
            facts.append(("Neurons", shown))
    if findings.classifiers:
        facts.append(("Classifiers", ", ".join(model.name for model in findings.classifiers)))
    return facts


def _accuracy(context: Context, model: Model) -> Tile | None:
    found = model.part("ablation")
    if found is None:
        return None
    base = context.by_attribute(found.sel(condition="none"), "accuracy")[0]
    chance = context.by_attribute(found, "chance")[0]
    name = context.attributes(found)[0]
    return Tile(f"Zero-shot accuracy on {name}", percent(base), f"chance {percent(chance)}", "accuracy")


def _mlps(context: Context, model: Model) -> Tile | None:
    found = model.part("ablation")
    if found is None or "mlps" not in labels(found, "condition"):
        return None
    base, without = (context.by_attribute(found.sel(condition=c), "accuracy") for c in ("none", "mlps"))
    name, worst = context.attributes(found)[0], float((without - base).min())
    beside = f"points of {name} accuracy"
    if len(base) > 1:
        beside += f"; worst attribute {points(worst)}"
    return Tile("All MLPs mean-ablated", points(float(without[0] - base[0])), beside, "ablation")


def _textspan(context: Context, model: Model) -> Tile | None:
    found = model.part("textspan")
    if found is None:
        return None
    curve = context.by_attribute(found, "accuracy", "pool", "size")[0, :, 0]
    base = context.by_attribute(found, "base_accuracy")[0]
    sizes, pools = labels(found, "size"), labels(found, "pool")
    # few picks tell pools apart; as many as a head has dimensions span it whichever texts they are
    at = len(sizes) // 2
    name = context.attributes(found)[0]
    beside = f"{name} accuracy from {sizes[at]} {pools[0]} a head; unaltered {percent(base)}"
    if "random" in pools:
        everyone = context.by_attribute(found, "accuracy", "pool", "size")[pools.index("random"), :, 0]
        beside += f"; from random vectors {percent(float(everyone[at]))}"
    return Tile("Explained in words", percent(float(curve[at])), beside, "textspan")


def _roles(context: Context, model: Model) -> Tile | None:
    found = model.part("roles")
    if found is None or "agreement" not in found.attrs:
        return None
    chance, p = float(found.attrs["chance"]), float(found.attrs["p_value"])
    beside = f"of {int(found.attrs['heads'])} heads; by chance {percent(chance, 0)}, {p_value(p)}"
    if "agreement_by_margin" in found.attrs:
        beside += f"; by margin {percent(float(found.attrs['agreement_by_margin']), 0)}"
    return Tile("Named role is the measured one", percent(float(found.attrs["agreement"]), 0), beside, "roles")


def _spurious(context: Context, model: Model) -> Tile | None:
    found = model.part("spurious")
    if found is None:
        return None
    worst = {c: float(found["worst"].sel(ablation=c)) for c in labels(found, "ablation")}
    beside = f"from {percent(worst['base'])}; best random draw {percent(worst['random best'])}"
    return Tile("Worst group, cue heads ablated", percent(worst["chosen"]), beside, "spurious")


def _segmentation(context: Context, model: Model) -> Tile | None:
    found = model.part("segmentation")
    if found is None or "miou" not in labels(found, "metric"):
        return None
    methods = labels(found, "method")
    score = found["score"].sel(metric="miou").values
    others = [k for k, name in enumerate(methods) if name not in OURS]
    best = max(others, key=lambda k: score[k])
    other = METHODS.get(methods[best], methods[best])
    value = percent(float(score[methods.index("decomposition")]))
    beside = f"best other {percent(float(np.max(score[others])))} ({other})"
    if "neurons" in methods:
        beside += f"; by neurons {percent(float(score[methods.index('neurons')]))}"
    return Tile("Segmentation mIoU", value, beside, "segmentation")


def _neurons(context: Context, model: Model) -> Tile | None:
    found = model.part("neuron_ablation")
    if found is None or not {"none", "all", "rank_one"} <= set(labels(found, "condition")):
        return None
    at = {c: context.by_attribute(found.sel(condition=c), "accuracy", "layer").mean(-1) for c in ("none", "all")}
    layer = int(np.argmax(at["none"] - at["all"]))
    kept = context.by_attribute(found.sel(condition="rank_one"), "accuracy", "layer").mean(-1)[layer]
    beside = f"points of accuracy, all attributes; a direction a neuron keeps {percent(float(kept))}"
    title = f"Without the neurons of layer {labels(found, 'layer')[layer]}"
    return Tile(title, points(float(at["all"][layer] - at["none"][layer])), beside, "neurons")


def _concepts(context: Context, model: Model) -> Tile | None:
    found = model.part("concepts")
    if found is None or "precision" not in found.attrs:
        return None
    beside = f"found by neurons; by chance {percent(float(found.attrs['chance']))}"
    return Tile("Concepts true of their image", percent(float(found.attrs["precision"])), beside, "concepts")


def _adversarial(context: Context, model: Model) -> Tile | None:
    found = model.part("adversarial")
    if found is None or "second_order" not in labels(found, "method"):
        return None
    share = 100 * (found["fooled"] / found["images"].clip(1)).mean(("task", "repeat")).values
    means = {name: f"{value:.1f}" for name, value in zip(labels(found, "method"), share.tolist(), strict=True)}
    others = [f"{MINED[name].lower()} {means[name]}" for name in MINED if name in means and name != "second_order"]
    return Tile("Misled, of 100 images", means["second_order"], "; ".join(others), "adversarial")
