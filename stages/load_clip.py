"""Stage load_clip: load a pretrained CLIP and write its model folder, so that its weights are hashed like all else."""

import torch

from optogram.models.loading.clip_folders import save_clip
from optogram.models.loading.specs import check_folder_can_hold, load_clip_spec
from optogram.pipeline.stage import Stage
from stages.doorway import Doorway, run, through

STAGE = Stage(
    "load_clip",
    family="models",
    desc="Load the pretrained CLIP {model}",
    over={"model": "load_clip.models"},
    options=("model",),
    out="models/{model}",
    params=("load_clip.models.{model}",),
    exact=True,
    retries=2,
)


@through(STAGE)
def main(door: Doorway) -> None:
    """Write models/<model>."""
    source = door.params.load_clip.models[door.args.model]
    check_folder_can_hold(source.spec)
    save_clip(
        load_clip_spec(source.spec, checkpoint=source.checkpoint, device="cpu"), door.path("out"), dtype=torch.float32
    )


if __name__ == "__main__":
    run(main)
