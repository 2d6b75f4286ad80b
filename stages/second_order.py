"""Stage second_order: cache the second-order effects of one MLP's neurons on one split, shard by shard (eq. 3.3)."""

from collections.abc import Sequence

from optogram.decompose.cache import caching_effects
from optogram.store.cluster import Once
from stages.doorway import Doorway, run


def main(argv: Sequence[str] | None = None) -> None:
    """Write second_order/<model>/<split>/<layer>."""
    sections = ("second_order.shard", "second_order.batch")
    door = Doorway("second_order", argv, paths=("model", "images", "out"), sections=sections, options=("layer",))
    options, total = door.params.second_order, door.open("images").sizes["image"]
    inputs = door.folder("model").absolute(), door.path("images").absolute()
    compute = Once(caching_effects, *inputs, int(door.args.layer), options.batch, door.params.device)
    title = f"Second-order effects of the neurons of layer {door.args.layer}"
    door.write_shards(compute, title, total=total, shard=options.shard)


if __name__ == "__main__":
    run(main)
