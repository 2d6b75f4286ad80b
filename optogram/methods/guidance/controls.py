"""Methods, guidance: controls of what a diffusion model's steps are good for: the same loss on pixels alone."""

import torch
from jaxtyping import Float
from torch import Tensor

from optogram.guidance.engine import Distance, Objective
from optogram.models.generative.codecs import Codec


def on_pixels(
    images: Float[Tensor, "image rgb y x"],
    objective: Objective,
    codec: Codec,
    *,
    distance: Distance | None = None,
    iterations: int,
    rate: float = 0.02,
) -> Float[Tensor, "image rgb y x"]:
    """Images in [0, 1] whose pixels are optimised by Adam for the same loss, without any model of images.

    Of each image the best iterate by that loss, as `guide` has it. That a classifier is flipped so says nothing of what
    it knows: these are adversarial examples.
    """
    rows = torch.arange(len(images), device=images.device)
    pixels = images.clone().requires_grad_()
    adam = torch.optim.Adam([pixels], rate)
    best, least = images.clone(), torch.full((len(images),), torch.inf, device=images.device)
    for at in range(iterations + 1):
        shown = pixels.clamp(0, 1)
        loss = objective(shown, rows)
        if distance is not None:
            loss = loss + distance(codec.encode(shown), shown, rows)
        with torch.no_grad():
            better = loss < least
            least = torch.where(better, loss, least)
            best = torch.where(better[:, None, None, None], shown, best)
        if at < iterations:
            adam.zero_grad()
            loss.sum().backward()
            adam.step()
    return best
