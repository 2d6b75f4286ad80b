"""A generator whose units are known, and a judge by the definition of its pictures: for tests of what edits them."""

import numpy as np
import torch
import torch.nn.functional as F
import xarray as xr
from torch import nn

from optogram.models.generative.generators import generator_of
from optogram.models.judging.judge import Judge, _measured
from optogram.models.judging.objects import find_objects

SIDE = 32
VALUES = {"colour": ("red", "blue"), "background": ("dark", "light")}


class Blob(nn.Module):
    """A bump at (z0, z1), as wide as z2 says, red or blue by z3, on a ground that z4 makes light; eight units."""

    latent = 5
    unit_layers = ("units",)

    def __init__(self):
        super().__init__()
        self.units = nn.ReLU()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, latents):
        at = torch.linspace(-1, 1, 16)
        row, column = (0.6 * torch.tanh(latents[:, k])[:, None, None] for k in (0, 1))
        width = 0.25 * torch.exp(0.4 * torch.tanh(latents[:, 2]))[:, None, None]
        bump = torch.exp(-((at[None, :, None] - row) ** 2 + (at[None, None, :] - column) ** 2) / (2 * width**2))
        red, light = (torch.sigmoid(3 * latents[:, k])[:, None, None] for k in (3, 4))
        maps = torch.stack([bump * red, bump * (1 - red), light * (1 - bump), (1 - light) * (1 - bump)], 1)
        maps = self.units(torch.cat([maps, 0.1 * torch.randn(len(latents), 2, 16, 16, generator=noise(latents))], 1))
        large = F.interpolate(maps, scale_factor=2.0, mode="bilinear")
        ground = 0.4 * large[:, 2:3].expand(-1, 3, -1, -1)
        colour = torch.cat([large[:, :1], torch.zeros_like(large[:, :1]), large[:, 1:2]], 1)
        return (ground + colour).clamp(0, 1)


def noise(latents):
    return torch.Generator().manual_seed(len(latents))


class Looker(Judge):
    """A judge by the definition of the pictures: an object is where red or blue is well above green."""

    def parse(self, pixels):
        rgb = pixels.astype(np.float32) / 255
        colour = np.maximum(rgb[..., 0], rgb[..., 2]) - rgb[..., 1]
        objects = [find_objects(one > 0.3, one, least=self.least) for one in colour]
        there = np.array([len(one.area) > 0 for one in objects])
        mask = np.stack([one.mask for one in objects])
        red = ((rgb[..., 0] - rgb[..., 2]) * (mask > 0)).sum((1, 2))
        light = np.median(rgb[..., 1].reshape(len(rgb), -1), 1) > 0.2
        value = np.stack([np.where(there, red < 0, -1), light], 1).astype(np.int16)
        return xr.Dataset(
            {
                "value": (("image", "attribute"), value),
                "found": ("image", there),
                "mask": (("image", "y", "x"), mask),
                "value_name": (("attribute", "value"), np.array(list(VALUES.values()))),
                **_measured(objects),
            },
            {"attribute": list(VALUES)},
        )


def planted_blob():
    """The generator, and the judge of its pictures of 32 x 32."""
    generator = generator_of(Blob().eval().requires_grad_(False), spec="callable:planted_blob:Blob", arguments={})
    return generator, Looker(nn.Identity(), VALUES, SIDE, least=6)
