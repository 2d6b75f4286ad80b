"""Stage ablation: zero-shot accuracy with components mean-ablated (Table 2.1, Figure 2.2, Table A.1)."""

import xarray as xr

from optogram.methods.heads.mean_ablation import ablate_components, ablate_layers, mean_ablate
from optogram.metrics.classification import accuracy
from optogram.metrics.headline import Headline
from optogram.pipeline.stage import Input, Stage
from stages.doorway import Doorway, run, through

STAGE = Stage(
    "ablation",
    family="heads",
    desc="Zero-shot accuracy of {model} with components mean-ablated (Table 2.1, Figure 2.2, Table A.1)",
    over={"model": "clips"},
    inputs=(
        Input("contributions", "contributions/{model}", ("eval", "reference")),
        Input("embeddings", "embeddings/{model}", ("zeroshot",)),
        Input("images", "images/eval"),
    ),
    switch="ablation",
    out="ablation/{model}",
    params=("ablation",),
    metrics=True,
)


@through(STAGE)
def main(door: Doorway) -> None:
    """Write ablation/<model>."""
    images = door.open("images")
    evaluated, reference = door.open("contributions", "eval"), door.open("contributions", door.params.ablation.means)
    task = (door.open("embeddings", "zeroshot"), images.label, images.value_name)
    layers = evaluated.layer.values.tolist()
    single = [accuracy(mean_ablate(evaluated, reference, layers=[layer]), *task) for layer in layers]

    found = ablate_components(evaluated, reference, *task).drop_vars("margin").rename(ablation="condition")
    found["cumulative"] = (("layer", "attribute"), ablate_layers(evaluated, reference, *task).accuracy.values[1:])
    found["single_layer"] = xr.concat([one.drop_vars(["chance", "majority", "count"]) for one in single], "layer")
    found = found.assign_coords(layer=layers)
    door.write(found, "Mean-ablation")
    mean = found.accuracy.mean("attribute")
    headline = Headline(
        "accuracy without the MLPs and the class token",
        value=float(mean.sel(condition="class_token+mlps")),
        of=int(found["count"].max()),
        versus="without the heads",
        versus_value=float(found["cumulative"][-1].mean()),
        yardstick=float(mean.sel(condition="none")),
    )
    door.write_metrics(headline.columns())


if __name__ == "__main__":
    run(main)
