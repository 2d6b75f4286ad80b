"""Example: the architecture of a trained autoencoder, as a codec of your own for diffusion.

spec: callable:examples.taef2:codec, with the checkpoints {"encoder": taef2_encoder.safetensors, "decoder":
taef2_decoder.safetensors}, from the repository root
"""

from itertools import chain

import torch
from jaxtyping import Float
from torch import Tensor, nn


def conv(width_in: int, width: int, **options: int | bool) -> nn.Conv2d:
    """A convolution of 3 x 3 that keeps the size."""
    return nn.Conv2d(width_in, width, 3, padding=1, **options)  # type: ignore[arg-type]


class Block(nn.Module):
    """Three convolutions beside a shortcut; with a pool, a pointwise bottleneck outwards goes before."""

    def __init__(self, width: int, *, pool: bool = False) -> None:
        super().__init__()
        self.conv = nn.Sequential(conv(width, width), nn.ReLU(), conv(width, width), nn.ReLU(), conv(width, width))
        wide = 4 * width
        self.pool = (
            nn.Sequential(
                nn.Conv2d(width, wide, 1, bias=False),
                nn.GroupNorm(4, wide),
                nn.ReLU(),
                nn.Conv2d(wide, width, 1, bias=False),
            )
            if pool
            else None
        )

    def forward(self, x: Float[Tensor, "image channel y x"]) -> Float[Tensor, "image channel y x"]:
        """Of the same shape."""
        if self.pool is not None:
            x = x + self.pool(x)
        return (self.conv(x) + x).relu()


class Bounded(nn.Module):
    """Keeps latents within ± 3."""

    def forward(self, x: Tensor) -> Tensor:
        """Of any shape."""
        return 3 * torch.tanh(x / 3)


class Taef2(nn.Module):
    """TAEF2 (Bohan, MIT licence): images of sides that are multiples of 8, and latents of an eighth of these sides.

    Its attributes `factor` (pixels a side of a latent) and `channels` (of the latents) are what diffusion asks for.
    """

    factor = 8

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.channels = channels
        down = chain.from_iterable(
            (conv(width, width, stride=2, bias=False), *(Block(width, pool=last) for _ in range(3)))
            for last in (False, False, True)
        )
        up = chain.from_iterable(
            (
                *(Block(width, pool=first) for _ in range(3)),
                nn.Upsample(scale_factor=2),
                conv(width, width, bias=False),
            )
            for first in (True, False, False)
        )
        self.encoder = nn.Sequential(conv(3, width), Block(width), *down, conv(width, channels))
        self.decoder = nn.Sequential(Bounded(), conv(channels, width), nn.ReLU(), *up, Block(width), conv(width, 3))

    def encode(self, images: Float[Tensor, "image rgb y x"]) -> Float[Tensor, "image channel _y _x"]:
        """Latents of images in [0, 1]; of photographs their standard deviation is about 0.86."""
        return self.encoder(images)

    def decode(self, latents: Float[Tensor, "image channel y x"]) -> Float[Tensor, "image 3 _y _x"]:
        """Images in [0, 1]."""
        return self.decoder(latents).clamp(0, 1)


def codec(channels: int = 32, width: int = 64) -> Taef2:
    """The module with random weights; as it is called without arguments, that of the checkpoints."""
    return Taef2(channels, width)
