"""Reading rows straight from raw shards: what zarr reads, and clear errors where it would read rubbish or zeros."""

import pickle
import shutil
import tempfile
from pathlib import Path

import dask.array
import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from optogram.errors import ArtifactError
from optogram.store import rows as module
from optogram.store.read import read
from optogram.store.rows import LocalArray
from optogram.store.write import Provenance, write_sharded

MADE = Provenance("stage", "Rows")
DTYPES = ("float32", "float64", "float16", "uint8", "int32", "bool")


def write(path, values, shard):
    """`values` as the variable z; "rgb" as the last dimension's name has any dtype stored raw."""
    dims = ("image", *(f"d{axis}" for axis in range(1, values.ndim - 1)), *(["rgb"] if values.ndim > 1 else []))

    def compute(start, stop):
        return xr.Dataset({"z": (dims, values[start:stop])})

    scratch = path.parent / "scratch"
    write_sharded(path, compute, MADE, total=len(values), shard=shard, scratch=scratch)
    return read(path).z


def random_values(shape, dtype, seed=0):
    return np.random.default_rng(seed).integers(0, 250, shape).astype(dtype)


def is_raw(array):
    """Whether the variable's values come straight from the files."""
    data = array.variable._data
    while not isinstance(data, LocalArray):
        data = data.array
    return data._raw


@st.composite
def index(draw, size):
    """An integer, a slice of any step, or an integer array in any order, of one dimension."""
    place = st.integers(-size, size - 1)
    bound = st.none() | st.integers(-size - 1, size + 1)
    step = st.sampled_from([None, 1, 2, 3, -1, -2])
    # an empty slice with a negative step is more than xarray itself can take (IndexError, whatever the backend)
    slices = st.builds(slice, bound, bound, step).filter(lambda s: (s.step or 1) > 0 or len(range(*s.indices(size))))
    return draw(place | slices | st.lists(place, max_size=2 * size).map(lambda rows: np.array(rows, int)))


@st.composite
def cases(draw):
    shape = draw(st.lists(st.integers(1, 6), min_size=0, max_size=2).map(tuple))
    shape = (draw(st.integers(1, 40)), *shape)
    keys = [tuple(draw(index(size)) for size in shape) for _ in range(4)]
    return shape, draw(st.integers(1, 45)), draw(st.sampled_from(DTYPES)), keys


@settings(max_examples=80, deadline=None)
@given(cases(), st.sampled_from([1, 64, 1 << 20]), st.sampled_from([1, 40, 8 << 20]), st.sampled_from([0, 16, 1 << 16]))
def test_every_selection_is_what_zarr_and_numpy_give(case, chunk_bytes, block_bytes, gap_bytes):
    shape, shard, dtype, keys = case
    values = random_values(shape, dtype)
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr("optogram.store.shards.CHUNK_BYTES", chunk_bytes)
        patch.setattr(module, "BLOCK_BYTES", block_bytes)
        patch.setattr(module, "GAP_BYTES", gap_bytes)
        found = write(Path(folder) / "a", values, shard)
        assert is_raw(found) or (len(shape) == 1 and np.dtype(dtype).kind != "f")
        for key in keys:
            part = found[key].values
            expected = values
            for axis in reversed(range(len(shape))):
                expected = expected[(slice(None),) * axis + (key[axis],)]
            np.testing.assert_array_equal(part, expected)
            assert part.dtype == values.dtype
            if not any(isinstance(k, slice) and (k.step or 1) < 0 for k in key):  # zarr knows no negative steps
                stored = zarr.open_group(f"{folder}/a", mode="r")["z"]
                np.testing.assert_array_equal(part, stored.oindex[key])
        pointwise = xr.DataArray(np.arange(min(shape)), dims="point")
        np.testing.assert_array_equal(
            found[tuple(pointwise for _ in shape)].values, values[tuple(range(min(shape)) for _ in shape)]
        )


@pytest.mark.parametrize("shape", [(1,), (7,), (23, 4), (8, 3, 2)])
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
@pytest.mark.parametrize("shard", [1, 5])
@pytest.mark.parametrize("chunk_bytes", [1, 30, 1 << 20])
def test_shards_are_byte_for_byte_what_zarr_writes(tmp_path, monkeypatch, shape, dtype, shard, chunk_bytes):
    monkeypatch.setattr("optogram.store.shards.CHUNK_BYTES", chunk_bytes)
    values = random_values(shape, dtype)
    write(tmp_path / "a", values, shard)
    ours = {path: path.read_bytes() for path in (tmp_path / "a/z/c").rglob("*") if path.is_file()}
    shutil.rmtree(tmp_path / "a/z/c")
    array = zarr.open_group(tmp_path / "a", mode="r+")["z"].with_config({"write_empty_chunks": True})
    array[...] = values
    theirs = {path: path.read_bytes() for path in (tmp_path / "a/z/c").rglob("*") if path.is_file()}
    assert ours == theirs


@pytest.fixture
def cube(tmp_path):
    values = random_values((23, 4, 3), "float32")
    return tmp_path / "a", values, write(tmp_path / "a", values, 5)


def test_read_is_lazy_and_reads_only_the_shards_that_are_touched(cube):
    path, values, found = cube
    for number in (0, 1, 3, 4):
        (path / f"z/c/{number}/0/0").unlink()
    np.testing.assert_array_equal(read(path).z[10:15].values, values[10:15])
    np.testing.assert_array_equal(found.isel(image=[14, 11]).isel(d1=2).values, values[[14, 11], 2])


def test_only_the_wanted_rows_are_read(cube, monkeypatch):
    _, values, found = cube
    monkeypatch.setattr(module, "GAP_BYTES", 0)
    read_bytes = []
    real = module.os.preadv

    def counting(descriptor, views, offset):
        read_bytes.append(sum(len(view) for view in views))
        return real(descriptor, views, offset)

    monkeypatch.setattr(module.os, "preadv", counting)
    np.testing.assert_array_equal(found[[2, 17]].values, values[[2, 17]])
    assert sum(read_bytes) == 2 * (16 + values[0].nbytes)  # one chunk's index and one row, twice


def test_dask_arrays_come_in_the_stored_chunks_and_datasets_travel(cube):
    path, values, found = cube
    lazy = read(path, chunks={})
    assert isinstance(lazy.z.data, dask.array.Array)
    assert lazy.z.chunks[0] == (5, 5, 5, 5, 3)
    np.testing.assert_array_equal(lazy.z.mean("image").compute(), values.mean(0))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(lazy)).z.values, values)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(found)).values, values)


def test_a_raw_shard_of_zeros_is_a_file_as_any_other(tmp_path):
    found = write(tmp_path / "a", np.zeros((8, 2), np.float32), 4)
    assert len(list((tmp_path / "a/z/c").iterdir())) == 2
    assert is_raw(found)
    (tmp_path / "a/z/c/1/0").unlink()
    with pytest.raises(ArtifactError, match="z/c/1/0 cannot be read"):
        read(tmp_path / "a").z.load()


def test_compressed_arrays_and_strings_go_through_zarr(tmp_path):
    def compute(start, stop):
        label = np.arange(start, stop, dtype=np.int16)
        return xr.Dataset({"label": ("image", label), "caption": ("image", [f"größe {i}" for i in label])})

    write_sharded(tmp_path / "a", compute, MADE, total=9, shard=4, scratch=tmp_path / "s")
    found = read(tmp_path / "a")
    assert not is_raw(found.label)
    assert found.label[[7, 1]].values.tolist() == [7, 1]
    assert found.caption.values[8] == "größe 8"


def shuffled_index(raw, chunks=5):
    """The shard with its first two chunks exchanged, index and all: valid zarr, but not rows in order."""
    import google_crc32c

    entries, size = np.frombuffer(raw[: 16 * chunks], "<u8").reshape(chunks, 2).copy(), 48
    entries[[0, 1]] = entries[[1, 0]]
    head = entries.tobytes()
    at = len(head) + 4
    first, second = raw[at : at + size], raw[at + size : at + 2 * size]
    return head + google_crc32c.value(head).to_bytes(4, "little") + second + first + raw[at + 2 * size :]


def test_a_shard_whose_chunks_lie_in_another_order_is_still_read(tmp_path, monkeypatch):
    monkeypatch.setattr("optogram.store.shards.CHUNK_BYTES", 1)  # one row a chunk
    values = random_values((23, 4, 3), "float32")
    write(tmp_path / "a", values, 5)
    path = tmp_path / "a/z/c/1/0/0"
    path.write_bytes(shuffled_index(path.read_bytes()))
    np.testing.assert_array_equal(read(tmp_path / "a").z.values, values)
    np.testing.assert_array_equal(read(tmp_path / "a").z[6].values, values[6])


def corrupt_index(path):
    raw = bytearray(path.read_bytes())
    raw[1] ^= 1
    path.write_bytes(bytes(raw))


def truncate(path):
    path.write_bytes(path.read_bytes()[:-3])


def cut_in_index(path):
    path.write_bytes(path.read_bytes()[:7])


def remove(path):
    path.unlink()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (corrupt_index, "checksum"),
        (truncate, "it ends at byte"),
        (cut_in_index, "it ends at byte 7"),
        (remove, "No such file"),
    ],
)
@pytest.mark.parametrize("chunks", [None, {}], ids=["lazy", "dask"])
def test_a_damaged_shard_is_named_with_the_fix(cube, damage, reason, chunks, monkeypatch):
    path, values, _ = cube
    monkeypatch.chdir(path.parent)
    damage(path / "z/c/1/0/0")
    found = read(Path("a"), chunks=chunks).z
    np.testing.assert_array_equal(found[:5].values, values[:5])
    with pytest.raises(ArtifactError, match=rf"z/c/1/0/0 cannot be read: .*{reason}.*dvc checkout a`.*dvc repro"):
        found.load()


def test_a_damaged_compressed_array_is_named_too(tmp_path):
    def compute(start, stop):
        return xr.Dataset({"label": ("image", np.arange(start, stop, dtype=np.int16))})

    write_sharded(tmp_path / "a", compute, MADE, total=9, shard=4, scratch=tmp_path / "s")
    path = tmp_path / "a/label/c/1"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ArtifactError, match=r"a/label.* cannot be read: .*dvc repro"):
        read(tmp_path / "a").label.load()
