"""Methods: images drawn by gradient descent, many at once; the loop that VITAL and its rivals share.

What is drawn on is a `Canvas`; what is wanted of it is a loss for each image, which must not depend on the others
(where a method's loss does, its module says so). An image whose loss or gradient is no longer finite is stopped and
keeps what it was; the others go on unharmed.
"""

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from optogram.errors import ParamError, ShapeError

Loss = Callable[[Float[Tensor, "image rgb y x"], int], Float[Tensor, " image"]]
"""Colours in [0, 1] and the number of the step, to the loss of each image."""

Tell = Callable[[int], None]


CLOUDS = 0.2
"""Deviation of the waves that a spectrum starts with, in logits of the colour at the lowest frequency."""


@runtime_checkable
class Canvas(Protocol):
    """Images in some parametrisation, all on one device; whatever it holds has `image` as its first dimension."""

    parameters: list[Tensor]
    """What is optimised: leaf tensors (image, …) that need gradients."""

    def rgb(self) -> Float[Tensor, "image rgb y x"]:
        """The colours in [0, 1], as a function of the parameters that gradients pass through."""
        ...

    def settle(self) -> None:
        """Called after each step: bring the parameters back to where they mean an image."""
        ...


class Pixels:
    """A canvas of pixels in the units that the model takes, (rgb - mean) / std, clamped to what a picture can be.

    As VITAL and DeepInversion have it: from Gaussian noise, drawn from each image's own seed.

    Raises ParamError if there is no seed.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        size: tuple[int, int],
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        device: torch.device | str = "cpu",
    ) -> None:
        self._mean, self._std = (torch.tensor(values, device=device)[:, None, None] for values in (mean, std))
        noise = draws(seeds, (3, *size), "normal").to(device)
        self.parameters = [noise.requires_grad_()]
        self.settle()

    def rgb(self) -> Float32[Tensor, "image rgb y x"]:
        """Colours in [0, 1]."""
        return self.parameters[0] * self._std + self._mean

    @torch.no_grad()
    def settle(self) -> None:
        """Clamp to black and white."""
        pixels = self.parameters[0]
        pixels.copy_(torch.maximum(torch.minimum(pixels, (1 - self._mean) / self._std), -self._mean / self._std))


class Spectrum:
    """A canvas of waves: the pixels are the inverse Fourier transform of what is optimised, through a sigmoid.

    Slow waves move faster, by frequency^-1.5, so that a picture forms from its large parts down (Olah et al. 2017,
    preconditioning), where the pixels of `Pixels` keep the noise that they start from. The mean colour is one of the
    waves. Nothing is standardised, unlike on the Fourier rival's canvas. It starts from large, faint clouds: on a plain
    grey many channels are silent, and where one is, neither it nor its relevance has a gradient.

    Raises ParamError if there is no seed.
    """

    def __init__(self, seeds: Sequence[int], size: tuple[int, int], device: torch.device | str = "cpu") -> None:
        self._size = size
        down, right = torch.fft.fftfreq(size[0])[:, None], torch.fft.rfftfreq(size[1])[None]
        slowest = 1 / max(size)
        frequency = (down.square() + right.square()).sqrt().clamp(min=slowest)
        # a wave of the lowest frequency has the amplitude of its parameter, in logits of the colour
        self._scale = (math.prod(size) * (slowest / frequency) ** 1.5).to(device)
        noise = CLOUDS * draws(seeds, (3, size[0], size[1] // 2 + 1, 2), "normal").to(device)
        self.parameters = [noise.requires_grad_()]

    def rgb(self) -> Float32[Tensor, "image rgb y x"]:
        """Colours in [0, 1]."""
        waves = torch.view_as_complex(self.parameters[0]) * self._scale
        return torch.fft.irfft2(waves, s=self._size).sigmoid()

    def settle(self) -> None:
        """Every spectrum means an image."""


@dataclass(frozen=True)
class Drawn:
    """What came of it, on the CPU.

    rgb: in [0, 1]. transparency: mean over the steps of the gradient's magnitude at each place, relative to the image's
    99th percentile, in [0, 1] (section 3.4, C.3). loss: at the recorded steps, the last finite one from where an image
    diverged (0 if it had none). diverged: the step at which it did, or -1.
    """

    rgb: Float32[Tensor, "image rgb y x"]
    transparency: Float32[Tensor, "image y x"]
    loss: Float32[Tensor, "image step"]
    diverged: Int64[Tensor, " image"]


def draw(
    canvas: Canvas,
    loss: Loss,
    *,
    steps: int,
    learning_rate: float,
    betas: tuple[float, float] = (0.9, 0.999),
    decay: bool = False,
    record: Sequence[int] | None = None,
    tell: Tell | None = None,
) -> Drawn:
    """Optimise a canvas by Adam for `steps` steps.

    decay: lower the learning rate to zero along half a cosine. record: numbers of the steps, from 0, whose losses are
    kept (default `recorded(steps)`). tell: called with the number of images after each step.

    Raises ParamError for fewer than one step or a learning rate that is not a positive number, ShapeError if the loss
    is not one number an image.
    """
    if steps < 1 or not 0 < learning_rate < math.inf:
        raise ParamError(
            f"drawing: steps = {steps}, learning_rate = {learning_rate}; expected at least 1 step and a positive, "
            "finite learning rate."
        )
    marks = list(recorded(steps) if record is None else record)
    optimiser = torch.optim.Adam(canvas.parameters, learning_rate, betas)
    count = len(canvas.parameters[0])
    device = canvas.parameters[0].device
    diverged = torch.full((count,), -1, device=device)
    attended: Tensor | None = None
    last, curve = torch.zeros(count, device=device), []
    for step in range(steps):
        if decay:
            optimiser.param_groups[0]["lr"] = learning_rate * fading(step, steps)
        rgb = canvas.rgb()
        losses = loss(rgb, step)
        if losses.shape != (count,):
            raise ShapeError(f"drawing: the loss has shape {tuple(losses.shape)}; expected ({count},), one an image.")
        seen, *gradients = torch.autograd.grad(losses.sum(), [rgb, *canvas.parameters])
        with torch.no_grad():
            finite = losses.isfinite()
            for gradient in (seen, *gradients):
                finite &= gradient.flatten(1).isfinite().all(1)
            diverged[(diverged < 0) & ~finite] = step
            going = diverged < 0
            last = torch.where(going, losses.detach().float(), last)
            if step in marks:
                curve.append(last)
            strength = torch.where(_along(going, seen), seen.abs(), 0).sum(1)
            attended = strength if attended is None else attended + strength
            _adam_step(canvas, optimiser, gradients, going)
        if tell:
            tell(count)
    assert attended is not None
    with torch.no_grad():
        rgb = canvas.rgb().clamp(0, 1)
    return Drawn(rgb.float().cpu(), _relative(attended).cpu(), torch.stack(curve, 1).cpu(), diverged.cpu())


def _adam_step(
    canvas: Canvas, optimiser: torch.optim.Adam, gradients: Sequence[Tensor], going: Bool[Tensor, " image"]
) -> None:
    """One step of the images that are `going`; the others keep what they were."""
    before = [parameter.clone() for parameter in canvas.parameters]
    for parameter, gradient in zip(canvas.parameters, gradients, strict=True):
        parameter.grad = torch.where(_along(going, gradient), gradient, 0)
    optimiser.step()
    canvas.settle()
    for parameter, old in zip(canvas.parameters, before, strict=True):  # Adam's momentum would carry it on
        parameter.copy_(torch.where(_along(going, old), parameter, old))


def fading(step: int, steps: int) -> float:
    """Half a cosine, from 1 at step 0 down to 0 after the last."""
    return 0.5 * (1 + math.cos(math.pi * step / steps))


def recorded(steps: int, most: int = 50) -> list[int]:
    """At most `most` step numbers, evenly spread, the first and the last among them."""
    return sorted({round(k * (steps - 1) / max(1, min(most, steps) - 1)) for k in range(min(most, steps))})


def image_seed(seed: int, *names: str | int) -> int:
    """The seed of one image, from that of the run and what the image is called: no other image moves it."""
    words = [zlib.crc32(str(name).encode()) for name in names]
    return int(np.random.SeedSequence((seed, *words)).generate_state(1, np.uint64)[0] >> 1)


def draws(seeds: Sequence[int], shape: tuple[int, ...], kind: str, stream: int = 0) -> Float32[Tensor, "image ..."]:
    """Random numbers (image, *shape) from each image's own seed: `normal`, or `uniform` in [0, 1).

    stream: another number gives other numbers of the same seed. Raises ParamError if there is no seed.
    """
    if not seeds:
        raise ParamError("drawing: no image to draw: seeds are empty. Give at least one.")
    found = []
    for seed in seeds:
        source = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, stream))))
        numbers = source.standard_normal(shape, np.float32) if kind == "normal" else source.random(shape, np.float32)
        found.append(torch.from_numpy(numbers))
    return torch.stack(found)


def jittered(rgb: Float[Tensor, "image rgb y x"], shift: Int64[Tensor, "image 2"]) -> Float[Tensor, "image rgb y x"]:
    """Each image rolled by its own (down, right), so that no place is special (section A.1)."""
    return torch.stack([torch.roll(one, (int(y), int(x)), (1, 2)) for one, (y, x) in zip(rgb, shift, strict=True)])


def jitter(seeds: Sequence[int], steps: int, size: tuple[int, int], share: float) -> Int64[Tensor, "image step 2"]:
    """Shifts for `jittered`, at every step, uniform up to `share` of the size each way.

    Raises ParamError for a share outside [0, 0.5].
    """
    if not 0 <= share <= 0.5:
        raise ParamError(f"drawing: jitter = {share}, expected 0 to 0.5: a share of the image's side.")
    reach = torch.tensor([int(side * share) for side in size])
    return (draws(seeds, (steps, 2), "uniform", stream=1) * (2 * reach + 1)).long().clamp(max=2 * reach) - reach


def total_variation(images: Float[Tensor, "image rgb y x"]) -> Float[Tensor, " image"]:
    """L_TV of eq. 3, as DeepInversion (Yin et al. 2020) has it: norms of differences to four neighbours, summed."""
    right, down = images[..., 1:] - images[..., :-1], images[..., 1:, :] - images[..., :-1, :]
    falling = images[..., 1:, 1:] - images[..., :-1, :-1]
    rising = images[..., 1:, :-1] - images[..., :-1, 1:]
    return torch.stack([_norm(each) for each in (right, down, falling, rising)]).sum(0)


def l2_norm(images: Float[Tensor, "image rgb y x"]) -> Float[Tensor, " image"]:
    """The l2 term of eq. 3."""
    return _norm(images)


def _norm(images: Tensor) -> Tensor:
    # a constant image has norm 0, where the root has no gradient
    return (images.flatten(1).square().sum(1) + 1e-12).sqrt()


def _along(images: Tensor, like: Tensor) -> Tensor:
    return images.reshape(-1, *[1] * (like.ndim - 1))


def _relative(attended: Float[Tensor, "image y x"]) -> Float32[Tensor, "image y x"]:
    most = attended.flatten(1).quantile(0.99, dim=1).clamp(min=1e-30)
    return (attended / most[:, None, None]).clamp(0, 1).float()
