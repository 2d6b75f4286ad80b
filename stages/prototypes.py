"""Stage prototypes: the sorted features that VITAL matches, from each target's references (Algorithm 1)."""

from collections.abc import Sequence

from optogram.methods.prototypes import caching_prototypes
from optogram.store.cluster import Once
from stages.doorway import Doorway, run


def main(argv: Sequence[str] | None = None) -> None:
    """Write prototypes/<model>."""
    sections = ("targets.batch", "vital.layers", "vital.relevance", "vital.class_relevance", "vital.shard")
    door = Doorway("prototypes", argv, paths=("model", "targets", "images", "out"), sections=sections)
    options, targets = door.params.vital, door.open("targets")
    split = str(targets.attrs["split"])
    door.open("images", split)
    inputs = door.folder("model").absolute(), door.path("targets").absolute(), door.path("images").absolute() / split
    compute = Once(
        caching_prototypes,
        *inputs,
        tuple(options.layers.get(door.path("model").name, [])),
        options.relevance,
        options.class_relevance,
        door.params.targets.batch,
        door.params.device,
    )
    door.write_shards(
        compute, "Prototypes of the targets", total=targets.sizes["target"], shard=options.shard, dim="target"
    )


if __name__ == "__main__":
    run(main)
