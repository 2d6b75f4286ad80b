"""Raw shards, an index and then the rows in order: written and read with no copy between array and file."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import xarray as xr
from xarray.backends import BackendEntrypoint, StoreBackendEntrypoint, ZarrStore
from xarray.backends.zarr import ZarrArrayWrapper
from xarray.core.indexing import BasicIndexer, IndexingSupport, LazilyIndexedArray, OuterIndexer
from xarray.core.indexing import explicit_indexing_adapter as adapted
from zarr.codecs import BytesCodec, Crc32cCodec, Endian, ShardingCodec, ShardingCodecIndexLocation

from optogram.errors import ArtifactError

BLOCK_BYTES = 8 << 20
"""Rows of which only a part is wanted are read this much at a time."""

GAP_BYTES = 64 << 10
"""Unwanted bytes between two wanted rows that are read along: one call for more costs less than two calls."""


def write_shard(array: Any, values: np.ndarray, path: Path) -> None:
    """Write one shard of a zarr array whose shards are raw rows, byte for byte as zarr does (18 times faster here).

    `values` are its rows, fewer than a whole shard's in the last one.
    """
    chunk, chunks = array.chunks[0], array.shards[0] // array.chunks[0]
    row_bytes = _row_bytes(array)
    used = -(-len(values) // chunk)
    index = np.full((chunks, 2), 2**64 - 1, "<u8")  # what zarr says of a chunk that lies beyond the array
    index[:used] = _index(chunk, chunks, row_bytes, 0, used)
    head = index.tobytes()
    padding = bytes((used * chunk - len(values)) * row_bytes)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb", buffering=0) as file:
        rows = np.ascontiguousarray(values, array.dtype).reshape(-1).view(np.uint8).data
        for part in (head + google_crc32c.value(head).to_bytes(4, "little"), rows, padding):
            done = 0
            while done < len(part):  # one call writes 2 GB at the most
                done += file.write(part[done:])


class LocalEntrypoint(BackendEntrypoint):
    """What `xr.open_dataset` needs to open a folder whose arrays are `LocalArray`s."""

    open_dataset_parameters = ("filename_or_obj", "drop_variables")

    def open_dataset(self, filename_or_obj: Any, *, drop_variables: Any = None) -> xr.Dataset:
        """The Dataset, every array lazily indexed."""
        store = _LocalStore.open_group(filename_or_obj, mode="r", consolidated=True, zarr_format=3)
        return StoreBackendEntrypoint().open_dataset(store, drop_variables=drop_variables)


class _LocalStore(ZarrStore):
    def open_store_variable(self, name: str) -> xr.Variable:
        variable = super().open_store_variable(name)
        array = LazilyIndexedArray(LocalArray(self.members[name]))
        return xr.Variable(variable.dims, array, variable.attrs, variable.encoding)


class LocalArray(ZarrArrayWrapper):
    """A zarr array in a local folder, as xarray indexes it.

    Uncompressed shards cut along the first dimension alone (ARCHITECTURE.md, Layout) are an index and then the rows
    in order, so that wanted rows are read from the file into the result with no copy in between. An index that says
    otherwise sends that shard through zarr, which also checks the index's checksum: reading rows directly needs none,
    because each entry that it relies on is compared with the only value that it may have.

    Raises ArtifactError, on reading, for a shard that is missing, cut short or damaged.
    """

    __slots__ = ("_raw",)

    def __init__(self, array: Any) -> None:
        super().__init__(array)
        self._raw = is_raw(array)

    def __getitem__(self, key: Any) -> Any:
        # pointwise indexing of several dimensions at once is zarr's: whole rows would be far more than what is wanted
        if self._raw and isinstance(key, BasicIndexer | OuterIndexer):
            return adapted(key, self.shape, IndexingSupport.OUTER, self._select)
        return self._through_zarr(super().__getitem__, key, self._path)

    @property
    def _path(self) -> Path:
        return Path(self._array.store.root) / self._array.path

    def _select(self, key: tuple[Any, ...]) -> np.ndarray | np.generic:
        """The outer product of integers, slices and integer arrays, one a dimension; of integers alone a scalar."""
        wanted, rest = np.atleast_1d(np.arange(self.shape[0])[key[0]]), key[1:]
        row = _narrowed(np.empty((0, *self.shape[1:]), self._array.dtype), rest)
        found = np.empty((len(wanted), *row.shape[1:]), row.dtype)
        sizes = zip(rest, self.shape[1:], strict=True)
        whole = all(isinstance(k, slice) and k.indices(size) == (0, size, 1) for k, size in sizes)
        if whole and (np.diff(wanted) == 1).all():
            self._read(int(wanted[0]) if len(wanted) else 0, found)
        else:
            for first, stop, places in _runs(wanted, _row_bytes(self._array)):
                block = np.empty((stop - first, *self.shape[1:]), row.dtype)
                self._read(first, block)
                found[places] = _narrowed(block[wanted[places] - first], rest)
        return found[0] if isinstance(key[0], int | np.integer) else found

    def _read(self, first: int, into: np.ndarray) -> None:
        """Fill `into` (contiguous) with the rows from `first` on."""
        done, per_shard = 0, self._array.shards[0]
        while done < len(into):
            shard, row = divmod(first + done, per_shard)
            count = min(per_shard - row, len(into) - done)
            part = into[done : done + count]
            path = self._path / self._array.metadata.encode_chunk_key((shard, *[0] * (self._array.ndim - 1)))
            try:
                with path.open("rb", buffering=0) as file:
                    direct = self._read_shard(file.fileno(), row, part)
            except OSError as error:
                raise self._damaged(path, error) from None
            if not direct:
                rows = slice(first + done, first + done + count)
                part[...] = self._through_zarr(self._array.__getitem__, rows, path)
            done += count

    def _read_shard(self, descriptor: int, row: int, into: np.ndarray) -> bool:
        """Fill `into` with a shard's rows from `row` on; False if its index does not have them in order."""
        chunk, chunks = self._array.chunks[0], self._array.shards[0] // self._array.chunks[0]
        low, high = row // chunk, -(-(row + len(into)) // chunk)
        row_bytes = _row_bytes(self._array)
        expected = _index(chunk, chunks, row_bytes, low, high)
        found = np.empty_like(expected)
        _fill(descriptor, found, 16 * low)
        if not (found == expected).all():
            return False
        _fill(descriptor, into, 16 * chunks + 4 + row * row_bytes)
        return True

    def _through_zarr(self, get: Callable[[Any], Any], key: Any, path: Path) -> Any:
        try:
            return get(key)
        except (ValueError, RuntimeError, OSError) as error:  # checksums, decompression, files
            raise self._damaged(path, error) from error

    def _damaged(self, path: Path, reason: Exception) -> ArtifactError:
        artifact = os.path.relpath(self._array.store.root)
        return ArtifactError(
            f"{path} cannot be read: {reason}. {artifact} is damaged or incomplete: remove it, then `dvc checkout "
            f"{artifact}` brings it back from DVC's cache, or `dvc repro` makes it anew."
        )


def is_raw(array: Any) -> bool:
    """Whether a zarr array's shards are raw rows, as `lay_out` has them for floats and pixels."""
    codecs = array.metadata.codecs
    if len(codecs) != 1 or not isinstance(codecs[0], ShardingCodec) or not array.ndim or 0 in array.shape:
        return False
    sharding, little = codecs[0], BytesCodec(endian=Endian.little)
    return (
        sharding.index_location is ShardingCodecIndexLocation.start
        and tuple(sharding.index_codecs) == (little, Crc32cCodec())
        and tuple(sharding.codecs) in ((little,), (BytesCodec(endian=None),))
        and array.dtype.kind in "biuf"
        and sys.byteorder == "little"
        and array.shards[1:] == array.chunks[1:] == array.shape[1:]
    )


def _row_bytes(array: Any) -> int:
    return int(np.prod(array.shape[1:], dtype=np.int64)) * array.dtype.itemsize


def _index(chunk: int, chunks: int, row_bytes: int, low: int, high: int) -> np.ndarray:
    """(offset, size) of a raw shard's chunks `low` to `high`: after 16 bytes of index a chunk and its checksum."""
    index = np.full((high - low, 2), chunk * row_bytes, "<u8")
    index[:, 0] = 16 * chunks + 4 + chunk * row_bytes * np.arange(low, high)
    return index


def _narrowed(block: np.ndarray, rest: tuple[Any, ...]) -> np.ndarray:
    """A block of rows with an outer selection of its other dimensions, integers dropping theirs."""
    for axis in reversed(range(len(rest))):
        block = block[(slice(None),) * (axis + 1) + (rest[axis],)]
    return block


def _runs(wanted: np.ndarray, row_bytes: int) -> Iterator[tuple[int, int, np.ndarray]]:
    """(first row, row after the last, places in `wanted`) of blocks that together hold every wanted row."""
    order = np.argsort(wanted, kind="stable")
    rows = wanted[order]
    most = max(1, BLOCK_BYTES // row_bytes)
    start = 0
    while start < len(rows):
        stop = int(np.searchsorted(rows, rows[start] + most))
        gaps = np.flatnonzero((np.diff(rows[start:stop]) - 1) * row_bytes > GAP_BYTES)
        stop = start + 1 + int(gaps[0]) if len(gaps) else stop
        yield int(rows[start]), int(rows[stop - 1]) + 1, order[start:stop]
        start = stop


def _fill(descriptor: int, into: np.ndarray, offset: int) -> None:
    """Fill `into` (contiguous) from a file; OSError if the file ends before."""
    view = into.reshape(-1).view(np.uint8).data
    done = 0
    while done < len(view):  # one call reads 2 GB at the most
        count = os.preadv(descriptor, [view[done:]], offset + done)
        if not count:
            raise OSError(f"it ends at byte {offset + done:,}, but reaches to {offset + len(view):,} when whole")
        done += count
