"""Room models: a denoiser that learns to foresee, in a hidden layer, what another model sees in the image (REPA)."""

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from optogram.models.generative.gan_networks import Features

HIDDEN = 256
_BATCH = 256


class Sight:
    """Yu et al. 2025, "Representation alignment for generation", eq. 8: cosines of projected tokens to features.

    The tokens are those behind the first third of the transformer's blocks. The features are those of the middle one of
    the maps that `features` gives, less their mean over the images, resized to the tokens' grid, in half precision.
    Unlike there, a token weighs as the latents below it do in the loss beside.

    projector: from tokens to features; it learns with the denoiser, and is not needed after.
    """

    def __init__(
        self,
        network: Any,
        features: Features,
        pixels: UInt8[np.ndarray, "image y x rgb"],
        latents: Sequence[int],
        device: torch.device,
        *,
        seed: int,
    ) -> None:
        transformer = network.transformer
        self._grid = tuple(side // transformer.config["patch_size"] for side in latents)
        self._seen = self._look(features, pixels, device)
        blocks = transformer.transformer_blocks
        self._here = threading.local()  # parts of a batch pass through at the same time
        blocks[len(blocks) // 3 - (len(blocks) >= 3)].register_forward_hook(self._note)
        width = transformer.config["num_attention_heads"] * transformer.config["attention_head_dim"]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            projector = nn.Sequential(nn.Linear(width, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, self._seen.shape[2]))
        self.projector = projector.to(device)

    def missed(self, rows: Int64[Tensor, " image"], weight: Float[Tensor, "image 1 row column"]) -> Float[Tensor, ""]:
        """One less the cosine, of the images that this thread has just passed through the denoiser."""
        device = self._here.tokens.device
        found = self.projector(self._here.tokens).float()
        places = nn.functional.adaptive_avg_pool2d(weight, self._grid).flatten(1).to(device)
        seen = self._seen[rows].to(device).float()
        return (places * (1 - nn.functional.cosine_similarity(found, seen, -1))).mean()

    def _note(self, _: nn.Module, __: Any, output: Tensor) -> None:
        self._here.tokens = output

    @torch.no_grad()
    def _look(
        self, features: Features, pixels: UInt8[np.ndarray, "image y x rgb"], device: torch.device
    ) -> Float[Tensor, "image token channel"]:
        found = []
        for start in range(0, len(pixels), _BATCH):
            images = torch.from_numpy(np.ascontiguousarray(pixels[start : start + _BATCH])).to(device)
            maps = features(images.permute(0, 3, 1, 2).float() / 255)
            chosen = maps[len(maps) // 2]
            if chosen.shape[2:] != self._grid:
                chosen = nn.functional.interpolate(chosen, self._grid, mode="bilinear", antialias=True)
            found.append(chosen.flatten(2).transpose(1, 2).half().cpu())
        tokens = torch.cat(found)
        mean = torch.stack([part.double().sum((0, 1)) for part in tokens.split(_BATCH)]).sum(0) / tokens[..., 0].numel()
        for part in tokens.split(_BATCH):
            part.sub_(mean)
        return tokens
