"""Stage train_gan: train a GAN on images/<split> and write its generator's folder."""

from optogram.models.generative.generators import save_generator
from optogram.models.loading.clip_folders import load_clip
from optogram.models.training.curves import curves
from optogram.models.training.gan import GanOptions, clip_features, train_gan
from optogram.params.generative import GanTraining, TrainGan
from optogram.pipeline.stage import Input, Stage
from optogram.progress import counted
from stages.doorway import Doorway, run, through

STAGE = Stage(
    "train_gan",
    family="generative",
    desc="Train the GAN {model} on images/{model.split} (its checkpoint is shipped for the demo)",
    over={"model": "train_gan.models"},
    options=("model",),
    inputs=(Input("images", "images/{model.split}"), Input("clip", "models/{model.clip}")),
    out="generators/{model}",
    params=("seed", "train_gan.models.{model}"),
    shipped=True,
    pool="gpu",
    retries=1,
)


@through(STAGE)
def main(door: Doorway) -> None:
    """Write generators/<model>."""
    images, training = door.open("images"), door.params.of(TrainGan).models[door.args.model]
    features = clip_features(load_clip(door.folder("clip"), door.params.device)) if training.features else None
    title = f"GAN {door.args.model}"
    with door.scratch(title) as scratch, counted(f"Training {title}", "images") as tell:
        options = options_of(training, door.params.seed)
        generator, history = train_gan(
            images, options, features=features, device=door.params.device, scratch=scratch, progress=tell
        )
        save_generator(generator, door.path("out"), history=curves(history))


def options_of(training: GanTraining, seed: int) -> GanOptions:
    """What params.yaml says of the GAN."""
    return GanOptions(
        steps=training.steps,
        batch=training.batch,
        latent=training.latent,
        widths=tuple(training.widths),
        learning_rate=training.learning_rate,
        discriminator_rate=training.discriminator_rate,
        penalty=training.penalty,
        penalty_every=training.penalty_every,
        average=training.average,
        warmup=training.warmup,
        decay=training.decay,
        flips=training.flips,
        bfloat16=training.bfloat16,
        seed=seed,
    )


if __name__ == "__main__":
    run(main)
