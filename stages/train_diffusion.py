"""Stage train_diffusion: train a diffusion model on images/<split> and write its folder."""

import numpy as np

from optogram.models.generative.codecs import fit_patches
from optogram.models.generative.diffusion_folders import save_diffusion
from optogram.models.generative.texts import ClipTexts
from optogram.models.loading.clip_folders import load_clip, pick_device
from optogram.models.training.curves import curves
from optogram.models.training.diffusion import DiffusionOptions, train_diffusion
from optogram.params.generative import DiffusionTraining, TrainDiffusion
from optogram.pipeline.stage import Input, Stage
from optogram.progress import counted
from stages.doorway import Doorway, run, through

STAGE = Stage(
    "train_diffusion",
    family="generative",
    desc="Train the diffusion model {model} on images/{model.split}",
    over={"model": "train_diffusion.models"},
    options=("model",),
    inputs=(Input("images", "images/{model.split}"), Input("clip", "models/{model.clip}")),
    out="diffusions/{model}",
    params=("seed", "train_diffusion.models.{model}"),
    shipped=True,
    pool="gpu",
    retries=1,
)


@through(STAGE)
def main(door: Doorway) -> None:
    """Write diffusions/<model>."""
    training, images = door.params.of(TrainDiffusion).models[door.args.model], door.open("images")
    where = pick_device(door.params.device)
    texts = ClipTexts(load_clip(door.folder("clip"), door.params.device))
    patches, pixels = training.codec, np.asarray(images["pixels"].values)
    codec = fit_patches(pixels, factor=patches.factor, channels=patches.channels, whitening=patches.whitening).to(where)
    title = f"Diffusion model {door.args.model}"
    with door.scratch(title) as scratch, counted(f"Training {title}", "images") as tell:
        options = options_of(training, door.params.seed)
        diffusion, history = train_diffusion(
            images, options, codec=codec, texts=texts, device=where, scratch=scratch, progress=tell
        )
        save_diffusion(diffusion, door.path("out"), history=curves(history))


def options_of(training: DiffusionTraining, seed: int) -> DiffusionOptions:
    """What params.yaml says of the training."""
    return DiffusionOptions(
        steps=training.steps,
        batch=training.batch,
        learning_rate=training.learning_rate,
        matrix_rate=training.matrix_rate,
        weight_decay=training.weight_decay,
        warmup=training.warmup,
        widths=tuple(training.widths),
        layers=training.layers,
        unconditional=training.unconditional,
        average=training.average,
        focus=training.focus,
        parts=training.parts,
        bfloat16=training.bfloat16,
        seed=seed,
    )


if __name__ == "__main__":
    run(main)
