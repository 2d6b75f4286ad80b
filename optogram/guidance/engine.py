"""Guidance: optimises what a diffusion model starts from and is told, through all its steps (Algorithms 1 and 2).

Images are independent of each other: Adam is elementwise, losses are added up, and what is random, bounds, the best
iterate and when to stop are an image's own. So they run side by side, and one that is done makes room for the next.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from optogram.errors import ParamError, ShapeError
from optogram.guidance.options import Guidance
from optogram.guidance.trajectory import Start, Trajectory
from optogram.guidance.views import views
from optogram.models.generative.diffusion import Diffusion

BATCH = 8
"""Images at once. Kernels may round by the size of a batch, so that a smaller one is filled up."""
DONE, STOPPED, DIVERGED = "done", "stopped", "diverged"
BETAS, EPSILON = (0.9, 0.999), 1e-8


@runtime_checkable
class Objective(Protocol):
    """What a picture is to be: a loss that is the smaller the more it is so."""

    @property
    def size(self) -> tuple[int, int]:
        """The size at which a model looks at pictures: that of crops."""
        ...

    def __call__(self, images: Float[Tensor, "view rgb y x"], rows: Int64[Tensor, " view"]) -> Float[Tensor, " view"]:
        """The loss of each view of the images `rows`, in [0, 1] but for noise; gradients pass."""
        ...


@runtime_checkable
class Distance(Protocol):
    """How far a picture is from what it is to be near to."""

    def __call__(
        self,
        latents: Float[Tensor, "image channel row column"],
        images: Float[Tensor, "image rgb y x"],
        rows: Int64[Tensor, " image"],
    ) -> Float[Tensor, " image"]:
        """Of the images `rows`, with the weight that it has; gradients pass."""
        ...


@dataclass(frozen=True)
class Guided:
    """Pictures as they were found, of each image the best iterate: that of the least loss without crops and noise.

    images: in [0, 1]; NaN where not even the start had a finite loss. first: those from which the search began.
    latents, states, null: what `images` are drawn from.
    loss, distance: of each iterate, on the picture itself, NaN where there was none. best: the iterate that was taken.
    status: "done", "stopped" before (`stop`), or "diverged", its best until then.
    """

    images: Float32[Tensor, "image rgb y x"]
    first: Float32[Tensor, "image rgb y x"]
    latents: Float32[Tensor, "image channel row column"]
    states: Float32[Tensor, "step image token width"]
    null: Float32[Tensor, "step image token width"]
    loss: Float32[np.ndarray, "iterate image"]
    distance: Float32[np.ndarray, "iterate image"]
    best: Int64[np.ndarray, " image"]
    status: list[str] = field(default_factory=list)


def guide(
    diffusion: Diffusion,
    start: Start,
    objective: Objective,
    options: Guidance,
    *,
    seeds: Sequence[int],
    distance: Distance | None = None,
    batch: int = BATCH,
    memory: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Guided:
    """Optimise z_T, the states and the null states of each image until its picture is what `objective` asks.

    seeds: of the crops and noise, one an image. batch: images at once; an image's numbers follow from itself and this.
    memory: bytes for the graphs of steps, by default half of what there is; steps that do not fit are run twice, to the
    same gradient. progress: called with (iterations done over all images, in all).

    Raises ShapeError unless there is a seed an image, and ParamError for a batch below 1.

    Source: Augustin et al., Algorithms 1 and 2.
    """
    if len(seeds) != len(start.latents):
        raise ShapeError(f"guide: {len(start.latents)} images, but {len(seeds)} seeds. Give each image one seed.")
    if batch < 1:
        raise ParamError(f"guide: batch = {batch}, expected at least 1.")
    trajectory = Trajectory(diffusion, options.steps, options.scale, start.first, start.attend, start.blend)
    search = _Search(trajectory, start, objective, distance, options, seeds)
    waiting, active, done = list(range(len(seeds))), list[int](), 0
    total = len(seeds) * (options.iterations + 1)
    if waiting:
        search.plan(batch, memory)
    while waiting or active:
        active += [waiting.pop(0) for _ in range(min(batch - len(active), len(waiting)))]
        search.advance(active, batch)
        active = [row for row in active if not search.status[row]]
        done = sum(search.iterate) + sum(
            options.iterations + 1 - at for at, status in zip(search.iterate, search.status, strict=True) if status
        )
        if progress:
            progress(done, total)
    return search.found()


class _Search:
    """The variables of all images, and how far each has come: `iterate` of each, and `status` once it is done."""

    def __init__(
        self,
        trajectory: Trajectory,
        start: Start,
        objective: Objective,
        distance: Distance | None,
        options: Guidance,
        seeds: Sequence[int],
    ) -> None:
        self._trajectory, self._objective, self._distance, self._options = trajectory, objective, distance, options
        diffusion, count, taken = trajectory.diffusion, len(seeds), trajectory.taken
        null = diffusion.states([""]).expand(count, -1, -1) if start.null is None else start.null
        values = {"latents": start.latents, "states": _of_steps(start.states, taken), "null": _of_steps(null, taken)}
        self._start = {name: value.to(diffusion.device, torch.float32).contiguous() for name, value in values.items()}
        self._rates = {name: getattr(options, f"{name}_rate") for name in values}
        if options.scale == 1:
            self._rates["null"] = 0.0
        self._moved = {name: torch.zeros_like(value) for name, value in self._start.items() if self._rates[name]}
        self._moments = {
            name: (torch.zeros_like(value), torch.zeros_like(value)) for name, value in self._moved.items()
        }
        self._length = self._start["latents"].flatten(1).norm(dim=1)
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._kept = {name: value.clone() for name, value in self._start.items()}
        self._images = torch.full((count, 3, *diffusion.size), torch.nan, device=diffusion.device)
        self._first = self._images.clone()
        self._traces = np.full((2, options.iterations + 1, count), np.nan, np.float32)
        self._best, self._least = np.zeros(count, np.int64), np.full(count, np.inf)
        self._checkpointed = 0
        self.iterate, self.status = [0] * count, [""] * count

    def plan(self, batch: int, memory: int | None) -> None:
        """Find out how many steps fit into memory."""
        rows = torch.zeros(batch, dtype=torch.int64, device=self._start["latents"].device)
        now = {name: _rows(name, value, rows) for name, value in self._start.items()}
        self._checkpointed = self._trajectory.checkpointed(now["latents"], now["states"], now["null"], rows, memory)

    def advance(self, active: Sequence[int], batch: int) -> None:
        """One iterate more of each of these images: look at it, and unless it is the last, go on to the next."""
        filled = [*active, *[active[0]] * (batch - len(active))]
        rows = torch.tensor(filled, device=self._start["latents"].device)
        last = all(self.iterate[row] == self._options.iterations for row in active)
        leaves = {name: _rows(name, moved, rows).requires_grad_(not last) for name, moved in self._moved.items()}
        now = self._now(rows, leaves)
        with torch.set_grad_enabled(not last):
            cleans = self._trajectory.cleans(
                now["latents"],
                now["states"],
                now["null"],
                rows,
                finals=self._options.finals,
                checkpointed=self._checkpointed,
                differentiated=self._options.differentiated,
            )
            images = self._trajectory.diffusion.codec.decode(torch.cat(cleans)).clamp(0, 1)
            images = images.unflatten(0, (len(cleans), -1))
        count = len(active)
        self._look(active, rows, cleans[-1].detach(), images[-1].detach(), {n: v.detach() for n, v in now.items()})
        if last:
            return
        loss = self._loss(rows, filled, count, cleans, images)
        loss.sum().backward()
        for place, row in enumerate(active):
            if not self.status[row]:
                given = {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
                self._step(row, {name: _row(name, gradient, place) for name, gradient in given.items()})

    def _now(self, rows: Tensor, leaves: dict[str, Tensor]) -> dict[str, Tensor]:
        now = {name: _rows(name, value, rows) for name, value in self._start.items()}
        return now | {name: now[name] + leaf for name, leaf in leaves.items()}

    def _loss(
        self, rows: Tensor, filled: Sequence[int], count: int, cleans: Sequence[Tensor], images: Tensor
    ) -> Float[Tensor, " image"]:
        """With crops and noise, over the last pictures; rows behind `count` only fill the batch up."""
        options = self._options
        own = [self._generators[row] for row in filled[:count]]
        copies = [_copy(self._generators[filled[0]]) for _ in filled[count:]]
        seen = views(
            images.movedim(0, 1),
            [*own, *copies],
            count=options.crops,
            size=self._objective.size,
            noise=options.noise,
        )
        each = self._objective(seen.flatten(0, 1), rows.repeat_interleave(seen.shape[1]))
        weights = torch.arange(1.0, len(cleans) + 1, device=rows.device)
        weights = weights / weights.sum()
        loss = (each.view(len(rows), options.crops, len(cleans)).mean(1) * weights).sum(1)
        if self._distance is not None:
            far = [self._distance(*pair, rows) for pair in zip(cleans, images, strict=True)]
            loss = loss + (torch.stack(far, 1) * weights).sum(1)
        finite = loss.isfinite()
        for place in range(count):
            if not bool(finite[place]):
                self.status[filled[place]] = self.status[filled[place]] or DIVERGED
        return torch.where(finite, loss, 0.0)

    @torch.no_grad()
    def _look(self, active: Sequence[int], rows: Tensor, clean: Tensor, images: Tensor, now: dict[str, Tensor]) -> None:
        """Note how good each picture is, and keep it if it is the best of its image."""
        loss = self._objective(images, rows)
        far = self._distance(clean, images, rows) if self._distance is not None else torch.zeros_like(loss)
        for place, row in enumerate(active):
            at, values = self.iterate[row], (float(loss[place]), float(far[place]))
            self._traces[:, at, row] = values
            if at == 0:
                self._first[row] = images[place]
            if not np.isfinite(sum(values)):
                self.status[row] = DIVERGED
                continue
            if sum(values) < self._least[row]:
                self._least[row], self._best[row], self._images[row] = sum(values), at, images[place]
                for name, kept in self._kept.items():
                    _row(name, kept, row).copy_(_row(name, now[name], place))
            if self._options.stop is not None and values[0] <= self._options.stop:
                self.status[row] = STOPPED
            elif at == self._options.iterations:
                self.status[row] = DONE

    @torch.no_grad()
    def _step(self, row: int, gradients: dict[str, Tensor]) -> None:
        """Adam of one image (Kingma & Ba 2015)."""
        if not all(bool(gradient.isfinite().all()) for gradient in gradients.values()):
            self.status[row] = DIVERGED
            return
        at = self.iterate[row]
        for name, gradient in gradients.items():
            if self._options.clip is not None:
                gradient = gradient * (self._options.clip / gradient.abs().max().clamp_min(self._options.clip))
            mean, square = (_row(name, moment, row) for moment in self._moments[name])
            mean.lerp_(gradient, 1 - BETAS[0])
            square.lerp_(gradient * gradient, 1 - BETAS[1])
            unbiased = [moment / (1 - beta ** (at + 1)) for moment, beta in zip((mean, square), BETAS, strict=True)]
            rate = self._rates[name] * self._options.share(at)
            moved = _row(name, self._moved[name], row)
            moved.sub_(rate * unbiased[0] / (unbiased[1].sqrt() + EPSILON))
            if name == "latents" and self._options.renormalised:
                start = self._start[name][row]
                moved.copy_((start + moved) * (self._length[row] / (start + moved).norm()) - start)
        self.iterate[row] = at + 1

    def found(self) -> Guided:
        """The best of all."""
        kept = {name: value.cpu() for name, value in self._kept.items()}
        loss, distance = self._traces
        return Guided(
            self._images.cpu(),
            self._first.cpu(),
            **kept,
            loss=loss,
            distance=distance,
            best=self._best,
            status=list(self.status),
        )


def _of_steps(states: Tensor, steps: int) -> Float[Tensor, "step image token width"]:
    if states.ndim == 3:
        return states.expand(steps, -1, -1, -1)
    if len(states) != steps:
        raise ShapeError(f"guidance: states of {len(states)} steps, but {steps} are taken. Give each step its own.")
    return states


def _rows(name: str, value: Tensor, rows: Tensor) -> Tensor:
    """Of these images: the second dimension of states, which come step by step."""
    return value[rows] if name == "latents" else value[:, rows]


def _row(name: str, value: Tensor, row: int) -> Tensor:
    return value[row] if name == "latents" else value[:, row]


def _copy(generator: torch.Generator) -> torch.Generator:
    """What fills a batch up must not move the generator of an image on."""
    return torch.Generator().set_state(generator.get_state())
