"""Stage indirect: neurons of one MLP intervened on, one by one and all at once, and first-order effects (Table 3.1)."""

from collections.abc import Sequence

from optogram.methods.indirect import indirect_components, mean_activations, without_neurons
from optogram.metrics.classification import accuracy
from optogram.models.folder import load_clip
from stages.doorway import Doorway, run


def main(argv: Sequence[str] | None = None) -> None:
    """Write indirect/<model>/<layer>."""
    paths = ("model", "embeddings", "images", "out")
    door = Doorway("indirect", argv, paths=paths, sections=("second_order.batch", "indirect"), options=("layer",))
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
    task = (door.open("embeddings", "zeroshot"), evaluated.label, evaluated.value_name)
    for name, embeddings in without.items():
        found[name] = accuracy(embeddings, *task).drop_vars(["chance", "majority", "count"])
    door.write(found.assign_attrs(mlp_layer=layer), f"Indirect effects of the neurons of layer {layer}")


if __name__ == "__main__":
    run(main)
