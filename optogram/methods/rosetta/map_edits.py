"""Methods, rosetta: how maps of units are changed to edit a picture (thesis, section 4.4), or to take a unit out of it.

All maps are (image, channel, y, x), before and after.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from optogram.errors import ParamError
from optogram.models.generative.generators import Generator

Map = Float[Tensor, "image _channel _y _x"]


def zoomed(maps: Map) -> Map:
    """Twice as large by bilinear interpolation, and of that the middle (zoom-in)."""
    rows, columns = maps.shape[2:]
    large = F.interpolate(maps, scale_factor=2.0, mode="bilinear", align_corners=False)
    top, left = rows // 2, columns // 2
    return large[:, :, top : top + rows, left : left + columns]


def shifted(maps: Map, down: float, right: float) -> Map:
    """Moved by a share of their side, rounded to whole places: a quarter is 1 place of 4 and 2 of 8. Behind are zeros.

    Raises ParamError for a share that is not between -1 and 1.
    """
    if not (abs(down) < 1 and abs(right) < 1):
        raise ParamError(
            f"edits: maps are to be shifted by {down} and {right} of their side; expected between -1 and 1."
        )
    found = maps
    for axis, share in ((2, down), (3, right)):
        by = round(share * maps.shape[axis])
        if by:
            moved = found.roll(by, axis)
            behind = [slice(None)] * 4
            behind[axis] = slice(None, by) if by > 0 else slice(by, None)
            moved[tuple(behind)] = 0
            found = moved
    return found


def pasted(maps: Map, share: float = 0.25) -> Map:
    """The left half of the maps shifted left beside the right half of them shifted right: what is in the middle twice.

    Raises ParamError as `shifted`.
    """
    middle = maps.shape[3] // 2
    left, right = shifted(maps, 0, -share), shifted(maps, 0, share)
    return torch.cat([left[..., :middle], right[..., middle:]], 3)


def lowered(maps: Map) -> Map:
    """Everywhere as the least value of each map (removal)."""
    return maps.amin((2, 3), keepdim=True).expand_as(maps)


def raised(maps: Map, level: Float[Tensor, " _channel"], where: Bool[Tensor, "image y x"]) -> Map:
    """At least at `level` of each channel, at the places that lie in `where`, a mask of any size (addition).

    A place lies in it if at least half as much of it does as of the one of which most does.
    """
    rows, columns = maps.shape[2:]
    share = F.adaptive_avg_pool2d(where[:, None].to(maps), (rows, columns))  # of a larger map, the nearest place
    inside = (share > 0) & (share >= share.amax((2, 3), keepdim=True) / 2)
    return torch.where(inside, maps.maximum(level.to(maps)[:, None, None]), maps)


@contextmanager
def ablating(generator: Generator, units: Sequence[tuple[int, int]]) -> Iterator[None]:
    """Inside, the generator draws with these units at 0, each (layer, channel), layers by their number."""
    by_layer: dict[str, list[int]] = {}
    for layer, channel in units:
        by_layer.setdefault(generator.layers[layer], []).append(channel)
    handles = [generator.model.get_submodule(name).register_forward_hook(_off(by_layer, name)) for name in by_layer]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _off(by_layer: Mapping[str, list[int]], name: str) -> Any:
    def hook(_: Any, __: Any, output: Tensor) -> Tensor:
        found = output.clone()
        found[:, by_layer[name]] = 0
        return found

    return hook
