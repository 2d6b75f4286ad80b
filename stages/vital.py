"""Stage vital: VITAL's pictures of every target (Görgün et al. 2025), shard by shard."""

from collections.abc import Sequence

from optogram.methods.album import Album, drawing_vital, with_losses
from optogram.store.cluster import Once
from stages.doorway import Doorway, run
from stages.visualising import vital_options

COUNTS = ("seeds", "steps", "batch")


def main(argv: Sequence[str] | None = None) -> None:
    """Write vital/<model>."""
    door = Doorway("vital", argv, paths=("model", "targets", "prototypes", "out"), sections=("seed", "vital"))
    options, targets, prototypes = door.params.vital, door.open("targets"), door.open("prototypes")
    inputs = (door.folder("model").absolute(), *(door.path(name).absolute() for name in ("targets", "prototypes")))
    name = door.path("model").name
    settings = vital_options(door, name) | options.model_dump(include={"class_relevance", *COUNTS})
    settings |= {"inner_weights": options.inner_weights.get(name), "rule": options.relevance}
    compute = Once(drawing_vital, *inputs, door.params.seed, settings, door.params.device)
    rows = {"total": targets.sizes["target"], "shard": options.shard}
    album = Album(targets.isel(target=[0]), ["vital"], options.seeds, options.steps)
    one = with_losses(album, prototypes.block.values.tolist())
    door.write_shards(compute, "Visualisations by VITAL", dim="target", sample=one, **rows)


if __name__ == "__main__":
    run(main)
