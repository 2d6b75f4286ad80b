"""Stage vital: VITAL's pictures of every target (Görgün et al. 2025), shard by shard."""

from collections.abc import Sequence

from optogram.methods.album import Album, drawing_vital, with_losses
from optogram.store.cluster import Once
from stages.doorway import Doorway, run

OPTIONS = ("weights", "inner_weights", "relevance", "class_relevance", "seeds", "steps", "learning_rate", "decay")
SECTIONS = ("seed", *(f"vital.{name}" for name in (*OPTIONS, "jitter", "tv", "l2", "batch", "shard")))


def main(argv: Sequence[str] | None = None) -> None:
    """Write vital/<model>."""
    door = Doorway("vital", argv, paths=("model", "targets", "prototypes", "out", "metrics"), sections=SECTIONS)
    options, targets, prototypes = door.params.vital, door.open("targets"), door.open("prototypes")
    inputs = (door.folder("model").absolute(), *(door.path(name).absolute() for name in ("targets", "prototypes")))
    settings = options.model_dump(include={*OPTIONS, "tv", "l2", "batch"})
    settings |= {"jitter_share": options.jitter, "rule": settings.pop("relevance")}
    compute = Once(drawing_vital, *inputs, door.params.seed, settings, door.params.device)
    rows = {"total": targets.sizes["target"], "shard": options.shard}
    album = Album(targets.isel(target=[0]), ["vital"], options.seeds, options.steps)
    one = with_losses(album, prototypes.block.values.tolist())
    door.write_shards(compute, "Visualisations by VITAL", dim="target", sample=one, **rows)


if __name__ == "__main__":
    run(main)
