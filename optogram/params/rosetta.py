"""Sections of params.yaml: units that models share."""

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from optogram.params.sections import Method, Name, Section


class RosettaGroup(Section):
    """Models whose units are matched on the same images."""

    models: list[Name] = Field(
        min_length=1, description="classifiers and CLIPs; concepts are joined over the first, or over the generator"
    )
    generator: Name | None = Field(default=None, description="of train_gan or load_generator, which draws the images")
    diffusion: Name | None = Field(
        default=None, description="of train_diffusion or load_diffusion, whose denoiser looks at the images as well"
    )
    times: list[NonNegativeInt] = Field(
        default=[100, 500], min_length=1, description="noise levels at which it does, steps of its schedule"
    )
    judge: Name | None = Field(default=None, description="of train_judge.models, who says what the generator drew")
    split: str = Field(default="eval", description="images, where no generator draws them")
    images: int = Field(default=500, ge=50)
    layers: dict[str, list[str]] = Field(
        default={}, description="model, generator or denoiser -> layers whose channels are units; for others all"
    )


class Rosetta(Method):
    """Rosetta neurons (thesis, chapter 4)."""

    groups: dict[Name, RosettaGroup] = Field(
        default={
            "scenes": RosettaGroup(models=["resnet", "vit", "demo"], images=300),
            "drawn": RosettaGroup(models=["resnet", "vit"], generator="gan", judge="judge", images=300),
            "denoised": RosettaGroup(models=["resnet"], diffusion="prior", images=100),
        },
        description="name -> models to match",
    )
    k: PositiveInt = Field(default=5, description="nearest units of each among which best buddies are")
    rate: float = Field(default=0.01, gt=0, lt=1, description="share of pairs that chance may have given")
    shuffles: PositiveInt = Field(default=4, description="times that images are shuffled to tell what chance gives")
    alike: float = Field(
        default=0.7, gt=0, le=1, description="least correlation of two units of a model that are one concept"
    )
    clip: str | None = Field(default="demo", description="CLIP whose texts name units, one of clips; null = none")
    pool: str = Field(default="class", description="its texts, one of texts")
    shown: NonNegativeInt = Field(default=24, description="concepts of which images and maps are kept")
    examples: PositiveInt = Field(default=6, description="images a concept")


class RosettaInversion(Method):
    """Real images back into the generators of rosetta.groups, with matched units (eq. 4.7)."""

    images: PositiveInt = Field(default=4, description="the first so many of the group's split")
    steps: PositiveInt = Field(default=60, description="of Adam; the thesis takes 500")
    learning_rate: float = Field(default=0.05, gt=0)
    matched: float = Field(default=1.0, ge=0, description="weight of the units' similarity, beta")
    regular: float = Field(default=0.1, ge=0, description="weight of the latents' mean square, alpha")
    reconstructed: float = Field(default=10.0, ge=0, description="weight of the distance of images")
    loss: Literal["pixels", "perceptual"] = Field(
        default="pixels", description="what that is: the mean squared error, or how far what `eyes` see is"
    )
    eyes: Name | None = Field(
        default="demo",
        description="classifier or CLIP that says how alike images look; best one of no group; null = none",
    )
    alone: NonNegativeInt = Field(default=3, description="concepts whose unit is drawn alone, if there are two")
    latents: PositiveInt = Field(default=3, description="that each of these is drawn from")


class RosettaEdits(Method):
    """Pictures of the generators of rosetta.groups, edited by shared units (eq. 4.5), where a judge looks at them."""

    images: PositiveInt = Field(default=6, description="pictures of one object that are edited in each way")
    concepts: NonNegativeInt = Field(default=3, description="values that are taken out and put in by their units")
    steps: PositiveInt = Field(default=30, description="of Adam; the thesis takes 500")
    learning_rate: float = Field(default=0.05, gt=0)
    regular: float = Field(default=0.01, ge=0, description="weight of the latents' mean square")


SECTIONS = {"rosetta": Rosetta, "rosetta_inversion": RosettaInversion, "rosetta_edits": RosettaEdits}
