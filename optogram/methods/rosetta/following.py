"""Methods, rosetta: finds latents whose maps are near edited ones of the generator's own, however they were edited."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from optogram.methods.rosetta.inversion import Inversion, Moments, bounds_of, invert, similarity, targets_of
from optogram.methods.rosetta.reconstruction import Pair
from optogram.models.generative.generators import Generator
from optogram.models.generative.sampling import to_pixels
from optogram.models.judging.judge import Judge


@dataclass(frozen=True)
class Drawing:
    """A generator, the moments of its units, and the judge that looks at what it draws."""

    name: str
    generator: Generator
    own: Moments
    judge: Judge

    @property
    def alive(self) -> dict[int, list[int]]:
        """Of each layer, by its number, the units that are not constant."""
        return {
            layer: torch.nonzero(deviation > 0)[:, 0].tolist() for layer, deviation in enumerate(self.own.deviation)
        }

    @torch.no_grad()
    def pixels(self, latents: Float32[Tensor, "image latent"]) -> UInt8[np.ndarray, "image y x rgb"]:
        """What it draws."""
        return to_pixels(self.generator.images(latents), self.name)

    @torch.no_grad()
    def maps(self, latents: Float32[Tensor, "image latent"]) -> list[Tensor]:
        """Of all layers."""
        return list(self.generator.maps(latents)[1].values())


def follow(
    drawing: Drawing,
    start: Float32[Tensor, "image latent"],
    wanted: Sequence[tuple[list[Tensor], Sequence[Pair]]],
    options: Inversion,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Tensor, np.ndarray]:
    """Latents from `start` on whose maps are near edited ones, and the share of the way to them that the maps went.

    wanted: edited maps of all layers and the pairs that count, for the first images, the next ones, and so on.
    The way is the mean squared distance of standardised maps over units and places: 1 is there, 0 no nearer; NaN
    where the edit changes nothing.
    """
    generator, own = drawing.generator, drawing.own
    targets, bounds, size = dict[str, Tensor](), dict[str, Tensor](), len(start)
    done, constant = 0, []
    for maps, pairs in wanted:
        count = len(maps[0])
        here = targets_of(maps, own, generator, own, pairs)
        weights = bounds_of(generator, own, pairs, count)
        for name in here:
            for all_, part in ((targets, here[name]), (bounds, weights[name])):
                all_.setdefault(name, part.new_zeros(size, *part.shape[1:]))[done : done + count] = part
        constant.append(_own_square(maps, own, pairs))
        done += count
    found = invert(generator, start, own, targets, options, bounds=bounds, progress=progress)

    def distance(latents: Tensor) -> Tensor:
        maps = dict(zip(generator.layers, drawing.maps(latents), strict=True))
        return (torch.cat(constant) - similarity(maps, generator.layers, own, targets, bounds)).clamp_min(0)

    first, last = distance(start), distance(found.latents)
    return found.latents, torch.where(first > 1e-6, 1 - last / first, torch.nan).cpu().numpy()


def _own_square(maps: Sequence[Tensor], own: Moments, pairs: Sequence[Pair]) -> Tensor:
    """Half the mean square of the edited maps, standardised."""
    total = maps[0].new_zeros(len(maps[0]))
    for _, (layer, channel) in pairs:
        each = (maps[layer][:, channel] - own.mean[layer][channel]) / own.deviation[layer][channel]
        total = total + each.square().mean((1, 2)) / (2 * len(pairs))
    return total


@dataclass
class Told:
    """Progress over several runs of as many steps each."""

    progress: Callable[[int, int], None] | None
    steps: int
    runs: int
    at: int = -1

    def next(self) -> Callable[[int, int], None] | None:
        """What the next run tells."""
        self.at += 1
        if self.progress is None:
            return None
        tell, base, total = self.progress, self.at * self.steps, self.runs * self.steps
        return lambda done, _: tell(base + done, total)
