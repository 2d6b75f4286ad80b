"""Stage second_order: cache the second-order effects of one MLP's neurons on one split, shard by shard (eq. 3.3)."""

from optogram.decompose.cache import caching_effects
from optogram.pipeline.stage import Input, Stage
from optogram.store.cluster import Once
from stages.doorway import Doorway, run, through

STAGE = Stage(
    "second_order",
    family="neurons",
    desc="Cache the second-order effects of layer {layer}'s neurons in {model} on images/{split} (eq. 3.3)",
    over={"model": "clips", "split": "second_order.splits", "layer": "second_order.layers"},
    options=("layer",),
    inputs=(
        Input("model", "models/{model}"),
        Input("images", "images/{split}"),
    ),
    switch="second_order",
    out="second_order/{model}/{split}/{layer}",
    params=("second_order.shard", "second_order.batch"),
    pool="gpu",
    retries=2,
)


@through(STAGE)
def main(door: Doorway) -> None:
    """Write second_order/<model>/<split>/<layer>."""
    options, total = door.params.second_order, door.open("images").sizes["image"]
    inputs = door.folder("model").absolute(), door.path("images").absolute()
    compute = Once(caching_effects, *inputs, int(door.args.layer), options.batch, door.params.device)
    title = f"Second-order effects of the neurons of layer {door.args.layer}"
    door.write_shards(compute, title, total=total, shard=options.shard)


if __name__ == "__main__":
    run(main)
