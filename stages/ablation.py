"""Stage ablation: zero-shot accuracy with components mean-ablated (Table 2.1, Figure 2.2, Table A.1)."""

from collections.abc import Sequence

import xarray as xr

from optogram.methods.ablation import ablate_components, ablate_layers, mean_ablate
from optogram.metrics.classification import accuracy
from stages.doorway import Doorway, run


def main(argv: Sequence[str] | None = None) -> None:
    """Write ablation/<model>."""
    paths = ("contributions", "embeddings", "images", "out", "metrics")
    door = Doorway("ablation", argv, paths=paths, sections=("ablation",))
    images = door.open("images")
    evaluated, reference = door.open("contributions", "eval"), door.open("contributions", door.params.ablation.means)
    task = (door.open("embeddings", "zeroshot"), images.label, images.value_name)
    layers = evaluated.layer.values.tolist()
    single = [accuracy(mean_ablate(evaluated, reference, layers=[layer]), *task) for layer in layers]

    found = ablate_components(evaluated, reference, *task)[["accuracy", "chance", "majority"]].rename(
        ablation="condition"
    )
    found["cumulative"] = (("layer", "attribute"), ablate_layers(evaluated, reference, *task).accuracy.values[1:])
    found["single_layer"] = xr.concat([one.drop_vars(["chance", "majority", "count"]) for one in single], "layer")
    found = found.assign_coords(layer=layers)
    door.write(found, "Mean-ablation")
    door.write_metrics(
        {
            condition: dict(zip(found.attribute.values, row, strict=True))
            for condition, row in zip(found.condition.values, found.accuracy.values, strict=True)
        }
    )


if __name__ == "__main__":
    run(main)
