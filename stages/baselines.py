"""Stage baselines: the same targets by VITAL's rivals, shard by shard."""

from optogram.methods.visualisation.render import Album
from optogram.methods.visualisation.render_rivals import RivalOptions, drawing_baselines
from optogram.pipeline.stage import Input, Stage
from optogram.store.cluster import Once
from stages.doorway import Doorway, run, through

STAGE = Stage(
    "baselines",
    family="visualisation",
    desc="The same targets of {model} by Fourier, MACO, DeepInversion and PII",
    over={"model": "classifiers"},
    inputs=(
        Input("model", "models/{model}"),
        Input("targets", "targets/{model}"),
        Input("images", "images"),
    ),
    switch="baselines",
    out="baselines/{model}",
    params=("seed", "baselines", "vital.seeds", "vital.steps", "vital.batch", "vital.shard"),
    pool="gpu",
    retries=1,
)


@through(STAGE)
def main(door: Doorway) -> None:
    """Write baselines/<model>."""
    options, vital, targets = door.params.baselines, door.params.vital, door.open("targets")
    split = str(targets.attrs["split"])
    door.open("images", split)
    inputs = door.folder("model").absolute(), door.path("targets").absolute(), door.path("images").absolute() / split
    drawing = RivalOptions(
        methods=options.methods,
        seeds=vital.seeds,
        steps=vital.steps,
        batch=vital.batch,
        views={**options.views},
        learning_rates={**options.learning_rates},
    )
    compute = Once(drawing_baselines, *inputs, drawing, door.params.seed, door.params.device)
    one = Album(targets.isel(target=[0]), options.methods, vital.seeds, vital.steps).dataset
    total, title = targets.sizes["target"], "Visualisations by VITAL's rivals"
    door.write_shards(compute, title, total=total, shard=vital.shard, dim="target", sample=one)


if __name__ == "__main__":
    run(main)
