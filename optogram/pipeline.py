"""dvc.yaml as a text that we keep in step with the code: each stage's code deps are its import closure."""

import io
import re
from pathlib import Path, PurePosixPath
from typing import Any

from ruamel.yaml import YAML

from optogram.closure import PACKAGES, closure


def stage_module(command: str) -> str:
    """The module a stage's command runs: "stages.textspan" for `python -m stages.textspan …`."""
    match = re.search(r"python -m (stages\.\w+)", command)
    if match is None:
        raise ValueError(f"dvc.yaml: the command {command!r} does not run `python -m stages.NAME`")
    return match.group(1)


def is_code(dependency: str) -> bool:
    """Whether a dep is one of our own source files."""
    return PurePosixPath(dependency).parts[0] in PACKAGES


def synced(path: Path = Path("dvc.yaml")) -> tuple[str, list[str]]:
    """dvc.yaml with every stage's code deps rewritten, and the names of the stages that change."""
    yaml = YAML()
    yaml.width = 1000
    yaml.indent(mapping=2, sequence=4, offset=2)
    text = path.read_text()
    document: Any = yaml.load(text)
    changed = []
    for name, stage in document["stages"].items():
        body = stage.get("do", stage)
        data = [dep for dep in body.get("deps", []) if not is_code(dep)]
        wanted = data + closure(stage_module(body["cmd"]), path.resolve().parent)
        if list(body.get("deps", [])) != wanted:
            changed.append(name)
            body["deps"] = wanted
    if not changed:
        return text, []
    stream = io.StringIO()
    yaml.dump(document, stream)
    return stream.getvalue(), changed


def declared_outs() -> set[str]:
    """Paths of all outs in DVC's cache that the pipeline has with today's params.

    Empty where there is no pipeline, or where params.yaml lacks sections that it asks for (another version wrote it).
    """
    if not Path("dvc.yaml").exists() or not Path(".dvc").exists() or not Path("params.yaml").exists():
        return set()
    from dvc.parsing import ResolveError
    from dvc.repo import Repo

    try:
        with Repo(".") as repo:
            outs = [out for out in repo.index.outs if out.use_cache]
    except ResolveError:
        return set()
    return {Path(out.fs_path).relative_to(repo.root_dir).as_posix() for out in outs}
