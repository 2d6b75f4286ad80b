"""Finding and opening artifacts by name: in this checkout, at any git revision, in another checkout or git URL."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd
import xarray as xr
import yaml
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem

from optogram.errors import ArtifactError, nearest
from optogram.store.read import checked, read
from optogram.store.remote import Objects, ObjectStore, dvc_errors, out_of

ROOT = "artifacts"
NOWHERE = (
    "{name} is known to DVC, but its data are neither in the cache nor in a remote ({error}). "
    "Fetch it with `optogram pull`, or make it with `dvc repro`."
)
COLUMNS = ["name", "kind", "dims", "dtype", "bytes", "hash", "stage", "title"]


def open(name: str, *, rev: str | None = None, repo: str = ".", remote: str | None = None) -> xr.Dataset:
    """Open the artifact `name` ("textspan/demo") as a lazy Dataset of dask arrays.

    Without `rev`, from the working tree of `repo`, or from its DVC cache where the tree lacks it; with `rev`, as it
    was at that git revision. `repo` is a path or a git URL, `remote` the name of a DVC remote to read from. Only the
    chunks that are touched are read. Raises ArtifactError if there is none, with the nearest names.
    """
    path = PurePosixPath(ROOT) / name
    local = Path(repo) / path
    if rev is None and (local / "zarr.json").is_file():
        with _zarr_errors(name):
            return read(local, chunks={})
    files = _files(repo, rev, remote)
    store = _object_store(files, path, name)
    if not ("zarr.json" in store.files if store else files.exists(f"{path}/zarr.json")):
        at = f" at revision {rev}" if rev else ""
        known = [str(entry["name"]) for entry in _entries(files)]
        close = nearest(name, known) or f" There are: {', '.join(known[:12]) or 'none'}."
        folder = next((e for e in _entries(files) if e["name"] == name), None)
        if folder is not None:
            raise ArtifactError(f"{name}{at} is a {folder['kind']} folder, not a table: load it from {path}.")
        raise ArtifactError(f"No artifact is called {name!r} in {repo}{at}.{close}")
    try:
        with _zarr_errors(name):
            return checked(_open_remote(files, store, str(path)), name)
    except FileNotFoundError as error:
        raise ArtifactError(NOWHERE.format(name=name, error=error)) from None


def catalog(*, rev: str | None = None, repo: str = ".") -> pd.DataFrame:
    """All artifacts: name, kind, dims, dtype, bytes, hash (content digest), stage, title; sorted by name.

    dims and dtype are those of the largest variable. Raises ArtifactError if `repo` or `rev` does not exist.
    """
    files: Any = _tree(repo) if rev is None and Path(repo).is_dir() else _files(repo, rev, None)
    return pd.DataFrame(_entries(files), columns=COLUMNS).sort_values("name", ignore_index=True)


def pull(name: str, *, repo: str = ".", remote: str | None = None) -> list[str]:
    """Fetch the artifact `name` and check it out, through DVC; return the outs fetched.

    Every object is checked against its md5, whether or not the remote's `verify` is set, and nothing reaches the tree
    unless all are right; damaged objects in the cache are dropped and fetched again. Raises ArtifactError if no out
    of the pipeline holds it, if no remote has it, or if an object is corrupted, naming the object and its address.
    """
    with _opened(repo) as opened:
        opened.drop_data_index()  # listings that DVC has read before, and believed
        outs = _outs(opened, name)
        stored = [Objects(out, name, remote) for out in outs if out.hash_info and out.hash_info.isdir]
        for objects in stored:
            objects.prepare_cache()
        try:
            with dvc_errors(f"{name} could not be fetched"):
                opened.pull(targets=[out.fs_path for out in outs], remote=remote)
        except ArtifactError as error:
            for objects in stored:
                objects.check_remote(only_missing=True)
            raise ArtifactError(
                f"{error} Make it with `dvc repro`, or name a remote that has it (`dvc remote list`)."
            ) from None
        return [_relative(opened, out) for out in outs]


def repair(name: str, *, repo: str = ".", remote: str | None = None) -> list[str]:
    """Replace each object of `name` that a remote lacks or has damaged by the one in this cache; return their names.

    `dvc push` would not: it takes an object that is there to be right, and all of a folder to be there if its listing
    is. Reads the whole artifact from the remote. Raises ArtifactError for an object that is not right in the cache.
    """
    with _opened(repo) as opened:
        stored = [Objects(out, name, remote) for out in _outs(opened, name) if out.hash_info and out.hash_info.isdir]
        return [oid for objects in stored for oid in objects.repair_remote()]


@contextlib.contextmanager
def _opened(repo: str) -> Iterator[Any]:
    """The DVC repository at `repo`, as if `verify true` stood at each of its remotes."""
    from dvc.repo import Repo

    with dvc_errors(f"{repo} cannot be read"):
        with Repo(repo) as opened:
            verified = {"remote": {name: {"verify": True} for name in opened.config["remote"]}}
        with Repo(repo, config=verified) as opened:
            yield opened


def _outs(opened: Any, name: str) -> list[Any]:
    """The outs that hold the artifact `name`, or lie in the folder of that name."""
    path = PurePosixPath(ROOT) / name
    outs = {_relative(opened, out): out for out in opened.index.outs}
    found = [o for o in sorted(outs) if path.is_relative_to(o) or PurePosixPath(o).is_relative_to(path)]
    if not found:
        known = [PurePosixPath(out).relative_to(ROOT).as_posix() for out in sorted(outs) if out.startswith(f"{ROOT}/")]
        raise ArtifactError(f"No stage makes {name!r}.{nearest(name, known)}")
    return [outs[out] for out in found]


def below(name: str, *, rev: str | None = None, repo: str = ".") -> dict[str, str]:
    """{artifact: kind} of `name` itself, or of all that lies below it ("embeddings/demo"); found as `open` does.

    Raises ArtifactError if there is nothing, with the nearest names.
    """
    local = rev is None and (Path(repo) / ROOT / name).exists()
    files: Any = _tree(repo) if local else _files(repo, rev, None)
    entries = _entries(files)
    found = {e["name"]: e["kind"] for e in entries if PurePosixPath(e["name"]).is_relative_to(name)}
    if not entries and rev:
        raise ArtifactError(f"{repo} has no artifacts at revision {rev}. Expected a branch, a tag or a commit.")
    if not found and any(PurePosixPath(out).is_relative_to(f"{ROOT}/{name}") for out in _stages(files)):
        raise ArtifactError(NOWHERE.format(name=name, error="no listing"))
    if not found:
        known = sorted({str(p) for e in entries for p in (e["name"], PurePosixPath(e["name"]).parent) if str(p) != "."})
        close = nearest(name, known) or f" There are: {', '.join(known[:12]) or 'none'}."
        raise ArtifactError(f"No artifact is called {name!r} in {repo}{f' at revision {rev}' if rev else ''}.{close}")
    return found


def copy(name: str, target: Path, *, rev: str | None = None, repo: str = ".") -> None:
    """Copy an artifact's files into the new folder `target`, from wherever they are. ArtifactError if nowhere."""
    path = f"{ROOT}/{name}"
    local = rev is None and (Path(repo) / path).exists()
    files: Any = _tree(repo) if local else _files(repo, rev, None)
    try:
        files.get(path, str(target), recursive=True)
    except FileNotFoundError as error:
        raise ArtifactError(NOWHERE.format(name=name, error=error)) from None


def read_text(path: str, *, rev: str | None = None, repo: str = ".") -> str | None:
    """A text file of a repository, such as dvc.lock; None where there is none."""
    files: Any = _files(repo, rev, None)
    return files.cat_file(path).decode() if files.exists(path) else None


def _absolute(repo: str) -> str:
    """A path as an absolute one: fsspec keeps file systems by their arguments, and "." is not always the same place."""
    return str(Path(repo).resolve()) if Path(repo).is_dir() else repo


def _tree(repo: str) -> DirFileSystem:
    return DirFileSystem(_absolute(repo), LocalFileSystem())


def _relative(opened: Any, out: Any) -> str:
    return PurePosixPath(*opened.fs.relparts(out.fs_path, opened.root_dir)).as_posix()


def _files(repo: str, rev: str | None, remote: str | None) -> Any:
    """The files of a DVC repository, DVC-tracked ones included, read from wherever they are."""
    from dvc.api import DVCFileSystem
    from dvc.exceptions import NotDvcRepoError

    with dvc_errors(f"{repo} cannot be read{f' at revision {rev}' if rev else ''}"):
        try:
            files = DVCFileSystem(url=_absolute(repo), rev=rev, remote=remote)
            assert files.repo  # opened lazily
            return files
        except NotDvcRepoError:
            raise ArtifactError(
                f"{repo} is not a DVC repository, and holds no {ROOT}/ folder with that name."
            ) from None


def _object_store(files: Any, path: PurePosixPath, name: str) -> ObjectStore | None:
    """The artifact's files in DVC's object stores; None if DVC has no folder for it (git has it, or nobody)."""
    with dvc_errors(f"{name} cannot be read"):
        found = out_of(files.repo, path)
        return ObjectStore(Objects(found[0], name), found[1]) if found else None


@contextlib.contextmanager
def _zarr_errors(name: str) -> Iterator[None]:
    """Turns zarr's errors on opening a group that is none of ours into an ArtifactError."""
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"{name} cannot be opened: {error!r}. Expected a Zarr v3 group as Optogram writes it; nothing in it is run "
            "or unpickled. Fetch it again (`optogram pull`), or make it again (`dvc repro`)."
        ) from None


def _open_remote(files: Any, store: ObjectStore | None, path: str) -> xr.Dataset:
    from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
    from zarr.storage import FsspecStore

    class Whole(FsspecStore):
        """To zarr a chunk that is not there is a chunk of zeros; our writer writes them all, so here it is a loss."""

        async def get(self, key: str, *args: Any, **options: Any) -> Any:
            found = await super().get(key, *args, **options)
            if found is None and ("/c/" in key or key.endswith("/c")) and not key.endswith("zarr.json"):
                raise ArtifactError(NOWHERE.format(name=path.removeprefix(f"{ROOT}/"), error=f"chunk {key} is missing"))
            return found

    whole = store or Whole(AsyncFileSystemWrapper(files, asynchronous=True), read_only=True, path=path)
    return xr.open_zarr(whole, chunks={}, zarr_format=3)  # type: ignore[arg-type]


def _entries(files: Any) -> list[dict[str, Any]]:
    """One row an artifact: a Zarr group with our protocol mark, or a folder with a config.json or an index."""
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
    if not files.exists("dvc.lock"):
        return {}
    lock = yaml.safe_load(files.cat_file("dvc.lock")) or {}
    return {
        out["path"]: (stage, out.get("md5", ""))
        for stage, entry in lock.get("stages", {}).items()
        for out in entry.get("outs", ())
    }
