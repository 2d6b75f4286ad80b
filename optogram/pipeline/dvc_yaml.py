"""dvc.yaml, written from what the stages declare: `optogram sync`. Each stage's code deps are its import closure."""

import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from optogram.params.families import FAMILIES
from optogram.params.root import Params
from optogram.pipeline.closure import PACKAGES, closure, folders
from optogram.pipeline.declared import ROOT, declared
from optogram.pipeline.stage import ARTIFACTS, Stage, at

HEAD = """\
# Written by `optogram sync` from what each stage declares in stages/, grouped by family. Edit it there.
# A shell reads each `cmd`: only names may stand in it, which optogram/params keeps to letters, digits, _ and -.
# `meta` is for `optogram run`: pool (cpu or gpu), retries (stages that resume, or meet a network), timeout (seconds),
# constant (what follows need not run again after it).
stages:
"""
LINE = 120


def is_code(dependency: str) -> bool:
    """Whether a dep is of our own source files."""
    return PurePosixPath(dependency).parts[0] in PACKAGES


def stage_module(command: str) -> str:
    """The module a stage's command runs: "stages.textspan" for `python -m stages.textspan …`."""
    match = re.search(r"python -m (stages\.\w+)", command)
    if match is None:
        raise ValueError(f"dvc.yaml: the command {command!r} does not run `python -m stages.NAME`")
    return match.group(1)


def dvc_yaml(root: Path = ROOT) -> str:
    """What dvc.yaml of the checkout `root` has to be."""
    blocks, family = [HEAD], ""
    for module, stage in sorted(declared(root).values(), key=lambda one: FAMILIES.index(one[1].family)):
        if stage.family != family:
            family = stage.family
            blocks.append(f"{f'  # {family} '.ljust(LINE, '-')}\n\n")
        blocks.append("\n".join(_block(module, stage, root)) + "\n\n")
    return "".join(blocks).rstrip("\n") + "\n"


def changed_stages(was: str, now: str) -> list[str]:
    """The names of the stages in which two texts of dvc.yaml differ; "its comments" for what is between them."""
    old, new = _blocks(was), _blocks(now)
    return sorted(name or "its comments" for name in {*old, *new} if old.get(name) != new.get(name))


def _blocks(text: str) -> dict[str, str]:
    """A text of dvc.yaml, by stage."""
    parts = re.split(r"^  (\w+):$", re.sub(r"^  #.*\n\n", "", text, flags=re.M), flags=re.M)
    return {"": parts[0]} | dict(zip(parts[1::2], parts[2::2], strict=True))


def _block(module: str, stage: Stage, root: Path) -> Iterator[str]:
    """The lines of one stage."""
    names = {name: f"item.{name}" for name in stage.over}
    yield f"  {stage.name}:"
    indent = " " * 4
    if len(stage.over) == 1:
        (name, key), *_ = stage.over.items()
        names = {name: "key" if isinstance(at(Params().model_dump(), key), Mapping) else "item"}
        yield f"    foreach: ${{{key}}}"
        yield "    do:"
        indent = " " * 6
    elif stage.over:
        yield "    matrix:"
        yield from (f"      {name}: ${{{key}}}" for name, key in stage.over.items())
    for line in _body(module, stage, root):
        line = re.sub(r"(?<!\$)\{(\w+)\.(\w+)\}", r"${item.\2}", line)
        yield indent + re.sub(r"(?<!\$)\{(\w+)\}", lambda found: f"${{{names[found[1]]}}}", line)


def _body(module: str, stage: Stage, root: Path) -> Iterator[str]:
    yield f"desc: {stage.desc}"
    yield "cmd: >-"
    yield from (f"  {line}" for line in _wrapped(f"python -m stages.{module}", stage.arguments()))
    data = sorted([*stage.sources, *(f"{ARTIFACTS}/{need}" for need in stage.needs)])
    yield from _listed("deps", [*data, *folders(closure(f"stages.{module}", root), root)])
    yield from _listed("params", stage.keys)
    marks = {"cache": False} if not stage.cached else {"remote": "shipped"} if stage.shipped else {}
    yield from _listed("outs", [f"{ARTIFACTS}/{stage.out}"], marks)
    yield from _listed("metrics", [f"{ARTIFACTS}/{stage.metrics_file}"] if stage.metrics else [], {"cache": False})
    meta = {"pool": stage.pool if stage.pool != "cpu" else None, "retries": stage.retries, "timeout": stage.timeout}
    meta = {name: value for name, value in (meta | {"constant": stage.constant}).items() if value}
    if meta:
        yield "meta:"
        yield from (f"  {name}: {str(value).lower()}" for name, value in meta.items())


def _listed(key: str, values: Iterable[str], marks: Mapping[str, object] | None = None) -> Iterator[str]:
    """A list of YAML; the marks, if any, are below each value."""
    for place, value in enumerate(values):
        if not place:
            yield f"{key}:"
        yield f"  - {value}{':' if marks else ''}"
        yield from (f"      {name}: {str(mark).lower()}" for name, mark in (marks or {}).items())


def _wrapped(start: str, words: list[str]) -> list[str]:
    """A command line in lines that fit, an option never apart from its value."""
    pairs = [f"{option}\N{NO-BREAK SPACE}{value}" for option, value in zip(words[::2], words[1::2], strict=True)]
    lines = textwrap.wrap(" ".join([start, *pairs]), LINE - 10, break_long_words=False, break_on_hyphens=False)
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines]


def declared_outs() -> set[str]:
    """Paths of all outs in DVC's cache that the pipeline has with today's params.

    Empty where there is no pipeline, or where DVC cannot read it (another version wrote params.yaml, there is no git).
    """
    if not Path("dvc.yaml").exists() or not Path(".dvc").exists() or not Path("params.yaml").exists():
        return set()
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(".") as repo:
            outs = [out for out in repo.index.outs if out.use_cache]
    except DvcException:
        return set()
    return {Path(out.fs_path).relative_to(repo.root_dir).as_posix() for out in outs}
