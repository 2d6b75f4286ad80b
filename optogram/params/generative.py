"""Sections of params.yaml: models that draw images, trained or loaded."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from optogram.params.judging import TrainJudge
from optogram.params.sections import Name, Section


class GanTraining(Section):
    """A GAN trained here."""

    split: str = "train"
    clip: Name = Field(default="demo", description="a trained or loaded CLIP, by whose features images are told")
    features: bool = Field(default=False, description="tell drawn images from real ones by the CLIP's features besides")
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
    bfloat16: bool = Field(
        default=False, description="on a processor too: less time where it has bfloat16, other bytes where it has not"
    )


class TrainGan(Section):
    """GANs trained on images/<split>, whose sides are 8, 16, 32, …; flips mirrors."""

    models: dict[Name, GanTraining] = Field(
        default={"gan": GanTraining(split="single", features=True, steps=3600, decay="cosine", bfloat16=True)},
        description="name -> architecture and schedule",
    )


class GeneratorSource(Section):
    """A pretrained generator."""

    spec: str
    checkpoint: str | None = None


class LoadGenerator(Section):
    """Pretrained generators."""

    models: dict[Name, GeneratorSource] = Field(
        default={}, description="name -> {spec: callable:package.module:factory, checkpoint: local file}"
    )


class PatchCodec(Section):
    """The fixed codec: principal components of square patches."""

    factor: PositiveInt = Field(default=2, description="side of a patch in pixels")
    channels: PositiveInt = Field(default=12, description="components kept")
    whitening: float = Field(
        default=0.0, ge=0, le=1, description="1: all components are as large; 0: as large as in the pixels"
    )


class DiffusionTraining(Section):
    """A diffusion model trained here."""

    split: str = "single"
    clip: Name = Field(default="demo", description="whose text tower reads the captions")
    codec: PatchCodec = PatchCodec()
    steps: PositiveInt = Field(default=12_500, description="each of `batch` images")
    batch: Annotated[int, Field(ge=2)] = 48
    learning_rate: float = Field(default=1e-3, gt=0, lt=1, description="of biases, norms and the first and last layers")
    matrix_rate: float = Field(default=3e-3, gt=0, lt=1, description="of all other weights, which Muon descends")
    weight_decay: float = Field(default=0.01, ge=0)
    warmup: int = Field(default=200, ge=0)
    widths: list[Annotated[int, Field(gt=0, multiple_of=8)]] = Field(
        default=[32, 64, 112], min_length=1, description="channels of the UNet's levels, the last with attention"
    )
    layers: PositiveInt = 1
    unconditional: float = Field(default=0.1, ge=0, le=1, description="share learned without captions")
    average: float = Field(default=0.999, ge=0, lt=1, description="of the weights, which are what is kept")
    focus: float = Field(default=8.0, ge=0, description="how much more objects weigh than other places, of scenes")
    bfloat16: bool = Field(
        default=False, description="on a processor too: twice as fast with AMX, other bytes where there is none"
    )
    parts: PositiveInt = Field(
        default=1, description="of a batch, whose gradients a processor takes at the same time, a core each"
    )


class TrainDiffusion(Section):
    """Diffusion models trained on images/<split> and their captions."""

    models: dict[Name, DiffusionTraining] = Field(
        default={"prior": DiffusionTraining(bfloat16=True, parts=2)}, description="name -> architecture and schedule"
    )


class DiffusionSource(Section):
    """A pretrained diffusion model."""

    path: str = Field(description="a folder in diffusers' layout, such as Stable Diffusion's")


class LoadDiffusion(Section):
    """Pretrained diffusion models."""

    models: dict[Name, DiffusionSource] = Field(default={}, description="name -> {path: folder in diffusers' layout}")


class Sampling(Section):
    """What is drawn with a diffusion model."""

    count: PositiveInt = Field(default=500, description="images, each asked for by a caption of its own")
    unconditional: NonNegativeInt = Field(default=0, description="images more, asked for by no caption")
    prompts: list[Annotated[str, Field(pattern=r"\S")]] = Field(
        default=[], description="your own, in place of `count` captions of the images' values"
    )
    steps: PositiveInt = 20
    scale: float = Field(default=3.0, ge=1, description="of guidance by the caption; 1 is none")
    shard: PositiveInt = Field(default=64, description="images a shard; a killed run resumes at the first missing one")


class Sample(Section):
    """Images drawn with diffusion models, trained or loaded."""

    models: dict[Name, Sampling] = Field(
        default={"prior": Sampling(unconditional=100)}, description="name of a diffusion model -> what is drawn with it"
    )


class Generating(Section):
    """What is drawn with a generator."""

    count: PositiveInt = 1000
    shard: PositiveInt = Field(default=256, description="images a shard; a killed run resumes at the first missing one")


class Generate(Section):
    """Images drawn with generators, trained or loaded."""

    models: dict[Name, Generating] = Field(default={"gan": Generating()}, description="name of a generator -> how many")


class Seeing(Section):
    """Who looks at the samples of a model."""

    judge: Name = Field(description="of train_judge.models")
    clip: Name = Field(default="demo", description="a trained or loaded CLIP")
    split: str = Field(default="single", description="images that the model was trained on")


class Drawn(Section):
    """Whether what was asked for is seen in samples of scenes."""

    models: dict[Name, Seeing] = Field(
        default={"prior": Seeing(judge="judge"), "gan": Seeing(judge="judge")},
        description="name of a model in sample or generate -> who looks",
    )


class Comparing(Section):
    """What the samples of a model are compared with, and in whose features."""

    clip: Name = Field(default="demo", description="a trained or loaded CLIP")
    classifier: Name = Field(default="resnet", description="a trained or loaded classifier")
    split: str = Field(default="single", description="images that the model was trained on")


class Fidelity(Section):
    """How far samples are from real images, and whether they are copies."""

    models: dict[Name, Comparing] = Field(
        default={"prior": Comparing(), "gan": Comparing()},
        description="name of a model in sample or generate -> with what",
    )


SECTIONS = {
    "train_gan": TrainGan,
    "load_generator": LoadGenerator,
    "train_diffusion": TrainDiffusion,
    "load_diffusion": LoadDiffusion,
    "sample": Sample,
    "generate": Generate,
    "train_judge": TrainJudge,
    "drawn": Drawn,
    "fidelity": Fidelity,
}
