"""Method room, the heads' own space: means, moments and selections of stored contributions, never expanded.

A head writes c = a @ basis with a of head_dim + 3 numbers an image (`optogram.decompose.expand.augmented`). Everything
that TextSpan, ablation and retrieval ask of c is linear or quadratic in a, so images stream through in blocks of a.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Float, Float32, Shaped

from optogram.decompose.expand import augmented
from optogram.errors import ParamError

_BLOCK_BYTES = 64 << 20


class Heads(NamedTuple):
    """Some layers' heads in coordinates: lazy `a` (image, layer, head, k), its `basis`, and their labels."""

    a: xr.DataArray
    basis: Float[np.ndarray, "layer head k embed"]
    coords: dict[str, Shaped[np.ndarray, " label"]]

    def blocks(self) -> Iterator[tuple[slice, Float32[np.ndarray, "image layer head k"]]]:
        """Runs of images with their coordinates in memory, some tens of megabytes each, read whole chunks at a time."""
        row_bytes = 4 * int(np.prod(self.a.shape[1:]))
        start = stop = 0
        for chunk in (*self.a.chunksizes["image"], None):
            if stop > start and (chunk is None or (stop - start + chunk) * row_bytes > _BLOCK_BYTES):
                yield slice(start, stop), self.a.isel(image=slice(start, stop)).values
                start = stop
            stop += chunk or 0

    def mean(self) -> Float[np.ndarray, "layer head k"]:
        """Mean of the coordinates over the images, float64."""
        return np.asarray(sum(a.sum(0, dtype=np.float64) for _, a in self.blocks())) / self.a.sizes["image"]

    def moments(self) -> tuple[Float[np.ndarray, "layer head k"], Float[np.ndarray, "layer head k k"]]:
        """Mean and second moment of the coordinates over the images, in one pass, float64."""
        mean = second = np.zeros(())
        for _, a in self.blocks():
            by_head = np.moveaxis(a, 0, 2).astype(np.float64)
            mean = mean + by_head.sum(2)
            second = second + by_head.swapaxes(2, 3) @ by_head
        count = self.a.sizes["image"]
        return mean / count, second / count

    def places(self, heads: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Positions of the heads with these (layer, head) labels. Raises ParamError for one that is not there."""
        layers, numbers = self.coords["layer"].tolist(), self.coords["head"].tolist()
        for layer, head in heads:
            if layer not in layers or head not in numbers:
                raise ParamError(
                    f"heads: there is no head {head} of layer {layer} here.\n"
                    f"  Name some of layers {layers} and heads {numbers}."
                )
        return [(layers.index(layer), numbers.index(head)) for layer, head in heads]


class ComponentMeans(NamedTuple):
    """Mean over images of what each component adds to the embedding (thesis section 2.3), float64."""

    heads: Float[np.ndarray, "layer head embed"]
    mlp: Float[np.ndarray, "block embed"]
    class_token: Float[np.ndarray, " embed"]
    layers: list[int]


def open_heads(contributions: xr.Dataset, layers: Sequence[int] | None = None) -> Heads:
    """The heads of the layers with these labels, all by default; nothing is read of the others.

    Raises ParamError for a layer that is not there, ShapeError if `contributions` is not a whole model's.
    """
    parts = augmented(contributions)
    known = _labels(parts, "layer").tolist()
    chosen = known if layers is None else list(layers)
    missing = [layer for layer in chosen if layer not in known]
    if missing or not chosen:
        found = ", ".join(map(str, missing)) or "none"
        raise ParamError(f"layers: asked for {found}, but the model has {known}.\n  Name some of these.")
    parts = parts.isel(layer=[known.index(layer) for layer in chosen])
    return Heads(
        parts["a"].transpose("image", "layer", "head", "k"),
        parts["basis_a"].values.astype(np.float64),
        {"layer": np.array(chosen), "head": _labels(parts, "head")},
    )


def image_runs(contributions: xr.Dataset) -> Iterator[slice]:
    """Runs of images whose MLP terms take some tens of megabytes."""
    rows = max(1, _BLOCK_BYTES // (4 * contributions.sizes["embed"] * contributions.sizes["block"]))
    for start in range(0, contributions.sizes["image"], rows):
        yield slice(start, start + rows)


def component_means(contributions: xr.Dataset) -> ComponentMeans:
    """Means over the images of every head, every MLP block and the class token's own attention term."""
    heads = open_heads(contributions)
    mlp = class_token = np.zeros(())
    count = contributions.sizes["image"]
    # `token` is a variable and a dimension, which xarray's own reductions over a Dataset lose: plain slices instead.
    for rows in image_runs(contributions):
        mlp = mlp + contributions["mlp"][rows].values.sum(0, dtype=np.float64)
        class_token = class_token + contributions["token"][rows, 0].values.sum(0, dtype=np.float64)
    return ComponentMeans(
        np.einsum("lhk,lhke->lhe", heads.mean(), heads.basis),
        mlp / count,
        class_token / count,
        heads.coords["layer"].tolist(),
    )


def _labels(dataset: xr.Dataset, dim: str) -> Shaped[np.ndarray, " dim"]:
    return np.atleast_1d(dataset[dim].values)
