"""Stage load_generator: load a pretrained generator and write its folder, so that its weights are hashed."""

import torch

from optogram.models.generative.generators import load_generator, save_generator
from optogram.params.generative import LoadGenerator
from optogram.pipeline.stage import Stage
from stages.doorway import Doorway, run, through

STAGE = Stage(
    "load_generator",
    family="generative",
    desc="Load the pretrained generator {model}",
    over={"model": "load_generator.models"},
    options=("model",),
    out="generators/{model}",
    params=("load_generator.models.{model}",),
    exact=True,
    retries=2,
)


@through(STAGE)
def main(door: Doorway) -> None:
    """Write generators/<model>."""
    source = door.params.of(LoadGenerator).models[door.args.model]
    generator = load_generator(source.spec, checkpoint=source.checkpoint, device="cpu")
    save_generator(generator, door.path("out"), dtype=torch.float32)


if __name__ == "__main__":
    run(main)
