"""Finding and opening artifacts by name: in this checkout, at any git revision, in another checkout or git URL."""

import contextlib
import json
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd
import xarray as xr
import yaml
from fsspec import AbstractFileSystem
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem

from optogram.errors import ArtifactError, nearest
from optogram.store.read import checked, read

ROOT = "artifacts"
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
        return read(local, chunks={})
    files = _files(repo, rev, remote)
    if not files.exists(f"{path}/zarr.json"):
        at = f" at revision {rev}" if rev else ""
        known = [str(entry["name"]) for entry in _entries(files)]
        close = nearest(name, known) or f" There are: {', '.join(known[:12]) or 'none'}."
        folder = next((e for e in _entries(files) if e["name"] == name), None)
        if folder is not None:
            raise ArtifactError(f"{name}{at} is a {folder['kind']} folder, not a table: load it from {path}.")
        raise ArtifactError(f"No artifact is called {name!r} in {repo}{at}.{close}")
    try:
        return checked(_open_remote(files, str(path)), name)
    except FileNotFoundError as error:
        raise ArtifactError(
            f"{name} is known to DVC, but its data are neither in the cache nor in a remote ({error}). "
            "Fetch it with `optogram pull`, or make it with `dvc repro`."
        ) from None


def catalog(*, rev: str | None = None, repo: str = ".") -> pd.DataFrame:
    """All artifacts: name, kind, dims, dtype, bytes, hash (content digest), stage, title; sorted by name.

    dims and dtype are those of the largest variable. Raises ArtifactError if `repo` or `rev` does not exist.
    """
    files: Any = (
        DirFileSystem(repo, LocalFileSystem()) if rev is None and Path(repo).is_dir() else _files(repo, rev, None)
    )
    return pd.DataFrame(_entries(files), columns=COLUMNS).sort_values("name", ignore_index=True)


def pull(name: str, *, repo: str = ".") -> list[str]:
    """Fetch the artifact `name` and check it out, through DVC; return the outs fetched.

    Raises ArtifactError if no out of the pipeline holds it or no remote has it.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    path = PurePosixPath(ROOT) / name
    with Repo(repo) as opened:
        outs = sorted(Path(out.fs_path).relative_to(opened.root_dir).as_posix() for out in opened.index.outs)
        targets = [out for out in outs if path.is_relative_to(out) or PurePosixPath(out).is_relative_to(path)]
        if not targets:
            known = [PurePosixPath(out).relative_to(ROOT).as_posix() for out in outs if out.startswith(f"{ROOT}/")]
            raise ArtifactError(f"No stage makes {name!r}.{nearest(name, known)}")
        try:
            opened.pull(targets=[str(Path(opened.root_dir) / out) for out in targets])
        except DvcException as error:
            raise ArtifactError(
                f"{name} could not be fetched: {error} Make it with `dvc repro`, or name a remote that has it "
                "(`dvc remote list`)."
            ) from None
    return targets


def _files(repo: str, rev: str | None, remote: str | None) -> AbstractFileSystem:
    """The files of a DVC repository, DVC-tracked ones included, read from wherever they are."""
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException, NotDvcRepoError
    from scmrepo.exceptions import SCMError

    try:
        return DVCFileSystem(url=repo, rev=rev, remote=remote)
    except NotDvcRepoError:
        raise ArtifactError(f"{repo} is not a DVC repository, and holds no {ROOT}/ folder with that name.") from None
    except (SCMError, DvcException) as error:
        raise ArtifactError(f"{repo} cannot be read{f' at revision {rev}' if rev else ''}: {error}") from None


def _open_remote(files: AbstractFileSystem, path: str) -> xr.Dataset:
    from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
    from zarr.storage import FsspecStore

    store = FsspecStore(AsyncFileSystemWrapper(files, asynchronous=True), read_only=True, path=path)
    return xr.open_zarr(store, chunks={}, zarr_format=3)  # type: ignore[arg-type]


def _entries(files: Any) -> list[dict[str, Any]]:
    """One row an artifact: a Zarr group with our protocol mark, or a folder with a config.json or index.html."""
    stages = _stages(files)
    rows = []
    queue = [ROOT] if files.exists(ROOT) else []
    while queue:
        folder = queue.pop()
        listing = {PurePosixPath(e["name"]).name: e for e in files.ls(folder, detail=True)}
        name = PurePosixPath(folder).relative_to(ROOT).as_posix()
        out = next((out for out in sorted(stages) if PurePosixPath(folder).is_relative_to(out)), "")
        stage, md5 = stages.get(out, ("", ""))
        row = {"name": name, "stage": stage, "hash": md5, "dims": "", "dtype": "", "title": ""}
        if "zarr.json" in listing:
            with contextlib.suppress(FileNotFoundError):
                rows.append(row | _describe(json.loads(files.cat_file(f"{folder}/zarr.json"))))
        elif "config.json" in listing or "index.html" in listing:
            kind = "model" if "config.json" in listing else "report"
            rows.append(row | {"kind": kind, "bytes": files.du(folder), "title": f"{kind} folder"})
        else:
            queue.extend(f"{folder}/{child}" for child, e in listing.items() if e["type"] == "directory")
    return sorted(rows, key=lambda row: row["name"])


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
