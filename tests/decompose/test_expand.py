"""Expansion: the artifact's formula, lazily, from memory, dask and Zarr."""

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from random_models import pictures

from optogram.decompose import augmented, contributions, heads
from optogram.errors import ShapeError


@pytest.fixture(scope="module")
def ds(demo):
    found = contributions(demo, pictures(6))
    return found.assign_coords(image=[f"eval/{i}" for i in range(6)])


@pytest.fixture(scope="module")
def expected(ds):
    """The formula of docs/artifacts/decompositions.md, one head at a time, in float64."""
    layers, count = ds.sizes["layer"], ds.sizes["head"]
    d = {name: variable.values.astype(float) for name, variable in ds.variables.items() if name != "image"}
    out = np.zeros((ds.sizes["image"], layers, count, ds.sizes["embed"]))
    for i in range(len(out)):
        for layer in range(layers):
            for h in range(count):
                out[i, layer, h] = (
                    d["z"][i, layer, h] @ d["basis"][layer, h]
                    + d["scale"][i] * d["bias"][layer] / count
                    + (d["offset"] - d["mean"][i] * d["scale"][i] * d["gain"]) / (layers * count)
                )
    return out


def close(found, wanted):
    return np.linalg.norm(np.asarray(found) - wanted) < 1e-6 * np.linalg.norm(wanted)


def test_heads_follow_the_formula(ds, expected):
    found = heads(ds)
    assert found.dims == ("image", "layer", "head", "embed")
    assert found.dtype == np.float32
    assert found.chunks is not None
    assert found.image.values.tolist() == ds.image.values.tolist()
    assert close(found, expected)


def test_augmented_is_exact(ds, expected):
    parts = augmented(ds)
    assert parts.a.dims == ("image", "layer", "head", "k")
    assert parts.basis_a.dims == ("layer", "head", "k", "embed")
    assert parts.sizes["k"] == ds.sizes["head_dim"] + 3
    assert parts.a.dtype == parts.basis_a.dtype == np.float32
    assert parts.a.chunks is not None
    assert close(np.einsum("ilhk,lhke->ilhe", parts.a.values, parts.basis_a.values), expected)
    assert np.array_equal(parts.a.isel(k=slice(0, -3)).values, ds.z.values)
    assert (parts.a.isel(k=-1) == 1).all()


@pytest.mark.parametrize("chunks", [None, {}, {"image": 4, "layer": 3, "head": 2}])
def test_opened_from_a_store(ds, expected, here, chunks):
    # `token` shares its name with a dimension, so xarray keeps it as a coordinate
    ds.drop_vars("image").to_zarr("store", zarr_format=3, consolidated=False)
    opened = xr.open_zarr("store", consolidated=False, chunks=chunks and {})
    opened = opened.chunk(chunks) if chunks else opened
    assert close(heads(opened), expected)
    assert close(heads(opened).sel(layer=3, head=5), expected[:, 3, 5])
    assert close(heads(opened.isel(image=[4, 1])), expected[[4, 1]])
    assert opened.token.shape == ds.token.shape


class Recorder:
    """An array that remembers which images were read."""

    def __init__(self, values):
        self.values, self.read = values, []
        self.shape, self.dtype, self.ndim = values.shape, values.dtype, values.ndim

    def __getitem__(self, key):
        self.read += np.arange(len(self.values))[key[0]].tolist()
        return self.values[key]


def test_reads_only_what_is_asked_for(ds, expected):
    recorder = Recorder(ds.z.values)
    lazy = ds.assign(z=(ds.z.dims, da.from_array(recorder, chunks=(1, -1, -1, -1))))
    found = heads(lazy)
    assert not recorder.read
    assert close(found[[1, 4], 2].values, expected[[1, 4], 2])
    assert sorted(recorder.read) == [1, 4]


def test_blocks_are_bounded(ds, expected, here, monkeypatch):
    monkeypatch.setattr("optogram.decompose.expand.BLOCK_BYTES", 3 * 4 * ds.sizes["head"] * ds.sizes["embed"])
    assert heads(ds).chunks[:2] == ((3, 3), (1,) * 5)
    encoding = {"z": {"chunks": (2, 5, 8, 16), "shards": (4, 5, 8, 16)}}
    ds.drop_vars("image").to_zarr("store", zarr_format=3, consolidated=False, encoding=encoding)
    assert close(heads(xr.open_zarr("store", consolidated=False, chunks=None)), expected)


def test_refuses_parts_of_a_model(ds):
    for part in (ds.isel(layer=[3, 4]), ds.isel(head=[1, 2]), ds.isel(layer=slice(0, 4))):
        with pytest.raises(ShapeError, match="only some of the model's layers or heads"):
            heads(part)
    with pytest.raises(ShapeError, match="lacks basis, gain"):
        heads(ds.drop_vars(["basis", "gain"]))
