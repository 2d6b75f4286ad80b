"""Stage train_clip: train a CLIP on images/train and write its model folder."""

from collections.abc import Sequence
from typing import Any

from optogram.models.folder import BYTES_AND_MARKS, save_clip
from optogram.models.train import train_clip
from optogram.params import Training
from optogram.progress import counted
from stages.doorway import Doorway, run


def main(argv: Sequence[str] | None = None) -> None:
    """Write models/<model>."""
    sections = ("seed", "train_clip.models.{model}")
    door = Doorway("train_clip", argv, paths=("images", "out"), sections=sections, options=("model",))
    training, images = door.params.train_clip.models[door.args.model], door.open("images")
    schedule = training.model_dump(include={"epochs", "texts_per_image", "learning_rate", "weight_decay"})
    # a small album has fewer images than a batch, or fewer steps than the warmup
    batch = min(training.batch, images.sizes["image"])
    steps = training.epochs * (images.sizes["image"] // batch)
    title = f"CLIP {door.args.model}"
    with door.scratch(title) as scratch, counted(f"Training {title}", "images") as tell:
        clip = train_clip(
            images,
            architecture=architecture(training, images.sizes["y"]),
            **schedule,
            batch=batch,
            warmup=min(training.warmup, max(1, steps // 10)),
            seed=door.params.seed,
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
