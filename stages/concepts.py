"""Stage concepts: what the active neurons of each image name (appendix B, concept discovery in images)."""

import xarray as xr

from optogram.decompose.effects import effect_norms
from optogram.errors import DataError
from optogram.methods.neurons.image_concepts import concept_precision, image_concepts, true_concepts
from optogram.metrics.headline import beside_chance
from optogram.pipeline.stage import Input, Stage
from stages.doorway import Doorway, run, through

STAGE = Stage(
    "concepts",
    family="neurons",
    desc="Concepts that the active neurons of {model} name in each image (appendix B)",
    over={"model": "clips"},
    inputs=(
        Input("effects", "second_order/{model}"),
        Input("neurons", "neurons/{model}"),
        Input("embeddings", "embeddings/{model}"),
        Input("images", "images/eval"),
    ),
    switch="concepts",
    out="concepts/{model}",
    params=(
        "seed",
        "texts.pools",
        "texts.files",
        "second_order.layers",
        "neurons.sparsity",
        "neurons.permutations",
        "concepts",
    ),
    metrics=True,
)


@through(STAGE)
def main(door: Doorway) -> None:
    """Write concepts/<model>."""
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
    door.write_metrics(beside_chance("concepts that are true of their image", truth, of="concepts", value="precision"))


if __name__ == "__main__":
    run(main)
