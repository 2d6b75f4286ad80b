"""Sections of params.yaml: the heads of a CLIP, and what they are good for."""

from typing import Literal

from pydantic import Field, PositiveInt

from optogram.params.sections import Method


class Ablation(Method):
    """Mean-ablation."""

    means: Literal["reference", "eval"] = Field(
        default="reference", description="split whose means replace a component"
    )


class TextSpan(Method):
    """TextSpan, Algorithm 1 of Gandelsman (2025)."""

    layers: PositiveInt = Field(default=4, description="the last K attention layers")
    size: PositiveInt = Field(default=16, description="descriptions a head; at most the head's dimension")
    sizes: list[PositiveInt] = Field(
        default=[1, 2, 4, 6, 8, 10, 12, 14, 16], description="m on the accuracy curve, up to size"
    )
    rank: PositiveInt | None = Field(default=None, description="dimensions of the head's space kept; null = all")

    @property
    def curve(self) -> list[int]:
        """The sizes that are within `size`, and `size` itself."""
        return sorted({*(m for m in self.sizes if m <= self.size), self.size})


class Roles(Method):
    """Roles of heads, and retrieval."""

    images: PositiveInt = Field(default=8, description="top images a description")
    queries: PositiveInt = Field(default=6, description="query images for nearest neighbours")
    neighbours: PositiveInt = Field(default=6, description="neighbours a query")
    permutations: PositiveInt = Field(default=2000, description="for the p-value of the agreement")


class Spurious(Method):
    """Spurious cues: heads of one attribute are ablated."""

    split: str = Field(default="biased", description="images with a known `group`")
    attribute: str = Field(default="background", description="the cue; heads named after it are ablated")
    random_heads: PositiveInt = Field(default=10, description="heads in each random draw, as in the thesis")
    draws: PositiveInt = Field(default=5, description="random draws; the best and the mean are reported")


class Segmentation(Method):
    """Zero-shot segmentation by heatmaps."""

    images: PositiveInt = Field(default=200, description="images of eval that are scored")
    shown: PositiveInt = Field(default=6, description="images shown in the report")


class Joint(Method):
    """Joint decomposition over heads and tokens."""

    images: PositiveInt = Field(default=4, description="images shown a head")
