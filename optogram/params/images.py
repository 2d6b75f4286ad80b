"""Sections of params.yaml: images and texts."""

from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from optogram.params.sections import Name, Section


class SceneSplit(Section):
    """One split of rendered scenes."""

    count: PositiveInt


class Scenes(Section):
    """Scenes rendered by us: 64 x 64 pixels, every label and mask known."""

    bias: float = Field(
        default=0.6, ge=0, le=1, description="share of a tied shape's images on its tied background, in train"
    )
    strong_bias: float = Field(default=1.0, ge=0, le=1, description="likewise in train_biased")
    shard: PositiveInt = Field(default=2048, description="images a shard")
    splits: dict[Literal["train", "train_biased", "single", "reference", "eval", "biased"], SceneSplit] = Field(
        default={
            "train": SceneSplit(count=40_000),
            "train_biased": SceneSplit(count=20_000),
            "single": SceneSplit(count=20_000),
            "reference": SceneSplit(count=1000),
            "eval": SceneSplit(count=2000),
            "biased": SceneSplit(count=2000),
        },
        description="training splits lack the held-out combinations; biased has the four groups of the spurious cue",
    )


class PhotoSplit(Section):
    """One split of photographs."""

    limit: PositiveInt | None = None


class Photos(Section):
    """Photographs in a folder or zip of class folders, or a Hugging Face dataset."""

    path: str = Field(default="", description="folder or zip of class folders, or a dataset saved to disk")
    size: PositiveInt = Field(default=64, description="pixels a side; the shorter side is resized, the centre cropped")
    on_bad: Literal["skip", "refuse"] = Field(default="skip", description="files that are no usable image")
    min_side: PositiveInt = Field(default=8, description="smaller images count as bad")
    reference_share: float = Field(
        default=0.2, gt=0, lt=1, description="part of the training photographs for reference"
    )
    shard: PositiveInt = Field(default=512, description="images a shard")
    splits: dict[Literal["train", "reference", "eval"], PhotoSplit] = Field(
        default={}, description="train, reference, eval; limit = images, balanced"
    )


class Texts(Section):
    """Text pools; each is decomposed against in turn."""

    pools: list[Literal["descriptions", "words", "words_10k", "words_30k", "class", "random"]] = Field(
        default=["descriptions", "words", "class", "random"],
        description="built-in ones; also words_10k, words_30k: so many most common words, whatever `words` is",
    )
    words: PositiveInt = Field(default=2000, description="most common English words in the pool `words`")
    random: PositiveInt = Field(default=2000, description="unit Gaussian vectors in the pool `random`")
    files: dict[Name, str] = Field(default={}, description="your own pools: name -> text file, one description a line")

    @property
    def names(self) -> list[str]:
        """All pools, built-in ones first."""
        return [*self.pools, *sorted(self.files)]

    @model_validator(mode="after")
    def _names_differ(self) -> "Texts":
        if both := sorted({*self.pools} & {*self.files}):
            raise ValueError(f"{both[0]!r} is both a built-in pool and in files; name yours otherwise")
        if "zeroshot" in self.files:  # the classifier's name
            raise ValueError("'zeroshot' cannot name a pool; choose another plain word")
        return self
