"""Stage prototypes: the sorted features that VITAL matches, from each target's references (Algorithm 1)."""

from optogram.methods.visualisation.prototypes import caching_prototypes
from optogram.pipeline.stage import Input, Stage
from optogram.store.cluster import Once
from stages.doorway import Doorway, run, through

STAGE = Stage(
    "prototypes",
    family="visualisation",
    desc="Sorted features of the references, which VITAL matches in {model} (Algorithm 1)",
    over={"model": "classifiers"},
    inputs=(
        Input("model", "models/{model}"),
        Input("targets", "targets/{model}"),
        Input("images", "images"),
    ),
    switch="vital",
    out="prototypes/{model}",
    params=("targets.batch", "vital.layers", "vital.relevance", "vital.class_relevance", "vital.shard"),
    pool="gpu",
    retries=1,
)


@through(STAGE)
def main(door: Doorway) -> None:
    """Write prototypes/<model>."""
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
