"""Stage activations: cache one classifier's activations on one split, shard by shard."""

from collections.abc import Sequence

from optogram.decompose.layer_maps import caching_activations
from optogram.store.cluster import Once
from stages.doorway import Doorway, run


def main(argv: Sequence[str] | None = None) -> None:
    """Write activations/<model>/<split>."""
    sections = ("activations.layers", "activations.shard", "activations.batch")
    door = Doorway("activations", argv, paths=("model", "images", "out"), sections=sections)
    options, total = door.params.activations, door.open("images").sizes["image"]
    model, images = door.folder("model").absolute(), door.path("images").absolute()
    compute = Once(
        caching_activations, model, images, options.layers.get(model.name), options.batch, door.params.device
    )
    door.write_shards(compute, "Activations", total=total, shard=options.shard)


if __name__ == "__main__":
    run(main)
