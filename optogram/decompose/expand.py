"""Decompose: head contributions expanded from their compact form, lazily (thesis eq. 2.6 summed over tokens)."""

import numpy as np
import xarray as xr

from optogram.errors import ShapeError

BLOCK_BYTES = 8 << 20
_NEEDED = ("z", "basis", "scale", "mean", "bias", "gain", "offset")


def heads(ds: xr.Dataset) -> xr.DataArray:
    """Contribution of every head to every image embedding, (image, layer, head, embed) float32, dask-backed.

    ds: what `contributions` returned, in memory or opened from a store, with or without chunks. Nothing is computed
        until asked for; a block of the result is some images at one layer, and reads only those images' `z`. Select
        images before or after, but layers and heads after: they share the final LayerNorm's shift.

    Raises ShapeError if a variable is missing or if `ds` holds only some of the model's layers or heads.

    >>> from optogram.decompose import heads
    >>> heads(compact).dims, heads(compact).shape
    (('image', 'layer', 'head', 'embed'), (12, 2, 2, 16))
    >>> heads(compact).isel(image=0, layer=1, head=0).values.shape
    (16,)
    """
    parts = augmented(ds)
    return xr.apply_ufunc(
        _expand,
        parts.a,
        parts.basis_a.chunk(layer=1),
        input_core_dims=[["head", "k"], ["head", "k", "embed"]],
        output_core_dims=[["head", "embed"]],
        dask="parallelized",
        output_dtypes=[np.float32],
        dask_gufunc_kwargs={"output_sizes": {"embed": ds.sizes["embed"]}},
    ).rename("heads")


def augmented(ds: xr.Dataset) -> xr.Dataset:
    """Coordinates of every head's contributions in a basis that holds biases and LayerNorm too: heads == a @ basis_a.

    Returns `a` (image, layer, head, k), dask-backed, and `basis_a` (layer, head, k, embed), float32, k = head_dim + 3:
    the head's own dimensions, then the output-projection bias / H (coordinate `scale`), the LayerNorm gain / -(L H)
    (coordinate `mean x scale`) and the LayerNorm bias / (L H) (coordinate 1). Raises as `heads`.

    >>> from optogram.decompose import augmented, heads
    >>> found = augmented(compact)
    >>> found.a.shape, found.basis_a.shape
    ((12, 2, 2, 11), (2, 2, 11, 16))
    >>> np.allclose(found.a[0, 1, 0].values @ found.basis_a[1, 0].values, heads(compact)[0, 1, 0], atol=1e-5)
    True
    """
    layers, count = _checked(ds)
    z = ds.z
    if z.chunks is None:
        z = z.chunk(image=max(1, BLOCK_BYTES // (4 * count * ds.sizes["embed"])))
    # images first, layers second: a stored block of z is read once for all its layers
    z = z.chunk(layer=1, head=-1, head_dim=-1)
    per_image = ds[["scale", "mean"]].chunk(image=z.chunksizes["image"])
    a = xr.apply_ufunc(
        _append,
        z,
        per_image.scale,
        per_image["mean"],
        input_core_dims=[["head", "head_dim"], [], []],
        output_core_dims=[["head", "k"]],
        dask="parallelized",
        output_dtypes=[np.float32],
        dask_gufunc_kwargs={"output_sizes": {"k": ds.sizes["head_dim"] + 3}},
    )
    shape = (layers, count, 1, ds.sizes["embed"])
    bias, gain, offset = (ds[name].values for name in ("bias", "gain", "offset"))
    rows = [bias[:, None, None] / count, -gain / (layers * count), offset / (layers * count)]
    basis = np.concatenate([ds.basis.values, *(np.broadcast_to(row, shape) for row in rows)], 2, dtype=np.float32)
    coords = {name: ds[name] for name in ("layer", "head") if name in ds.coords}
    return xr.Dataset({"a": a, "basis_a": (("layer", "head", "k", "embed"), basis)}, coords=coords)


def _append(z: np.ndarray, scale: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """z (image, layer, head, head_dim) with scale, mean x scale and 1 (image, layer) as three more dimensions."""
    tail = np.stack(np.broadcast_arrays(scale, mean * scale, np.float32(1)), -1)[..., None, :]
    return np.concatenate([z, np.broadcast_to(tail, (*z.shape[:-1], 3))], -1, dtype=np.float32)


def _expand(a: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """(image, layer, head, k) x (layer, head, k, embed) -> (image, layer, head, embed), one matrix product a head."""
    return np.moveaxis(np.moveaxis(a, 0, 2) @ basis, 2, 0)


def _checked(ds: xr.Dataset) -> tuple[int, int]:
    """Numbers of layers and heads."""
    missing = [name for name in _NEEDED if name not in ds]
    if missing:
        raise ShapeError(
            f"the dataset lacks {', '.join(missing)}. Pass what optogram.decompose.contributions returned."
        )
    layers, count = ds.sizes["layer"], ds.sizes["head"]
    partial = ("block" in ds.sizes and ds.sizes["block"] != layers + 1) or any(
        name in ds.coords and not np.array_equal(ds[name].values, np.arange(ds.sizes[name]))
        for name in ("layer", "head")
    )
    if partial:
        raise ShapeError(
            f"the dataset holds only some of the model's layers or heads ({layers} layers, {count} heads). "
            "Expand first and select afterwards: heads(ds).sel(layer=…, head=…) computes no other layer."
        )
    return layers, count
