"""Room models: codecs, which turn pixels into what a diffusion model denoises, and back."""

from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from optogram.errors import ModelError, ParamError, ShapeError

ROWS = 256
"""Images whose patches are counted at once: bounds the memory of `fit_patches`."""


@runtime_checkable
class Codec(Protocol):
    """Images in [0, 1] to latents of a variance of about 1, and back; each image of a batch for itself."""

    @property
    def factor(self) -> int:
        """Pixels a side of one place of the latents."""
        ...

    @property
    def channels(self) -> int:
        """Numbers a place."""
        ...

    def encode(self, images: Float[Tensor, "image 3 y x"]) -> Float[Tensor, "image channel row column"]:
        """Latents of images."""
        ...

    def decode(self, latents: Float[Tensor, "image channel row column"]) -> Float[Tensor, "image 3 y x"]:
        """Images of latents; they may leave [0, 1]."""
        ...


class Patches(nn.Module):
    """A fixed linear codec: principal components of square patches, each divided by a scale.

    It needs no training, and inverts exactly but for the components that it leaves out.

    factor: side of a patch in pixels. channels: components kept, at most 3 * factor ** 2.
    Buffers: `mean` (3 * factor ** 2), `components` (channel, 3 * factor ** 2), orthonormal rows, `scale` (channel).

    Raises ParamError for numbers out of range.
    """

    mean: Tensor
    components: Tensor
    scale: Tensor

    def __init__(self, factor: int = 4, channels: int = 16) -> None:
        super().__init__()
        width = 3 * factor**2
        if factor < 1 or not 1 <= channels <= width:
            raise ParamError(
                f"patches: factor = {factor}, channels = {channels}; expected a factor of at least 1, and 1 to "
                f"{max(width, 3)} channels (3 * factor ** 2). Change codec.channels or codec.factor."
            )
        self.factor, self.channels = factor, channels
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("components", torch.eye(channels, width))
        self.register_buffer("scale", torch.ones(channels))

    def encode(self, images: Float[Tensor, "image 3 y x"]) -> Float[Tensor, "image channel row column"]:
        """Raises ShapeError for sides that are not multiples of the factor."""
        check_sides(images, self.factor)
        patches = nn.functional.pixel_unshuffle(images, self.factor).movedim(1, -1)
        return (((patches - self.mean) @ self.components.T) / self.scale).movedim(-1, 1)

    def decode(self, latents: Float[Tensor, "image channel row column"]) -> Float[Tensor, "image 3 y x"]:
        """The least-squares image of the latents; it may leave [0, 1]."""
        patches = (latents.movedim(1, -1) * self.scale) @ self.components + self.mean
        return nn.functional.pixel_shuffle(patches.movedim(-1, 1), self.factor)


def fit_patches(
    pixels: UInt8[np.ndarray, "image y x 3"], *, factor: int = 4, channels: int = 16, whitening: float = 1.0
) -> Patches:
    """The `Patches` of these images. Sums are exact (integers below 2 ** 53), so that no order of them matters.

    whitening: the power of a component's standard deviation that it is divided by. With 1 all have variance 1; with 0
    they keep their share of the pixels' variance, so that noise hides fine detail first. Their mean variance is 1.

    Raises ParamError as `Patches`, ShapeError for sides that are not multiples of the factor, and ModelError for images
    that vary in fewer directions than there are channels.
    """
    codec = Patches(factor, channels)
    width = len(codec.mean)
    total, outer, count = np.zeros(width), np.zeros((width, width)), 0
    for start in range(0, len(pixels), ROWS):
        part = torch.from_numpy(np.ascontiguousarray(pixels[start : start + ROWS])).permute(0, 3, 1, 2)
        check_sides(part, factor)
        rows = nn.functional.pixel_unshuffle(part, factor).movedim(1, -1).reshape(-1, width).numpy().astype(np.float64)
        total, outer, count = total + rows.sum(0), outer + rows.T @ rows, count + len(rows)
    mean = total / count
    variance, directions = np.linalg.eigh(outer / count - np.outer(mean, mean))
    variance, components = variance[::-1][:channels], directions.T[::-1][:channels]
    if variance[-1] <= 1e-9 * variance[0]:
        raise ModelError(
            f"patches: the images vary in {int((variance > 1e-9 * variance[0]).sum())} directions, expected at least "
            f"{channels}, one a channel. Lower codec.channels, or give more images."
        )
    # which way an eigenvector points is arbitrary
    largest = np.abs(components).argmax(1)
    components = components * np.sign(components[np.arange(channels), largest])[:, None]
    with torch.no_grad():
        codec.mean.copy_(torch.from_numpy(mean / 255))
        codec.components.copy_(torch.from_numpy(components.copy()))
        deviation = np.sqrt(variance) / 255
        left = np.sqrt((deviation ** (2 - 2 * whitening)).mean())
        codec.scale.copy_(torch.from_numpy(deviation**whitening * left))
    return codec


class Autoencoder(nn.Module):
    """A codec of diffusers: AutoencoderKL (the mean of what it encodes) or AutoencoderTiny, which see [-1, 1].

    Latents are shifted and scaled as the autoencoder's own config says.
    """

    def __init__(self, autoencoder: Any) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        config = autoencoder.config
        self.channels = int(config.latent_channels)
        widths = config.get("block_out_channels") or config["decoder_block_out_channels"]
        self.factor = 2 ** (len(widths) - 1)
        self._scale = float(config.get("scaling_factor") or 1.0)
        self._shift = float(config.get("shift_factor") or 0.0)

    def encode(self, images: Float[Tensor, "image 3 y x"]) -> Float[Tensor, "image channel row column"]:
        """Raises ShapeError for sides that are not multiples of the factor."""
        check_sides(images, self.factor)
        found = self.autoencoder.encode(images * 2 - 1)
        latents = found.latent_dist.mode() if hasattr(found, "latent_dist") else found.latents
        return (latents - self._shift) * self._scale

    def decode(self, latents: Float[Tensor, "image channel row column"]) -> Float[Tensor, "image 3 y x"]:
        """The images of the latents; they may leave [0, 1]."""
        return (self.autoencoder.decode(latents / self._scale + self._shift).sample + 1) / 2


def check_sides(images: Tensor, factor: int) -> None:
    """Raises ShapeError for images that are not (image, 3, y, x) with sides that are multiples of the factor."""
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] % factor or images.shape[3] % factor:
        raise ShapeError(
            f"codec: images of shape {tuple(images.shape)}, expected (image, 3, y, x) with sides that are multiples of "
            f"{factor}. Resize or crop them."
        )
