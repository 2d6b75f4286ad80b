"""Stage contributions: cache one model's direct contributions on one split, shard by shard."""

from collections.abc import Sequence

from optogram.decompose.cache import caching
from optogram.store.cluster import Once
from stages.doorway import Doorway, run


def main(argv: Sequence[str] | None = None) -> None:
    """Write contributions/<model>/<split>."""
    sections = ("contributions.shard", "contributions.batch", "contributions.tokens")
    door = Doorway("contributions", argv, paths=("model", "images", "out"), sections=sections)
    options, total = door.params.contributions, door.open("images").sizes["image"]
    inputs = door.folder("model").absolute(), door.path("images").absolute()
    compute = Once(caching, *inputs, options.batch, options.tokens, door.params.device)
    door.write_shards(compute, "Direct contributions", total=total, shard=options.shard)


if __name__ == "__main__":
    run(main)
