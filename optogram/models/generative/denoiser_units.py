"""Room models: the units of a denoiser: channels of its blocks at fixed noise levels, and their maps of images."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from optogram.errors import ModelError, ParamError, ShapeError, nearest
from optogram.models.generative.diffusion import Diffusion
from optogram.models.generative.generators import watching
from optogram.models.units import NONLINEAR


@dataclass(frozen=True, eq=False)
class DenoiserUnits:
    """A denoiser as a model that looks at images: they are mixed with noise as in its training, and it removes it.

    A unit is a channel at one of `times`: of a convolutional block that holds a nonlinearity, or of what the MLP of a
    transformer gives after its nonlinearity, whose tokens are the places of its map. It is asked without a text. The
    noise is that of `seed` for every image, so that what a unit shows of an image does not depend on those beside it.

    chosen: names of blocks, in place of all.

    Raises ModelError for a denoiser that is no torch module or has no such blocks, and for a name that is none of them;
    ParamError for a time that its schedule lacks.
    """

    diffusion: Diffusion
    times: tuple[int, ...]
    seed: int = 0
    chosen: Sequence[str] | None = None

    def __post_init__(self) -> None:
        steps = self.diffusion.schedule.training_steps
        for time in self.times:
            if not 0 <= time < steps:
                raise ParamError(f"units of a denoiser: time {time}, expected 0 to {steps - 1}. Change it.")
        if not self._blocks:
            raise ModelError("the denoiser has no blocks with a nonlinearity, of which channels could be units.")
        for name in self.chosen or ():
            if name not in self._blocks:
                near = nearest(name, list(self._blocks))
                raise ModelError(f"the denoiser has no block {name!r}; there are {', '.join(self._blocks)}.{near}")

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers, block and time, in the order of the maps."""
        return tuple(f"{name} at {time}" for time in self.times for name in self._looking)

    @torch.no_grad()
    def maps(self, pixels: UInt8[np.ndarray, "image y x rgb"]) -> list[Float[Tensor, "image _channel _y _x"]]:
        """Of each layer the maps of its units, float32. Raises ShapeError for images of another size than its own."""
        diffusion = self.diffusion
        if pixels.shape[1:3] != diffusion.size:
            raise ShapeError(
                f"units of a denoiser: images are {pixels.shape[1:3]}, but it was trained on {diffusion.size}. Take "
                "images of that size."
            )
        images = torch.from_numpy(np.ascontiguousarray(pixels)).to(diffusion.device).permute(0, 3, 1, 2).float() / 255
        clean, noise = diffusion.codec.encode(images), diffusion.noise([self.seed])
        null = diffusion.states([""]).expand(len(pixels), -1, -1)
        found = []
        for time in self.times:
            alpha, sigma = diffusion.schedule.at(torch.tensor([time], device=diffusion.device))
            with watching(self._looking) as seen:
                diffusion.predict(alpha * clean + sigma * noise, float(time), null)
            found += [_as_map(seen[name][0]).float() for name in self._looking]
        return found

    def untrained(self, *, seed: int) -> "DenoiserUnits":
        """The same with weights as before a training, drawn from `seed`."""
        denoiser: Any = copy.deepcopy(self._network).cpu()  # so that the seed tells the draws
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            for module in denoiser.modules():
                if hasattr(module, "reset_parameters"):
                    module.reset_parameters()
            for name, w in denoiser.named_parameters():
                if name.endswith("scale_shift_table"):  # of a transformer, in no module of its own
                    nn.init.normal_(w, std=w.shape[1] ** -0.5)
        return replace(self, diffusion=replace(self.diffusion, denoiser=denoiser.to(self.diffusion.device)))

    @property
    def _network(self) -> nn.Module:
        denoiser: Any = self.diffusion.denoiser
        if not isinstance(denoiser, nn.Module):
            raise ModelError(f"the denoiser is a {type(denoiser).__name__}, no torch module, and shows no units.")
        return denoiser

    @property
    def _looking(self) -> dict[str, nn.Module]:
        return {name: one for name, one in self._blocks.items() if self.chosen is None or name in self.chosen}

    @cached_property
    def _blocks(self) -> dict[str, nn.Module]:
        """What gives units, as it runs: of a UNet its residual blocks, of a transformer its MLPs' nonlinearities."""
        named = {
            name: module
            for name, module in self._network.named_modules()
            if _is_block(module) or (name.endswith(".ff.net.0") and type(module).__name__ in NONLINEAR)
        }
        inner = {name: one for name, one in named.items() if not any(other.startswith(f"{name}.") for other in named)}
        order: list[str] = []
        if not inner:
            return {}
        handles = [one.register_forward_hook(partial(_note, order, name)) for name, one in inner.items()]
        try:
            with torch.no_grad():
                self.diffusion.predict(self.diffusion.noise([0]), 0.0, self.diffusion.states([""]))
        finally:
            for handle in handles:
                handle.remove()
        return {name: inner[name] for name in order}


def _is_block(module: nn.Module) -> bool:
    """Whether a module holds a nonlinearity and a convolution of its own."""
    children = [*module.children()]
    return any(type(child).__name__ in NONLINEAR for child in children) and any(
        isinstance(child, nn.Conv2d) for child in children
    )


def _note(order: list[str], name: str, _: nn.Module, __: Any, output: Any) -> None:
    if isinstance(output, Tensor) and output.ndim in (3, 4) and name not in order:
        order.append(name)


def _as_map(values: Float[Tensor, "image ..."]) -> Float[Tensor, "image channel row column"]:
    """Tokens as the places of a square map; a map as it is."""
    if values.ndim == 4:
        return values
    side = math.isqrt(values.shape[1])
    return values.transpose(1, 2).unflatten(2, (side, side))
