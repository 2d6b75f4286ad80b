"""Room models: what position embeddings start from."""

import math

import torch
from jaxtyping import Float
from torch import Tensor


@torch.no_grad()
def set_places(place: Float[Tensor, "patch channel"], rows: int, columns: int) -> None:
    """Let a position embedding start from waves over the grid of patches (Beyer et al. 2022, section 2), in place."""
    waves = place.shape[1] // 4
    rate = 2 * math.pi / torch.logspace(math.log2(4), math.log2(64), waves, base=2)
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    angles = torch.cat([y.reshape(-1, 1) * rate, x.reshape(-1, 1) * rate], 1)
    place[:, : 4 * waves] = 0.7 * torch.cat([angles.sin(), angles.cos()], 1)
