"""Example: the architecture of a trained GAN, for a spec of your own.

spec: callable:examples.dcgan:generator, with the checkpoint faces_dcgan.safetensors, from the repository root
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn


class Dcgan(nn.Module):
    """Radford et al. (2016): transposed convolutions from a point to an image, of 64 x 64 with four widths.

    latent, widths: channels of z, and of the maps before the image, whose sides are 4, 8, 16, ….
    """

    def __init__(self, latent: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.latent = latent
        parts: list[nn.Module] = []
        for width_in, width in zip((latent, *widths[:-1]), widths, strict=True):
            first = not parts
            conv = nn.ConvTranspose2d(width_in, width, 4, 1 if first else 2, 0 if first else 1, bias=False)
            parts += [conv, nn.BatchNorm2d(width), nn.ReLU()]
        self.main = nn.Sequential(*parts, nn.ConvTranspose2d(widths[-1], 3, 4, 2, 1, bias=False), nn.Tanh())
        # what a ReLU gives is a unit
        self.unit_layers = tuple(f"main.{k}" for k, part in enumerate(self.main) if isinstance(part, nn.ReLU))

    def forward(self, latents: Float[Tensor, "image latent"]) -> Float[Tensor, "image rgb y x"]:
        """Images in [0, 1]; the network's own are in [-1, 1]."""
        return (self.main(latents[:, :, None, None]) + 1) / 2


def generator(latent: int = 100, widths: Sequence[int] = (512, 256, 128, 64)) -> Dcgan:
    """The module with random weights; as it is called without arguments, that of the checkpoint."""
    return Dcgan(latent, widths)
