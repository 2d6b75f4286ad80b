"""Stage neuron_ablation: accuracy with neurons' effects ablated or simplified (Figures 3.3, 3.4, Table 3.1)."""

import math

import numpy as np
import xarray as xr

from optogram.methods.neurons.ablation import ablate_neurons, explained_by
from optogram.methods.neurons.effects import rank_one
from optogram.metrics.headline import Headline
from optogram.pipeline.stage import Input, Stage
from optogram.progress import progress
from stages.doorway import Doorway, run, through

STAGE = Stage(
    "neuron_ablation",
    family="neurons",
    desc="Zero-shot accuracy of {model} with its neurons' effects ablated or simplified (Figures 3.3, 3.4, Table 3.1)",
    over={"model": "clips"},
    inputs=(
        Input("effects", "second_order/{model}"),
        Input("neurons", "neurons/{model}"),
        Input("indirect", "indirect/{model}"),
        Input("embeddings", "embeddings/{model}"),
        Input("images", "images/eval"),
    ),
    switch="neuron_ablation",
    out="neuron_ablation/{model}",
    params=("texts.pools", "texts.files", "second_order.layers", "neurons.largest", "indirect"),
    metrics=True,
)


@through(STAGE)
def main(door: Doorway) -> None:
    """Write neuron_ablation/<model>."""
    options, images, few = door.params.indirect, door.open("images"), door.params.neurons.largest
    task = (door.open("embeddings", "zeroshot"), images.label, images.value_name)
    pools = {name: door.open("embeddings", name) for name in door.params.texts.names}
    layers, parts, explained = door.params.second_order.layers, [], []
    with progress("Ablations of neurons", len(layers), "layers") as advance:
        for layer in map(str, layers):
            neurons, indirect = door.open("neurons", layer).load(), door.open("indirect", layer).load()
            part = ablate_neurons(door.open("effects", "eval", layer), neurons, pools, *task, largest=few)
            intervened = indirect[list(indirect.condition.values)].to_dataarray("condition")
            more = indirect[["lost", "gained"]].assign(accuracy=intervened)
            changed = xr.concat([part[[*more.data_vars]], more], "condition", join="exact")
            parts.append(part.drop_dims("condition").merge(changed, join="exact"))
            same = door.open("effects", "reference", layer).isel(image=slice(options.images))
            same = rank_one(same.isel(neuron=slice(options.neurons)), options.largest)
            explained.append(explained_by([one.explained.values for one in (neurons, same, indirect)]))
            advance(1)
    same = ["chance", "count"]
    found = xr.concat([part.drop_vars(same) for part in parts], "layer", join="exact").assign_coords(layer=layers)
    kinds = zip(("explained", "explained_low", "explained_high"), np.moveaxis(np.array(explained), 2, 0), strict=True)
    found = found.assign({name: (("layer", "effect"), values) for name, values in kinds}).assign(parts[0][same])
    found = found.assign_coords(effect=["second_order", "second_order_same_images", "indirect"])
    door.write(found, "Mean-ablation of neurons")
    built = found.reconstructed.isel(size=-1).mean(("layer", "attribute"))
    first, *others = map(str, found.pool.values)
    headline = Headline(
        f"accuracy, neurons as {int(found['size'][-1])} {first}",
        value=float(built[0]),
        of=int(found["count"].max()),
        versus="as many random directions",
        versus_value=float(built.sel(pool="random")) if "random" in others else math.nan,
        yardstick=float(found.accuracy.sel(condition="none").mean()),
    )
    door.write_metrics(headline.columns())


if __name__ == "__main__":
    run(main)
