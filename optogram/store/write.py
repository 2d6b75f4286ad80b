"""Writing artifacts: sharded, crash-safe, resumable Zarr groups that appear whole or not at all."""

import fcntl
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from zarr.codecs import ZstdCodec
from zarr.errors import ZarrUserWarning

from optogram.errors import ArtifactError
from optogram.progress import progress, say
from optogram.store.digests import canonical, file_digest, files_digest, value_digest

PROTOCOL = 1
CHUNK_BYTES = 1 << 20
DISK_RESERVE = 256 << 20


@dataclass(frozen=True)
class Provenance:
    """What an artifact was made from; with the code's digest it is the identity of the work.

    `params` are the sections of params.yaml that the stage used, `inputs` maps each input artifact's name to its
    digest, `code` is the digest of the stage's first-party modules. `code` decides what may be resumed but is not
    written into the artifact: a refactoring that leaves the numbers alone leaves the bytes alone.
    """

    stage: str
    title: str
    params: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    code: str = ""

    @property
    def key(self) -> str:
        """Name of the scratch folder: equal for the same work, different for any other."""
        return value_digest([PROTOCOL, self.stage, self.title, self.params, self.inputs, self.code])[:32]

    def attributes(self, digest: str) -> dict[str, Any]:
        """Attributes of the artifact's root group."""
        return {
            "digest": digest,
            "inputs": dict(sorted(self.inputs.items())),
            "params": canonical(self.params),
            "protocol": PROTOCOL,
            "stage": self.stage,
            "title": self.title,
        }


def write_dataset(out: Path, dataset: xr.Dataset, provenance: Provenance, *, scratch: Path = Path(".scratch")) -> None:
    """Write a small in-memory Dataset as the artifact `out`, whole or not at all. Raises as `write_sharded`."""
    write_sharded(out, lambda start, stop: dataset, provenance, total=1, shard=1, dim="", scratch=scratch)


def write_sharded(
    out: Path,
    compute: Callable[[int, int], xr.Dataset],
    provenance: Provenance,
    *,
    total: int,
    shard: int,
    dim: str = "image",
    scratch: Path = Path(".scratch"),
) -> None:
    """Write an artifact of `total` rows along `dim`, `shard` rows at a time, resuming where an earlier run stopped.

    `compute(start, stop)` returns the Dataset of these rows and must depend on nothing else; variables without `dim`
    (they must not vary) are kept from the first shard. Raises ArtifactError if `out` exists, if another process is
    making it, if the disk is too small for it, or if `compute` gives a NaN or an infinity.
    """
    if total < 1:
        raise ArtifactError(f"{out}: nothing to write: {total} rows along {dim!r}, expected at least 1.")
    shard = min(shard, total)
    with scratch_folder(scratch, provenance, out) as folder:
        store, marks = folder / "store", folder / "marks"
        marks.mkdir(exist_ok=True)
        starts = range(0, total, shard)
        done = {int(mark.stem) for mark in marks.glob("*.json") if _intact(store, mark)}
        if 0 not in done:  # the first shard lays out the store, so nothing is kept without it
            for path in (store, marks):
                shutil.rmtree(path, ignore_errors=True)
            marks.mkdir()
            done = set()
        label = f"{provenance.stage} -> {out}"
        kept = sum(min(shard, total - starts[number]) for number in done)
        with progress(label, total, dim or "table", done=kept) as advance:
            for number, start in enumerate(starts):
                if number in done:
                    continue
                rows = min(shard, total - start)
                if (
                    number
                ):  # what a cut-off run left of this shard: zarr would read it back to fill up a last, partial one
                    for left in store.glob(f"*/c/{number}"):
                        shutil.rmtree(left) if left.is_dir() else left.unlink()
                part = compute(start, start + rows)
                _check_part(part, out, dim, start, rows)
                if number == 0:
                    need = _check_disk(folder, part, dim, total, out)
                    if dim:
                        say(f"{label}: about {need / 1e6:,.0f} MB on disk")
                    _lay_out(store, part, dim, total, shard)
                files = _write_part(store, part, dim, start, shard, first=number == 0)
                _write_atomically(marks / f"{number:06d}.json", canonical(files))
                advance(rows)
        _finish(store, marks, provenance)
        out.parent.mkdir(parents=True, exist_ok=True)
        store.replace(out)
        _sync_folder(out.parent)


@contextmanager
def scratch_folder(scratch: Path, provenance: Provenance, out: Path) -> Iterator[Path]:
    """The work's own folder, under an exclusive lock; removed when the work is finished, kept when it is cut off."""
    folder = scratch / provenance.key
    folder.mkdir(parents=True, exist_ok=True)
    with (scratch / f"{provenance.key}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ArtifactError(
                f"{out} is being made by another process (scratch folder {folder}). Wait for it, or stop it first."
            ) from None
        if out.exists():
            raise ArtifactError(
                f"{out} exists and is never overwritten. Remove it (`dvc repro` does), or name another."
            )
        yield folder
        shutil.rmtree(folder)
        Path(lock.name).unlink()


def _intact(store: Path, mark: Path) -> bool:
    """Whether a shard's mark is there and every file it names still has the bytes it had."""
    try:
        files: dict[str, str] = json.loads(mark.read_text())
        return all(file_digest(store / name) == digest for name, digest in files.items())
    except (OSError, ValueError):
        return False


def _check_part(part: xr.Dataset, out: Path, dim: str, start: int, rows: int) -> None:
    if dim and part.sizes.get(dim) != rows:
        raise ArtifactError(f"{out}: rows {start} to {start + rows} have {part.sizes.get(dim)} entries along {dim!r}.")
    for name, variable in sorted(part.variables.items()):  # `token` is both a variable and a dimension: a coordinate
        values = variable.values
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            where = tuple(int(i) for i in np.argwhere(~np.isfinite(values))[0])
            if variable.dims[:1] == (dim,):
                where = (where[0] + start, *where[1:])
            index = ", ".join(f"{d}={i}" for d, i in zip(variable.dims, where, strict=True))
            raise ArtifactError(
                f"{out}: {name} has a NaN or infinite value, first at {index}. Expected finite numbers: check the "
                "model's weights and the input images; nothing was written."
            )


def _check_disk(folder: Path, part: xr.Dataset, dim: str, total: int, out: Path) -> int:
    """Estimated bytes of the whole artifact; ArtifactError if the disk has not that much."""
    sharded = sum(v.nbytes for v in part.variables.values() if v.dims[:1] == (dim,))
    fixed = sum(v.nbytes for v in part.variables.values() if v.dims[:1] != (dim,))
    need = sharded * total // max(part.sizes.get(dim, 1), 1) + fixed
    free = shutil.disk_usage(folder).free
    if need + DISK_RESERVE > free:
        raise ArtifactError(
            f"{out} needs about {need / 1e9:,.2f} GB, but the disk has {free / 1e9:,.2f} GB free and "
            f"{DISK_RESERVE / 1e9:,.2f} GB are kept in reserve. Free some space, or lower the number of images."
        )
    return need


def _row_chunk(row_bytes: int, shard: int) -> int:
    """The largest divisor of the shard whose chunks stay within about 1 MB (one row at the least)."""
    return max(n for n in range(1, shard + 1) if shard % n == 0 and (n == 1 or n * row_bytes <= CHUNK_BYTES))


def _lay_out(store: Path, part: xr.Dataset, dim: str, total: int, shard: int) -> None:
    """Create every array's metadata. Raw floats and pixels (measured: fastest to read); zstd for labels and masks."""
    group = zarr.open_group(store, mode="w", zarr_format=3, attributes=dict(sorted(part.attrs.items())))
    for name, variable in sorted(part.variables.items()):
        split = variable.dims[:1] == (dim,)
        rest = variable.shape[1:] if split else variable.shape
        shape = (total, *rest) if split else variable.shape
        text = variable.dtype.kind in "OUT"
        chunks = (shard, *rest) if split else tuple(max(n, 1) for n in shape)
        options: dict[str, Any] = {"chunks": chunks, "fill_value": "" if text else np.zeros((), variable.dtype)[()]}
        if split and not text:
            row_bytes = int(np.prod(rest, dtype=np.int64)) * variable.dtype.itemsize
            options["chunks"] = (_row_chunk(row_bytes, shard), *rest)
            # the index at the start: DVC's lazy remote reads fail on an index at the end
            options["shards"] = {"shape": (shard, *rest), "index_location": "start"}
        raw = variable.dtype.kind == "f" or variable.dims[-1:] == ("rgb",) or text
        group.create_array(
            str(name),
            shape=shape,
            dtype="str" if text else variable.dtype,
            compressors=None if raw else ZstdCodec(level=3),
            dimension_names=[str(d) for d in variable.dims],
            attributes=dict(sorted(variable.attrs.items())),
            config={"write_empty_chunks": True},
            **options,
        )


def _write_part(store: Path, part: xr.Dataset, dim: str, start: int, shard: int, *, first: bool) -> dict[str, str]:
    """Write one shard of every array (and on the first the arrays without `dim`); return its files' digests."""
    group = zarr.open_group(store, mode="r+")
    files: dict[str, str] = {}
    for name, variable in sorted(part.variables.items()):
        array = group[str(name)]
        assert isinstance(array, zarr.Array)
        split = variable.dims[:1] == (dim,)
        if not split and not first:
            continue
        values = variable.values.astype(object) if variable.dtype.kind in "OUT" else variable.values
        if split:
            array[start : start + len(values)] = values
        else:
            array[...] = values
        prefix = f"{name}/c/{start // shard}" if split else f"{name}/c"
        written = [store / prefix] if (store / prefix).is_file() else sorted((store / prefix).rglob("*"))
        if first:
            written.append(store / str(name) / "zarr.json")
        for path in written:
            if path.is_file():
                _sync_file(path)
                files[path.relative_to(store).as_posix()] = file_digest(path)
    return files


def _finish(store: Path, marks: Path, provenance: Provenance) -> None:
    """Digest the content, write the root attributes, consolidate the metadata, drop what no mark names."""
    files: dict[str, str] = {}
    for mark in sorted(marks.glob("*.json")):
        files |= json.loads(mark.read_text())
    for path in sorted(store.rglob("*")):
        if path.is_file() and path.relative_to(store).as_posix() not in files and path != store / "zarr.json":
            path.unlink()
    group = zarr.open_group(store, mode="r+")
    group.attrs.put(dict(group.attrs) | provenance.attributes(files_digest(files)))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Consolidated metadata", ZarrUserWarning)
        zarr.consolidate_metadata(store)
    _sync_file(store / "zarr.json")


def _write_atomically(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    _sync_file(temporary)
    temporary.replace(path)
    _sync_folder(path.parent)


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
