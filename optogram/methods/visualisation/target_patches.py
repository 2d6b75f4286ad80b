"""Method room, targets among patches: neurons, concepts and splits, by the pooled features of patches at a layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int32, Int64

from optogram.decompose.patches import top_patches
from optogram.errors import DataError, ParamError
from optogram.methods.visualisation.craft import class_concepts
from optogram.methods.visualisation.craft import split_patches as split


class Target(NamedTuple):
    """What is to be visualised: its direction in the layer's channels, and its references, the best first."""

    name: str
    kind: str
    direction: Float32[np.ndarray, " channel"]
    boxes: Int32[np.ndarray, "reference 4"]
    score: Float32[np.ndarray, " reference"]
    strength: float
    parent: str = ""
    class_index: int = -1


@dataclass(frozen=True)
class Patches:
    """All patches, image by image, with their pooled features at the layer; and the targets found among them."""

    layer: str
    boxes: Int32[np.ndarray, "patch 4"]
    features: Float32[np.ndarray, "patch channel"]
    references: int
    seed: int

    def name(self, channel: int) -> str:
        """What a channel is called as a target."""
        return f"{self.layer}:{channel}"

    def alive(self) -> Bool[np.ndarray, " channel"]:
        """Channels that are active on a patch of two images or more."""
        starts = np.flatnonzero(np.diff(self.boxes[:, 0], prepend=-1))
        return np.logical_or.reduceat(self.features > 0, starts).sum(0) >= 2

    def checked(self, channels: Sequence[int]) -> Sequence[int]:
        """The channels, if the layer has them and images that activate them."""
        alive = self.alive()
        for channel in channels:
            if not 0 <= channel < len(alive):
                raise ParamError(
                    f"neurons name channel {channel}, but layer {self.layer!r} has {len(alive)}: 0 to {len(alive) - 1}."
                )
            if not alive[channel]:
                raise ParamError(
                    f"neurons name channel {channel} of layer {self.layer!r}, which fewer than two of the images that "
                    "give patches activate.\n  Leave it out, or take patches of more images (targets.images)."
                )
        return channels

    def neurons(self, channels: Sequence[int]) -> list[Target]:
        """Channels as targets; their references are the top patches, their strength is the mean of these."""
        found = []
        for channel, rows in zip(channels, self._best(self.features, self._one_hot(channels)), strict=True):
            target = self._target(self.name(channel), "neuron", rows, self._one_hot([channel])[0], 0)
            found.append(target._replace(strength=float(target.score.mean())))
        return found

    def concepts(
        self, name: str, own: Bool[np.ndarray, " patch"], relevance: Float[np.ndarray, " channel"], most: int, rank: int
    ) -> list[Target]:
        """The `most` important concepts among the class's `own` patches. Raises DataError if there is none."""
        if not own.any():
            raise DataError(
                f"no image that gives patches is labelled {name!r}, which is to have concepts.\n"
                "  Take patches of more images (targets.images), or leave it out."
            )
        of = class_concepts(self.features[own], relevance, most, rank=rank, seed=self.seed)
        coefficient = np.zeros((len(own), len(of.importance)), np.float32)
        coefficient[own] = of.coefficient
        best = self._best(coefficient, np.eye(len(of.importance), dtype=np.float32))
        return [
            self._target(f"{name} concept {i}", "concept", rows, direction, importance, name)
            for i, (rows, direction, importance) in enumerate(zip(best, of.direction, of.importance, strict=True))
            if len(rows) > 1
        ]

    def splits(self, channels: Sequence[int], most: int, into: int, patches: int) -> list[Target]:
        """The groups of the top patches of the `most` channels whose groups are furthest apart."""
        apart = []
        for channel in channels:
            of = split(
                self.features,
                self.boxes[:, 0],
                self._one_hot([channel])[0],
                patches=patches,
                splits=into,
                references=self.references,
                seed=self.seed,
            )
            if of is not None:
                apart.append((self.name(channel), self._one_hot([channel])[0], of))
        return [
            self._target(f"{name} split {i}", "split", rows[rows >= 0], direction, share, name)
            for name, direction, of in sorted(apart, key=lambda each: -each[2].silhouette)[:most]
            for i, (rows, share) in enumerate(zip(of.patch, of.share, strict=True))
        ]

    def _best(
        self, features: Float32[np.ndarray, "patch channel"], directions: Float32[np.ndarray, "target channel"]
    ) -> list[Int64[np.ndarray, " reference"]]:
        """The patches with the largest positive scores, no two from one image."""
        top = top_patches([(slice(0, len(features)), features)], self.boxes[:, 0], directions, self.references)
        return [rows[score > 0] for rows, score in zip(*top, strict=True)]

    def _one_hot(self, channels: Sequence[int]) -> Float32[np.ndarray, "neuron channel"]:
        return np.eye(self.features.shape[1], dtype=np.float32)[list(channels)]

    def _target(
        self,
        name: str,
        kind: str,
        rows: Int64[np.ndarray, " reference"],
        direction: Any,
        strength: Any,
        parent: str = "",
    ) -> Target:
        score = self.features[rows] @ direction
        return Target(name, kind, direction, self.boxes[rows], score, float(strength), parent)
