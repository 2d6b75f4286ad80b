"""Decompose: the rows of a cache of contributions or effects, from a model folder and an images artifact."""

from collections.abc import Callable
from pathlib import Path

import xarray as xr

from optogram.decompose.contributions import contributions
from optogram.decompose.second_order import directions, second_order
from optogram.models.loading.clip_folders import load_clip
from optogram.store.read import read


def caching(
    model: Path, images: Path, batch: int, tokens: str, device: str = "auto"
) -> Callable[[int, int], xr.Dataset]:
    """`compute(start, stop)`: contributions/<model>/<split> of these rows of `images`.

    tokens: "all", or "class" for the class token's alone. Raises as `load_clip` and `read`.
    """
    clip, stored = load_clip(model, device=device), read(images)

    def compute(start: int, stop: int) -> xr.Dataset:
        part = stored.isel(image=slice(start, stop))
        found = contributions(clip.model, clip.preprocess(part.pixels.values), batch=batch)
        if tokens == "class":
            found = found.isel(token=[0])
        return found.assign_coords(image=part.image.values)

    return compute


def caching_effects(
    model: Path, images: Path, layer: int, batch: int, device: str = "auto"
) -> Callable[[int, int], xr.Dataset]:
    """`compute(start, stop)`: second_order/<model>/<split>/<layer> of these rows of `images`.

    Raises as `load_clip`, `read` and `second_order`.
    """
    clip, stored = load_clip(model, device=device), read(images)
    shared = directions(clip.model, layer)  # no image is in it: found once, not a time a shard

    def compute(start: int, stop: int) -> xr.Dataset:
        part = stored.isel(image=slice(start, stop))
        found = second_order(clip.model, clip.preprocess(part.pixels.values), layer, directions=False, batch=batch)
        return found.assign(D=shared).assign_coords(image=part.image.values)

    return compute
