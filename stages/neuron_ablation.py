"""Stage neuron_ablation: accuracy with neurons' effects ablated or simplified (Figures 3.3, 3.4, Table 3.1)."""

from collections.abc import Sequence

import xarray as xr

from optogram.methods.neuron_ablation import ablate_neurons
from optogram.methods.neurons import rank_one
from optogram.progress import progress
from stages.doorway import Doorway, run


def main(argv: Sequence[str] | None = None) -> None:
    """Write neuron_ablation/<model>."""
    paths = ("effects", "neurons", "indirect", "embeddings", "images", "out", "metrics")
    sections = ("texts.pools", "texts.files", "second_order.layers", "neurons.largest", "indirect")
    door = Doorway("neuron_ablation", argv, paths=paths, sections=sections)
    options, images, few = door.params.indirect, door.open("images"), door.params.neurons.largest
    task = (door.open("embeddings", "zeroshot"), images.label, images.value_name)
    pools = {name: door.open("embeddings", name) for name in door.params.texts.names}
    layers, parts, explained = door.params.second_order.layers, [], []
    with progress("Ablations of neurons", len(layers), "layers") as advance:
        for layer in map(str, layers):
            neurons, indirect = door.open("neurons", layer).load(), door.open("indirect", layer).load()
            part = ablate_neurons(door.open("effects", "eval", layer), neurons, pools, *task, largest=few)
            intervened = indirect[["first_order", "indirect"]].to_dataarray("condition").rename("accuracy")
            both = xr.concat([part.accuracy, intervened], "condition")
            parts.append(part.drop_vars(["accuracy", "condition"]).assign(accuracy=both))
            same = door.open("effects", "reference", layer).isel(image=slice(options.images))
            same = rank_one(same.isel(neuron=slice(options.neurons)), options.largest)
            explained.append([float(one.explained.mean()) for one in (neurons, same, indirect)])
            advance(1)
    found = xr.concat([part.drop_vars("chance") for part in parts], "layer", join="exact").assign_coords(layer=layers)
    found = found.assign(explained=(("layer", "effect"), explained), chance=parts[0].chance)
    found = found.assign_coords(effect=["second_order", "second_order_same_images", "indirect"])
    door.write(found, "Mean-ablation of neurons")
    door.write_metrics(
        {
            f"layer {layer}": {
                "accuracy": dict(zip(found.condition.values, one.accuracy.mean("attribute").values, strict=True)),
                "explained": dict(zip(found.effect.values, one.explained.values, strict=True)),
                "reconstructed": {
                    pool: dict(zip(map(str, found["size"].values), row, strict=True))
                    for pool, row in zip(found.pool.values, one.reconstructed.mean("attribute").values, strict=True)
                },
            }
            for layer, one in ((layer, found.sel(layer=layer)) for layer in layers)
        }
    )


if __name__ == "__main__":
    run(main)
