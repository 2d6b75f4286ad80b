"""Stage load_diffusion: take a pretrained diffusion model over, so that its weights are hashed."""

from optogram.models.generative.diffusion_folders import copy_diffusion
from optogram.params.generative import LoadDiffusion
from optogram.pipeline.stage import Stage
from stages.doorway import Doorway, run, through

STAGE = Stage(
    "load_diffusion",
    family="generative",
    desc="Load the pretrained diffusion model {model}",
    over={"model": "load_diffusion.models"},
    options=("model",),
    out="diffusions/{model}",
    params=("load_diffusion.models.{model}",),
    exact=True,
    retries=2,
)


@through(STAGE)
def main(door: Doorway) -> None:
    """Write diffusions/<model>."""
    copy_diffusion(door.params.of(LoadDiffusion).models[door.args.model].path, door.path("out"))


if __name__ == "__main__":
    run(main)
