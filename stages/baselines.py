"""Stage baselines: the same targets by VITAL's rivals, shard by shard."""

from collections.abc import Sequence

from optogram.methods.album import Album
from optogram.methods.album_baselines import drawing_baselines
from optogram.store.cluster import Once
from stages.doorway import Doorway, run


def main(argv: Sequence[str] | None = None) -> None:
    """Write baselines/<model>."""
    sections = ("seed", "baselines", "vital.seeds", "vital.steps", "vital.batch", "vital.shard")
    door = Doorway("baselines", argv, paths=("model", "targets", "images", "out"), sections=sections)
    options, vital, targets = door.params.baselines, door.params.vital, door.open("targets")
    split = str(targets.attrs["split"])
    door.open("images", split)
    inputs = door.folder("model").absolute(), door.path("targets").absolute(), door.path("images").absolute() / split
    settings = options.model_dump() | vital.model_dump(include={"seeds", "steps", "batch"})
    compute = Once(drawing_baselines, *inputs, door.params.seed, settings, door.params.device)
    one = Album(targets.isel(target=[0]), options.methods, vital.seeds, vital.steps).dataset
    rows = {"total": targets.sizes["target"], "shard": vital.shard}
    door.write_shards(compute, "Visualisations by VITAL's rivals", dim="target", sample=one, **rows)


if __name__ == "__main__":
    run(main)
