"""Methods, rosetta: finds latents whose image activates a generator's units as it does their partners (eq. 4.5 to 4.7).

What eq. 4.6 asks of a pair is linear in the generator's map, once the other map is given: its sum over places is the
product of the generator's map with U' of the other one, U being the upsampling to the larger of their sizes. So all
partners of a unit add up to one map that is made once, and a step costs as much with a thousand pairs as with one.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from optogram.errors import DataError, ParamError
from optogram.methods.rosetta.correlation import Maps, interpolation
from optogram.models.generative.generators import Generator

Targets = Mapping[str, Float32[Tensor, "image _channel _y _x"]]
"""What each layer of a generator is to show: the similarity of eq. 4.6 is the product of its maps with these."""


@dataclass(frozen=True)
class Moments:
    """Mean and deviation of each unit over images and places (eq. 4.1), layer by layer."""

    mean: Sequence[Float[Tensor, " _channel"]]
    deviation: Sequence[Float[Tensor, " _channel"]]


@dataclass(frozen=True)
class Inversion:
    """How latents are found: Adam in so many steps, all images at once, each with its own moments.

    learning_rate: rises from 0 along the first 5 % of the steps and falls along a cosine over the last 25 %.
    matched: weight of the similarity of the units (beta of eq. 4.7, 1 in eq. 4.5). regular: weight of the latents' mean
    square (alpha). reconstructed: weight of `reconstruct`, if there is one.
    """

    steps: int = 500
    learning_rate: float = 0.1
    matched: float = 1.0
    regular: float = 0.1
    reconstructed: float = 1.0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ParamError(f"inversion: steps = {self.steps}, expected at least 1. The thesis takes 500.")
        if not 0 < self.learning_rate < math.inf:
            raise ParamError(f"inversion: learning_rate = {self.learning_rate}, expected above 0, say 0.1. Change it.")

    def share(self, step: int) -> float:
        """The share of the learning rate at a step, from 0."""
        rise, fall = max(1, round(0.05 * self.steps)), max(1, round(0.25 * self.steps))
        share = min(1.0, (step + 1) / rise)
        left = self.steps - step
        return share * (0.5 - 0.5 * math.cos(math.pi * left / fall) if left < fall else 1.0)


@dataclass(frozen=True)
class Inverted:
    """Latents and their images, and on the way, (step, image), how similar the units and how far the images were."""

    latents: Float32[Tensor, "image latent"]
    images: Float32[Tensor, "image rgb y x"]
    similarity: Float32[np.ndarray, "step image"]
    distance: Float32[np.ndarray, "step image"]
    failed: list[int] = field(default_factory=list)
    """Images whose loss was not finite; they stay at their last good latents."""


def targets_of(
    maps: Maps,
    moments: Moments,
    generator: Generator,
    own: Moments,
    pairs: Sequence[tuple[tuple[int, int], tuple[int, int]]],
) -> dict[str, Tensor]:
    """What a generator's layers are to show for these images, by the pairs of its units with another model's (eq. 4.6).

    maps, moments: of the other model: its maps of the images, and each unit's moments over the images that the pairs
    were mined on. own: the moments of the generator's units. pairs: a unit of the generator and one of the other model,
    each (layer, channel), layers by their number. A pair counts as the mean over the places of the larger map.

    Raises DataError without pairs, and for a unit that is constant.
    """
    if not pairs:
        raise DataError("inversion: there are no pairs of units. Lower the threshold, or match other models.")
    grids = _grids(generator)
    found: dict[str, Tensor] = {}
    for (layer, channel), (other, unit) in pairs:
        name, spread, scale = generator.layers[layer], moments.deviation[other][unit], own.deviation[layer][channel]
        if not (spread > 0 and scale > 0):
            raise DataError(f"inversion: unit {channel} of {name} or its partner is constant. Leave the pair out.")
        channels, *grid = grids[name]
        centred = (maps[other][:, unit] - moments.mean[other][unit]) / (spread * scale)
        if name not in found:
            found[name] = centred.new_zeros(len(centred), channels, *grid)
        found[name][:, channel] += _carried(centred, (grid[0], grid[1])) / len(pairs)
    return found


def bounds_of(
    generator: Generator, own: Moments, pairs: Sequence[tuple[tuple[int, int], tuple[int, int]]], images: int
) -> dict[str, Tensor]:
    """What the squares of a generator's maps weigh, so that the similarity less half of them is largest at the target.

    Eq. 4.5 has no optimum of its own: maps twice as strong are twice as similar. Where the other maps are edited ones
    of the generator itself, what is subtracted makes it half their mean squared distance, but for a constant.
    """
    grids, found = _grids(generator), dict[str, Tensor]()
    for (layer, channel), _ in pairs:
        name = generator.layers[layer]
        channels, rows, columns = grids[name]
        if name not in found:
            found[name] = torch.zeros(images, channels, 1, 1, device=generator.device)
        found[name][:, channel] += 1 / (own.deviation[layer][channel] ** 2 * rows * columns * len(pairs))
    return found


def similarity(
    maps: Mapping[str, Tensor], layers: Sequence[str], own: Moments, targets: Targets, bounds: Targets | None = None
) -> Float[Tensor, " image"]:
    """L_act of eq. 4.6 of each image, from the generator's maps of it; with `bounds` less half of their squares."""
    total = 0.0
    for name, target in targets.items():
        centred = maps[name] - own.mean[layers.index(name)].to(target)[:, None, None]
        product = centred * target if bounds is None else centred * (target - bounds[name] * centred / 2)
        total = total + product.sum((1, 2, 3))
    return total  # type: ignore[return-value]


def invert(
    generator: Generator,
    start: Float32[Tensor, "image latent"],
    own: Moments,
    targets: Targets,
    options: Inversion,
    *,
    bounds: Targets | None = None,
    reconstruct: Callable[[Tensor], Float[Tensor, " image"]] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Inverted:
    """Latents from `start` on whose maps are most similar to the targets (eq. 4.5), or also whose images are (eq. 4.7).

    bounds: of `bounds_of`. reconstruct: the distance of each image to what it is to be. An image's latents depend on
    nothing beside it but the number of images, by which kernels round. progress: called with (steps done, in all).
    """
    latents = start.detach().clone().requires_grad_(True)
    adam = torch.optim.Adam([latents], options.learning_rate)
    traces: tuple[list[Tensor], list[Tensor]] = ([], [])
    alive = torch.ones(len(latents), dtype=torch.bool, device=latents.device)
    if progress:
        progress(0, options.steps)
    for step in range(options.steps):
        images, maps = generator.maps(latents, list(targets), batch=len(latents))
        like = latents.new_zeros(len(latents))
        if targets:
            like = similarity(maps, generator.layers, own, targets, bounds)
        far = reconstruct(images) if reconstruct else latents.new_zeros(len(latents))
        loss = options.reconstructed * far + options.regular * latents.square().mean(1) - options.matched * like
        alive &= loss.isfinite()
        adam.zero_grad()
        torch.where(alive, loss, 0.0).sum().backward()
        assert latents.grad is not None
        latents.grad[~alive] = 0
        for group in adam.param_groups:
            group["lr"] = options.learning_rate * options.share(step)
        before = latents.detach().clone()
        adam.step()
        with torch.no_grad():
            latents[~alive] = before[~alive]
        for trace, value in zip(traces, (like, far), strict=True):
            trace.append(value.detach())
        if progress:
            progress(step + 1, options.steps)
    with torch.no_grad():
        images = generator.images(latents, batch=len(latents))
    shown = [torch.stack(trace).float().cpu().numpy() for trace in traces]
    return Inverted(latents.detach(), images, *shown, failed=(~alive).nonzero()[:, 0].tolist())


def _grids(generator: Generator) -> dict[str, tuple[int, ...]]:
    """Channels, rows and columns of each layer of units."""
    with torch.no_grad():
        _, maps = generator.maps(generator.latents([0]), batch=1)
    return {name: tuple(layer.shape[1:]) for name, layer in maps.items()}


def _carried(map_: Float[Tensor, "image y x"], grid: tuple[int, int]) -> Float[Tensor, "image _y _x"]:
    """The other model's map at the generator's size: U_g' U_d of it, over the places of the larger map."""
    places = 1
    for axis, side in ((1, grid[0]), (2, grid[1])):
        there = map_.shape[axis]
        places *= max(there, side)
        if there != side:
            low, high = sorted((there, side))
            upsample = interpolation(low, high).to(map_)
            moved = map_.movedim(axis, -1) @ (upsample.T if there < side else upsample)
            map_ = moved.movedim(-1, axis)
    return map_ / places
