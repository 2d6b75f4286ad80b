"""`optogram ship`: the findings of a finished piece of work, put into the repository, where every clone has them."""

import json
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optogram.catalog.at import ROOT, At, locked_outs
from optogram.catalog.remote import SHIPPED, dvc_errors
from optogram.errors import ArtifactError, nearest
from optogram.pipeline.clone import git, top
from optogram.store.disk import refusals_explained

FINDINGS = f"{SHIPPED}/findings.txt"
LIMIT = 10_000_000


@dataclass(frozen=True)
class Shipment:
    """What was shipped: bytes of each finding, and how many objects came and went, in `files/md5` of the folder."""

    sizes: dict[str, int]
    added: int
    dropped: int


def ship(repo: str = ".", *, limit: int = LIMIT) -> Shipment:
    """Copy the findings that `.dvc/shipped/findings.txt` names from DVC's cache into `.dvc/shipped`.

    Findings of earlier work go, unless HEAD or a revision since the last release (a git tag) has them; anything else
    in the folder (checkpoints) stays. Raises ArtifactError, before anything is written, for a name that no stage
    makes, for a finding that is stale or not in the cache, for a damaged listing in the folder, or if all together are
    larger than `limit` bytes.
    """
    from dvc.repo import Repo

    place = At(repo, None)
    with dvc_errors(f"{place.repo} cannot be read"), Repo(place.repo) as opened:
        outs = _chosen(opened, place, _names(Path(place.repo, FINDINGS)))
        _refuse_stale(opened, outs)
        objects = {name: place.objects(out, name) for name, out in outs.items()}
        needed = {name: [found.root, *dict.fromkeys(found.listing().values())] for name, found in objects.items()}
        held = {oid: objects[name].whole(oid) for name, oids in needed.items() for oid in oids}
    sizes = {name: sum(len(held[oid]) for oid in oids) for name, oids in needed.items()}
    if sum(sizes.values()) > limit:
        largest = sorted(sizes, key=sizes.__getitem__, reverse=True)[:3]
        raise ArtifactError(
            f"The findings are {sum(sizes.values()) / 1e6:,.2f} MB, expected at most {limit / 1e6:,.2f} MB. Largest: "
            f"{', '.join(f'{name} ({sizes[name] / 1e6:,.2f} MB)' for name in largest)}. Take some out of {FINDINGS}."
        )
    shelf = Path(place.repo, SHIPPED, "files/md5")
    wanted = _wanted(place.repo)
    # before anything is written: a damaged listing is an error
    listings = {path.parent.name + path.name: _listed(path) for path in shelf.glob("??/*.dir")}
    with refusals_explained(shelf):
        added = sum(_put(shelf, oid, data) for oid, data in held.items())
        return Shipment(sizes, added, _drop(shelf, listings, set(held) | wanted))


def _names(path: Path) -> list[str]:
    if not path.is_file():
        raise ArtifactError(f"There is no {path}. It names the artifacts to ship, one a line.")
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    return list(dict.fromkeys(line for line in lines if line))


def _chosen(opened: Any, place: At, names: list[str]) -> dict[str, Any]:
    outs = {opened.fs.relpath(out.fs_path, opened.root_dir): out for out in opened.index.outs}
    known = [path.removeprefix(f"{ROOT}/") for path in outs]
    for name in names:
        if place.plain(name) not in known:
            raise ArtifactError(
                f"{FINDINGS} names {name!r}, which no stage makes with these params.{nearest(name, known)} What is "
                "shipped are the demo's findings: `optogram profile demo`, `dvc repro`."
            )
    return {name: outs[f"{ROOT}/{place.plain(name)}"] for name in names}


def _refuse_stale(opened: Any, outs: dict[str, Any]) -> None:
    """A finding is stale if its stage, or one that leads to it, would run again."""
    status = opened.status(targets=sorted({out.stage.addressing for out in outs.values()}), with_deps=True)
    stale = [name for name, changes in status.items() if not name.endswith(".dvc") and not _only_uncached(changes)]
    # DVC looks at an out itself only if the cache has it
    stale += [out.stage.addressing for out in outs.values() if "modified" in out.workspace_status().values()]
    stale = list(dict.fromkeys(stale))
    if stale:
        more = f" and {len(stale) - 5} more" if len(stale) > 5 else ""
        raise ArtifactError(f"Stale: {', '.join(stale[:5])}{more}. Run `dvc repro` first; nothing was shipped.")


def _only_uncached(changes: list[Any]) -> bool:
    """Whether nothing is wrong with a stage but that outs are not in the cache, where findings are looked for later."""
    return all(isinstance(one, dict) and {*one.get("changed outs", {}).values()} == {"not in cache"} for one in changes)


def _put(shelf: Path, oid: str, data: bytes) -> bool:
    """Write an object, whole or not at all; whether it was new."""
    path = shelf / oid[:2] / oid[2:]
    if path.is_file() and path.read_bytes() == data:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_bytes(data)
    part.replace(path)
    return True


def _drop(shelf: Path, listings: dict[str, dict[str, str]], wanted: set[str]) -> int:
    """Remove the findings of these listings that nothing needs any more; the number of objects that went."""
    findings = {oid for oid, files in listings.items() if "zarr.json" in files}
    kept = (set(listings) - findings) | wanted
    gone = {oid for listing in findings - kept for oid in (listing, *listings[listing].values())}
    gone -= kept | {md5 for oid in kept & set(listings) for md5 in listings[oid].values()}
    for oid in gone:
        (shelf / oid[:2] / oid[2:]).unlink(missing_ok=True)
    return len(gone)


def _listed(path: Path) -> dict[str, str]:
    try:
        return {entry["relpath"]: entry["md5"] for entry in json.loads(path.read_text())}
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{path} is damaged: expected a listing of files as DVC writes it, found no such JSON ({error}). Take it "
            f"from git: `git checkout HEAD {shlex.quote(str(path))}`. Nothing was shipped."
        ) from None


def _wanted(repo: str) -> set[str]:
    """Hashes of all outs that HEAD has locked, or the last release, or a revision since."""
    home = top(Path(repo))
    lock = Path(repo).resolve().relative_to(home.resolve()).joinpath("dvc.lock").as_posix()
    # for-each-ref, as `git describe` fails where there is no tag
    tags = git(home, "for-each-ref", "--merged=HEAD", "--sort=-creatordate", "--format=%(refname)", "refs/tags").split()
    since = git(home, "log", "--format=%H", f"{tags[0]}..HEAD", "--", lock).split() if tags else []
    texts = (git(home, "show", f"{rev}:{lock}") for rev in ("HEAD", *tags[:1], *since) if _has(home, rev, lock))
    return {md5 for text in texts for _, md5 in locked_outs(text).values()}


def _has(home: Path, rev: str, path: str) -> bool:
    return bool(git(home, "ls-tree", "--name-only", rev, path).strip())
