"""Stage load_clip: load a pretrained CLIP and write its model folder, so that its weights are hashed like all else."""

from collections.abc import Sequence

import torch

from optogram.models.folder import save_clip
from optogram.models.spec import load_clip_spec
from stages.doorway import Doorway, run


def main(argv: Sequence[str] | None = None) -> None:
    """Write models/<model>."""
    sections = ("load_clip.models.{model}",)
    door = Doorway("load_clip", argv, paths=("out",), sections=sections, options=("model",))
    source = door.params.load_clip.models[door.args.model]
    save_clip(
        load_clip_spec(source.spec, checkpoint=source.checkpoint, device="cpu"), door.path("out"), dtype=torch.float32
    )


if __name__ == "__main__":
    run(main)
