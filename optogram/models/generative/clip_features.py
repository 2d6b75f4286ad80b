"""Room models: what a CLIP sees in images, as maps by which images are told apart, or which a denoiser foresees."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from optogram.errors import ModelError
from optogram.models.generative.gan_networks import Features
from optogram.models.generative.generators import watching
from optogram.models.loading.clip_folders import Clip


def clip_features(clip: Clip) -> Features:
    """The tokens of the image tower of a CLIP of ours as maps: behind its first block, the last, and one between.

    Raises ModelError for a tower whose blocks are not to be found.
    """
    tower: Any = clip.model.visual
    blocks = getattr(getattr(tower, "transformer", None), "resblocks", None)
    if not blocks:
        raise ModelError(f"{type(tower).__name__} has no transformer.resblocks, whose tokens could be seen.")
    mean, std = (
        torch.tensor(of, device=clip.device)[:, None, None] for of in (clip.preprocess.mean, clip.preprocess.std)
    )
    watched = {str(at): blocks[at] for at in sorted({0, len(blocks) // 3, len(blocks) - 1})}
    size = clip.preprocess.image_size

    def features(images: Tensor) -> list[Tensor]:
        sized = images
        if images.shape[2:] != (size, size):
            sized = nn.functional.interpolate(images, (size, size), mode="bilinear")
        with watching(watched) as seen:
            tower((sized - mean) / std)
        found = []
        for (tokens,) in seen.values():
            side = math.isqrt(tokens.shape[1])  # the class token is the first
            found.append(tokens[:, -(side**2) :].transpose(1, 2).unflatten(2, (side, side)))
        return found

    return features
