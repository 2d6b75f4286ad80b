"""Stage train_clip: train a CLIP on images/train and write its model folder."""

from typing import Any

from optogram.models.loading.clip_folders import BYTES_AND_MARKS, save_clip
from optogram.models.training.clip import train_clip
from optogram.params.models import Training
from optogram.pipeline.stage import Input, Stage
from optogram.progress import counted
from stages.doorway import Doorway, run, through
from stages.recipes import recipe_of

STAGE = Stage(
    "train_clip",
    family="models",
    desc="Train the CLIP {model} on images/train (its checkpoint is shipped for the demo)",
    over={"model": "train_clip.models"},
    options=("model",),
    inputs=(Input("images", "images/train"),),
    out="models/{model}",
    params=("seed", "train_clip.models.{model}"),
    shipped=True,
    pool="gpu",
    retries=1,
)


@through(STAGE)
def main(door: Doorway) -> None:
    """Write models/<model>."""
    training, images = door.params.train_clip.models[door.args.model], door.open("images")
    recipe = recipe_of(training, images=images.sizes["image"], seed=door.params.seed)
    title = f"CLIP {door.args.model}"
    with door.scratch(title) as scratch, counted(f"Training {title}", "images") as tell:
        clip = train_clip(
            images,
            recipe,
            architecture=architecture(training, images.sizes["y"]),
            texts_per_image=training.texts_per_image,
            device=door.params.device,
            scratch=scratch,
            progress=tell,
        )
        save_clip(clip, door.path("out"))


def architecture(training: Training, image_size: int) -> dict[str, Any]:
    """The params as open_clip names them."""
    return {
        "embed_dim": training.embed,
        "vision_cfg": {
            "image_size": image_size,
            "patch_size": training.patch,
            "width": training.width,
            "layers": training.layers,
            "head_width": training.head_width,
        },
        "text_cfg": {
            "context_length": training.context,
            "vocab_size": BYTES_AND_MARKS + training.merges,
            "width": training.text_width,
            "heads": max(1, training.text_width // 32),
            "layers": training.text_layers,
        },
    }


if __name__ == "__main__":
    run(main)
