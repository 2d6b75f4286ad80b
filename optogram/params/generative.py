"""Sections of params.yaml: models that draw images, trained or loaded."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from optogram.params.sections import Name, Section


class GanTraining(Section):
    """A GAN trained here."""

    split: str = "train"
    steps: PositiveInt = Field(default=4000, description="each of `batch` images")
    batch: Annotated[int, Field(ge=2)] = 32
    latent: PositiveInt = 64
    widths: list[PositiveInt] = Field(
        default=[192, 128, 64, 48, 24], min_length=2, description="channels at the sides 4, 8, …, the images' last"
    )
    learning_rate: float = Field(default=1e-3, gt=0, lt=1)
    discriminator_rate: float = Field(default=2.2e-3, gt=0, lt=1)
    penalty: float = Field(default=0.1, ge=0, description="gamma of R1")
    penalty_every: PositiveInt = 8
    average: float = Field(default=0.999, ge=0, lt=1, description="of the generator's weights, which are what is kept")
    warmup: int = Field(default=0, ge=0)
    decay: Literal["cosine", "none"] = "none"
    flips: bool = False


class TrainGan(Section):
    """GANs trained on images/<split>, whose sides are 8, 16, 32, …; flips mirrors."""

    models: dict[Name, GanTraining] = Field(default={}, description="name -> architecture and schedule")


class GeneratorSource(Section):
    """A pretrained generator."""

    spec: str
    checkpoint: str | None = None


class LoadGenerator(Section):
    """Pretrained generators."""

    models: dict[Name, GeneratorSource] = Field(
        default={}, description="name -> {spec: callable:package.module:factory, checkpoint: local file}"
    )


SECTIONS = {"train_gan": TrainGan, "load_generator": LoadGenerator}
