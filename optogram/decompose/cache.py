"""Decompose: the rows of a cache of contributions, from a model folder and an images artifact."""

from collections.abc import Callable
from pathlib import Path

import xarray as xr

from optogram.decompose.contributions import contributions
from optogram.models.folder import load_clip
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
