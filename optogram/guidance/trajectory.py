"""Guidance: the steps of a diffusion model from noise to picture as one differentiable function, within a memory.

Gradients are exact. A step that is checkpointed keeps its inputs alone and is run again on the way back; as many of the
last steps are not as memory allows, since the way back begins there and frees them first.
"""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from optogram.errors import ParamError, ShapeError
from optogram.models.generative.diffusion import Diffusion
from optogram.models.generative.schedules import Mix


@runtime_checkable
class Attend(Protocol):
    """What changes a denoiser's attention, as an `Injection` does."""

    def at(self, step: int, rows: Int64[Tensor, " row"]) -> AbstractContextManager[None]:
        """Inside, the denoiser is asked at a step, from 0 on, for these rows of the images."""
        ...


@dataclass(frozen=True)
class Blend:
    """Originals that are pasted in outside of a mask (Hertz et al. 2023).

    latents: of the originals at each time, the noisiest first, as an `Inversion` has them. mask: 1 where a picture may
    change. until: the share of the steps in which that is done, of each image.
    """

    latents: Float[Tensor, "time image channel row column"]
    mask: Float[Tensor, "image row column"]
    until: Float[Tensor, " image"]

    def pasted(self, z: Tensor, step: int, steps: int, rows: Tensor) -> Tensor:
        """The latents before a step, from 0 on."""
        within = step < self.until[rows] * steps
        if not bool(within.any()):
            return z
        mask = torch.where(within[:, None, None], self.mask[rows], 1)[:, None]
        return mask * z + (1 - mask) * self.latents[step][rows]


@dataclass(frozen=True)
class Start:
    """Where pictures start, one a row.

    latents: at the first time that is used. states, null: what the denoiser is told at each step, or the same at all;
    null None is that of the empty prompt. first: how many of the noisiest steps are left out, as in an inversion.
    attend, blend: what is changed on the way.

    Raises ShapeError for rows that do not match.
    """

    latents: Float[Tensor, "image channel row column"]
    states: Float[Tensor, "image token width"] | Float[Tensor, "step image token width"]
    null: Float[Tensor, "step image token width"] | None = None
    first: int = 0
    attend: Attend | None = None
    blend: Blend | None = None

    def __post_init__(self) -> None:
        count = len(self.latents)
        for name, value in (("states", self.states), ("null", self.null)):
            if value is not None and value.shape[-3] != count:
                raise ShapeError(f"guidance: {count} images, but {value.shape[-3]} rows of {name}. Give one an image.")


@dataclass(frozen=True)
class Trajectory:
    """A diffusion model and the steps that it takes."""

    diffusion: Diffusion
    steps: int
    scale: float
    first: int = 0
    attend: Attend | None = None
    blend: Blend | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.first < self.steps:
            raise ParamError(
                f"guidance: {self.first} of {self.steps} steps are left out; expected 0 to {self.steps - 1}. Leave out "
                "fewer, or take more steps."
            )

    @property
    def taken(self) -> int:
        """How many steps there are."""
        return self.steps - self.first

    def cleans(
        self,
        z: Float[Tensor, "image channel row column"],
        states: Float[Tensor, "step image token width"],
        null: Float[Tensor, "step image token width"],
        rows: Int64[Tensor, " image"],
        *,
        finals: int = 1,
        checkpointed: int = 0,
        differentiated: int | None = None,
    ) -> list[Float[Tensor, "image channel row column"]]:
        """The clean latents that each of the last `finals` steps predicts, the last being what the steps lead to.

        rows: the number of each image among those of the Start, for what is changed on the way. checkpointed: the
        first so many steps are. differentiated: as `Guidance` has it.
        """
        found: list[Tensor] = []
        for at, mixes in enumerate(pairwise(self.diffusion.schedule.mixes(self.steps)[self.first :])):
            if differentiated is not None and at == self.taken - differentiated:
                z = z.detach()
            run = partial(self._step, at=at, mixes=mixes, rows=rows)
            exact = differentiated is None or at >= self.taken - differentiated
            if not exact:
                with torch.no_grad():
                    z, clean = run(z, states[at], null[at])
            elif at < checkpointed and torch.is_grad_enabled():
                z, clean = checkpoint(run, z, states[at], null[at], use_reentrant=False)
            else:
                z, clean = run(z, states[at], null[at])
            found.append(clean)
        return [*found[-finals:-1], z]

    def checkpointed(self, z: Tensor, states: Tensor, null: Tensor, rows: Tensor, memory: int | None) -> int:
        """How many steps must be, for graphs of at most `memory` bytes; None is half of what the device has."""
        room = memory or half_of_memory(z.device)
        mixes = self.diffusion.schedule.mixes(self.steps)[self.first :]
        run = partial(self._step, at=0, mixes=(mixes[0], mixes[1]), rows=rows)
        each = graph_bytes(run, *(one.detach().requires_grad_() for one in (z, states[0], null[0])))
        # one that is run again takes as much as one that is kept
        return max(0, self.taken - max(1, room // max(each, 1) - 1)) if each * self.taken > room else 0

    def _step(
        self, z: Tensor, states: Tensor, null: Tensor, *, at: int, mixes: tuple[Mix, Mix], rows: Tensor
    ) -> tuple[Tensor, Tensor]:
        now, then = mixes
        if self.blend is not None:
            z = self.blend.pasted(z, at, self.taken, rows)
        with self.attend.at(at, rows) if self.attend is not None else nullcontext():
            prediction = self.diffusion.predict(z, now.time, states, null, self.scale)
        schedule = self.diffusion.schedule
        return schedule.step(z, prediction, now, then), schedule.parts(z, prediction, now.alpha, now.sigma)[0]


def graph_bytes(run: Callable[..., object], *inputs: Tensor) -> int:
    """Bytes that autograd keeps of a run for its way back, weights left out (they are kept anyway)."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        _held = run(*inputs)  # until it is counted, lest a place be used twice
    return sum(kept.values())


def half_of_memory(device: torch.device) -> int:
    """Half of the memory that a device has left, or that this machine has, in bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 2
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
