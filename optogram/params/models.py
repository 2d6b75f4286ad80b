"""Sections of params.yaml: models, trained or loaded, and the caches of what they compute."""

from typing import Any, Literal

from pydantic import Field, PositiveInt

from optogram.params.sections import Name, Section


class Training(Section):
    """A CLIP trained here."""

    width: PositiveInt = 128
    layers: PositiveInt = 4
    head_width: PositiveInt = 16
    patch: PositiveInt = 8
    embed: PositiveInt = 128
    text_width: PositiveInt = 128
    text_layers: PositiveInt = 2
    context: PositiveInt = 32
    merges: PositiveInt = 3000
    epochs: PositiveInt = 5
    batch: PositiveInt = 32
    texts_per_image: PositiveInt = 8
    learning_rate: float = Field(default=2e-3, gt=0, lt=1)
    weight_decay: float = Field(default=0.1, ge=0)
    warmup: PositiveInt = 200


class TrainClip(Section):
    """CLIPs trained on images/train."""

    models: dict[Name, Training] = Field(default={"demo": Training()}, description="name -> architecture and schedule")


class ClipSource(Section):
    """A pretrained CLIP."""

    spec: str
    checkpoint: str | None = None


class LoadClip(Section):
    """Pretrained CLIPs."""

    models: dict[Name, ClipSource] = Field(
        default={}, description="name -> {spec: open_clip:ViT-L-14/laion2b_s32b_b82k, checkpoint: local file}"
    )


class ClassifierTraining(Section):
    """A classifier trained here."""

    spec: str
    arguments: dict[str, Any] = Field(default={}, description="of the architecture; num_classes is added")
    split: str = "train"
    attribute: str | None = None
    flips: bool = False
    epochs: PositiveInt
    batch: PositiveInt = 64
    learning_rate: float = Field(default=4e-3, gt=0, lt=1)
    weight_decay: float = Field(default=0.05, ge=0)
    warmup: PositiveInt = 100


_RESNET = {"channels": [32, 64, 128, 192], "stem_width": 16}
_VIT = {
    "img_size": 64,
    "conv_stem": [24, 48],
    "embed_dim": 96,
    "depth": 4,
    "num_heads": 6,
    "mlp_ratio": 2.0,
    "act_layer": "relu",
    "class_token": False,
    "global_pool": "avg",
}


class TrainClassifier(Section):
    """Classifiers trained on images/<split>: attribute (null = the images' class) tells the classes; flips mirrors."""

    models: dict[Name, ClassifierTraining] = Field(
        default={
            "resnet": ClassifierTraining(spec="timm:resnet10t", arguments=_RESNET, epochs=2),
            "vit": ClassifierTraining(
                spec="timm:vit_tiny_patch16_224", arguments=_VIT, epochs=4, batch=32, learning_rate=1e-3, warmup=200
            ),
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

    models: dict[Name, ClassifierSource] = Field(
        default={},
        description="name -> {spec: timm:, torchvision: or callable:, checkpoint: local file, classes: names of the "
        "logits; null = the values of the images' class, [] = it has none}",
    )


class Activations(Section):
    """The cache of classifiers' activations, features and logits."""

    splits: list[str] = Field(default=["reference", "eval"])
    layers: dict[str, list[str]] = Field(default={}, description="classifier -> layers; for others the last block")
    shard: PositiveInt = Field(default=512, description="images a shard; a killed run resumes at the first missing one")
    batch: PositiveInt = Field(default=64, description="images a forward pass")


class Contributions(Section):
    """The cache of direct contributions."""

    splits: list[str] = Field(default=["reference", "eval", "biased"], description="reference gives means and texts")
    shard: PositiveInt = Field(default=512, description="images a shard; a killed run resumes at the first missing one")
    batch: PositiveInt = Field(default=64, description="images a forward pass")
    tokens: Literal["all", "class"] = Field(
        default="all", description="all tokens' contributions, or the class token's only (small at ImageNet scale)"
    )
