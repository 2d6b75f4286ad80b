"""Guidance: the views of a picture over which a loss is averaged: random square crops, and noise (appendix A.4)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def views(
    images: Float[Tensor, "image final rgb y x"],
    generators: Sequence[torch.Generator],
    *,
    count: int,
    size: tuple[int, int],
    noise: float,
) -> Float[Tensor, "image view rgb _y _x"]:
    """Of each image `count` views of each of its final pictures, those of one crop side by side; gradients pass.

    The side of a crop is u^.3 (S - s) + s, u being uniform, S the smaller side of the images and s that of `size`; it
    is pooled to `size` by means. One view alone, and those of an image no larger than `size`, are the image as it is.
    The final pictures of an image have the same crop, and each its own noise.

    generators: one an image, on the CPU, which this moves on: an image's views do not depend on what is beside it.
    noise: deviation of what is added, before nothing is clamped.

    Source: Augustin et al., appendix A.4 and Figure 13; the law of the sides from their published code.
    """
    found = [
        _of_one(pictures, generator, count, size, noise) for pictures, generator in zip(images, generators, strict=True)
    ]
    return torch.stack(found)


def _of_one(
    pictures: Float[Tensor, "final rgb y x"],
    generator: torch.Generator,
    count: int,
    size: tuple[int, int],
    noise: float,
) -> Float[Tensor, "view rgb _y _x"]:
    height, width = pictures.shape[2:]
    side, least = min(height, width), min(size)
    cut = count > 1 and side > least
    found = []
    for _ in range(count):
        view = pictures
        if cut:
            share, down, right = torch.rand(3, generator=generator).tolist()
            long = round(share**0.3 * (side - least) + least)
            top, left = int(down * (height - long + 1)), int(right * (width - long + 1))
            view = F.adaptive_avg_pool2d(pictures[:, :, top : top + long, left : left + long], size)
        if noise:
            view = view + noise * torch.randn(view.shape, generator=generator).to(view)
        found.append(view)
    return torch.cat(found)
