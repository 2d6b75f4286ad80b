"""Where artifacts are asked for: a checkout, a git revision, another repository; and which command makes them there."""

import re
import shlex
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from optogram.catalog.checkout import find_checkout
from optogram.catalog.remote import Objects, dvc_errors, shipped_places
from optogram.errors import ArtifactError, CheckoutError

ROOT = "artifacts"

_READ: dict[tuple[str, str | None, str | None], tuple[frozenset[str], Any, Any]] = {}
"""(repository, revision, remote) to the files that its index was read from, what these were then, and its files."""
PIPELINE = ("dvc.yaml", "dvc.lock", "params.yaml")
SETTINGS = (".dvc/config", ".dvc/config.local")
_KEPT = 8  # repositories whose index stays in memory


class At:
    """A repository (a path in a checkout, or a git URL) at a git revision, or as it lies there.

    `home` is the checkout, or a folder with artifacts of its own, if it is on this disk; `tree` is the same where no
    revision is asked for. Prints as " at revision v1", or as nothing.
    """

    def __init__(self, repo: str, rev: str | None) -> None:
        if rev is not None and not rev.strip():
            raise ArtifactError("The revision is empty; expected a branch, a tag or a commit, or none for the tree.")
        self.rev = rev
        self.home: Path | None = None
        if Path(repo).is_dir():
            self.home = Path(repo).resolve()
            if not (self.home / ROOT).is_dir():  # what lies in the very folder that was named comes first
                with suppress(CheckoutError):
                    self.home = find_checkout(repo)
        elif "://" not in repo and not re.match(r"[\w.-]+@[^/]+:", repo):
            raise ArtifactError(f"There is no folder {repo}. Expected a checkout, or the URL of a git repository.")
        # absolute: fsspec keeps file systems by their arguments, and "." is not always the same place
        self.repo = str(self.home or repo)
        self.tree = self.home if rev is None else None

    def __str__(self) -> str:
        return f" at revision {self.rev}" if self.rev else ""

    def plain(self, name: str) -> str:
        """An artifact's name without what people put around it: "artifacts/", a slash at the end, the whole path.

        Raises ArtifactError for a name that is empty or leads out of the folder of artifacts.
        """
        path = PurePosixPath(str(name).strip())
        if self.home and path.is_absolute() and path.is_relative_to(self.home):
            path = path.relative_to(self.home)
        if path.is_relative_to(ROOT):
            path = path.relative_to(ROOT)
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise ArtifactError(f"{str(name)!r} is no artifact; expected a name such as 'textspan/demo'.")
        return path.as_posix()

    def files(self, remote: str | None = None) -> Any:
        """The files of the DVC repository, DVC-tracked ones included, read from wherever they are."""
        from dvc.api import DVCFileSystem
        from dvc.exceptions import NotDvcRepoError

        with dvc_errors(f"{self.repo} cannot be read{self}", self._lacking()):
            try:
                files = DVCFileSystem(url=self.repo, rev=self.rev, remote=remote)
                assert files.repo  # opened lazily
                return files
            except NotDvcRepoError:
                raise ArtifactError(
                    f"{self.repo} is not a DVC repository, and holds no {ROOT}/ folder with that name."
                ) from None

    def indexed(self, remote: str | None = None) -> Any:
        """As `files`, its index read: once (a second or two) as long as nothing that the index was read from changes.

        These are the commit that the revision is of, or the tree's dvc.yaml, dvc.lock and .dvc files with the params of
        dvc.yaml; and DVC's settings in the checkout. A .dvc file that is new is not noticed: who misses an artifact
        asks `files`. A repository elsewhere is read anew each time.
        """
        if self.home is None:
            return self.files(remote)
        key = (self.repo, self.rev, remote)
        names = SETTINGS if self.rev is not None else (*PIPELINE, *SETTINGS)
        settings = frozenset(str(self.home / name) for name in names)
        watched, then, files = _READ.get(key, (settings, None, None))
        if then is None or self._now(watched) != then:
            before, files = self._now(settings), self.files(remote)
            with dvc_errors(f"{self.repo} cannot be read{self}"):
                read = {str(stage.dvcfile.path) for stage in files.repo.index.stages}
            if self.rev is None:
                beside = {str(Path(path).with_name(name)) for path in read for name in PIPELINE}
                watched = settings | read | beside
            then = self._now(watched)
            _READ.pop(key, None)
            if self._now(settings) == before:  # nothing was written while it was read
                _READ[key] = watched, then, files
            for old in [*_READ][:-_KEPT]:
                del _READ[old]
        return files

    def _now(self, watched: frozenset[str]) -> Any:
        """The commit of the revision, and what shows whether these files are still the same."""
        from scmrepo.exceptions import SCMError
        from scmrepo.git import Git

        commit = ""
        if self.rev is not None:
            with suppress(SCMError), Git(self.repo) as git:  # no revision: `files` says so
                commit = git.resolve_rev(self.rev)
        return commit, {path: _stamp(Path(path)) for path in watched}

    def look_into_shipped(self, files: Any) -> None:
        """Let DVC itself read what is shipped too: to it a remote is one place, and named by the out or the default."""
        from dvc_data.hashfile.db import HashFileDB
        from dvc_data.index import ObjectStorage

        stores = [HashFileDB(place.fs, place.path, read_only=True) for place in shipped_places(files.repo, self.shelf)]
        if not stores:
            return
        known = files.repo.index.data["repo"].storage_map
        for out in files.repo.index.outs:
            if not (out.is_in_repo and out.use_cache and out.hash_info):
                continue
            store = next((store for store in stores if store.exists(out.hash_info.value)), None)
            if store:
                known.add_data(ObjectStorage(out.index_key[1], store))

    @property
    def shelf(self) -> str | None:
        """The checkout whose shipped folder may be read."""
        return str(self.home) if self.home else None

    def objects(self, out: Any, name: str, remote: str | None = None) -> Objects:
        """The objects of a DVC out."""
        return Objects(out, name, remote, home=self.shelf, advice=self.advice(out))

    def advice(self, out: Any) -> str:
        """How to come by an out that is in no cache and no remote."""
        path = PurePosixPath(*out.repo.fs.relparts(out.fs_path, out.repo.root_dir)).as_posix()
        stage = stage_of(out)
        if self.home and (self.home / path).exists() and self._locked_here(path) == out.hash_info.value:
            return (
                f"The working tree has it: open it without a revision, or put it into the cache "
                f"(`dvc commit --force {shlex.quote(stage)}`)."
            )
        return self.remake(stage)

    def remake(self, stage: str) -> str:
        """The command that makes what a stage makes, there."""
        if not stage:
            return ""
        if stage.endswith(".dvc"):
            return f"No stage makes it: push it from a checkout that has it (`dvc push {shlex.quote(stage)}`)."
        command = f"dvc repro {shlex.quote(stage)}"
        if self.rev and self.rev != "HEAD":
            command = f"git checkout {shlex.quote(self.rev)} && {command}"
        if self.home is None:
            return f"In a clone of {self.repo}, `{command}` makes it."
        there = "" if Path.cwd().resolve() == self.home else f" in {self.home}"
        return f"`{command}`{there} makes it."

    def _locked_here(self, path: str) -> str:
        lock = Path(self.repo, "dvc.lock")
        if not lock.is_file():
            return ""
        return next((md5 for out, (_, md5) in locked_outs(lock.read_text()).items() if out == path), "")

    def _lacking(self) -> str:
        """What a clone may lack that was not made whole."""
        if self.rev is None or self.home is None:
            return ""
        if not in_git(self.home):
            return " There is no .git here, as in a zip of the repository: revisions need a clone (`git clone`)."
        if (self.home / ".git/shallow").is_file():
            return " This clone is shallow: `git fetch --unshallow --tags` gets the other revisions."
        return ""


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """What is another one once a file is written again; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def in_git(folder: Path) -> bool:
    """Whether a folder lies in a git checkout; a zip of the repository does not."""
    return any((above / ".git").exists() for above in (folder, *folder.parents))


def stage_of(out: Any) -> str:
    """The stage that makes a DVC out, as dvc.yaml calls it; the .dvc file of what was added."""
    return getattr(out.stage, "name", None) or PurePosixPath(out.stage.relpath).as_posix()


def locked_stages(lock: str) -> dict[str, Any]:
    """{stage: entry} of the text of a dvc.lock; ArtifactError if it is no YAML."""
    try:
        return (yaml.load(lock, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)) or {}).get("stages", {})
    except yaml.YAMLError as error:
        raise ArtifactError(
            f"dvc.lock cannot be read ({' '.join(str(error).split())}). Resolve the merge conflict in it, or take it "
            "from git: `git checkout HEAD dvc.lock`."
        ) from None


def locked_outs(lock: str) -> dict[str, tuple[str, str]]:
    """{out path: (stage, DVC hash)} of the text of a dvc.lock."""
    return {
        out["path"]: (stage, out.get("md5", ""))
        for stage, entry in locked_stages(lock).items()
        for out in entry.get("outs", ())
    }
