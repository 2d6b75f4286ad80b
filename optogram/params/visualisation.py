"""Sections of params.yaml: pictures of what a classifier looks for."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from optogram.params.sections import Method


class Targets(Method):
    """What is visualised of a classifier: classes, channels, concepts, splits; and the references of each."""

    layer: dict[str, str] = Field(
        default={}, description="classifier -> layer of channels and concepts; for others the last block"
    )
    inner: list[str] | None = Field(
        default=["resnet"],
        description="classifiers whose channels, concepts and splits are visualised beside the classes; null = all",
    )
    split: dict[str, str] = Field(
        default={}, description="classifier -> images that references come from; for others what it was trained on"
    )
    references: int = Field(default=50, ge=2, description="reference images a target")
    facets: PositiveInt = Field(
        default=1, description="groups of alike images of a class, each with references; seeds show them in turn"
    )
    images: PositiveInt = Field(default=300, description="training images that are cut into patches")
    patch: float = Field(default=0.5, gt=0, le=1, description="side of a patch, as a share of the image's")
    stride: float = Field(default=0.25, gt=0, le=1, description="between patches, likewise")
    circuits: PositiveInt = Field(default=3, description="channels a class: those most relevant to it")
    circuit_classes: PositiveInt | None = Field(default=2, description="the first so many classes have circuits")
    neurons: dict[str, list[NonNegativeInt]] = Field(
        default={}, description="classifier -> further channels of the layer, by number"
    )
    concepts: PositiveInt = Field(default=3, description="concepts a class")
    concept_rank: PositiveInt = Field(default=10, description="of the factorisation that concepts come from")
    concept_classes: NonNegativeInt = Field(default=1, description="the first so many classes have concepts")
    splits: int = Field(default=2, ge=2, description="splits of a polysemantic channel")
    split_neurons: NonNegativeInt = Field(default=1, description="channels that are split")
    split_patches: PositiveInt = Field(default=1000, description="top patches of a channel that k-means splits")
    shown: PositiveInt = Field(default=8, description="references shown in the report")
    batch: PositiveInt = Field(default=128, description="images a forward pass")


class Vital(Method):
    """VITAL (Görgün et al. 2025)."""

    layers: dict[str, list[str]] = Field(
        default={}, description="classifier -> matched layers, by module name; for others all blocks"
    )
    weights: dict[str, dict[str, float]] = Field(
        default={}, description="classifier -> layer -> weight of its loss for classes, else 1"
    )
    inner_weights: dict[str, dict[str, float]] = Field(
        default={}, description="likewise for channels, concepts and splits"
    )
    relevance: Literal["lrp", "guided_backprop", "gradient_x_input"] = "lrp"
    class_relevance: bool = Field(default=False, description="weigh by relevance for classes too (section B.2)")
    seeds: PositiveInt = Field(default=2, description="pictures a target, by every method")
    steps: PositiveInt = Field(default=100, description="steps of the optimisation, by every method")
    canvas: Literal["pixels", "spectrum"] = Field(
        default="spectrum", description="what is optimised: pixels, as in the paper, or the picture's spectrum"
    )
    learning_rate: float = Field(default=0.05, gt=0, description="of pixels about 0.1, of a spectrum 0.05")
    decay: bool = Field(default=True, description="lower the learning rate along half a cosine")
    jitter: float = Field(default=0.125, ge=0, le=0.5, description="largest shift, as a share of the side")
    tv: float = Field(default=3e-6, ge=0, description="weight of total variation (eq. 3)")
    l2: float = Field(default=3e-6, ge=0, description="weight of the l2 norm (eq. 3)")
    batch: PositiveInt = Field(default=32, description="images drawn at once, by DeepInversion at least")
    shard: PositiveInt = Field(default=64, description="targets a shard; a killed run resumes at the first missing one")


class Baselines(Method):
    """VITAL's rivals."""

    methods: list[Literal["fourier", "maco", "deepinversion", "pii"]] = Field(
        default=["fourier", "maco", "deepinversion", "pii"], min_length=1
    )
    views: dict[Literal["fourier", "maco", "pii"], PositiveInt] = Field(
        default={}, description="crops, or augmented copies, of each picture a step; else 1, VITAL's budget"
    )
    learning_rates: dict[Literal["fourier", "maco", "deepinversion", "pii"], float] = Field(
        default={}, description="method -> learning rate, else that of the paper or of the published code"
    )


class VisualScores(Method):
    """Scores of the visualisations."""

    clip: str = Field(default="demo", description="CLIP that judges them, one of clips")
    second: str | None = Field(
        default=None, description="second model for FID; null = the first other one of classifiers"
    )
    images: PositiveInt = Field(default=500, description="images of eval that they are compared with")


class ReferenceSets(Method):
    """VITAL's classes by size and purity of the reference set (Tables 5, 6)."""

    models: list[str] = Field(default=["resnet"], description="classifiers, each one of classifiers; [] = of none")
    sizes: list[Annotated[int, Field(ge=2)]] = Field(default=[5, 20, 100], description="references a class")
    strangers: list[PositiveInt] = Field(default=[10], description="references added from other classes")
    steps: PositiveInt | None = Field(default=None, description="of the optimisation; null = as vital")
