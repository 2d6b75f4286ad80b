"""Stage joint: per head and token heatmaps of its most and least similar description (Figure 2.6)."""

from optogram.methods.heads.token_maps import joint
from optogram.models.loading.clip_folders import load_clip
from optogram.pipeline.stage import Input, Stage
from stages.doorway import Doorway, run, through

STAGE = Stage(
    "joint",
    family="heads",
    desc="Which image tokens write each head's most and least similar description in {model} (Figure 2.6)",
    over={"model": "clips"},
    inputs=(
        Input("model", "models/{model}"),
        Input("embeddings", "embeddings/{model}"),
        Input("contributions", "contributions/{model}", ("eval",)),
        Input("textspan", "textspan/{model}"),
        Input("images", "images/eval"),
    ),
    switch="joint",
    out="joint/{model}",
    params=("joint",),
    pool="gpu",
)


@through(STAGE)
def main(door: Doorway) -> None:
    """Write joint/<model>."""
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
