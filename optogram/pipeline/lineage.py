"""`optogram lineage`: the artifacts, params and code that led to an artifact, as a tree, a flowchart or a page."""

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from rich.text import Text
from rich.tree import Tree

from optogram.catalog.at import locked_stages
from optogram.catalog.find import ROOT, catalog, read_text
from optogram.errors import ArtifactError, nearest
from optogram.pipeline.dvc_yaml import is_code
from optogram.pipeline.graph_layout import layered
from optogram.report.html_pages import write_page
from optogram.store.digests import canonical, files_digest

SHORT = 8


@dataclass(frozen=True)
class Made:
    """What one stage made, as dvc.lock has it, or an input from outside the pipeline (`stage` is "" then).

    `artifacts` are the names of its outs, `digest` is DVC's hash of the first, `code` maps its source files to their
    hashes, `inputs` are keys of others. `notes` say where the working tree is not what dvc.lock describes.
    """

    key: str
    stage: str
    artifacts: tuple[str, ...]
    digest: str
    title: str
    params: dict[str, Any]
    code: dict[str, str]
    inputs: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Its first artifact."""
        return self.artifacts[0]

    @property
    def code_digest(self) -> str:
        """One digest of all its code."""
        return files_digest(self.code)

    @property
    def state(self) -> str:
        """The notes in a word or two."""
        said = " ".join(self.notes)
        words = {"edited": "was edited", "stale": "stale", "not in the tree": "not in the working tree"}
        return ", ".join(word for word, sign in words.items() if sign in said) or ("see notes" if said else "")

    @property
    def settings(self) -> list[str]:
        """Its params, one a line."""
        return [f"{key} = {canonical(value)}" for key, value in sorted(self.params.items())]


@dataclass(frozen=True)
class Lineage:
    """`made` holds `root` and everything that led to it, inputs before what is made of them."""

    name: str
    rev: str | None
    root: str
    made: dict[str, Made]


def lineage(name: str, *, rev: str | None = None, repo: str = ".") -> Lineage:
    """What led to the artifact `name` ("textspan/demo"), from dvc.lock at `rev`, or in the working tree.

    Raises ArtifactError if no locked stage makes it, with the nearest names.
    """
    name = name.strip("/").removeprefix(f"{ROOT}/")
    lock = locked_stages(read_text("dvc.lock", rev=rev, repo=repo) or "")
    outs = {out["path"]: stage for stage, entry in lock.items() for out in entry.get("outs", ())}
    path = f"{ROOT}/{name}"
    stage = next((outs[out] for out in sorted(outs) if _overlap(path, out)), None)
    if stage is None:
        known = [_short_name(out) for out in outs]
        close = nearest(name, known) or (f" There are: {', '.join(sorted(known)[:12])}." if known else "")
        where = f" at revision {rev}" if rev else ""
        raise ArtifactError(f"dvc.lock{where} names no stage that makes {name!r}.{close or ' `dvc repro` writes it.'}")
    titles: dict[str, str] = {}
    with contextlib.suppress(ArtifactError):  # the data may be nowhere; the lock tells most of it
        frame = catalog(rev=rev, repo=repo)
        titles = dict(zip(frame["name"], frame["title"], strict=True))
    made: dict[str, Made] = {}
    _collect(stage, lock, outs, titles, made)
    if rev is None and Path(repo).is_dir():
        for key, notes in _notes(repo, made).items():
            made[key] = replace(made[key], notes=notes)
        above = [m.name for m in made.values() if m.key != stage and ("stale" in m.state or "edited" in m.state)]
        if above:
            note = f"`dvc repro` would remake it: stale or edited is {', '.join(above)}"
            made[stage] = replace(made[stage], notes=(*made[stage].notes, note))
    return Lineage(name, rev, stage, made)


def tree(found: Lineage) -> Tree:
    """The lineage as a tree for the terminal; what was shown above is only named again."""
    shown: set[str] = set()

    def grow(key: str, above: Tree | None) -> Tree:
        made = found.made[key]
        label = Text.assemble((made.name, "bold"), " ", (made.digest[:SHORT], "cyan"))
        if key in shown:
            label.append(" ↑ above", "dim")
            return above.add(label) if above else Tree(label)
        shown.add(key)
        label.append(f" {made.title}" if made.title else "", "dim")
        label.append("" if made.stage else " from outside the pipeline", "dim")
        for note in made.notes:
            label.append(f"\n{note}", "yellow")
        for line in made.settings:
            label.append(f"\n{line if len(line) < 100 else line[:99] + '…'}", "dim")
        if made.code:
            label.append(f"\ncode {made.code_digest[:SHORT]}, {len(made.code)} files", "dim")
        branch = above.add(label) if above else Tree(label)
        for key_below in made.inputs:
            grow(key_below, branch)
        return branch

    return grow(found.root, None)


def mermaid(found: Lineage) -> str:
    """The lineage as a mermaid flowchart."""
    ids = {key: f"n{k}" for k, key in enumerate(found.made)}
    lines = ["flowchart LR"]
    for key, made in found.made.items():
        label = "<br/>".join(_entities(text) for text in (made.name, made.digest[:SHORT]))
        lines.append(f'  {ids[key]}["{label}"]' if made.stage else f'  {ids[key]}[("{label}")]')
    lines += [f"  {ids[below]} --> {ids[key]}" for key, made in found.made.items() for below in made.inputs]
    return "\n".join(lines)


def write_lineage(path: Path, found: Lineage) -> None:
    """The lineage as a standalone page: a drawing, and below it all hashes, params and files."""
    drawing = layered({key: made.inputs for key, made in found.made.items()})
    write_page(path, "lineage.html", found=found, drawing=drawing, short=SHORT)


def _collect(
    stage: str, lock: dict[str, Any], outs: dict[str, str], titles: dict[str, str], made: dict[str, Made]
) -> None:
    entry = lock[stage]
    deps = {dep["path"]: dep.get("md5", "") for dep in entry.get("deps", ())}
    inputs: dict[str, None] = {}
    for path, digest in deps.items():
        if is_code(path):
            continue
        makers = sorted({outs[out] for out in outs if _overlap(path, out)} - {stage})
        for maker in makers:
            if maker not in made:
                _collect(maker, lock, outs, titles, made)
        if not makers:
            made[path] = Made(path, "", (path,), digest, "", {}, {}, ())
        inputs |= dict.fromkeys(makers or [path])
    held = [(_short_name(out["path"]), out.get("md5", "")) for out in entry.get("outs", ())]
    held.sort(key=lambda out: not out[1].endswith(".dir"))  # folders before metrics
    names = [name for name, _ in held]
    title = titles.get(names[0], "")
    params = {key: value for values in entry.get("params", {}).values() for key, value in values.items()}
    code = {path: digest for path, digest in deps.items() if is_code(path)}
    made[stage] = Made(stage, stage, tuple(names), held[0][1], title, params, code, tuple(inputs))


def _notes(repo: str, made: dict[str, Made]) -> dict[str, tuple[str, ...]]:
    """{stage: where the working tree differs from dvc.lock}."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    notes: dict[str, tuple[str, ...]] = {}
    try:
        with Repo(repo) as opened, opened.lock:
            there = set()
            for stage in opened.index.stages:
                name = str(getattr(stage, "name", ""))
                if name in made:
                    there.add(name)
                    notes[name] = _said(next(iter(stage.status(check_updates=False).values()), []))
    except DvcException as error:
        return dict.fromkeys(made, (f"whether the working tree still has this could not be seen: {error}",))
    gone = {key: ("no stage of dvc.yaml makes it any more",) for key in made if made[key].stage and key not in there}
    return {key: note for key, note in (notes | gone).items() if note}


def _said(status: list[Any]) -> tuple[str, ...]:
    """DVC's status of a stage in words."""
    notes = []
    for entry in status:
        if entry == "changed command":
            notes.append("stale: its command has changed")
        for path, state in entry.get("changed outs", {}).items() if isinstance(entry, dict) else ():
            held = "is not in the working tree" if state in ("deleted", "not in cache") else ""
            notes.append(f"{path} {held or 'was edited: it is not the one that dvc.lock describes'}")
        stale = []
        for path, state in entry.get("changed deps", {}).items() if isinstance(entry, dict) else ():
            if isinstance(state, dict):  # params
                stale += list(state)
            elif state != "deleted":
                stale.append(path)
        if stale:
            notes.append(f"stale: changed since it was made: {', '.join(stale)}")
    return tuple(notes)


def _overlap(path: str, out: str) -> bool:
    a, b = PurePosixPath(path), PurePosixPath(out)
    return a.is_relative_to(b) or b.is_relative_to(a)


def _short_name(path: str) -> str:
    return path.removeprefix(f"{ROOT}/")


def _entities(text: str) -> str:
    """Mermaid's escapes: everything that is not plain as a character code."""
    return "".join(c if c.isalnum() or c in " /_-.@" else f"#{ord(c)};" for c in text)
