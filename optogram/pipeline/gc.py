"""`optogram gc`: what can go from DVC's cache and from the scratch folder, and taking it out."""

import json
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optogram.errors import ArtifactError
from optogram.store.disk import open_lock, try_lock

# only what store/write.py names so: anything else in there is not ours to judge
KEY = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Unused:
    """Objects in DVC's cache that nothing kept uses."""

    paths: tuple[Path, ...]
    bytes: int


@dataclass(frozen=True)
class Scratch:
    """What a run that was cut off left: its folder (and lock), what it would have become, age in seconds, size."""

    folder: Path
    belongs: str
    age: float
    bytes: int
    busy: bool


def unused_objects(repo: str = ".", *, all_commits: bool = False) -> Unused:
    """What `drop_unused` would take out of DVC's cache: all but what the workspace, HEAD, branches and tags use.

    `all_commits` keeps what any commit uses. Raises ArtifactError if the cache is not this checkout's own: others may
    use what this one does not.
    """
    with _own_cache(repo) as opened:
        kept = {**_kept(all_commits), "revs": ["HEAD"]}
        used = {oid.value for found in opened.used_objs(**kept, force=True).values() for oid in found}
        paths = []
        # the listings of folders count too; the run cache is small, and DVC's gc leaves it
        for odb in {id(odb): odb for _, odb in opened.cache.by_scheme() if odb}.values():
            paths += [Path(odb.oid_to_path(oid)) for oid in odb.all() if oid not in used]
    return Unused(tuple(sorted(paths)), sum(path.stat().st_size for path in paths))


def drop_unused(repo: str = ".", *, all_commits: bool = False) -> None:
    """Let DVC take out of its cache what `unused_objects` names, looked up anew under DVC's lock."""
    with _own_cache(repo) as opened:
        opened.gc(workspace=True, rev="HEAD", **_kept(all_commits), force=True)


def scratch_folders(repo: str = ".") -> list[Scratch]:
    """Everything that runs have left or are making in `.scratch/`, oldest first; `busy` if a process holds its lock."""
    root = Path(repo) / ".scratch"
    names = {path.name.removesuffix(".lock") for path in root.glob("*")} if root.is_dir() else set()
    known = _known_tables(Path(repo))
    found = []
    for name in sorted(filter(KEY.fullmatch, names)):
        folder = root / name
        files = [path for path in [root / f"{name}.lock", *folder.rglob("*")] if path.is_file()]
        newest = max((path.stat().st_mtime for path in files), default=time.time())
        size = sum(path.stat().st_size for path in files)
        with _locked(folder) as free:
            found.append(Scratch(folder, _belongs(folder, known), max(time.time() - newest, 0.0), size, not free))
    return sorted(found, key=lambda scratch: -scratch.age)


def drop_scratch(scratch: Scratch) -> bool:
    """Remove a scratch folder and its lock, unless a process has taken it in the meantime; whether it went."""
    with _locked(scratch.folder) as free:
        if free:
            shutil.rmtree(scratch.folder, ignore_errors=True)
            _lock_of(scratch.folder).unlink(missing_ok=True)
        return free


@contextmanager
def _own_cache(repo: str) -> Iterator[Any]:
    """The DVC repository, its cache being in its own `.dvc` and no remote's folder."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(repo) as opened:
            cache, home = Path(opened.cache.local.path).resolve(), Path(opened.root_dir).resolve() / ".dvc"
            remotes = [Path(remote["url"]).resolve() for remote in opened.config["remote"].values()]
            shared = [remote for remote in remotes if cache.is_relative_to(remote)]
            if not cache.is_relative_to(home) or shared:
                raise ArtifactError(
                    f"DVC's cache is {cache}, outside {home} or in a remote; others may use what this checkout does "
                    "not. Name them all: `dvc gc --workspace --all-branches --all-tags --projects OTHER …`."
                )
            yield opened
    except DvcException as error:
        cause = f": {error.__cause__}" if error.__cause__ else ""
        raise ArtifactError(f"{repo}: DVC cannot tell what is in use ({error}{cause}). Nothing was removed.") from None


def _kept(all_commits: bool) -> dict[str, bool]:
    """For DVC; HEAD is named besides, as a detached one may be on no branch."""
    return {"all_branches": True, "all_tags": True, "all_commits": all_commits}


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Hold the writer's own lock while looking or removing; False if a running process holds it."""
    path = _lock_of(folder)
    made = not path.exists()
    with open_lock(path) as lock:
        free = try_lock(lock)
        yield free
        if free and made:
            path.unlink(missing_ok=True)


def _belongs(folder: Path, known: dict[frozenset[str], list[str]]) -> str:
    """What the folder would have become, as far as its content tells: the key itself is a digest."""
    store = folder / "store"
    if not store.is_dir():
        return "a training run or a folder of files" if folder.is_dir() else "a lock only"
    variables = frozenset(path.name for path in store.iterdir() if path.is_dir())
    shards = len(list((folder / "marks").glob("*.json")))
    done = f"{shards} shard{'' if shards == 1 else 's'} done"
    if names := known.get(variables):
        return f"like {names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}, {done}"
    return f"a table of {', '.join(sorted(variables)[:4]) or 'nothing yet'}, {done}"


def _known_tables(repo: Path) -> dict[frozenset[str], list[str]]:
    """{names of variables: artifacts in the tree that have just these}."""
    known: dict[frozenset[str], list[str]] = {}
    for path in sorted((repo / "artifacts").glob("*/**/zarr.json")):
        try:
            group = json.loads(path.read_text())
        except (OSError, ValueError):
            continue
        if "protocol" in group.get("attributes", {}):
            variables = frozenset(group.get("consolidated_metadata", {}).get("metadata", {}))
            known.setdefault(variables, []).append(path.parent.relative_to(repo / "artifacts").as_posix())
    return known
