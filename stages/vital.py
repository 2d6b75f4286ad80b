"""Stage vital: VITAL's pictures of every target (Görgün et al. 2025), shard by shard."""

from optogram.methods.visualisation.render import Album, drawing_vital, with_losses
from optogram.pipeline.stage import Input, Stage
from optogram.store.cluster import Once
from stages.doorway import Doorway, run, through
from stages.drawing import vital_options

STAGE = Stage(
    "vital",
    family="visualisation",
    desc="VITAL's pictures of every target of {model} (sections 3.2 to 3.4)",
    over={"model": "classifiers"},
    inputs=(
        Input("model", "models/{model}"),
        Input("targets", "targets/{model}"),
        Input("prototypes", "prototypes/{model}"),
    ),
    switch="vital",
    out="vital/{model}",
    params=("seed", "vital"),
    pool="gpu",
    retries=1,
)


@through(STAGE)
def main(door: Doorway) -> None:
    """Write vital/<model>."""
    options, targets, prototypes = door.params.vital, door.open("targets"), door.open("prototypes")
    inputs = (door.folder("model").absolute(), *(door.path(name).absolute() for name in ("targets", "prototypes")))
    drawing = vital_options(options, door.path("model").name)
    compute = Once(drawing_vital, *inputs, drawing, door.params.seed, door.params.device)
    album = Album(targets.isel(target=[0]), ["vital"], options.seeds, options.steps)
    one = with_losses(album, prototypes.block.values.tolist())
    total, title = targets.sizes["target"], "Visualisations by VITAL"
    door.write_shards(compute, title, total=total, shard=options.shard, dim="target", sample=one)


if __name__ == "__main__":
    run(main)
