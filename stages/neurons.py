"""Stage neurons: what the neurons of one MLP write: direction, texts, top images and how many groups these form."""

from collections.abc import Sequence

import numpy as np

from optogram.methods.describe_neurons import describe_neurons, top_maps
from optogram.models.folder import load_clip
from stages.doorway import Doorway, run


def main(argv: Sequence[str] | None = None) -> None:
    """Write neurons/<model>/<layer>."""
    paths = ("effects", "embeddings", "model", "images", "out", "metrics")
    sections = ("seed", "texts.pools", "texts.files", "neurons", "concepts.percentile")
    door = Doorway("neurons", argv, paths=paths, sections=sections, options=("layer",))
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
        steps=options.texts,
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
    door.write_metrics({**found.attrs, "explained": float(found.explained.mean())})


if __name__ == "__main__":
    run(main)
