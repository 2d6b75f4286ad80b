"""Stage joint: per head and token heatmaps of its most and least similar description (Figure 2.6)."""

from collections.abc import Sequence

from optogram.methods.joint import joint
from optogram.models.folder import load_clip
from stages.doorway import Doorway, run


def main(argv: Sequence[str] | None = None) -> None:
    """Write joint/<model>."""
    paths = ("model", "embeddings", "contributions", "textspan", "images", "out")
    door = Doorway("joint", argv, paths=paths, sections=("joint",))
    clip = load_clip(door.folder("model"), device=door.params.device)
    spans = door.open("textspan").isel(pool=0).load()
    found = joint(
        clip.model,
        clip.preprocess,
        door.open("images").pixels,
        door.open("contributions", "eval"),
        spans,
        door.open("embeddings", str(spans.pool.values)).embedding,
        door.open("embeddings", "zeroshot").classifier.values.mean(0),
        door.params.joint.images,
    )
    door.write(found.assign_coords(pool=spans.pool), "Joint decomposition over heads and tokens")


if __name__ == "__main__":
    run(main)
