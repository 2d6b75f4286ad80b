"""Stage activations: cache one classifier's activations on one split, shard by shard."""

from optogram.decompose.layer_maps import caching_activations
from optogram.pipeline.stage import Input, Stage
from optogram.store.cluster import Once
from stages.doorway import Doorway, run, through

STAGE = Stage(
    "activations",
    family="models",
    desc="Cache the activations, features and logits of {model} on images/{split}",
    over={"model": "classifiers", "split": "activations.splits"},
    inputs=(
        Input("model", "models/{model}"),
        Input("images", "images/{split}"),
    ),
    out="activations/{model}/{split}",
    params=("activations.layers", "activations.shard", "activations.batch"),
    pool="gpu",
    retries=2,
)


@through(STAGE)
def main(door: Doorway) -> None:
    """Write activations/<model>/<split>."""
    options, total = door.params.activations, door.open("images").sizes["image"]
    model, images = door.folder("model").absolute(), door.path("images").absolute()
    compute = Once(
        caching_activations, model, images, options.layers.get(model.name), options.batch, door.params.device
    )
    door.write_shards(compute, "Activations", total=total, shard=options.shard)


if __name__ == "__main__":
    run(main)
