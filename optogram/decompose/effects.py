"""Decompose: second-order effects expanded lazily, and their norms and projections without expanding them (eq. 3.3).

An effect is phi_n(I) = c_n(I) D_n + constant(I), c_n(I) holding a number a later head. Norms need only the Gram matrix
of D_n over these heads, projections only D_n times the direction, so that no effect vector is formed.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Float32
from torch import Tensor

from optogram.errors import ShapeError

EXPANDED_BYTES = 8 << 20
DIRECTION_BYTES = 256 << 20
IMAGE_BYTES = 64 << 20


class NeuronSpace(NamedTuple):
    """Some neurons' directions and their Gram matrices; `k` counts the later heads, layer by layer."""

    directions: Float[Tensor, "k neuron embed"]
    gram: Float[Tensor, "neuron k k"]

    @classmethod
    def of(cls, directions: Float[Tensor, "layer head neuron embed"]) -> "NeuronSpace":
        """From D, in the layout of `second_order`."""
        flat = directions.flatten(0, 1)
        by_neuron = flat.transpose(0, 1)
        return cls(flat, by_neuron @ by_neuron.transpose(1, 2))

    def norms(
        self, c: Float[Tensor, "image k neuron"], constant: Float[Tensor, "image embed"]
    ) -> Float[Tensor, "image neuron"]:
        """Euclidean norms of the effects: |c D + constant|^2 = c G c' + 2 c D constant' + |constant|^2."""
        by_neuron = c.permute(2, 0, 1)
        squared = ((by_neuron @ self.gram) * by_neuron).sum(2).T
        cross = (c * (self.directions @ constant.T).permute(2, 0, 1)).sum(1)
        squared = squared + 2 * cross + constant.square().sum(1, keepdim=True)
        return squared.clamp_(min=0).sqrt_()  # rounding can leave an effect of nearly nothing below zero

    def project(
        self,
        c: Float[Tensor, "image k neuron"],
        constant: Float[Tensor, "image embed"],
        onto: Float[Tensor, "neuron embed"],
    ) -> Float[Tensor, "image neuron"]:
        """<phi_n(I), onto_n> for a direction of its own for every neuron."""
        along = torch.einsum("kne,ne->kn", self.directions, onto)
        return torch.einsum("ikn,kn->in", c, along) + constant @ onto.T


def effects(ds: xr.Dataset) -> xr.DataArray:
    """Second-order effect vectors phi_n(I), (image, neuron, embed) float32, dask-backed.

    ds: what `second_order` returned, in memory or opened from a store. Nothing is computed until asked for: select
        images and neurons before or after. Selecting layers or heads before gives what goes through these alone, with
        the whole constant.

    Raises ShapeError if a variable is missing.

    >>> from optogram.decompose import effects
    >>> effects(second).dims, effects(second).shape
    (('image', 'neuron', 'embed'), (12, 64, 16))
    """
    check(ds)
    rows = max(1, EXPANDED_BYTES // (4 * 64 * ds.sizes["embed"]))
    c, constant = (part if part.chunks else part.chunk(image=rows) for part in (ds.c, ds.constant))
    c = c.chunk(layer=-1, head=-1, neuron=64)
    found = xr.apply_ufunc(
        _expand,
        c,
        ds.D.chunk(layer=-1, head=-1, neuron=64, embed=-1),
        input_core_dims=[["layer", "head"], ["layer", "head", "embed"]],
        output_core_dims=[["embed"]],
        dask="parallelized",
        output_dtypes=[np.float32],
    )
    found = found + constant.chunk(image=found.chunksizes["image"], embed=-1)
    return found.transpose("image", "neuron", "embed").rename("effects")


def effect_norms(ds: xr.Dataset) -> xr.DataArray:
    """Norms of all effects, (image, neuron) float32, from c and the Gram matrices of D; no effect vector is formed.

    Raises ShapeError if a variable is missing.

    >>> from optogram.decompose import effect_norms, effects
    >>> effect_norms(second).shape
    (12, 64)
    >>> np.allclose(effect_norms(second), np.linalg.norm(effects(second), axis=-1), rtol=1e-3)
    True
    """
    check(ds)
    found = np.empty((ds.sizes["image"], ds.sizes["neuron"]), np.float32)
    for part in neuron_blocks(ds):
        space = NeuronSpace.of(tensor(ds.D[:, :, part]))
        for rows, c, constant in image_blocks(ds, part):
            found[rows, part] = space.norms(c.flatten(1, 2), constant).numpy()
    return labelled(ds, found, ("image", "neuron"), "effect_norms")


def effect_projections(ds: xr.Dataset, directions: Float[np.ndarray, "text embed"] | xr.DataArray) -> xr.DataArray:
    """<phi_n(I), direction> for every effect, float32, from c and D times the directions.

    directions: (text, embed): all of them for every neuron, the result is (image, neuron, text). A DataArray
        (neuron, embed): each neuron's own, such as its r_n, the result is (image, neuron).

    Raises ShapeError if a variable is missing or the directions do not live in this space.

    >>> from optogram.decompose import effect_projections, effects
    >>> texts = np.eye(16, dtype=np.float32)[:3]
    >>> effect_projections(second, texts).dims
    ('image', 'neuron', 'text')
    >>> np.allclose(effect_projections(second, texts), effects(second).values @ texts.T, atol=1e-5)
    True
    """
    check(ds)
    own = isinstance(directions, xr.DataArray) and "neuron" in directions.dims
    if isinstance(directions, xr.DataArray):
        other = [dim for dim in directions.dims if dim not in ("neuron", "embed")]
        directions = directions.transpose(*(["neuron"] if own else other), "embed")
    onto = torch.as_tensor(np.asarray(directions), dtype=torch.float32)
    expected = (ds.sizes["neuron"], ds.sizes["embed"]) if own else (*onto.shape[:1], ds.sizes["embed"])
    if onto.ndim != 2 or tuple(onto.shape) != expected:
        raise ShapeError(
            f"directions have shape {tuple(onto.shape)}, but these effects are of {ds.sizes['neuron']} neurons in an "
            f"embedding of {ds.sizes['embed']}. Pass (text, {ds.sizes['embed']}), or a DataArray (neuron, embed)."
        )
    texts = 1 if own else len(onto)
    found = np.empty((ds.sizes["image"], ds.sizes["neuron"], texts), np.float32)
    for part in neuron_blocks(ds):
        d = tensor(ds.D[:, :, part]).flatten(0, 1)
        along = torch.einsum("kne,ne->kn", d, onto[part])[..., None] if own else d @ onto.T
        for rows, c, constant in image_blocks(ds, part):
            shared = (constant @ onto[part].T)[..., None] if own else (constant @ onto.T)[:, None]
            by_neuron = c.flatten(1, 2).permute(2, 0, 1) @ along.transpose(0, 1)
            found[rows, part] = (by_neuron.transpose(0, 1) + shared).numpy()
    if own:
        return labelled(ds, found[..., 0], ("image", "neuron"), "effect_projections")
    return labelled(ds, found, ("image", "neuron", "text"), "effect_projections")


def check(ds: xr.Dataset, *needed: str) -> None:
    """Raises ShapeError if a variable is missing."""
    missing = [name for name in ("c", "D", "constant", *needed) if name not in ds]
    if missing:
        hint = " D comes from `directions` or `second_order(..., directions=True)`." if "D" in missing else ""
        raise ShapeError(
            f"the dataset lacks {', '.join(missing)}. Pass what optogram.decompose.second_order returned.{hint}"
        )


def neuron_blocks(ds: xr.Dataset) -> Iterator[slice]:
    """Runs of neurons whose directions are some hundreds of megabytes."""
    one = 4 * ds.sizes["layer"] * ds.sizes["head"] * (ds.sizes["embed"] + ds.sizes["layer"] * ds.sizes["head"])
    step = max(1, DIRECTION_BYTES // one)
    for start in range(0, ds.sizes["neuron"], step):
        yield slice(start, min(start + step, ds.sizes["neuron"]))


def image_blocks(
    ds: xr.Dataset, part: slice
) -> Iterator[tuple[slice, Float[Tensor, "image layer head neuron"], Float[Tensor, "image embed"]]]:
    """Runs of images with their c of some neurons and their constants, some tens of megabytes each."""
    one = 4 * ds.sizes["layer"] * ds.sizes["head"] * (part.stop - part.start)
    step = max(1, IMAGE_BYTES // one)
    for start in range(0, ds.sizes["image"], step):
        rows = slice(start, min(start + step, ds.sizes["image"]))
        yield rows, tensor(ds.c[rows, :, :, part]), tensor(ds.constant[rows])


def tensor(array: xr.DataArray) -> Tensor:
    """An array's values as a float32 tensor, read now."""
    values = np.asarray(array.values, np.float32)
    return torch.from_numpy(values if values.flags.writeable else values.copy())


def labelled(ds: xr.Dataset, values: np.ndarray, dims: tuple[str, ...], name: str) -> xr.DataArray:
    """Values with the images' and neurons' labels of `ds`."""
    coords = {dim: ds[dim] for dim in ("image", "neuron") if dim in ds.coords and dim in dims}
    return xr.DataArray(values, dims=dims, coords=coords, name=name)


def _expand(
    c: Float32[np.ndarray, "image neuron layer head"], directions: Float32[np.ndarray, "neuron layer head embed"]
) -> Float32[np.ndarray, "image neuron embed"]:
    """One matrix product a neuron."""
    by_neuron = c.reshape(*c.shape[:2], -1).swapaxes(0, 1)
    return (by_neuron @ directions.reshape(len(directions), -1, directions.shape[-1])).swapaxes(0, 1)
