"""One shard at a time: lay out an artifact's store, make its shards, mark what is safely on disk."""

import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from zarr.codecs import ZstdCodec

from optogram.errors import ArtifactError
from optogram.store.digests import canonical, file_digest
from optogram.store.disk import sync
from optogram.store.rows import is_raw, write_shard

CHUNK_BYTES = 1 << 20
LAYOUT = -1
"""The number of the first piece of work: every array's metadata, and the arrays that are not sharded."""

MISSING = "missing"
"""Attribute of a variable of floats that may hold NaN: what NaN says there."""

Compute = Callable[[int, int], xr.Dataset]
"""`compute(start, stop)`: the Dataset of these rows, which depends on nothing else."""


@dataclass(frozen=True)
class Work:
    """An artifact in the making: `total` rows along `dim`, `shard` at a time, in the scratch folder `folder`.

    Without `dim` it is one table, all of it in the layout.
    """

    folder: Path
    out: Path
    dim: str
    total: int
    shard: int

    @property
    def store(self) -> Path:
        """The Zarr group that becomes the artifact."""
        return self.folder / "store"

    @property
    def marks(self) -> Path:
        """One file a finished piece of work: {relative path: sha256} of what it wrote."""
        return self.folder / "marks"

    def count(self) -> int:
        """Number of shards."""
        return -(-self.total // self.shard) if self.dim else 0

    def rows(self, number: int) -> int:
        """Rows of a shard; the layout of a table without `dim` counts as its one row."""
        return min(self.shard, self.total - number * self.shard) if number != LAYOUT else int(not self.dim)

    def mark(self, number: int) -> Path:
        """Where the mark of a piece of work is."""
        return self.marks / ("layout.json" if number == LAYOUT else f"{number:06d}.json")

    def finished(self) -> set[int]:
        """Numbers of the pieces whose every file still has the bytes it had; none without the layout.

        What is left of an earlier layout that is not intact is removed.
        """
        self.marks.mkdir(exist_ok=True)
        found = [LAYOUT, *(int(mark.stem) for mark in self.marks.glob("[0-9]*.json"))]
        done = {number for number in found if self._intact(number)}
        if LAYOUT not in done:
            for path in (self.store, self.marks):
                shutil.rmtree(path, ignore_errors=True)
            self.marks.mkdir()
            return set()
        for number in set(found) - done:
            self.mark(number).unlink()
        return done

    def files(self) -> dict[str, str]:
        """{relative path: sha256} of all that is marked."""
        files: dict[str, str] = {}
        for mark in self.marks.glob("*.json"):
            files |= json.loads(mark.read_text())
        return files

    def _intact(self, number: int) -> bool:
        try:
            files: dict[str, str] = json.loads(self.mark(number).read_text())
            whole = all(file_digest(self.store / name) == digest for name, digest in files.items())
            return whole and (self.store / "zarr.json").is_file()
        except (OSError, ValueError):
            return False


def make(work: Work, compute: Compute, number: int) -> list[Path]:
    """Compute and write the layout or one shard; return its files, which are not yet safe: see `seal`.

    Raises ArtifactError for an infinity, and for a NaN in a variable without the attribute `missing`.
    """
    # the layout takes one row, so that no shard is special: any may be made anywhere, and in any order
    start, rows = (0, 1) if number == LAYOUT else (number * work.shard, work.rows(number))
    part = compute(start, start + rows)
    _check(part, work, number, start, rows)
    return list(_lay_out(work, part) if number == LAYOUT else _write(work, part, number))


def seal(work: Work, number: int, files: list[Path]) -> None:
    """Force a finished piece of work to the disk, then mark it with its files' digests."""
    with ThreadPoolExecutor(1) as beside:  # neither disk nor processor waits for the other
        digesting = [beside.submit(file_digest, path) for path in files]
        for path in files:
            sync(path)
    names = (path.relative_to(work.store).as_posix() for path in files)
    digests = {name: found.result() for name, found in zip(names, digesting, strict=True)}
    mark = work.mark(number)
    temporary = mark.with_suffix(".tmp")
    temporary.write_text(canonical(digests))
    sync(temporary)
    temporary.replace(mark)
    sync(mark.parent)


def bytes_a_row(work: Work) -> int:
    """Bytes on disk that one row of the sharded arrays needs, before compression (16 a string)."""
    group = zarr.open_group(work.store, mode="r")
    return sum(
        int(np.prod(array.shape[1:], dtype=np.int64)) * (16 if array.dtype.kind in "TO" else array.dtype.itemsize)
        for _, array in group.arrays()
        if work.dim and (getattr(array.metadata, "dimension_names", None) or [""])[0] == work.dim
    )


def _check(part: xr.Dataset, work: Work, number: int, start: int, rows: int) -> None:
    dim, out = work.dim, work.out
    if dim and part.sizes.get(dim) != rows:
        raise ArtifactError(f"{out}: rows {start} to {start + rows} have {part.sizes.get(dim)} entries along {dim!r}.")
    for name, variable in sorted(part.variables.items()):  # `token` is both a variable and a dimension: a coordinate
        if number != LAYOUT and variable.dims[:1] != (dim,):
            continue  # kept from the layout, and looked at there
        values = variable.values
        if values.dtype.kind != "f":
            continue
        # a variable that says what a missing value means there may have some, which are NaN; infinity is always wrong
        wrong = np.isinf(values) if variable.attrs.get(MISSING) else ~np.isfinite(values)
        if wrong.any():
            where = tuple(int(i) for i in np.argwhere(wrong)[0])
            if variable.dims[:1] == (dim,):
                where = (where[0] + start, *where[1:])
            index = ", ".join(f"{d}={i}" for d, i in zip(variable.dims, where, strict=True))
            raise ArtifactError(
                f"{out}: {name} has a NaN or infinite value, first at {index}. Expected finite numbers: check the "
                "model's weights and the input images; nothing was written."
            )


def _row_chunk(row_bytes: int, shard: int) -> int:
    """The largest divisor of the shard whose chunks stay within about 1 MB (one row at the least)."""
    return max(n for n in range(1, shard + 1) if shard % n == 0 and (n == 1 or n * row_bytes <= CHUNK_BYTES))


def _lay_out(work: Work, part: xr.Dataset) -> Iterator[Path]:
    """Create every array's metadata, and write those that are not sharded.

    Floats and pixels are raw (measured: fastest to read); labels and masks are zstd.
    """
    dim, shard = work.dim, work.shard
    group = zarr.open_group(work.store, mode="w", zarr_format=3, attributes=dict(sorted(part.attrs.items())))
    for name, variable in sorted(part.variables.items()):
        split = variable.dims[:1] == (dim,)
        rest = variable.shape[1:] if split else variable.shape
        shape = (work.total, *rest) if split else variable.shape
        text = variable.dtype.kind in "OUT"
        chunks = (shard, *rest) if split else tuple(max(n, 1) for n in shape)
        options: dict[str, Any] = {"chunks": chunks, "fill_value": "" if text else np.zeros((), variable.dtype)[()]}
        if split and not text:
            row_bytes = int(np.prod(rest, dtype=np.int64)) * variable.dtype.itemsize
            options["chunks"] = (_row_chunk(row_bytes, shard), *rest)
            # the index at the start: DVC's lazy remote reads fail on an index at the end
            options["shards"] = {"shape": (shard, *rest), "index_location": "start"}
        raw = variable.dtype.kind == "f" or variable.dims[-1:] == ("rgb",) or text
        array = group.create_array(
            str(name),
            shape=shape,
            dtype="str" if text else variable.dtype,
            compressors=None if raw else ZstdCodec(level=3),
            dimension_names=[str(d) for d in variable.dims],
            attributes=dict(sorted(variable.attrs.items())),
            **options,
        )
        folder = work.store / str(name)
        yield folder / "zarr.json"
        if not split:
            array[...] = _plain(variable)
            yield from sorted(path for path in (folder / "c").rglob("*") if path.is_file())
            yield from [folder / "c"] if (folder / "c").is_file() else []


def _write(work: Work, part: xr.Dataset, number: int) -> Iterator[Path]:
    """Write one shard of every sharded array."""
    group = zarr.open_group(work.store, mode="r+")
    for name, variable in sorted(part.variables.items()):
        if variable.dims[:1] != (work.dim,):
            continue
        array = group[str(name)]
        assert isinstance(array, zarr.Array)
        values, place = _plain(variable), (number, *[0] * (variable.ndim - 1))
        path = work.store / str(name) / array.metadata.encode_chunk_key(place)
        if is_raw(array):
            write_shard(array, values, path)
        else:
            path.unlink(missing_ok=True)  # zarr would read what a cut-off run left, to fill up a last, partial shard
            array[number * work.shard : number * work.shard + len(values)] = values
        if path.is_file():  # zarr writes no file for zeros alone
            yield path


def _plain(variable: xr.Variable) -> np.ndarray:
    return variable.values.astype(object) if variable.dtype.kind in "OUT" else variable.values
