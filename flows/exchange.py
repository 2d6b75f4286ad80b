"""Room flows: what clones give each other: dvc.lock entries, and data through the DVC remote.

Only `core.remote` is shared. Outs that name a remote of their own (the shipped checkpoint's lies inside each clone) are
sent to the shared one as well, and looked for there.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from dvc.config import NoRemoteError
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.utils.serialize import dump_yaml, load_yaml

from flows.child import environment
from flows.graph import LOCK, locked
from optogram.catalog import find as catalog
from optogram.catalog.find import ROOT
from optogram.errors import FlowError


def check_remote() -> None:
    """FlowError unless this checkout has a default DVC remote whose objects are verified when they are fetched."""
    with Repo(".") as repo:
        name = repo.config["core"].get("remote")
        if not name or name not in repo.config["remote"]:
            raise FlowError(
                f"{Path.cwd()} has no default DVC remote, through which runs in pools exchange data. Set one: "
                "`dvc remote add -d lab ssh://host/folder`."
            )
        if not repo.config["remote"][name].get("verify"):
            raise FlowError(
                f"DVC remote {name!r} is not verified: a damaged object would be taken as it is. "
                f"Set `dvc remote modify {name} verify true`."
            )


def put_lock(text: str) -> None:
    """Take over the dvc.lock that the asking run handed out; before the pipeline's first run there is none."""
    if text:
        LOCK.write_text(text)
    else:
        LOCK.unlink(missing_ok=True)


def stage_entry(name: str) -> dict[str, Any]:
    """dvc.lock's entry for a stage."""
    return locked()[name]


def handed_in(name: str) -> dict[str, str]:
    """{path: text} of the stage's outs that git tracks, not DVC (metrics)."""
    with Repo(".") as repo:
        outs = [out for stage in repo.stage.collect(name) for out in stage.outs if not out.use_cache]
        return {Path(out.fs_path).relative_to(repo.root_dir).as_posix(): Path(out.fs_path).read_text() for out in outs}


def merge(name: str, entry: dict[str, Any], files: dict[str, str], order: Sequence[str]) -> None:
    """Put a worker's lock entry and metrics into this checkout.

    What lies here under the stage's outs belongs to the old entry: it leaves the working tree (DVC's cache keeps it).
    """
    if locked().get(name) != entry:
        for out in entry.get("outs", ()):
            path = Path(out["path"])
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    for path, text in files.items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text)
    tidy(order, {name: entry})


def tidy(order: Sequence[str], changed: dict[str, Any] | None = None) -> None:
    """Write dvc.lock with its stages in the order in which a plain `dvc repro` gets them done."""
    if not LOCK.exists() and not changed:
        return
    lock: dict[str, Any] = load_yaml(str(LOCK)) if LOCK.exists() else {"schema": "2.0"}
    stages = {**lock.get("stages", {}), **(changed or {})}
    place = {name: number for number, name in enumerate(order)}
    names = sorted(stages, key=lambda name: place.get(name, len(place)))
    if changed or names != list(stages):
        dump_yaml(str(LOCK.with_suffix(".tmp")), {**lock, "stages": {name: stages[name] for name in names}})
        LOCK.with_suffix(".tmp").replace(LOCK)


def send_inputs(names: Iterable[str]) -> None:
    """Push what these stages made here, as far as it is here, for workers to read."""
    for name in sorted(names):
        send_outs(name, missing_ok=True)


def send_outs(name: str, *, missing_ok: bool = False) -> None:
    """Push a stage's outs and its run-cache entry to the default remote. FlowError if that fails."""
    words = [sys.executable, "-m", "dvc", "--quiet", "push", "--run-cache", name]
    done = subprocess.run(words, capture_output=True, text=True, env=environment())
    with Repo(".") as repo:
        own = [out for stage in repo.stage.collect(name) for out in stage.outs if out.remote and out.hash_info]
        try:
            if objects := [found for out in own if out.exists for found in out.get_used_objs().values()]:
                repo.cloud.push([found for group in objects for found in group])
        except (DvcException, NoRemoteError) as error:
            raise FlowError(f"{name} could not be pushed: {error}") from None
    if done.returncode and not missing_ok:
        raise FlowError(f"{name} could not be pushed: {done.stderr.strip()[-500:]}")


def fetch_inputs(name: str) -> None:
    """Get what the stage reads into this clone, every object checked; ArtifactError for one that is corrupted."""
    with Repo(".") as repo:
        stage = next(iter(repo.stage.collect(name)))
        upstream = [out for found in repo.index.graph.successors(stage) for out in found.outs]
        for out in [out for out in (*upstream, *stage.outs) if out.remote and out.hash_info and not out.exists]:
            for group in out.get_used_objs().values():
                try:
                    repo.cloud.pull(group)
                    out.checkout()
                except (DvcException, NoRemoteError, FileNotFoundError):
                    continue  # not sent by anyone: its own remote, or the stage itself, has it
        paths = [PurePosixPath(Path(out.fs_path).relative_to(repo.root_dir)) for out in upstream if not out.exists]
    for path in paths:
        if path.is_relative_to(ROOT):
            catalog.pull(path.relative_to(ROOT).as_posix())


def present(paths: Iterable[str]) -> bool:
    """Whether any of these outs lies in the working tree."""
    return any(Path(path).exists() for path in paths)


def pull(names: Sequence[str]) -> None:
    """Get stages' outs into the working tree. FlowError if a remote lacks them."""
    words = [sys.executable, "-m", "dvc", "--quiet", "pull", "--allow-missing", *names]
    done = subprocess.run(words, capture_output=True, text=True, env=environment())
    if done.returncode:
        raise FlowError(f"What the workers made could not be fetched: {done.stderr.strip()[-500:]}")


def nothing_to_do(names: Iterable[str]) -> str:
    """Ask DVC itself: "" if `dvc repro --allow-missing` has nothing to run for these stages, else what it would run."""
    words = [sys.executable, "-m", "dvc", "repro", "--allow-missing", "--dry", *names]
    done = subprocess.run(words, capture_output=True, text=True, env=environment())
    would = [line for line in done.stdout.splitlines() if line.startswith("Running stage")]
    return "" if done.returncode == 0 and not would else "\n".join(would) or done.stderr.strip()[-500:]
