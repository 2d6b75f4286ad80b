"""Sections of params.yaml: what a section is, and those of the classifiers."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, PositiveInt


class Section(BaseModel):
    """A frozen section: an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ClassifierTraining(Section):
    """A classifier trained here."""

    spec: str
    arguments: dict[str, Any] = Field(default={}, description="of the architecture; num_classes is added")
    split: str = "train"
    attribute: str | None = None
    flips: bool = False
    epochs: PositiveInt
    batch: PositiveInt = 64
    learning_rate: float = Field(default=4e-3, gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    warmup: PositiveInt = 100


_RESNET = {"channels": [32, 64, 128, 192], "stem_width": 16}
_VIT = {
    "img_size": 64,
    "patch_size": 8,
    "embed_dim": 96,
    "depth": 4,
    "num_heads": 3,
    "class_token": False,
    "global_pool": "avg",
}


class TrainClassifier(Section):
    """Classifiers trained on images/<split>: attribute (null = the images' class) tells the classes; flips mirrors."""

    models: dict[str, ClassifierTraining] = Field(
        default={
            "resnet": ClassifierTraining(spec="timm:resnet10t", arguments=_RESNET, epochs=2),
            "vit": ClassifierTraining(spec="timm:vit_tiny_patch16_224", arguments=_VIT, epochs=6, learning_rate=2e-3),
            "resnet_biased": ClassifierTraining(
                spec="timm:resnet10t", arguments=_RESNET, split="train_biased", epochs=4
            ),
        },
        description="name -> architecture (spec as for load_classifier) and schedule",
    )


class ClassifierSource(Section):
    """A pretrained classifier."""

    spec: str
    checkpoint: str | None = None
    classes: list[str] | None = None


class LoadClassifier(Section):
    """Pretrained classifiers."""

    models: dict[str, ClassifierSource] = Field(
        default={},
        description="name -> {spec: timm:, torchvision: or callable:, checkpoint: local file, classes: names of the "
        "logits; null = the values of the images' class}",
    )


class Activations(Section):
    """The cache of classifiers' activations, features and logits."""

    splits: list[str] = ["reference", "eval"]
    layers: dict[str, list[str]] = Field(default={}, description="classifier -> layers; for others the last block")
    shard: PositiveInt = Field(default=512, description="images a shard; a killed run resumes at the first missing one")
    batch: PositiveInt = Field(default=64, description="images a forward pass")
