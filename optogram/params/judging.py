"""Sections of params.yaml: the judge, which says what is seen in drawn pictures of scenes."""

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from optogram.params.sections import Name, Section


class PictureDamage(Section):
    """Damage done to training pictures: each kind to a half of those that are damaged, with strengths drawn up to …"""

    share: float = Field(default=0.5, ge=0, le=1, description="of the pictures that are damaged")
    blur: float = Field(default=1.0, ge=0, le=8, description="standard deviation of a Gaussian, in pixels")
    noise: float = Field(default=0.06, ge=0, le=1, description="standard deviation, of intensities from 0 to 1")
    shade: float = Field(default=0.06, ge=0, le=0.5, description="change of brightness, and of contrast")
    patch: PositiveInt = Field(default=4, description="side of the patches of a codec's round trip, in pixels")
    components: PositiveInt = Field(default=16, description="principal components that it keeps of each patch")


class NoScenes(Section):
    """Shares of the training pictures that are no scenes."""

    grounds: float = Field(default=0.08, ge=0, le=1, description="backgrounds without an object")
    clouds: float = Field(default=0.04, ge=0, le=1, description="smooth noise")
    blobs: float = Field(default=0.08, ge=0, le=1, description="backgrounds with a spot of no shape")


class JudgeModel(Section):
    """A judge trained here."""

    split: Literal["train", "train_biased", "single"] = "train"
    far: list[PositiveInt] = Field(
        default=[24, 32, 64], min_length=3, max_length=3, description="widths of the network for whole pictures"
    )
    near: list[PositiveInt] = Field(
        default=[24, 48, 96], min_length=3, max_length=3, description="widths of the network for single objects"
    )
    hidden: PositiveInt = 96
    steps: PositiveInt = 1300
    batch: int = Field(default=64, ge=2, description="pictures a step")
    learning_rate: float = Field(default=4e-3, gt=0, lt=1)
    weight_decay: float = Field(default=0.05, ge=0)
    warmup: NonNegativeInt = 100
    average: float = Field(default=0.99, ge=0, lt=1, description="decay of the moving average of weights that is kept")
    maps: float = Field(default=4.0, ge=0, description="weight of the loss of the maps of objects and their middles")
    damage: PictureDamage = PictureDamage()
    strangers: NoScenes = NoScenes()


class TrainJudge(Section):
    """Judges: networks trained on images/<split> for judging pictures of scenes only."""

    models: dict[Name, JudgeModel] = Field(default={"judge": JudgeModel()}, description="name -> widths and schedule")
