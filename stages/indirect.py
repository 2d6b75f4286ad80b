"""Stage indirect: neurons of one MLP intervened on, one by one and all at once, and first-order effects (Table 3.1)."""

import numpy as np

from optogram.methods.neurons.indirect import indirect_components, mean_activations, without_neurons
from optogram.metrics.classification import ZeroShotTask, moved, nan_mean
from optogram.models.loading.clip_folders import load_clip
from optogram.pipeline.stage import Input, Stage
from stages.doorway import Doorway, run, through

CONDITIONS = ("first_order", "indirect")


STAGE = Stage(
    "indirect",
    family="neurons",
    desc="Intervene on layer {layer}'s neurons in {model}, one by one and all at once (Table 3.1)",
    over={"model": "clips", "layer": "second_order.layers"},
    options=("layer",),
    inputs=(
        Input("model", "models/{model}"),
        Input("embeddings", "embeddings/{model}", ("zeroshot",)),
        Input("images", "images", ("eval", "reference")),
    ),
    switch="indirect",
    out="indirect/{model}/{layer}",
    params=("second_order.batch", "indirect"),
    pool="gpu",
)


@through(STAGE)
def main(door: Doorway) -> None:
    """Write indirect/<model>/<layer>."""
    options, batch, layer = door.params.indirect, door.params.second_order.batch, int(door.args.layer)
    reference, evaluated = (door.open("images", split) for split in ("reference", "eval"))
    clip = load_clip(door.folder("model"), device=door.params.device)
    sources = [
        (lambda rows, pixels=images.pixels: clip.preprocess(pixels[rows].values), images.sizes["image"])
        for images in (reference, evaluated)
    ]
    mean = mean_activations(clip.model, *sources[0], layer, batch=batch)
    few = clip.preprocess(reference.pixels[: options.images].values)
    every = range(mean.sizes["neuron"])[: options.neurons]
    found = indirect_components(
        clip.model, few, layer, mean, largest=options.largest, neurons=every, batch=options.images
    )
    without = without_neurons(clip.model, layer, mean, *sources, batch=batch)
    classifier = door.open("embeddings", "zeroshot")
    task = ZeroShotTask.prepare(classifier, evaluated.label, evaluated.value_name)
    weights = classifier.classifier.values.T
    whole, *answers = (task.outcome(without[name] @ weights)[0] for name in ("none", *CONDITIONS))
    changed = np.stack([moved(whole, one) for one in answers], axis=1)
    found = found.assign({name: ("attribute", nan_mean(one)) for name, one in zip(CONDITIONS, answers, strict=True)})
    found = found.assign(lost=(("condition", "attribute"), changed[0]), gained=(("condition", "attribute"), changed[1]))
    found = found.assign_coords(condition=list(CONDITIONS), attribute=list(task.attributes))
    door.write(found.assign_attrs(mlp_layer=layer), f"Indirect effects of the neurons of layer {layer}")


if __name__ == "__main__":
    run(main)
