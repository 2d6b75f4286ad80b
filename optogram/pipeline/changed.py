"""`optogram changed`: how many outs of a run differ from the committed dvc.lock, by how much, and likely why."""

import json
import platform
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import yaml

from optogram.catalog.compare import Change, Tolerance, compare_paths
from optogram.errors import ArtifactError, OptogramError
from optogram.pipeline.clone import git
from optogram.pipeline.dvc_yaml import is_code
from optogram.progress import progress

SHOWN = 4
PIN = re.compile(r"^([A-Za-z0-9_.-]+)==([^\s;\\]+)", re.MULTILINE)
Lock = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class ChangedOut:
    """An out whose bytes are not the committed ones: what became of its values, and what differs in them.

    "page": a page or picture, in which nothing is a number. "unknown": its committed bytes are not on this machine.
    """

    stage: str
    path: str
    state: Literal["within", "beyond", "page", "unknown"]
    changes: tuple[Change, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """A run beside the committed dvc.lock: `outs` in both, `added` in the run alone, and those that differ.

    `first` are the stages that differ though nothing before them in the pipeline does; `why` says why, as far as known.
    """

    outs: int
    added: int
    differing: tuple[ChangedOut, ...]
    first: tuple[str, ...]
    why: tuple[str, ...]
    tolerance: Tolerance

    def lines(self) -> list[str]:
        """The comparison in words, for the end of a run."""
        more = f" {self.added} more {'is' if self.added == 1 else 'are'} not in it." if self.added else ""
        if not self.outs:
            return [f"The committed dvc.lock has no out of this run ({self.added} outs) to compare with."]
        if not self.differing:
            return [f"Every byte as committed: {self.outs} outs are as dvc.lock has them.{more}"]
        bounds = f"verify.absolute {self.tolerance.absolute:g}, verify.relative {self.tolerance.relative:g}"
        counted = {state: [out.path for out in self.differing if out.state == state] for state in _WORDS}
        values = [
            _WORDS[state].format(n=len(paths), bounds=bounds, which=_some(paths))
            for state, paths in counted.items()
            if paths
        ]
        said = [
            f"{len(self.differing)} of {self.outs} outs differ from the committed dvc.lock, first those of "
            f"{_some(self.first)}.{more}",
            f"Of these, {'; '.join(values)}.",
        ]
        return [*said, *_largest(self.differing), *self.why]


_WORDS = {
    "within": "{n} within tolerance ({bounds})",
    "beyond": "{n} beyond tolerance ({which})",
    "page": "{n} pages or pictures, which have no numbers to compare",
    "unknown": "{n} not comparable here, as their committed bytes are not on this machine",
}


def compare_lock(repo: str = ".", *, rev: str = "HEAD", tolerance: Tolerance | None = None) -> Comparison:
    """Compare dvc.lock, as a run left it, with the one committed at `rev`, stage by stage of today's dvc.yaml.

    Values are compared where the committed bytes are at hand: metrics in git, the rest in DVC's cache or in a remote
    that is a folder. Nothing is fetched or written. Raises ArtifactError if there is no dvc.lock to compare.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(repo) as opened:
            root = Path(opened.root_dir)
            stages = {getattr(stage, "name", None) for stage in opened.index.stages}
            remotes = [Path(remote.get("url", "")) for remote in opened.config["remote"].values()]
            stores = [Path(opened.cache.local.path), *(url / "files/md5" for url in remotes if url.is_dir())]
    except DvcException as error:
        raise ArtifactError(f"{repo} is not a DVC repository that can be read: {error}") from None
    if not (root / "dvc.lock").is_file():
        raise ArtifactError("There is no dvc.lock yet, so there is nothing to compare. `dvc repro` writes it.")
    new = {name: entry for name, entry in _stages((root / "dvc.lock").read_text()).items() if name in stages}
    old = _stages(_committed(root, rev, "dvc.lock"))
    pairs = [(name, now, _found(old.get(name, {}), now["path"])) for name in new for now in new[name].get("outs", ())]
    found = [(name, was) for name, now, was in pairs if was is not None and was["md5"] != now.get("md5")]
    tolerance = tolerance or Tolerance()
    differing = []
    with progress("Comparing with the committed outs", len(found), "outs") as advance:
        for name, was in found:
            differing.append(_compared(name, was, root, rev, stores, tolerance))
            advance(1)
    known = sum(was is not None for _, _, was in pairs)
    first, why = _why(old, new, [*dict.fromkeys(name for name, _ in found)], root)
    return Comparison(known, len(pairs) - known, tuple(differing), first, why, tolerance)


def _stages(text: str) -> Lock:
    return (yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)) or {}).get("stages", {})


def _committed(root: Path, rev: str, path: str) -> str:
    """A file of the DVC repository as git has it."""
    try:
        return git(root, "show", f"{rev}:./{path}")
    except ArtifactError:
        raise ArtifactError(f"git has no {path} at {rev} in {root}, so there is nothing to compare with.") from None


def _found(entry: dict[str, Any], path: str) -> dict[str, Any] | None:
    return next((out for out in entry.get("outs", ()) if out["path"] == path and "md5" in out), None)


def _compared(
    stage: str, was: dict[str, Any], root: Path, rev: str, stores: Sequence[Path], tolerance: Tolerance
) -> ChangedOut:
    path = was["path"]
    with tempfile.TemporaryDirectory(prefix="optogram-changed-") as name:
        old = Path(name) / Path(path).name
        try:
            if not _laid(was["md5"], old, stores):
                old.write_text(_committed(root, rev, path))
            changes = [change for change in compare_paths(old, root / path, tolerance) if not _follows(change)]
        except (OptogramError, OSError, ValueError, KeyError):  # nowhere, or damaged
            return ChangedOut(stage, path, "unknown")
    if changes and all(change.kind == "file" for change in changes):
        return ChangedOut(stage, path, "page", tuple(changes))
    # without changes, only the bytes differ: compression, or the digests of inputs
    state = "within" if all(change.within for change in changes) else "beyond"
    return ChangedOut(stage, path, state, tuple(changes))


def _follows(change: Change) -> bool:
    """Whether a change only says that the inputs changed."""
    return change.kind == "attribute" and change.name.partition(".")[0] == "inputs"


def _laid(oid: str, target: Path, stores: Sequence[Path]) -> bool:
    """Put links to the objects of a committed out at `target`; False if one of them is nowhere."""
    source = next((store / oid[:2] / oid[2:] for store in stores if (store / oid[:2] / oid[2:]).is_file()), None)
    if source is None:
        return False
    if not oid.endswith(".dir"):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source.absolute())
        return True
    entries = [(entry["md5"], (target / entry["relpath"])) for entry in json.loads(source.read_text())]
    if not all(place.resolve().is_relative_to(target.resolve()) for _, place in entries):
        raise ArtifactError(f"The object {source} names files outside its folder.")
    return all(_laid(md5, place, stores) for md5, place in entries)


def _why(old: Lock, new: Lock, differing: list[str], root: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The stages where the differences begin, and sentences that say what they come from."""
    outs = [Path(out["path"]) for entry in new.values() for out in entry.get("outs", ())]
    first, params, code, data, same = [], {}, set(), set(), []
    for stage in differing:
        was, now = old[stage], new[stage]
        before, after = ({dep["path"]: dep.get("md5") for dep in entry.get("deps", ())} for entry in (was, now))
        changed = {path for path in {*before, *after} if before.get(path) != after.get(path)}
        made = {path for path in changed if any(_overlap(Path(path), out) for out in outs)}
        mine = {path for path in changed if is_code(path)}
        known, values = (_params(entry) for entry in (was, now))
        edited = {
            key: (known.get(key), values.get(key)) for key in {*known, *values} if known.get(key) != values.get(key)
        }
        params |= edited
        code |= mine
        data |= changed - made - mine
        if not made:
            first.append(stage)
            if not changed and not edited and was.get("cmd") == now.get("cmd"):
                same.append(stage)
    why = []
    if params:
        why.append(
            f"Params changed since the commit: {_some([f'{k} {a} -> {b}' for k, (a, b) in sorted(params.items())])}."
        )
    if code:
        why.append(f"Code changed since the commit: {_some(sorted(code))}.")
    if data:
        why.append(f"Inputs from outside the pipeline changed since the commit: {_some(sorted(data))}.")
    if same:
        why.append(_machine(same, {str(_params(new[stage]).get("threads")) for stage in same}, root))
    return tuple(first), tuple(why)


def _machine(stages: list[str], threads: set[str], root: Path) -> str:
    """Why stages whose code, params and inputs are the committed ones give other bytes."""
    said = f"Code, params and inputs of {_some(stages)} are as committed"
    if other := _other_versions(root / "requirements.lock"):
        return f"{said}, but packages are not those of requirements.lock: {_some(other)}."
    if "auto" in threads:
        return f"{said}; with threads: auto, another number of threads than the committed run's is likely."
    return (
        f"{said}: likely the committed run had another kind of processor or GPU than this one ({_processor()}), which "
        "rounds otherwise."
    )


def _other_versions(lock: Path) -> list[str]:
    """Packages that are installed in another version than the lock file pins."""
    pins = PIN.findall(lock.read_text()) if lock.is_file() else []
    wanted = {name: {pinned for _, pinned in group} for name, group in groupby(pins, key=lambda pin: pin[0])}
    found = []
    for name, versions in wanted.items():
        try:
            here = version(name)
        except PackageNotFoundError:  # of another platform
            continue
        # a build's own part, such as +cpu, is in no lock
        if not {here, here.partition("+")[0]} & {*versions, *(pinned.partition("+")[0] for pinned in versions)}:
            found.append(f"{name} {here} for {' or '.join(sorted(versions))}")
    return found


def _processor() -> str:
    """This processor's name."""
    try:
        names = re.findall(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def _params(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for values in entry.get("params", {}).values() for key, value in values.items()}


def _overlap(one: Path, other: Path) -> bool:
    return one.is_relative_to(other) or other.is_relative_to(one)


def _largest(differing: Sequence[ChangedOut]) -> list[str]:
    """The metric that differs most, in words."""
    found = [(out.path, change) for out in differing if out.path.endswith(".json") for change in out.changes]
    numbers = [(path, change) for path, change in found if change.relative is not None and change.differing]
    if not numbers:
        return []
    path, change = max(numbers, key=lambda pair: pair[1].relative or 0.0)
    largest = f"{change.name} {change.says} in {Path(path).name}"
    return [f"In metrics, {len(found)} values differ; the largest change is that of {largest}."]


def _some(words: Sequence[str]) -> str:
    more = f" and {len(words) - SHOWN} more" if len(words) > SHOWN else ""
    return ", ".join(words[:SHOWN]) + more
