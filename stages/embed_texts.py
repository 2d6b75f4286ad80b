"""Stage embed_texts: embed one text pool with one model."""

from dataclasses import replace

from optogram.models.loading.clip_folders import load_clip
from optogram.models.text_embeddings import embed_pool
from optogram.pipeline.stage import Input, Stage
from stages.doorway import Doorway, run, through

STAGE = Stage(
    "embed_texts",
    family="models",
    desc="Embed the text pool {pool} with {model}",
    over={"model": "clips", "pool": "texts.pools"},
    inputs=(
        Input("model", "models/{model}"),
        Input("texts", "texts/{pool}"),
    ),
    out="embeddings/{model}/{pool}",
    params=("seed",),
    pool="gpu",
)
OWN = {"model": "clips", "pool": "texts.files"}
FILES = replace(STAGE, name="embed_text_file", desc="Embed your own text pool {pool} with {model}", over=OWN)


@through(STAGE)
def main(door: Doorway) -> None:
    """Write embeddings/<model>/<pool>."""
    clip = load_clip(door.folder("model"), device=door.params.device)
    door.write(embed_pool(clip, door.open("texts"), seed=door.params.seed), "Embeddings of a text pool")


if __name__ == "__main__":
    run(main)
