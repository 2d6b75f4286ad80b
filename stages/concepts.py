"""Stage concepts: what the active neurons of each image name (appendix B, concept discovery in images)."""

from collections.abc import Sequence

import xarray as xr

from optogram.decompose.effects import effect_norms
from optogram.errors import DataError
from optogram.methods.concepts import concept_precision, image_concepts, true_concepts
from stages.doorway import Doorway, run


def main(argv: Sequence[str] | None = None) -> None:
    """Write concepts/<model>."""
    paths = ("effects", "neurons", "embeddings", "images", "out", "metrics")
    neurons = ("neurons.sparsity", "neurons.permutations")
    sections = ("seed", "texts.pools", "texts.files", "second_order.layers", *neurons, "concepts")
    door = Doorway("concepts", argv, paths=paths, sections=sections)
    options, seed, permutations = door.params.concepts, door.params.seed, door.params.neurons.permutations
    images = door.open("images").isel(image=slice(options.images))
    name = door.params.texts.names[0]
    pool = door.open("embeddings", name).load()
    norms: list[xr.DataArray] = []
    codes: list[xr.Dataset] = []
    for layer in map(str, door.params.second_order.layers):
        norms.append(effect_norms(door.open("effects", "eval", layer).isel(image=slice(options.images))))
        codes.append(door.open("neurons", layer)[["index", "coefficient", "threshold"]].sel(pool=name))
    # neurons of all layers are one set: a norm says how much each of them adds to the embedding
    neurons = xr.concat(codes, "neuron").sel(size=door.params.neurons.sparsity).load()
    texts = pool.text.values.astype(str).tolist()
    found = image_concepts(xr.concat(norms, "neuron"), neurons.threshold.values, neurons, texts, options.texts)
    found["true"] = true_concepts(found.text, pool, images.label, images.value_name)
    truth = {"pool": name, "active": float(found.active.mean()), "neurons": neurons.sizes["neuron"]}
    try:
        judged = concept_precision(
            found.text, pool, images.label, images.value_name, seed=seed, permutations=permutations
        )
        truth |= judged._asdict()
    except DataError as error:
        truth["truth_skipped"] = str(error)
    door.write(found.assign_coords(image=images.image.values).assign_attrs(truth), "Concepts of images")
    door.write_metrics(truth)


if __name__ == "__main__":
    run(main)
