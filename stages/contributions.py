"""Stage contributions: cache one model's direct contributions on one split, shard by shard."""

from optogram.decompose.cache import caching
from optogram.pipeline.stage import Input, Stage
from optogram.store.cluster import Once
from stages.doorway import Doorway, run, through

STAGE = Stage(
    "contributions",
    family="models",
    desc="Cache the direct contributions of every head, MLP and token of {model} on images/{split}",
    over={"model": "clips", "split": "contributions.splits"},
    inputs=(
        Input("model", "models/{model}"),
        Input("images", "images/{split}"),
    ),
    out="contributions/{model}/{split}",
    params=("contributions.shard", "contributions.batch", "contributions.tokens"),
    pool="gpu",
    retries=2,
)


@through(STAGE)
def main(door: Doorway) -> None:
    """Write contributions/<model>/<split>."""
    options, total = door.params.contributions, door.open("images").sizes["image"]
    inputs = door.folder("model").absolute(), door.path("images").absolute()
    compute = Once(caching, *inputs, options.batch, options.tokens, door.params.device)
    door.write_shards(compute, "Direct contributions", total=total, shard=options.shard)


if __name__ == "__main__":
    run(main)
