"""Methods: canvases of VITAL's rivals: spectra (Olah et al. 2017, Fel et al. 2023), growing pixels (PII).

The two spectra are as their authors' PyTorch implementation (Horama) has them, for A.1's learning rate of 1.0 is that
of its scales: what is optimised, and then the picture, is brought to mean 0 and standard deviation 1, image by image;
colours are correlated by Lucid's matrix, and a sigmoid makes them fit to be seen.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor

from optogram.errors import ParamError, ShapeError
from optogram.methods.visualisation.optimise import Pixels, draws

COLOURS = ((0.56282854, 0.58447580, 0.58447580), (0.19482528, 0.0, -0.19482528), (0.04329450, -0.10823626, 0.06494176))
"""Lucid's decorrelated colours (brightness, red or blue, green or not) in RGB; from ImageNet, as published."""


class FourierCanvas:
    """Images as spectra that are scaled down by their frequency (Olah et al. 2017, "Preconditioning").

    From Gaussian noise, drawn from each image's own seed. Raises ParamError if there is no seed.
    """

    def __init__(self, seeds: Sequence[int], size: tuple[int, int], device: torch.device | str = "cpu") -> None:
        height, width = self._size = size
        rows, columns = torch.fft.fftfreq(height), torch.fft.rfftfreq(width)
        frequency = (rows[:, None].square() + columns.square()).sqrt()
        scale = math.sqrt(height * width) / frequency.clamp(min=1 / max(height, width))
        self._scale, self._colours = scale.to(device), torch.tensor(COLOURS, device=device)
        noise = draws(seeds, (3, height, width // 2 + 1, 2), "normal").to(device)
        self.parameters = [noise.requires_grad_()]

    def rgb(self) -> Float32[Tensor, "image rgb y x"]:
        """Colours in [0, 1]."""
        spectrum = _standardised(torch.view_as_complex(self.parameters[0])) * self._scale
        return _coloured(torch.fft.irfft2(spectrum, s=self._size), self._colours)

    def settle(self) -> None:
        """Any spectrum is an image."""


class MacoCanvas:
    """Images whose magnitudes are those of a dataset; only the phases are optimised (MACO, Fel et al. 2023).

    spectrum: of `magnitude_spectrum`, of images of `size`. Phases are kept opposite at opposite frequencies, like those
    of a picture, so that its magnitudes before the sigmoid are those given, up to one factor. At the frequencies that
    are their own opposite a picture has no phase but a sign: there they are magnitude x cos(phase), so that the mean
    colour is free up to the dataset's. From Gaussian phases, drawn from each image's own seed.

    Raises ParamError if there is no seed, ShapeError for a spectrum of another size.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        size: tuple[int, int],
        spectrum: Float[Tensor, "colour y frequency"],
        device: torch.device | str = "cpu",
    ) -> None:
        height, width = self._size = size
        shape = (3, height, width // 2 + 1)
        if spectrum.shape != shape:
            raise ShapeError(
                f"the spectrum has shape {tuple(spectrum.shape)}; expected {shape} for images of {height} x {width}. "
                "Take it from images of this size."
            )
        self._magnitude = spectrum.float().to(device)
        self._colours = torch.tensor(COLOURS, device=device)
        # in these columns, both a frequency and its opposite are written down
        paired = torch.zeros(height, width // 2 + 1, dtype=torch.bool, device=device)
        paired[:, [0, -1] if width % 2 == 0 else [0]] = True
        paired[[0, height // 2] if height % 2 == 0 else [0]] = False
        self._paired = paired
        self.parameters = [draws(seeds, shape, "normal").to(device).requires_grad_()]

    def rgb(self) -> Float32[Tensor, "image rgb y x"]:
        """Colours in [0, 1]."""
        phase = _standardised(self.parameters[0])
        opposite = phase.flip(2).roll(1, 2)
        phase = torch.where(self._paired, (phase - opposite) / 2, phase)
        spectrum = torch.polar(self._magnitude.expand_as(phase), phase)
        return _coloured(torch.fft.irfft2(spectrum, s=self._size), self._colours)

    def settle(self) -> None:
        """Any phase is an angle."""


def magnitude_spectrum(images: Any, batch: int = 256) -> Float32[Tensor, "colour y frequency"]:
    """The mean magnitude of the images' spectra in Lucid's decorrelated colours (Fel et al. 2023), in batches.

    images: uint8 (image, y, x, rgb), anything that is cut by image: arrays in memory, zarr, xarray. Pixels count from 0
    to 1, and the transform is `rfft2` without a factor.

    Raises ShapeError for no images or another shape, ParamError for other pixels than uint8.

    >>> from optogram.methods import magnitude_spectrum
    >>> magnitude_spectrum(scenes.pixels).shape
    torch.Size([3, 32, 17])
    """
    shape = tuple(images.shape)
    if len(shape) != 4 or shape[3] != 3 or 0 in shape:
        raise ShapeError(f"images have shape {shape}; expected (image, y, x, rgb), none of them 0.")
    if images.dtype != np.uint8:
        raise ParamError(f"images are {images.dtype}; expected uint8 from 0 to 255.")
    total = torch.zeros(3, shape[1], shape[2] // 2 + 1, dtype=torch.float64)
    decorrelate = torch.tensor(COLOURS, dtype=torch.float64).inverse()
    for start in range(0, shape[0], batch):
        part = torch.from_numpy(np.array(images[start : start + batch])).double() / 255
        total += torch.fft.rfft2((part @ decorrelate).permute(0, 3, 1, 2)).abs().sum(0)
    return (total / shape[0]).float()


class Growing(Pixels):
    """Pixels of which the middle is drawn first, coarsely, in stages (centering and zoom of PII, Ghiasi et al. 2022).

    The middle is `share(step)` of each side, from a quarter in the first stage (with seven) to all of it in the last.
    What comes after a stage is magnified to fill half of what the next stage adds, and fresh noise is around it.

    Raises ParamError for fewer than one step or stage, and as `Pixels`.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        size: tuple[int, int],
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        device: torch.device | str = "cpu",
        *,
        steps: int,
        stages: int = 7,
    ) -> None:
        if steps < 1 or stages < 1:
            raise ParamError(f"drawing: steps = {steps}, stages = {stages}; expected at least 1 of each.")
        self._step, self._steps, self._stages, self._size = -1, steps, stages, size
        super().__init__(seeds, size, mean, std, device)  # settles what it starts with: step 0 is next
        self._noise = self.parameters[0].detach().clone()

    def share(self, step: int) -> float:
        """Of each side, the part that is drawn at this step."""
        stage = min(step * self._stages // self._steps, self._stages - 1)
        return (stage + 2) / (self._stages + 1)

    @torch.no_grad()
    def settle(self) -> None:
        """Clamp; and go on to the next stage."""
        super().settle()
        self._step += 1
        now, then = self.share(max(self._step - 1, 0)), self.share(self._step)
        if now == then or self._step >= self._steps:
            return
        pixels = self.parameters[0]
        middle = pixels[(..., *self._middle(now))]
        target = self._middle((now + then) / 2)
        larger = (target[0].stop - target[0].start, target[1].stop - target[1].start)
        magnified = F.interpolate(middle, larger, mode="bilinear", align_corners=False)
        pixels.copy_(self._noise)
        pixels[(..., *target)] = magnified

    def _middle(self, share: float) -> tuple[slice, slice]:
        starts = [int((1 - share) / 2 * side) for side in self._size]
        height, width = (slice(start, side - start) for start, side in zip(starts, self._size, strict=True))
        return height, width


def _standardised(values: Tensor) -> Tensor:
    """Mean 0 and standard deviation 1 of each image, over all else."""
    centred = values - values.mean((1, 2, 3), keepdim=True)
    return centred / (centred.abs().square().mean((1, 2, 3), keepdim=True).sqrt() + 1e-4)


def _coloured(picture: Float[Tensor, "image colour y x"], colours: Tensor) -> Float[Tensor, "image rgb y x"]:
    return torch.einsum("ncyx,cr->nryx", _standardised(picture), colours).sigmoid()
