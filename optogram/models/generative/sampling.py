"""Room models: draws images with a diffusion model, an image at a seed, the same bytes whatever is beside it."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from optogram.errors import ModelError, ParamError, ShapeError
from optogram.models.generative.diffusion import Diffusion

BATCH = 16
"""Images at once. Kernels may round by the size of a batch, so that a smaller one is filled up."""


@torch.no_grad()
def sample(
    diffusion: Diffusion,
    states: Float[Tensor, "image token width"],
    *,
    seeds: Sequence[int],
    steps: int = 20,
    scale: float = 3.0,
    batch: int = BATCH,
    progress: Callable[[int, int], None] | None = None,
) -> Float[Tensor, "image 3 y x"]:
    """Images in [0, 1] (float32, on the CPU), one for each row of `states` and its seed.

    steps: of DDIM, or Euler's for flow matching. scale: of guidance without a classifier; 1 is none.
    batch: images at once. An image follows from its states, its seed and `batch`, not from its neighbours.
    progress: called with (images done, images in all).

    Raises ShapeError unless there is a seed for each row, and ParamError for a number that is out of range.

    Sources: Song et al. 2021, eq. 12 (DDIM, eta 0); Ho & Salimans 2022 (guidance).
    """
    if len(seeds) != len(states):
        raise ShapeError(f"sample: {len(states)} rows of states, but {len(seeds)} seeds. Give each image one seed.")
    if batch < 1:
        raise ParamError(f"sample: batch = {batch}, expected at least 1.")
    null = diffusion.states([""])
    drawn = []
    for start in range(0, len(seeds), batch):
        of = states[start : start + batch].to(diffusion.device)
        kept = len(of)
        z = diffusion.noise([*seeds[start : start + batch], *[0] * (batch - kept)])
        of = torch.cat([of, null.expand(batch - kept, -1, -1)])
        z = denoise(diffusion, z, of, null.expand(batch, -1, -1), steps=steps, scale=scale)
        drawn.append(diffusion.codec.decode(z)[:kept].clamp(0, 1).cpu())
        if progress:
            progress(start + kept, len(seeds))
    return torch.cat(drawn) if drawn else torch.empty(0, 3, *diffusion.size)


def image_seeds(seed: int, count: int) -> list[int]:
    """Seeds of images, one each: those of the first few are the same however many there are."""
    first = int(np.random.SeedSequence(seed).generate_state(1, np.uint32)[0])
    return list(range(first, first + count))


def to_pixels(images: Float[Tensor, "image 3 y x"], model: str) -> UInt8[np.ndarray, "image y x 3"]:
    """Images in [0, 1] as pixels. Raises ModelError that names the model and the first image with what is no number."""
    finite = images.isfinite().flatten(1).all(1)
    if not bool(finite.all()):
        first = int((~finite).nonzero()[0])
        raise ModelError(
            f"{model} drew NaN or infinity in image {first} of {len(images)}. Check its weights and scale."
        )
    return (images.detach().clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy() * 255).round().astype(np.uint8)


def denoise(
    diffusion: Diffusion,
    z: Float[Tensor, "image channel row column"],
    states: Float[Tensor, "image token width"],
    null: Float[Tensor, "image token width"],
    *,
    steps: int,
    scale: float,
) -> Float[Tensor, "image channel row column"]:
    """Clean latents from noise `z`, by the deterministic steps of the schedule."""
    mixes = diffusion.schedule.mixes(steps)
    for now, then in pairwise(mixes):
        prediction = diffusion.predict(z, now.time, states, null, scale)
        z = diffusion.schedule.step(z, prediction, now, then)
    return z
