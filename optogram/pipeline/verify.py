"""`optogram verify`: recompute stages in a throw-away clone, each from its locked inputs, and compare with dvc.lock."""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from optogram.catalog.compare import Change, Tolerance, compare_paths
from optogram.errors import ArtifactError, nearest
from optogram.pipeline.clone import Clone, Unavailable, md5, throw_away_clone
from optogram.pipeline.warm import warm_stages
from optogram.progress import progress, say

State = Literal["equal", "within", "differs", "unverified"]


@dataclass(frozen=True)
class Verdict:
    """What became of one stage. `changes` pairs each out that differs with what differs in it."""

    stage: str
    state: State
    seconds: float = 0.0
    reason: str = ""
    notes: tuple[str, ...] = ()
    changes: tuple[tuple[str, Change], ...] = ()


def verify(
    names: Sequence[str] = (),
    *,
    rev: str | None = None,
    repo: str = ".",
    tolerance: Tolerance | None = None,
    tell: Callable[[Verdict], None] = lambda verdict: None,
) -> list[Verdict]:
    """Recompute stages and compare their outs with dvc.lock; one Verdict a stage, each told as it comes.

    `names` are stages (`textspan@demo`) or groups of them (`textspan`); none = all of dvc.yaml. Without `rev`, the
    working tree is verified: code, params and dvc.lock as they lie there, uncommitted edits included. Every stage
    starts from the same files and from its own locked inputs, so one that differs does not spoil the next. Nothing is
    written into the checkout or its cache. Raises ArtifactError for an unknown stage or revision, no repository, or
    too small a disk.
    """
    with throw_away_clone(Path(repo), rev) as clone:
        chosen = _chosen(names, clone)
        _check_disk(clone, chosen)
        verdicts = []
        with warm_stages(clone.root, stages=len(chosen)) as warm, progress("verify", len(chosen), "stages") as advance:
            for stage in chosen:
                say(f"{stage}: recomputing")
                verdicts.append(_recompute(clone, stage, tolerance or Tolerance(), warm))
                tell(verdicts[-1])
                advance(1)
        return verdicts


def _chosen(names: Sequence[str], clone: Clone) -> list[str]:
    known = list(clone.stages)
    wanted: set[str] = set()
    for name in names:
        found = [stage for stage in known if name in (stage, stage.partition("@")[0])]
        if not found:
            groups = sorted({stage.partition("@")[0] for stage in known})
            close = nearest(name, [*known, *groups]) or f" There are: {', '.join(groups)}."
            raise ArtifactError(f"No stage is called {name!r}.{close}")
        wanted |= {*found}
    return [stage for stage in known if stage in wanted or not names]


def _check_disk(clone: Clone, stages: list[str]) -> None:
    """Inputs, outs and, to compare with, the locked outs of the largest stage."""
    entries = [clone.lock.get(stage, {}) for stage in stages]
    sizes = [sum(d.get("size", 0) for d in [*e.get("deps", ()), *e.get("outs", ()) * 2]) for e in entries]
    free = shutil.disk_usage(clone.folder).free
    if max(sizes, default=0) > free:
        raise ArtifactError(
            f"{stages[sizes.index(max(sizes))]} needs about {max(sizes) / 1e9:,.2f} GB in {clone.folder.parent}, which "
            f"has {free / 1e9:,.2f} GB free. Set TMPDIR to a folder on a larger disk."
        )


def _recompute(clone: Clone, stage: str, tolerance: Tolerance, warm: dict[str, str]) -> Verdict:
    started = time.monotonic()
    locked = clone.lock.get(stage)
    if locked is None:
        return Verdict(stage, "unverified", reason="dvc.lock does not have it yet; `dvc repro` makes and locks it")
    deps, outs = locked.get("deps", []), locked.get("outs", [])
    for out in outs:
        if not (clone.root / out["path"]).resolve().is_relative_to(clone.root):
            return Verdict(stage, "unverified", reason=f"it writes {out['path']}, which lies outside the checkout")
    clone.reset()
    threads = clone.use_threads(stage)
    held = {dep["path"] for dep in deps if not Path(dep["path"]).is_absolute() and (clone.root / dep["path"]).exists()}
    kept = _kept_by_git(clone, outs)
    try:
        for dep in deps:
            if dep["path"] not in held and dep["path"] in clone.stages[stage]:
                clone.lay_input(dep)
    except Unavailable as error:
        return Verdict(stage, "unverified", time.monotonic() - started, f"{error}{_way_out(clone, error.path)}")
    if log := clone.run(stage, warm):
        return Verdict(stage, "unverified", time.monotonic() - started, f"it failed in the clone:\n{log}")
    made = clone.locked()[stage]
    notes, wrong = _drift(locked, made, held)
    notes = (threads, *notes) if threads else notes
    if wrong:
        return Verdict(stage, "unverified", time.monotonic() - started, wrong, notes)
    changes: list[tuple[str, Change]] = []
    now = {out["path"]: out.get("md5") for out in made.get("outs", ())}
    differing = [out for out in outs if now.get(out["path"]) != out.get("md5")]
    for out in differing:
        changes += [(out["path"], change) for change in _compare(clone, out, kept.get(out["path"]), tolerance)]
    seconds = time.monotonic() - started
    if not differing:
        for out in outs:
            if out["path"] not in kept:
                clone.keep(out)
        return Verdict(stage, "equal", seconds, notes=notes)
    state: State = "within" if all(change.within for _, change in changes) else "differs"
    return Verdict(stage, state, seconds, notes=notes, changes=tuple(changes))


def _way_out(clone: Clone, path: str) -> str:
    """Which stage makes an input that is nowhere: what is verified along with it and comes out equal is kept for it."""
    made = {out["path"]: stage for stage, entry in clone.lock.items() for out in entry.get("outs", ())}
    return f". Name {made[path]} too, which makes it on the way" if path in made else ""


def _kept_by_git(clone: Clone, outs: list[dict[str, Any]]) -> dict[str, Path]:
    """Copies of the outs that lie in git and not in DVC's cache (metrics), as far as they are the locked ones."""
    kept = {}
    for k, out in enumerate(outs):
        path = clone.root / out["path"]
        if path.is_file() and md5(path) == out.get("md5"):
            kept[out["path"]] = clone.folder / "kept" / str(k) / path.name
            kept[out["path"]].parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, kept[out["path"]])
    return kept


def _compare(clone: Clone, out: dict[str, Any], kept: Path | None, tolerance: Tolerance) -> list[Change]:
    """What differs between a locked out and the one just made."""
    made = clone.root / out["path"]
    if not made.exists():
        return [Change("", "removed", "is not made any more")]
    locked = kept or clone.folder / "locked" / made.name
    try:
        if not kept:
            clone.lay(out, locked)
        changes = compare_paths(locked, made, tolerance)
    except Unavailable as error:
        return [Change("", "file", f"the bytes differ; by how much cannot be told: {error}")]
    finally:
        shutil.rmtree(clone.folder / "locked", ignore_errors=True)
    # no value differs: compression, the layout of chunks, the order of keys
    return changes or [Change("", "file", "the bytes differ, but no value does", absolute=0.0, relative=0.0)]


def _drift(locked: dict[str, Any], made: dict[str, Any], held: set[str]) -> tuple[tuple[str, ...], str]:
    """What the lock was made with and the run was not: notes about code and params, and what is wrong with the data."""
    was, now = ({dep["path"]: dep.get("md5") for dep in entry.get("deps", ())} for entry in (locked, made))
    differ = [path for path in sorted({*was, *now}) if was.get(path) != now.get(path)]
    data = [path for path in differ if path in was and path in now and path not in held]
    code = [path for path in differ if path not in data]
    notes = [f"changed since dvc.lock was written: {', '.join(code)}"] if code else []
    old, new = (
        {key: value for values in e.get("params", {}).values() for key, value in values.items()} for e in (locked, made)
    )
    changed = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
    if changed:
        notes.append(f"params changed since: {', '.join(f'{k} {old.get(k)} -> {new.get(k)}' for k in changed)}")
    if locked.get("cmd") != made.get("cmd"):
        notes.append("its command changed since")
    if not data:
        return tuple(notes), ""
    return tuple(
        notes
    ), f"dvc.lock contradicts itself: it was made from another {', '.join(data)}. `dvc repro` mends it"
