"""Stage train_clip: train a CLIP on images/train and write its model folder."""

from collections.abc import Sequence

from optogram.models.folder import save_clip
from optogram.models.train import train_clip
from stages.doorway import Doorway, run


def main(argv: Sequence[str] | None = None) -> None:
    """Write models/<model>."""
    sections = ("seed", "train_clip.models.{model}")
    door = Doorway("train_clip", argv, paths=("images", "out"), sections=sections, options=("model",))
    training = door.params.train_clip.models[door.args.model]
    images = door.open("images")
    with door.scratch(f"CLIP {door.args.model}") as scratch:
        clip = train_clip(
            images, **training.model_dump(), seed=door.params.seed, device=door.params.device, scratch=scratch
        )
        save_clip(clip, door.path("out"))


if __name__ == "__main__":
    run(main)
