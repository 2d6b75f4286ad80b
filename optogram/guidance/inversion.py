"""Guidance: inversion of real images, by DDIM and by null states that are optimised at each step (null-text inversion).

DDIM inversion takes the deterministic steps of the schedule upwards, and so finds noise of which the model draws an
image again, but only nearly, and with guidance hardly. Null-text inversion (Mokady et al. 2023) keeps that way as a
pivot: at each step down it moves the states without a condition until the guided step lands on the pivot.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from optogram.errors import ParamError, ShapeError
from optogram.models.generative.diffusion import Diffusion
from optogram.models.generative.sampling import BATCH
from optogram.models.generative.schedules import Mix, Schedule

NOISY = 0.1
"""The share of noise from which on the model is asked what it sees; images are mixed with noise up to there."""
RATES = 100
"""Diffusion steps after which the learning rate has fallen to 0, as in the published code."""


@dataclass(frozen=True)
class NullText:
    """How null states are found: Adam, started anew at each diffusion step, for each image by itself.

    inner: most steps of Adam at a diffusion step. learning_rate: times 1 - i / 100 at diffusion step i, from 0.
    tolerance, tolerance_growth: an image's mean squared distance from the pivot below which it stops is `tolerance` +
    `tolerance_growth` * i. The defaults are those of the published code.

    Raises ParamError for numbers out of range.
    """

    inner: int = 10
    learning_rate: float = 0.01
    tolerance: float = 1e-5
    tolerance_growth: float = 2e-5

    def __post_init__(self) -> None:
        if self.inner < 1:
            raise ParamError(f"null text: inner = {self.inner}, expected at least 1. Give no null text to have none.")
        if not 0 < self.learning_rate < math.inf:
            raise ParamError(f"null text: learning_rate = {self.learning_rate}, expected above 0, say 0.01. Change it.")
        for name in ("tolerance", "tolerance_growth"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ParamError(f"null text: {name} = {getattr(self, name)}, expected 0 or above. Change it.")


@dataclass(frozen=True)
class Exact:
    """How the steps up are made those of which the steps down are the inverse.

    seeds: one an image, of the noise that is mixed into it at the first steps up (`NOISY`), as the model saw such
    images in its training. An image without any noise looks like none of these, and what is then taken for its noise is
    too weak.
    repeats: of each further step, by its own result: what the model says of the later latents, in place of what it says
    of the earlier ones (fixed-point iteration).

    Source: Pan et al. 2023 (AIDI) and Meiri et al. 2023 for the repeats.
    """

    seeds: Sequence[int]
    repeats: int = 5

    def __post_init__(self) -> None:
        if self.repeats < 0:
            raise ParamError(f"exact inversion: repeats = {self.repeats}, expected 0 or more. Change it.")


@dataclass(frozen=True)
class Inversion:
    """Of which latents and null states a model draws images again; everything float32 and on the CPU.

    latents: at the noisiest time that is used, where drawing starts. trajectory: the way of DDIM inversion, from noise
    (`latents`) to image, steps + 1 - `below` times. null: the null states of each step, from the noisiest on; without
    null text always those of "". images: what is drawn of these with guidance, in [0, 1]. error: their mean squared
    error (PSNR is -10 log10 of it); NaN for an image that is not finite somewhere on the way. inner: steps of Adam that
    were taken at each diffusion step. below: how many of the noisiest steps of the schedule are left out.
    """

    latents: Float[Tensor, "image channel row column"]
    trajectory: Float[Tensor, "time image channel row column"]
    null: Float[Tensor, "step image token width"]
    images: Float[Tensor, "image 3 y x"]
    error: Float[Tensor, " image"]
    inner: Int[Tensor, "step image"]
    below: int


@torch.no_grad()
def invert(
    diffusion: Diffusion,
    images: Float[Tensor, "image 3 y x"],
    states: Float[Tensor, "image token width"],
    *,
    steps: int,
    scale: float,
    below: int = 0,
    null_text: NullText | None = NullText(),
    exact: Exact | None = None,
    batch: int = BATCH,
    progress: Callable[[int, int], None] | None = None,
) -> Inversion:
    """Latents and null states of which the model draws `images`, in [0, 1], again.

    The way up has no guidance: it is asked for `states` alone, those of the images' captions. Everything is float32, as
    null-text inversion in float16 is known to fail. Weights get no gradients.

    steps: of the schedule from noise to image. scale: of the guidance with which the images are drawn again; with 1 the
    null states count for nothing, and stay. below: how many of the noisiest steps are left out. A schedule whose last
    time holds next to nothing of the image (a signal-to-noise ratio of 0 or nearly) loses it there: inversion then goes
    up to an earlier time, and drawing starts there. null_text: how null states are optimised; None leaves them.
    exact: how the way up is made the inverse of the way down; None is plain DDIM inversion.
    batch: images at once. What is found of an image follows from it, its states and `batch`, not from its neighbours.
    progress: called with (images done, images in all).

    Raises ShapeError for images of another size than the model's and unless there is a row of states for each,
    ParamError for a number that is out of range, and for a schedule that has nothing of the image in its noisiest time
    that is used (but flow matching, whose steps can be taken back from there).

    Sources: Song et al. 2021, section 4.3 (DDIM inversion); Mokady et al. 2023, eq. 3 and Algorithm 1 (null text), with
    the stop and the learning rate of its published code; DiG-IN, D.1.2. What the model says at the later time is taken
    as noise, whatever it predicts, see `up`.
    """
    _check(diffusion, images, states, scale=scale, batch=batch)
    mixes = _used(diffusion.schedule, steps, below)
    if null_text and len(mixes) - 1 > RATES:
        raise ParamError(
            f"null text: {len(mixes) - 1} diffusion steps, expected at most {RATES}, after which the learning rate is "
            "0. Take fewer steps, or no null text."
        )
    noise = None
    if exact is not None:
        if len(exact.seeds) != len(images):
            raise ShapeError(
                f"inversion: {len(images)} images, but {len(exact.seeds)} seeds. Give each image one seed."
            )
        noise = diffusion.noise(exact.seeds) if len(images) else images.new_zeros(0, *diffusion.shape)
    path = _Path(diffusion, mixes, scale, null_text, diffusion.states([""]).float(), exact.repeats if exact else 0)
    found, count = list[Inversion](), len(images)
    for start in range(0, max(count, 1), batch):  # of no images too the shapes are found
        part = slice(start, start + batch)
        own = None if noise is None else noise[part]
        found.append(path.invert(images[part].float(), states[part].float(), own, batch, below))
        if progress:
            progress(min(start + batch, count), count)
    of_image = {name: torch.cat([getattr(each, name) for each in found]) for name in ("latents", "images", "error")}
    of_time = {name: torch.cat([getattr(each, name) for each in found], 1) for name in ("trajectory", "null", "inner")}
    return Inversion(**of_image, **of_time, below=below)


def up(schedule: Schedule, z: Tensor, prediction: Tensor, now: Mix, then: Mix) -> Tensor:
    """One step of DDIM inversion, to the noisier time `then`, by what the model says of `z` when told that time.

    The noise that the prediction amounts to *at the time that the model was told* is the noise that is mixed in. For
    epsilon this is Mokady et al.'s step and that of diffusers' DDIMInverseScheduler. For images and v that scheduler
    reads the prediction at the earlier time, which divides by its sigma (nearly 0 where images are clean), and gives
    other latents for what is the same model: here, whichever of the three a model predicts, its way up is one and the
    same. For flows it is Euler's step taken back.
    """
    if schedule.flow:
        return schedule.step(z, prediction, now, then)
    _, noise = schedule.parts(z, prediction, then.alpha, then.sigma)
    return Schedule({**schedule.config, "prediction_type": "epsilon"}).step(z, noise, now, then)


@dataclass(frozen=True)
class _Step:
    """A guided step down of latents, as a function of the null states: the prediction for the states is kept."""

    diffusion: Diffusion
    z: Tensor
    prediction: Tensor
    now: Mix
    then: Mix
    scale: float

    def land(self, null: Tensor) -> Tensor:
        """The latents at the next time."""
        prediction = self.prediction
        if self.scale != 1:
            free = self.diffusion.predict(self.z, self.now.time, null)
            prediction = free + self.scale * (prediction - free)
        return self.diffusion.schedule.step(self.z, prediction, self.now, self.then)


@dataclass(frozen=True)
class _Path:
    """The way up and down again, of one batch after the other."""

    diffusion: Diffusion
    mixes: Sequence[Mix]
    scale: float
    null_text: NullText | None
    empty: Tensor
    repeats: int

    def invert(self, images: Tensor, states: Tensor, noise: Tensor | None, batch: int, below: int) -> Inversion:
        """The inversion of one batch, which is filled up to `batch` images, as kernels may round by its size."""
        device, kept = self.diffusion.device, len(images)
        fill = torch.zeros(batch - kept, 3, *self.diffusion.size, device=device)
        x = torch.cat([images.to(device), fill])
        bound = torch.cat([states.to(device), self.empty.expand(batch - kept, -1, -1)])
        z = self.diffusion.codec.encode(x)
        pivot = self.pivot(z, bound) if noise is None else self.exact(z, bound, _filled(noise, batch))
        clean, null, inner = self.draw(pivot, bound, torch.arange(batch, device=device) < kept)
        drawn = self.diffusion.codec.decode(clean).clamp(0, 1)
        error = (drawn - x).square().mean((1, 2, 3))
        for each in (clean, *pivot, *null):
            error = torch.where(each.isfinite().flatten(1).all(1), error, math.nan)
        trajectory, null, inner = (torch.stack(each)[:, :kept].cpu() for each in (pivot, null, inner))
        return Inversion(trajectory[0], trajectory, null, drawn[:kept].cpu(), error[:kept].cpu(), inner, below)

    def pivot(self, z: Tensor, states: Tensor) -> list[Tensor]:
        """Latents at each time, from noise to image, by DDIM inversion of clean latents `z`."""
        found = [z]
        for now, then in pairwise(reversed(self.mixes)):
            prediction = self.diffusion.predict(found[-1], then.time, states)
            found.append(up(self.diffusion.schedule, found[-1], prediction, now, then))
        return found[::-1]

    def exact(self, z: Tensor, states: Tensor, noise: Tensor) -> list[Tensor]:
        """The same by steps that those down lead back from: z' is alpha' x + sigma' (z - alpha x) / sigma, where x is
        the image that the model sees in z' itself."""
        found = [z]
        for now, then in pairwise(reversed(self.mixes)):
            later = then.alpha * z + then.sigma * noise
            if now.sigma < NOISY:
                found.append(later)
                continue
            for _ in range(1 + self.repeats):
                prediction = self.diffusion.predict(later, then.time, states)
                clean, _ = self.diffusion.schedule.parts(later, prediction, then.alpha, then.sigma)
                later = then.alpha * clean + then.sigma * (found[-1] - now.alpha * clean) / now.sigma
            found.append(later)
        return found[::-1]

    def draw(
        self, pivot: Sequence[Tensor], states: Tensor, wanted: Bool[Tensor, " image"]
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Clean latents drawn from the noisy end of the pivot; the null states and Adam's steps of each step down.

        wanted: images that are optimised; the others only fill the batch.
        """
        z, null = pivot[0], self.empty.repeat(len(states), 1, 1)
        nulls, taken = list[Tensor](), list[Tensor]()
        for i, (now, then) in enumerate(pairwise(self.mixes)):
            prediction = self.diffusion.predict(z, now.time, states)
            step = _Step(self.diffusion, z, prediction, now, then, self.scale)
            inner = torch.zeros_like(wanted, dtype=torch.long)
            if self.null_text and self.scale != 1:
                null, inner = _optimise(step, null, pivot[i + 1], self.null_text, i, wanted)
            z = step.land(null)
            nulls.append(null)
            taken.append(inner)
        return z, nulls, taken


def _filled(noise: Tensor, batch: int) -> Tensor:
    return torch.cat([noise, noise.new_zeros(batch - len(noise), *noise.shape[1:])])


def _optimise(
    step: _Step, null: Tensor, target: Tensor, options: NullText, i: int, going: Bool[Tensor, " image"]
) -> tuple[Tensor, Tensor]:
    """Null states with which diffusion step `i` lands near `target`, and how many steps of Adam each image took.

    As published, an image whose loss is below the stop still takes the step of Adam that this loss is for.
    """
    stop, rate = options.tolerance + options.tolerance_growth * i, options.learning_rate * (1 - i / RATES)
    null = null.clone().requires_grad_()
    adam = torch.optim.Adam([null], lr=rate)
    taken = torch.zeros_like(going, dtype=torch.long)
    for _ in range(options.inner):
        with torch.enable_grad():
            loss = (step.land(null) - target).square().mean((1, 2, 3))
            (null.grad,) = torch.autograd.grad(loss.sum(), [null])
        before = null.detach().clone()
        adam.step()
        null.copy_(torch.where(going[:, None, None], null, before))
        taken += going
        going = going & (loss >= stop)  # what is no number stops too
        if not bool(going.any()):
            break
    return null.detach(), taken


def _used(schedule: Schedule, steps: int, below: int) -> list[Mix]:
    """The times from the noisiest that is used to the image. Raises ParamError as `invert`."""
    mixes = schedule.mixes(steps)
    if not 0 <= below < steps:
        raise ParamError(f"inversion: below = {below}, expected 0 to {steps - 1}, fewer than steps. Change below.")
    if mixes[below].alpha == 0 and not schedule.flow:
        raise ParamError(
            f"inversion: below = {below}, but time {mixes[below].time:g} of the schedule is noise alone (a terminal "
            "signal-to-noise ratio of 0), in which the image is lost. Set below to at least 1, better 2."
        )
    return mixes[below:]


def _check(diffusion: Diffusion, images: Tensor, states: Tensor, *, scale: float, batch: int) -> None:
    """Raises ShapeError and ParamError as `invert`."""
    if images.shape[1:] != (3, *diffusion.size):
        raise ShapeError(
            f"inversion: images of shape {tuple(images.shape)}, expected (image, 3, {diffusion.size[0]}, "
            f"{diffusion.size[1]}), the size that the model draws. Resize or crop them."
        )
    if len(states) != len(images):
        raise ShapeError(
            f"inversion: {len(images)} images, but {len(states)} rows of states. Give each image the states of its "
            "caption."
        )
    if batch < 1:
        raise ParamError(f"inversion: batch = {batch}, expected at least 1.")
    if not 0 < scale < math.inf:
        raise ParamError(f"inversion: scale = {scale}, expected above 0; 1 is no guidance, 3 the paper's. Change it.")
