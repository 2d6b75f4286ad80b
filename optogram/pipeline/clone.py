"""A throw-away clone of the checkout, in which stages can run while nothing of the user's is written to."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from optogram.catalog.remote import SHIPPED
from optogram.errors import ArtifactError
from optogram.pipeline import dvc_command
from optogram.pipeline.child_process import tethered
from optogram.store.rounding import threads_in

LOG_LINES = 15
GIT_VARIABLES = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_OBJECT_DIRECTORY")


class Unavailable(Exception):
    """Locked data that no cache and no remote gives intact; `path` is the artifact's."""

    def __init__(self, why: str, path: str = "") -> None:
        super().__init__(why)
        self.path = path


@dataclass(frozen=True)
class Clone:
    """The throw-away clone: `root` in it answers to `origin`, the user's checkout, which is only ever read."""

    folder: Path
    root: Path
    origin: Path
    caches: tuple[Path, ...]
    config: dict[str, Any]
    lock: dict[str, Any]
    # the dvc.yaml's stages, each with the paths of its deps
    stages: dict[str, list[str]]

    def reset(self) -> None:
        """Back to the files of the revision: what a stage wrote goes, its outs and `dvc.lock` too."""
        git(self.root, "reset", "--quiet", "--hard")
        git(self.root, "clean", "-ffdxq")
        places = f"[core]\nsite_cache_dir = {self.folder / 'site'}\n[cache]\ndir = {self.folder / 'cache'}\n"
        (self.root / ".dvc/config.local").write_text(f"{places}type = copy\n")

    def locked(self) -> dict[str, Any]:
        """The stages of the clone's dvc.lock, as it is now."""
        path = self.root / "dvc.lock"
        if not path.is_file():
            raise ArtifactError("There is no dvc.lock, so there is nothing to compare with. `dvc repro` writes it.")
        return (yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)) or {})["stages"]

    def use_threads(self, stage: str) -> str:
        """Let a stage run with the number of threads that dvc.lock records; a note if params.yaml says another.

        Sums are rounded by it: with another number there would be nothing to verify.
        """
        params, locked = self.root / "params.yaml", self.lock[stage].get("params", {}).get("params.yaml", {})
        threads, now = locked.get("threads"), threads_in(params)
        if threads == now or not (threads == "auto" or isinstance(threads, int)):
            return ""
        line, text = f"threads: {threads}", params.read_text()
        text, found = re.subn(r"^threads:.*$", line, text, count=1, flags=re.MULTILINE)
        params.write_text(text if found else f"{text.rstrip()}\n{line}\n")
        return f"recomputed with threads = {threads}, as dvc.lock has it; params.yaml says {now}"

    def lay_input(self, dep: dict[str, Any]) -> None:
        """Put a locked input that git does not hold in its place; Unavailable if that cannot be done.

        It comes from a cache or a remote, or from the user's tree if it is no artifact (photographs, a text file).
        """
        path = self.root / dep["path"]
        if not path.resolve().is_relative_to(self.root):
            if not path.exists():
                raise Unavailable(f"its input {dep['path']} is not there, and lies outside the checkout")
            return
        outs = [out for stage in self.stages for out in self.lock.get(stage, {}).get("outs", ())]
        # a folder of several outs has a hash, but only its parts are in the cache; so has a part of an out
        parts = [
            out
            for out in outs
            if out["path"] != dep["path"]
            and (Path(out["path"]).is_relative_to(dep["path"]) or Path(dep["path"]).is_relative_to(out["path"]))
        ]
        for part in parts:
            if not (self.root / part["path"]).exists():
                self.lay(part, self.root / part["path"])
        if parts or path.exists():
            return
        try:
            self.lay(dep, path)
        except Unavailable:
            mine = self.origin / dep["path"]
            if any(out["path"] == dep["path"] for out in outs) or not mine.exists():
                raise
            # its hash is compared with the lock after the run
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(mine, path) if mine.is_dir() else shutil.copy(mine, path)

    def lay(self, item: dict[str, Any], target: Path) -> None:
        """Copy a locked file or folder to `target`, every byte checked; from a remote where the cache lacks it."""
        try:
            self._copy(item["md5"], target)
        except Unavailable as missing:
            shutil.rmtree(target, ignore_errors=True)
            fetched = self._fetch(item["path"])
            try:
                self._copy(item["md5"], target)
            except Unavailable:
                raise Unavailable(f"{item['path']}: {missing}{fetched}", item["path"]) from None

    def keep(self, out: dict[str, Any]) -> None:
        """Keep an out that came out as it is locked for the stages after it, if no cache has it."""
        made, oid = self.root / out["path"], out.get("md5", "")
        if oid and not any((cache / oid[:2] / oid[2:]).is_file() for cache in self.caches):
            self.made(oid).parent.mkdir(exist_ok=True)
            shutil.move(made, self.made(oid))

    def made(self, oid: str) -> Path:
        """Where `keep` puts what was made anew."""
        return self.folder / "made" / oid

    def _copy(self, oid: str, target: Path) -> None:
        """A cache object to `target`. Always a copy: a stage that wrote through a link would spoil the user's cache.

        DVC itself would link, takes read-only objects for intact, and deletes those that it finds are not.
        """
        if (kept := self.made(oid)).exists():
            shutil.copytree(kept, target) if kept.is_dir() else shutil.copy(kept, target)
            return
        if not oid.endswith(".dir"):
            self._copy_file(oid, target)
            return
        listing = self.folder / "listing"
        self._copy_file(oid, listing)
        entries = json.loads(listing.read_text())
        target.mkdir(parents=True, exist_ok=True)
        for entry in entries:
            place = (target / entry["relpath"]).resolve()
            if not place.is_relative_to(target.resolve()):
                raise Unavailable(f"the cache object {oid} names {entry['relpath']}, outside its folder")
            self._copy_file(entry["md5"], place)

    def _copy_file(self, oid: str, target: Path) -> None:
        found = "not in the cache"
        for cache in self.caches:
            source = cache / oid[:2] / oid[2:]
            if not source.is_file():
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            digest = hashlib.md5(usedforsecurity=False)
            with source.open("rb") as old, target.open("wb") as new:
                while block := old.read(1 << 20):
                    digest.update(block)
                    new.write(block)
            if digest.hexdigest() == oid.removesuffix(".dir"):
                return
            target.unlink()
            found = f"the cache object {source} is corrupted"
        raise Unavailable(found)

    def _fetch(self, path: str) -> str:
        """Let DVC fetch an artifact into the clone's own cache, from the user's remotes; say how that went."""
        from dvc.exceptions import DvcException
        from dvc.repo import Repo

        git(self.root, "checkout", "--quiet", "--", "dvc.lock")  # a stage that has run locked other hashes
        if not self.config["remote"]:
            return ", and no remote is configured"
        try:
            with Repo(str(self.root), config=self.config) as repo:
                repo.fetch(targets=[str(self.root / path)])
        except (DvcException, OSError) as error:
            return f", and no remote gives it ({error})"
        return ", nor in a remote"

    def run(self, stage: str, warm: Mapping[str, str]) -> str:
        """Run one stage in the clone, `warm` (of `warm_stages`) in its environment; what it said last if it fails."""
        bin_folder = Path(sys.executable).parent
        environment = {key: value for key, value in os.environ.items() if key not in (*GIT_VARIABLES, "PYTHONSAFEPATH")}
        environment |= {
            "PATH": f"{bin_folder}{os.pathsep}{os.environ.get('PATH', '')}",
            "PYTHONPATH": os.pathsep.join(filter(None, (str(self.root), os.environ.get("PYTHONPATH", "")))),
            "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": str(self.folder / "site"),
            **warm,
        }
        command = ["repro", "--single-item", "--force", "--no-commit", "--no-run-cache", stage]
        log = self.folder / "log"
        with log.open("wb") as output:
            dvc = [sys.executable, "-P", dvc_command.__file__, *command]
            child = tethered(dvc, environment=environment, cwd=self.root, output=output)
            assert child.stdin is not None
            try:
                status = child.wait()
            finally:
                child.stdin.close()  # we are stopped: the stage must be gone before the clone goes
                child.wait()
        if not status:
            return ""
        return "\n".join(log.read_text(errors="replace").strip().splitlines()[-LOG_LINES:]) or "it said nothing"


def uncommitted(repo: str = ".") -> list[str]:
    """Paths in the working tree that HEAD has otherwise or not at all."""
    home = top(Path(repo))
    # not `git diff`, which writes the index
    lines = git(home, "status", "--porcelain", "-z", "--no-renames", "--untracked-files=all").split("\0")
    return sorted(line[3:] for line in lines if line)


@contextmanager
def throw_away_clone(repo: Path, rev: str | None) -> Iterator[Clone]:
    """The checkout at `rev`, or as it lies there, in a temporary folder that goes whatever happens."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    home = top(repo)
    commit = git(home, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{rev or 'HEAD'}^{{commit}}").strip()
    try:
        with Repo(str(repo)) as opened:
            origin, cache = Path(opened.root_dir), Path(opened.cache.local.path)
            # resolved here: a remote's relative url would mean another place in the clone
            core = {key: value for key, value in opened.config["core"].items() if key == "remote"}
            config = {"remote": dict(opened.config["remote"]), "core": core}
    except DvcException as error:
        raise ArtifactError(f"{repo} is not a DVC repository that can be read: {error}") from None
    with tempfile.TemporaryDirectory(prefix="optogram-verify-", ignore_cleanup_errors=True) as name:
        folder = Path(name).resolve()
        checkout = folder / "checkout"
        git(folder, "clone", "--quiet", "--shared", "--no-checkout", "--template=", str(home), str(checkout))
        git(checkout, "checkout", "--quiet", "--detach", commit)
        if rev is None:
            _overlay(home, checkout, uncommitted(str(repo)))
        root = checkout / origin.relative_to(home)
        # what the revision ships, and what the checkout does
        shipped = (root / SHIPPED / "files/md5", origin / SHIPPED / "files/md5")
        caches = (cache, folder / "cache/files/md5", *shipped)
        clone = Clone(folder, root, origin, caches, config, {}, {})
        clone.reset()
        try:
            with Repo(str(root)) as opened:
                # a stage of dvc.yaml has a name, an added file has none
                named = [(getattr(stage, "name", None), stage) for stage in opened.index.stages]
                found = [(name, stage) for name, stage in named if name and Path(stage.path) == root / "dvc.yaml"]
                deps = {name: [str(dep.def_path) for dep in stage.deps] for name, stage in found}
        except DvcException as error:
            raise ArtifactError(f"dvc.yaml{f' at {rev}' if rev else ''} cannot be read: {error}") from None
        yield replace(clone, lock=clone.locked(), stages={name: deps[name] for name in sorted(deps, key=_order(root))})


def _order(root: Path) -> Callable[[str], tuple[int, str]]:
    """Stages as dvc.yaml has them: inputs before what is made of them."""
    groups = list(yaml.safe_load((root / "dvc.yaml").read_text()).get("stages", {}))
    return lambda stage: (groups.index(stage.partition("@")[0]), stage)


def _overlay(home: Path, checkout: Path, paths: list[str]) -> None:
    """Uncommitted edits, new files and deletions, as a commit of the clone: it can be returned to after each stage."""
    for name in paths:
        source, target = home / name, checkout / name
        if target.is_symlink() or target.exists():
            shutil.rmtree(target) if target.is_dir() and not target.is_symlink() else target.unlink()
        if source.is_symlink() or source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)
    git(checkout, "add", "--all")
    author = ("-c", "user.name=verify", "-c", "user.email=verify@localhost", "-c", "commit.gpgsign=false")
    git(checkout, *author, "commit", "--quiet", "--allow-empty", "--no-verify", "-m", "the working tree")


def md5(path: Path) -> str:
    """A file's hash, as dvc.lock has it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def top(repo: Path) -> Path:
    """The root of the git checkout that `repo` lies in."""
    return Path(git(repo, "rev-parse", "--show-toplevel").strip())


def git(folder: Path, *words: str) -> str:
    """Run git; hooks off, the index as it is, and not in the repository of a hook that we may be called from."""
    environment = {key: value for key, value in os.environ.items() if key not in GIT_VARIABLES}
    environment["GIT_OPTIONAL_LOCKS"] = "0"
    command = ["git", "-c", "core.hooksPath=/dev/null", *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        what = f"git {words[0]}: {done.stderr.strip() or 'no such revision: ' + words[-1].removesuffix('^{commit}')}"
        raise ArtifactError(f"{folder} cannot be read by git ({what}). Expected a git checkout with a commit.")
    return done.stdout
