"""Example: the architecture of a trained GAN with a mapping of its latents, for a spec of your own.

spec: callable:examples.mobilestylegan:generator, with the checkpoint faces_mobilestylegan.safetensors, from the
repository root
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class MappingNetwork(nn.Sequential):
    """Latents z to styles w, the linear layers of StyleGAN2 (Karras et al. 2020) with their rates multiplied in."""

    def forward(self, latents: Float[Tensor, "image latent"]) -> Float[Tensor, "image style"]:
        """Before truncation."""
        x = latents * (latents.square().mean(1, keepdim=True) + 1e-8).rsqrt()
        for layer in self:
            x = 2**0.5 * F.leaky_relu(layer(x), 0.2)
        return x


class Modulation(nn.Module):
    """Channels times a linear map of the style."""

    def __init__(self, style: int, width: int) -> None:
        super().__init__()
        self.mod = nn.Linear(style, width)

    def modulated(self, x: Float[Tensor, "image channel y x"], style: Float[Tensor, "image style"]) -> Tensor:
        """`x` with its channels scaled."""
        return x * self.mod(style)[:, :, None, None]


class Conv(Modulation):
    """A modulated 3 x 3 convolution with fixed noise, whose demodulation is in its weights; a unit is what it gives.

    In `separate` parts it is a depthwise convolution and a pointwise one.
    """

    def __init__(self, style: int, width_in: int, width: int, side: int, *, separate: bool, noise: bool) -> None:
        super().__init__(style, width_in)
        self.separate = separate
        if separate:
            self.dw = nn.Parameter(torch.randn(width_in, 1, 3, 3) / 3)
            self.pw = nn.Parameter(torch.randn(width, width_in, 1, 1) / width_in**0.5)
        else:
            self.weight = nn.Parameter(torch.randn(width, width_in, 3, 3) / (9 * width_in) ** 0.5)
        # the checkpoint has no noise of the largest side
        self.register_buffer("noise", 0.1 * torch.randn(1, 1, side, side) if noise else None)
        self.noise: Tensor | None
        self.bias = nn.Parameter(torch.zeros(1, width, 1, 1))

    def forward(
        self, x: Float[Tensor, "image channel y x"], style: Float[Tensor, "image style"]
    ) -> Float[Tensor, "image _channel y x"]:
        """After the leaky ReLU."""
        x = self.modulated(x, style)
        if self.separate:
            x = F.conv2d(F.conv2d(x, self.dw, padding=1, groups=len(self.dw)), self.pw)
        else:
            x = F.conv2d(x, self.weight, padding=1)
        return F.leaky_relu((x if self.noise is None else x + self.noise) + self.bias, 0.2)


def inverse_haar(x: Float[Tensor, "image channel y x"]) -> Float[Tensor, "image _quarter _y _x"]:
    """The orthonormal inverse Haar transform: twice the side, a quarter of the channels.

    Of the channels the first quarter is LL; then come LH, HL and HH of the first, of the second, ….
    """
    low, high = x[:, : x.shape[1] // 4], x[:, x.shape[1] // 4 :].unflatten(1, (-1, 3))
    down, right, both = high.unbind(2)
    corners = (
        torch.stack([low + down + right + both, low + down - right - both], -1),
        torch.stack([low - down + right - both, low - down - right + both], -1),
    )
    return torch.stack(corners, 3).flatten(4).flatten(2, 3) / 2


class Layer(nn.Module):
    """From one side to twice that: an inverse Haar transform and two convolutions."""

    def __init__(self, style: int, width_in: int, width: int, side: int, *, noise: bool) -> None:
        super().__init__()
        self.up = Modulation(style, width_in)
        self.conv1 = Conv(style, width_in // 4, width, side, separate=True, noise=noise)
        self.conv2 = Conv(style, width, width, side, separate=True, noise=noise)

    def forward(self, x: Float[Tensor, "image channel y x"], style: Float[Tensor, "image style"]) -> Tensor:
        """(image, channel, y, x), y and x twice those before."""
        return self.conv2(self.conv1(inverse_haar(self.up.modulated(x, style)), style), style)


class ToImage(Modulation):
    """Maps to the wavelets of an image of twice the side, of which the low ones are the image itself."""

    def __init__(self, style: int, width: int) -> None:
        super().__init__(style, width)
        self.weight = nn.Parameter(torch.randn(12, width, 1, 1) / width**0.5)
        self.bias = nn.Parameter(torch.zeros(1, 12, 1, 1))

    def forward(
        self, x: Float[Tensor, "image channel y x"], style: Float[Tensor, "image style"]
    ) -> Float[Tensor, "image 3 y x"]:
        """In [-1, 1], but for what overshoots."""
        return (F.conv2d(self.modulated(x, style), self.weight) + self.bias)[:, :3] / 2


class MobileStyleGan(nn.Module):
    """Belousov (2021): a StyleGAN2 distilled into depthwise convolutions on wavelets.

    latent: channels of z, and of the styles w. widths: channels of the maps, whose sides are 4, 8, 16, …. pooled: side
    of the squares of pixels of which a pixel of the image is the mean.
    """

    def __init__(self, latent: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.latent = latent
        self.mapping = MappingNetwork(*(nn.Linear(latent, latent) for _ in range(8)))
        self.register_buffer("w_mean", torch.zeros(1, latent))
        self.w_mean: Tensor
        self.input = nn.Parameter(torch.randn(1, widths[0], 4, 4))
        self.conv1 = Conv(latent, widths[0], widths[0], 4, separate=False, noise=True)
        self.layers = nn.ModuleList(
            Layer(latent, before, width, 8 * 2**k, noise=k + 2 < len(widths))
            for k, (before, width) in enumerate(pairwise(widths))
        )
        self.to_img, self.pooled = ToImage(latent, widths[-1]), 1
        self.unit_layers = tuple(name for name, part in self.named_modules() if isinstance(part, Conv))

    def forward(self, latents: Float[Tensor, "image latent"]) -> Float[Tensor, "image rgb y x"]:
        """Images in [0, 1], without truncation."""
        return self.synthesis(self.mapping(latents))

    def synthesis(self, styles: Float[Tensor, "image style"]) -> Float[Tensor, "image rgb y x"]:
        """Images in [0, 1] of styles w."""
        return F.avg_pool2d(((self.drawn(styles) + 1) / 2).clamp(0, 1), self.pooled)

    def drawn(self, styles: Float[Tensor, "image style"]) -> Float[Tensor, "image rgb y x"]:
        """What the network itself draws: in [-1, 1], but for what overshoots."""
        x = self.conv1(self.input.expand(len(styles), -1, -1, -1), styles)
        for layer in self.layers:
            x = layer(x, styles)
        return self.to_img(x, styles)


def generator(latent: int = 512, widths: Sequence[int] = (512, 512, 512, 512, 512, 256, 128, 64)) -> MobileStyleGan:
    """The module with random weights; as it is called without arguments, that of the checkpoint, of 512 x 512."""
    return MobileStyleGan(latent, widths)


def small() -> MobileStyleGan:
    """The same network, whose images are pooled to 256 x 256: what looks at them has a quarter of the work."""
    made = generator()
    made.pooled = 2
    return made
