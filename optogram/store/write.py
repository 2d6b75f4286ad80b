"""Writing artifacts: sharded, crash-safe, resumable Zarr groups that appear whole or not at all."""

import errno
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xarray as xr
import zarr
from zarr.errors import ZarrUserWarning

from optogram.errors import ArtifactError
from optogram.progress import progress, say
from optogram.store.digests import canonical, files_digest, value_digest
from optogram.store.disk import open_lock, put, refusals_explained, sync, try_lock
from optogram.store.shards import LAYOUT, Compute, Work, bytes_a_row, make, seal

PROTOCOL = 1
DISK_RESERVE = 256 << 20

Run = Callable[[Iterable[int]], Iterator[int]]
"""Makes the pieces of work with these numbers; yields each when it is marked."""

Runner = Callable[[Work, Compute], AbstractContextManager[Run]]


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
    compute: Compute,
    provenance: Provenance,
    *,
    total: int,
    shard: int,
    dim: str = "image",
    scratch: Path = Path(".scratch"),
    runner: Runner | None = None,
    sample: xr.Dataset | None = None,
) -> None:
    """Write an artifact of `total` rows along `dim`, `shard` rows at a time, resuming where an earlier run stopped.

    `compute(start, stop)` returns the Dataset of these rows and must depend on nothing else; variables without `dim`
    (they must not vary) are kept from a first call, for one row, which also lays out the store. Where a row is dear,
    give a `sample` instead: one row of the right variables, shapes and dtypes, its values along `dim` of no matter.
    `runner` makes the shards elsewhere (`optogram.store.cluster`); by default they are made here, one after the other.

    Raises ArtifactError if `out` exists, if another process is making it, if the disk is too small for it or fills up,
    or if `compute` gives an infinity, or a NaN in a variable whose attribute `missing` does not say what NaN means
    there. What was finished is kept.
    """
    if total < 1:
        raise ArtifactError(f"{out}: nothing to write: {total} rows along {dim!r}, expected at least 1.")
    label = f"{provenance.stage} -> {out}"
    with scratch_folder(scratch, provenance, out) as folder:
        work = Work(folder.absolute(), out, dim, total, min(shard, total))
        done = work.finished()
        kept = sum(work.rows(number) for number in done)
        with (
            _disk_full_explained(work),
            (runner or in_turn)(work, compute) as run,
            progress(label, total, dim or "table", done=kept) as advance,
        ):
            if LAYOUT not in done and sample is not None:
                seal(work, LAYOUT, make(work, lambda start, stop: sample, LAYOUT))
            elif LAYOUT not in done:
                for number in run([LAYOUT]):
                    advance(work.rows(number))
            need = bytes_a_row(work) * (total - kept)
            _check_disk(work, need)
            if dim and LAYOUT not in done:
                say(f"{label}: about {need / 1e6:,.0f} MB on disk")
            for number in run([number for number in range(work.count()) if number not in done]):
                advance(work.rows(number))
        _finish(work, provenance)
        put(work.store, out)


@contextmanager
def in_turn(work: Work, compute: Compute) -> Iterator[Run]:
    """Make shards in this process, one after the other; while one is computed, the last is forced to the disk."""
    with ThreadPoolExecutor(1) as background:

        def run(numbers: Iterable[int]) -> Iterator[int]:
            sealed: tuple[int, Future[None]] | None = None
            for number in numbers:
                files = make(work, compute, number)
                if sealed:
                    sealed[1].result()
                    yield sealed[0]
                sealed = number, background.submit(seal, work, number, files)
            if sealed:
                sealed[1].result()
                yield sealed[0]

        yield run


@contextmanager
def scratch_folder(scratch: Path, provenance: Provenance, out: Path) -> Iterator[Path]:
    """The work's own folder, under an exclusive lock; removed when the work is finished, kept when it is cut off."""
    folder = scratch / provenance.key
    with refusals_explained(out), open_lock(folder.with_name(f"{folder.name}.lock")) as lock:
        if not try_lock(lock):
            raise ArtifactError(
                f"{out} is being made by another process (scratch folder {folder}). Wait for it, or stop it first."
            )
        if out.exists():
            raise ArtifactError(
                f"{out} exists and is never overwritten. Remove it (`dvc repro` does), or name another."
            )
        folder.mkdir(exist_ok=True)
        yield folder
        shutil.rmtree(folder)
        Path(lock.name).unlink()


def _check_disk(work: Work, need: int) -> None:
    free = shutil.disk_usage(work.folder).free
    if need and need + DISK_RESERVE > free:
        raise ArtifactError(
            f"{work.out} needs about {need / 1e9:,.2f} GB, but the disk has {free / 1e9:,.2f} GB free and "
            f"{DISK_RESERVE / 1e9:,.2f} GB are kept in reserve. Free some space, or lower the number of images."
        )


@contextmanager
def _disk_full_explained(work: Work) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        free = shutil.disk_usage(work.folder).free
        kept = len(list(work.marks.glob("[0-9]*.json")))
        raise ArtifactError(
            f"{work.out}: the disk of {work.folder} is full ({free / 1e6:,.1f} MB free, {error.strerror}). "
            f"{kept} of {work.count()} shards are finished and kept: free some space, and the same command resumes."
        ) from None


def _finish(work: Work, provenance: Provenance) -> None:
    """Digest the content, write the root attributes, consolidate the metadata, drop what no mark names."""
    store, files = work.store, work.files()
    for path in sorted(store.rglob("*")):
        if path.is_file() and path.relative_to(store).as_posix() not in files and path != store / "zarr.json":
            path.unlink()
    group = zarr.open_group(store, mode="r+")
    group.attrs.put(dict(group.attrs) | provenance.attributes(files_digest(files)))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Consolidated metadata", ZarrUserWarning)
        zarr.consolidate_metadata(store)
    sync(store / "zarr.json")
