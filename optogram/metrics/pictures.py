"""Metrics room, pictures: how near pictures are to those that they are to be, pixel by pixel."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn import functional


def psnr(
    images: Float[Tensor, "image rgb y x"], truth: Float[Tensor, "image rgb y x"]
) -> Float64[np.ndarray, " image"]:
    """Peak signal-to-noise ratio of each image in [0, 1], in dB; 100 where they are the same.

    >>> from optogram.metrics.pictures import psnr
    >>> psnr(torch.full((1, 3, 4, 4), 0.6), torch.full((1, 3, 4, 4), 0.5)).round(3)
    array([20.])
    """
    error = (images - truth).double().square().mean((1, 2, 3))
    return (-10 * error.clamp(min=1e-10).log10()).cpu().numpy()


def perceptual(
    maps: Sequence[Float[Tensor, "image _channel _y _x"]], truth: Sequence[Float[Tensor, "image _channel _y _x"]]
) -> Float64[np.ndarray, " image"]:
    """How far what a model sees in images is from what it sees in others: 0 where it sees the same.

    maps, truth: of each layer. Zhang et al. 2018, eq. 1, with weights of 1 (LPIPS has learned ones, of its own models):
    channels are scaled to length 1 at each place; their squared distance is averaged over places, and over layers.

    >>> from optogram.metrics.pictures import perceptual
    >>> one, other = torch.tensor([[2.0, 0.0], [0.0, 3.0]]).view(2, 1, 2, 1, 1)
    >>> perceptual([one], [other]), perceptual([one], [5 * one])
    (array([2.]), array([0.]))
    """
    return perceived([each.double() for each in maps], [each.double() for each in truth]).cpu().numpy()


def perceived(
    maps: Sequence[Float[Tensor, "image _channel _y _x"]], truth: Sequence[Float[Tensor, "image _channel _y _x"]]
) -> Float[Tensor, " image"]:
    """`perceptual` as a tensor of the maps' dtype, through which gradients pass."""
    found = []
    for ours, theirs in zip(maps, truth, strict=True):
        one, other = (functional.normalize(each, dim=1) for each in (ours, theirs))
        found.append((one - other).square().sum(1).mean((1, 2)))
    return torch.stack(found).mean(0)


def ssim(
    images: Float[Tensor, "image rgb y x"], truth: Float[Tensor, "image rgb y x"]
) -> Float64[np.ndarray, " image"]:
    """Structural similarity of each image in [0, 1] (Wang et al. 2004), by torchmetrics.

    >>> from optogram.metrics.pictures import ssim
    >>> ssim(torch.ones(1, 3, 16, 16), torch.ones(1, 3, 16, 16))
    array([1.])
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    found = structural_similarity_index_measure(images.float(), truth.float(), data_range=1.0, reduction="none")
    assert isinstance(found, Tensor)
    return found.double().cpu().numpy()
