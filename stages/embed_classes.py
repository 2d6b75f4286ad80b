"""Stage embed_classes: the zero-shot classifier of one model, from prompts for every labelled value of the images."""

from optogram.data.pools import zeroshot_prompts
from optogram.models.loading.clip_folders import load_clip
from optogram.models.text_embeddings import embed_zeroshot
from optogram.pipeline.stage import Input, Stage
from stages.doorway import Doorway, run, through

STAGE = Stage(
    "embed_classes",
    family="models",
    desc="Embed the zero-shot classifier of every labelled value with {model}",
    over={"model": "clips"},
    inputs=(
        Input("model", "models/{model}"),
        Input("images", "images/reference"),
    ),
    out="embeddings/{model}/zeroshot",
    pool="gpu",
)


@through(STAGE)
def main(door: Doorway) -> None:
    """Write embeddings/<model>/zeroshot."""
    clip = load_clip(door.folder("model"), device=door.params.device)
    door.write(embed_zeroshot(clip, zeroshot_prompts(door.open("images"))), "Zero-shot classifier")


if __name__ == "__main__":
    run(main)
