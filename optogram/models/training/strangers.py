"""Room models: pictures without a scene's object, made of scenes: bare backgrounds, clouds, and blobs of no shape."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor
from torch.nn.functional import interpolate

from optogram.errors import DataError, ParamError

_CELLS = (2, 20)
"""Clouds are drawn on grids of so many cells a side, from fog to grain."""
_BLOB_CELLS = 11
"""Cells of a blob's outline: of six pixels, so that it has lobes, and is no circle."""


@dataclass(frozen=True)
class Strangers:
    """Shares of a batch that are no scenes: bare `grounds`, `clouds` of any colours, `blobs` on a bare ground.

    Raises ParamError for a share below 0, or if they leave no room for scenes.
    """

    grounds: float = 0.08
    clouds: float = 0.04
    blobs: float = 0.08

    def __post_init__(self) -> None:
        shares = {name: getattr(self, name) for name in ("grounds", "clouds", "blobs")}
        if min(shares.values()) < 0 or sum(shares.values()) > 0.9:
            said = ", ".join(f"{name} = {value}" for name, value in shares.items())
            raise ParamError(f"strangers: {said}; expected shares from 0 on, of at most 0.9 together. Lower them.")


class Drawn(NamedTuple):
    """Pictures in [0, 1], where something lies in them, and the scene whose background each has; -1 for none."""

    images: Float[Tensor, "image rgb y x"]
    inside: Bool[Tensor, "image y x"]
    scene: Int64[Tensor, " image"]


class Halves:
    """The halves of scenes in which nothing lies, of which bare backgrounds are made.

    Raises DataError if no scene has one.
    """

    def __init__(self, pixels: UInt8[np.ndarray, "image y x rgb"], mask: UInt8[np.ndarray, "image y x"]) -> None:
        height, width = mask.shape[1] // 2, mask.shape[2] // 2
        parts = (mask[:, :height], mask[:, height:], mask[:, :, :width], mask[:, :, width:])
        found = np.argwhere(np.stack([~part.any((1, 2)) for part in parts], 1))
        if not len(found):
            raise DataError(
                "training: in each image objects lie in all halves, so that nothing shows a background alone. Take "
                "scenes with objects at the left, right, top or bottom too."
            )
        self._pixels, self._found = pixels, torch.from_numpy(found)

    def grounds(self, count: int, draw: torch.Generator) -> Drawn:
        """Bare backgrounds: a half and its mirror image, shifted around along the mirror, which leaves no seam."""
        rows = self._found[torch.randint(len(self._found), (count,), generator=draw)]
        side = self._pixels.shape[1]
        shift = torch.randint(side, (count,), generator=draw)
        images = torch.empty(count, 3, *self._pixels.shape[1:3])
        for at, ((scene, half), by) in enumerate(zip(rows.tolist(), shift.tolist(), strict=True)):
            whole, along = torch.from_numpy(self._pixels[scene]).permute(2, 0, 1) / 255, 1 + half // 2
            part = whole.narrow(along, half % 2 * (whole.shape[along] // 2), whole.shape[along] // 2)
            images[at] = torch.cat([part, part.flip(along)], along).roll(by, along)
        return Drawn(images, torch.zeros(count, *images.shape[2:], dtype=torch.bool), rows[:, 0])

    def clouds(self, count: int, draw: torch.Generator) -> Drawn:
        """Smooth noise of any colours, coarse or fine."""
        size = self._pixels.shape[1:3]
        cells = torch.randint(*_CELLS, (count,), generator=draw).tolist()
        fields = [interpolate(torch.rand(1, 3, n, n, generator=draw), size, mode="bilinear") for n in cells]
        nothing = torch.zeros(count, *size, dtype=torch.bool)
        return Drawn(torch.cat([*fields, torch.empty(0, 3, *size)]), nothing, torch.full((count,), -1))

    def blobs(self, count: int, draw: torch.Generator) -> Drawn:
        """A lobed spot of one colour, without a rim, on a bare background."""
        ground = self.grounds(count, draw)
        height, width = ground.inside.shape[1:]
        field = torch.randn(count, 1, _BLOB_CELLS, _BLOB_CELLS, generator=draw)
        lobes = interpolate(field, (height, width), mode="bicubic")[:, 0]
        place, radius, colour = (torch.rand(count, n, generator=draw)[:, :, None, None] for n in (2, 1, 3))
        y, x = (torch.arange(side) / side for side in (height, width))
        place, radius = 0.2 + 0.6 * place, 0.12 + 0.13 * radius[:, 0]
        away = ((y[:, None] - place[:, 0]) ** 2 + (x - place[:, 1]) ** 2) / radius**2
        cover = torch.sigmoid(8 * (0.8 * lobes + 0.5 - away))
        images = torch.lerp(ground.images, colour.expand_as(ground.images), cover[:, None])
        return Drawn(images, cover > 0.5, ground.scene)
