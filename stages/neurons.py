"""Stage neurons: what the neurons of one MLP write: direction, texts, top images and how many groups these form."""

import numpy as np

from optogram.methods.neurons.descriptions import describe_neurons, top_maps
from optogram.metrics.headline import beside_chance
from optogram.models.loading.clip_folders import load_clip
from optogram.pipeline.stage import Input, Stage
from stages.doorway import Doorway, run, through

STAGE = Stage(
    "neurons",
    family="neurons",
    desc="Directions, texts, top images and groups of layer {layer}'s neurons in {model} (sections 3.3, 3.4)",
    over={"model": "clips", "layer": "second_order.layers"},
    options=("layer",),
    inputs=(
        Input("effects", "second_order/{model}", ("reference/{layer}",)),
        Input("embeddings", "embeddings/{model}"),
        Input("model", "models/{model}"),
        Input("images", "images/reference"),
    ),
    switch="neurons",
    out="neurons/{model}/{layer}",
    params=("seed", "texts.pools", "texts.files", "neurons", "concepts.percentile"),
    metrics=True,
    pool="gpu",
)


@through(STAGE)
def main(door: Doorway) -> None:
    """Write neurons/<model>/<layer>."""
    options, layer, images = door.params.neurons, int(door.args.layer), door.open("images")
    effects = door.open("effects", "reference", str(layer))
    found = describe_neurons(
        effects,
        {name: door.open("embeddings", name) for name in door.params.texts.names},
        images.label,
        images.value_name,
        largest=options.largest,
        percentile=door.params.concepts.percentile,
        sizes=options.curve,
        sparsity=options.sparsity,
        texts=options.texts,
        grouped=options.grouped,
        separation=options.separation,
        seed=door.params.seed,
        permutations=options.permutations,
    )
    shown = np.sort(np.argsort(-found.norm.mean("rank").values, kind="stable")[: options.shown])
    place = {name: row for row, name in enumerate(effects.image.values.tolist())}
    top = [[place[name] for name in row] for row in found.top_image.values[shown, : options.images].tolist()]
    clip = load_clip(door.folder("model"), device=door.params.device)
    maps = top_maps(clip, images.pixels, layer, np.array(top), shown.tolist(), batch=options.images * 8)
    found = found.assign(map=(("shown", "k", "gy", "gx"), maps)).assign_coords(shown=found.neuron.values[shown])
    door.write(found.assign_attrs(mlp_layer=layer), f"Neurons of layer {layer}")
    door.write_metrics(beside_chance("neurons whose texts name what their images share", found.attrs, of="neurons"))


if __name__ == "__main__":
    run(main)
