"""Finding and opening artifacts by name: in this checkout, at any git revision, in another checkout or git URL."""

import contextlib
import io
import json
import shlex
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd
import xarray as xr
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.storage import FsspecStore

from optogram.catalog.at import ROOT, At, in_git, locked_outs, stage_of
from optogram.catalog.remote import ObjectStore, dvc_errors, out_of
from optogram.errors import ArtifactError, nearest
from optogram.store.read import checked, read

COLUMNS = ["name", "kind", "dims", "dtype", "bytes", "hash", "stage", "title"]


def open(name: str, *, rev: str | None = None, repo: str = ".", remote: str | None = None) -> xr.Dataset:
    """Open the artifact `name` ("textspan/demo") as a lazy Dataset of dask arrays, which can be pickled.

    Without `rev`, from the working tree of `repo`, or from its DVC cache where the tree lacks it; with `rev`, as it
    was at that git revision. `repo` is a path in a checkout or a git URL, `remote` the name of a DVC remote to read
    from. Only the chunks that are touched are read. Raises ArtifactError if there is none, with the nearest names, or
    the command that makes it.
    """
    place = At(repo, rev)
    name = place.plain(name)
    path = PurePosixPath(ROOT) / name
    if place.tree and (place.tree / path / "zarr.json").is_file():
        with _zarr_errors(name):
            return read(place.tree / path, chunks={})
    files = place.indexed(remote)
    with dvc_errors(f"{name} cannot be read"):
        found = out_of(files.repo, path)
        if not found:  # it may be new
            files = place.files(remote)
            found = out_of(files.repo, path)
        store = ObjectStore(place.objects(found[0], name, remote), found[1]) if found else None
    if not ("zarr.json" in store.files if store else files.exists(f"{path}/zarr.json")):
        entries = _entries(files, place)
        folder = next((e for e in entries if e["name"] == name), None)
        if folder is not None:
            raise ArtifactError(f"{name}{place} is a {folder['kind']} folder, not a table: load it from {path}.")
        raise _unknown(name, entries, files, place, one=True)
    try:
        with _zarr_errors(name):
            return checked(_open_remote(files, store, str(path)), name)
    except FileNotFoundError as error:
        raise ArtifactError(f"{name}{place} cannot be read: {error}. {_remake(name, files, place)}") from None


def catalog(*, rev: str | None = None, repo: str = ".") -> pd.DataFrame:
    """All artifacts: name, kind, dims, dtype, bytes, hash (content digest), stage, title; sorted by name.

    dims and dtype are those of the largest variable. Raises ArtifactError if `repo` or `rev` does not exist.
    """
    place = At(repo, rev)
    files: Any = _tree(place.tree) if place.tree else place.files()
    return pd.DataFrame(_entries(files, place), columns=COLUMNS).sort_values("name", ignore_index=True)


def pull(*names: str, repo: str = ".", remote: str | None = None) -> list[str]:
    """Fetch the artifacts `names` and check them out, through DVC; return the outs fetched.

    Every object is checked against its md5, whether or not the remote's `verify` is set, and nothing reaches the tree
    unless all are right; damaged objects in the cache are dropped and fetched again. What the repository ships needs
    no remote. Raises ArtifactError if no out of the pipeline holds an artifact, if no remote has it, or if an object
    is corrupted, naming the object and its address.
    """
    place = At(repo, None)
    with _opened(place.repo) as opened:
        opened.drop_data_index()  # listings that DVC has read before, and believed
        found = {name: _outs(opened, place, name) for name in map(place.plain, names)}
        pulled = []
        for name, outs in found.items():
            stored = [place.objects(out, name, remote) for out in outs if out.hash_info and out.hash_info.isdir]
            targets = [out.fs_path for out in outs]
            try:
                for objects in stored:
                    objects.prepare_cache()
            except ArtifactError:
                if any(not out.exists or out.changed_checksum() for out in outs):
                    raise
                pulled += map(partial(_relative, opened), outs)  # it is here already, if nowhere else
                continue
            try:
                with dvc_errors(f"{name} could not be fetched"):
                    if len(stored) == len(outs) and not any(objects.missing() for objects in stored):
                        opened.checkout(targets=targets)
                    else:
                        opened.pull(targets=targets, remote=remote)
            except ArtifactError as error:
                for objects in stored:
                    objects.check_remote(only_missing=True)
                edited = [_relative(opened, out) for out in outs if out.exists and out.changed_checksum()]
                if edited:
                    raise ArtifactError(
                        f"{' '.join(edited)} is not what dvc.lock has, and no cache keeps it. To fetch {name}, remove "
                        f"it first (`rm -r {shlex.join(edited)}`)."
                    ) from None
                raise ArtifactError(f"{error} {place.remake(stage_of(outs[0]))}") from None
            pulled += map(partial(_relative, opened), outs)
        return pulled


def repair(name: str, *, repo: str = ".", remote: str | None = None) -> list[str]:
    """Replace each object of `name` that a remote lacks or has damaged by the one in this cache; return their names.

    `dvc push` would not: it takes an object that is there to be right, and all of a folder to be there if its listing
    is. Reads the whole artifact from the remote. Raises ArtifactError for an object that is not right in the cache.
    """
    place = At(repo, None)
    name = place.plain(name)
    with _opened(place.repo) as opened:
        outs = _outs(opened, place, name)
        stored = [place.objects(out, name, remote) for out in outs if out.hash_info and out.hash_info.isdir]
        return [oid for objects in stored for oid in objects.repair_remote()]


@contextlib.contextmanager
def _opened(repo: str) -> Iterator[Any]:
    """The DVC repository at `repo`, as if `verify true` stood at each of its remotes."""
    from dvc.repo import Repo

    # a zip of the repository has no .git, and pulling needs none
    plain = {} if in_git(Path(repo)) else {"core": {"no_scm": True}}
    with dvc_errors(f"{repo} cannot be read"):
        with Repo(repo, config=plain) as opened:
            verified = {"remote": {name: {"verify": True} for name in opened.config["remote"]}}
        with Repo(repo, config=plain | verified) as opened:
            yield opened


def _outs(opened: Any, place: At, name: str) -> list[Any]:
    """The outs that hold the artifact `name`, or lie in the folder of that name, as far as they were ever made."""
    path = PurePosixPath(ROOT) / name
    outs = {_relative(opened, out): out for out in opened.index.outs}
    found = [o for o in sorted(outs) if path.is_relative_to(o) or PurePosixPath(o).is_relative_to(path)]
    if not found:
        known = [PurePosixPath(out).relative_to(ROOT).as_posix() for out in sorted(outs) if out.startswith(f"{ROOT}/")]
        raise ArtifactError(f"No stage makes {name!r}.{nearest(name, known)}")
    made = [outs[out] for out in found if outs[out].hash_info]
    if not made:
        raise ArtifactError(f"{name} was never made: dvc.lock lacks it. {place.remake(stage_of(outs[found[0]]))}")
    return made


def below(name: str, *, rev: str | None = None, repo: str = ".") -> dict[str, str]:
    """{artifact: kind} of `name` itself, or of all that lies below it ("embeddings/demo"); found as `open` does.

    Raises ArtifactError if there is nothing, with the nearest names.
    """
    place = At(repo, rev)
    name = place.plain(name)
    files: Any = _tree(place.tree) if place.tree and (place.tree / ROOT / name).exists() else place.files()
    entries = _entries(files, place)
    found = {e["name"]: e["kind"] for e in entries if PurePosixPath(e["name"]).is_relative_to(name)}
    if not found:
        raise _unknown(name, entries, files, place)
    for out in files.repo.index.outs if hasattr(files, "repo") else ():
        path = PurePosixPath(_relative(files.repo, out))
        lacking = not any(PurePosixPath(ROOT, one).is_relative_to(path) for one in found)
        if path.is_relative_to(f"{ROOT}/{name}") and lacking and out.hash_info and out.hash_info.isdir:
            place.objects(
                out, path.relative_to(ROOT).as_posix()
            ).listing()  # it is there by the lock: says where it lacks
    return found


def copy(name: str, target: Path, *, rev: str | None = None, repo: str = ".") -> None:
    """Copy an artifact's files into the new folder `target`, from wherever they are. ArtifactError if nowhere."""
    place = At(repo, rev)
    path = f"{ROOT}/{name}"
    files: Any = _tree(place.tree) if place.tree and (place.tree / path).exists() else place.files()
    if not isinstance(files, DirFileSystem):
        place.look_into_shipped(files)
    try:
        files.get(path, str(target), recursive=True)
    except FileNotFoundError as error:
        raise ArtifactError(f"{name}{place} cannot be read: {error}. {_remake(name, files, place)}") from None


def read_text(path: str, *, rev: str | None = None, repo: str = ".") -> str | None:
    """A text file of a repository, such as dvc.lock; None where there is none."""
    place = At(repo, rev)
    if place.tree:  # DVC's file system calls no file there while dvc.lock is damaged
        there = place.tree / path
        return there.read_text() if there.is_file() else None
    files = place.files()
    return files.cat_file(path).decode() if files.exists(path) else None


def _unknown(name: str, entries: list[dict[str, Any]], files: Any, place: At, *, one: bool = False) -> ArtifactError:
    """The error for a name that nothing has: it was never made, its data are nowhere, or nobody is called so.

    one: whether a single artifact was asked for, and no folder of them.
    """
    repo = getattr(files, "repo", None)
    path = PurePosixPath(ROOT, name)
    outs = {_relative(repo, out): out for out in repo.index.outs} if repo else {}
    known = sorted({str(e["name"]) for e in entries} | {o.removeprefix(f"{ROOT}/") for o in outs if o.startswith(ROOT)})
    inside = [other for other in known if PurePosixPath(other).is_relative_to(name) and other != name]
    if inside and one:
        return ArtifactError(f"{name!r}{place} is a folder of artifacts: {', '.join(inside[:12])}. Name one of them.")
    mine = [o for o in sorted(outs) if path.is_relative_to(o) or PurePosixPath(o).is_relative_to(path)]
    for out in (outs[o] for o in mine):
        if out.hash_info and out.hash_info.isdir:
            place.objects(out, name).listing()  # says what is missing
    if mine and not any(outs[o].hash_info for o in mine):
        return ArtifactError(f"{name} was never made{place}: dvc.lock lacks it. {_remake(name, files, place)}")
    if name in known:
        return ArtifactError(f"{name!r}{place} is no table: read the file {path} itself.")
    close = nearest(name, known) or f" There are: {', '.join(known[:12]) or 'none'}."
    return ArtifactError(f"No artifact is called {name!r} in {place.repo}{place}.{close}")


def _remake(name: str, files: Any, place: At) -> str:
    """The command that makes the artifact."""
    path = PurePosixPath(ROOT, name)
    outs = files.repo.index.outs if hasattr(files, "repo") else ()
    return next((place.remake(stage_of(o)) for o in outs if path.is_relative_to(_relative(files.repo, o))), "")


def _tree(home: Path) -> DirFileSystem:
    return DirFileSystem(str(home), LocalFileSystem())


def _relative(opened: Any, out: Any) -> str:
    return PurePosixPath(*opened.fs.relparts(out.fs_path, opened.root_dir)).as_posix()


@contextlib.contextmanager
def _zarr_errors(name: str) -> Iterator[None]:
    """Turns zarr's errors on opening a group that is none of ours into an ArtifactError."""
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"{name} cannot be opened: {error!r}. Expected a Zarr v3 group as Optogram writes it; nothing in it is run "
            "or unpickled. Remove it and fetch it again (`optogram pull`), or make it again."
        ) from None


class _Whole(FsspecStore):
    """To zarr a chunk that is not there is a chunk of zeros; our writer writes them all, so here it is a loss."""

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        try:
            found = await super().get(key, prototype, byte_range)
        except io.UnsupportedOperation:  # git streams its objects, which cannot be entered in the middle
            found = await super().get(key, prototype)
            found = found and found[_span(byte_range)]
        if found is None and ("/c/" in key or key.endswith("/c")) and not key.endswith("zarr.json"):
            raise ArtifactError(
                f"{self.path.removeprefix(f'{ROOT}/')}: chunk {key} is missing. Make the artifact again."
            )
        return found


def _span(wanted: ByteRequest | None) -> slice:
    """The part of an object that zarr asks for."""
    if isinstance(wanted, RangeByteRequest):
        return slice(wanted.start, wanted.end)
    if isinstance(wanted, OffsetByteRequest):
        return slice(wanted.offset, None)
    return slice(-wanted.suffix, None) if isinstance(wanted, SuffixByteRequest) else slice(None)


def _open_remote(files: Any, store: ObjectStore | None, path: str) -> xr.Dataset:
    whole = store or _Whole(AsyncFileSystemWrapper(files, asynchronous=True), read_only=True, path=path)
    return xr.open_zarr(whole, chunks={}, zarr_format=3)  # type: ignore[arg-type]


def _entries(files: Any, place: At) -> list[dict[str, Any]]:
    """One row an artifact: a Zarr group with our protocol mark, or a folder with a config.json or an index."""
    if not isinstance(files, DirFileSystem):
        place.look_into_shipped(files)
    stages = _stages(files)
    rows = []
    queue = [ROOT] if files.exists(ROOT) else []
    while queue:
        folder = queue.pop()
        listing = {PurePosixPath(e["name"]).name: e for e in _listed(files, folder)}
        name = PurePosixPath(folder).relative_to(ROOT).as_posix()
        out = next((out for out in sorted(stages) if PurePosixPath(folder).is_relative_to(out)), "")
        stage, md5 = stages.get(out, ("", ""))
        row = {"name": name, "stage": stage, "hash": md5, "dims": "", "dtype": "", "title": ""}
        if "zarr.json" in listing:
            with contextlib.suppress(FileNotFoundError):
                rows.append(row | _describe(json.loads(files.cat_file(f"{folder}/zarr.json"))))
        elif {"config.json", "index.html", "index.json"} & set(listing):
            kind = "model" if "config.json" in listing else "report" if "index.html" in listing else "figures"
            rows.append(row | {"kind": kind, "bytes": files.du(folder), "title": f"{kind} folder"})
        else:
            queue.extend(f"{folder}/{child}" for child, e in listing.items() if e["type"] == "directory")
    return sorted(rows, key=lambda row: row["name"])


def _listed(files: Any, folder: str) -> list[dict[str, Any]]:
    """What lies in a folder; nothing if DVC knows it, but no cache and no remote has its listing."""
    try:
        return files.ls(folder, detail=True)
    except FileNotFoundError:
        return []
    except Exception as error:
        from dvc_data.index.index import DataIndexDirError

        if isinstance(error, DataIndexDirError):
            return []
        raise


def _describe(group: dict[str, Any]) -> dict[str, Any]:
    import numpy as np

    arrays = group.get("consolidated_metadata", {}).get("metadata", {})
    sizes = {}
    for name, meta in arrays.items():
        item = 16 if meta["data_type"] == "string" else np.dtype(meta["data_type"]).itemsize
        sizes[name] = int(np.prod(meta["shape"], dtype=np.int64)) * item
    largest = arrays[max(sorted(sizes), key=sizes.__getitem__)] if sizes else {}
    dims = zip(largest.get("dimension_names", ()), largest.get("shape", ()), strict=True)
    return {
        "kind": "table",
        "dims": ", ".join(f"{dim} {size:,}" for dim, size in dims),
        "dtype": largest.get("data_type", ""),
        "bytes": sum(sizes.values()),
        "hash": group["attributes"].get("digest", ""),
        "title": group["attributes"].get("title", ""),
        "stage": group["attributes"].get("stage", ""),
    }


def _stages(files: Any) -> dict[str, tuple[str, str]]:
    """{out path: (stage, DVC hash)} as dvc.lock has it; empty before the first run."""
    return locked_outs(files.cat_file("dvc.lock").decode()) if files.exists("dvc.lock") else {}
