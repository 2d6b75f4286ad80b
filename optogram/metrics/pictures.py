"""Metrics room, pictures: how near pictures are to those that they are to be, pixel by pixel."""

import numpy as np
from jaxtyping import Float, Float64
from torch import Tensor


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
