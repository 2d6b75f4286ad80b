"""Stage scenes: render one split of scenes, shard by shard."""

from optogram.data.scenes import Scenes
from optogram.pipeline.stage import Stage
from stages.doorway import Doorway, run, through

STAGE = Stage(
    "scenes",
    family="images",
    desc="Render scenes whose every label and mask is known (split {split})",
    over={"split": "scenes.splits"},
    options=("split",),
    out="images/{split}",
    params=("seed", "scenes.bias", "scenes.strong_bias", "scenes.shard", "scenes.splits.{split}"),
    exact=True,
)


@through(STAGE)
def main(door: Doorway) -> None:
    """Write images/<split>."""
    scenes, split = door.params.scenes, door.args.split
    bias = {"train": scenes.bias, "train_biased": scenes.strong_bias}.get(split, 0.0)
    # of the two, what the split is not drawn with is no part of what it is: the bytes of the others stay as they were
    del door.recorded["scenes.bias" if split == "train_biased" else "scenes.strong_bias"]
    source = Scenes(split, scenes.splits[split].count, door.params.seed, bias=bias)
    door.write_shards(source.read, f"Scenes, split {split}", total=len(source), shard=scenes.shard)


if __name__ == "__main__":
    run(main)
