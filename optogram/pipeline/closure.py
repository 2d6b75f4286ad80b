"""Which first-party files a module's behaviour depends on: its imports, transitively, and the data files it names."""

import ast
import re
from functools import cache
from pathlib import Path, PurePosixPath

from optogram.errors import ArtifactError
from optogram.store.digests import file_digest, files_digest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("optogram", "stages", "flows")
# Values read through params/ are tracked one by one as DVC params, what a stage declares by what dvc.yaml says of it;
# messages and progress change no bytes.
UNTRACKED = {
    *(f"optogram/{name}.py" for name in ("errors", "progress")),
    *(f"optogram/pipeline/{name}.py" for name in ("closure", "stage", "declared")),
}


def is_tracked(path: str) -> bool:
    """Whether a file of the code is a dependency of the stages that import it."""
    return path not in UNTRACKED and not path.startswith("optogram/params/")


def closure(module: str, root: Path = ROOT) -> list[str]:
    """Sorted paths, relative to `root`, of the files that `module` ("stages.textspan") depends on, itself included.

    Imports inside functions count. Package `__init__` files do not: they hold only lazy exports (a test sees to it),
    so first-party code imports from the module that defines a name; importing one from a package is an error here.
    What is imported by name at run time cannot be seen: a module that does so names the folder of the modules beside
    it in a string that ends with a slash ("sections/"), and depends on all of them.
    """
    found: set[str] = set()
    queue = [_module_file(module, root)]
    while queue:
        path = queue.pop()
        if path is None or path in found or not is_tracked(path):
            continue
        found.add(path)
        for name in _imports(root / path, root):
            queue.append(_module_file(name, root))
        queue += [file.relative_to(root).as_posix() for file in _modules_beside(root / path)]
        found |= {(Path(path).parent / name).as_posix() for name in _data_files(root / path)}
    return sorted(found)


def folders(paths: list[str], root: Path = ROOT) -> list[str]:
    """Sorted paths of a closure, with the folder in place of its files where all code and data in it is there.

    Files that change no bytes (`UNTRACKED`, the lazy exports of `__init__`) need not be among the paths, but a folder
    that holds one of UNTRACKED stands for itself only file by file. Folders of one file stay as they are.
    """
    left, found = {*paths}, []
    tops = sorted(
        {parent for path in paths for parent in PurePosixPath(path).parents if len(parent.parts) > 1}, key=str
    )
    for folder in tops:
        inside = {f.relative_to(root).as_posix() for f in (root / folder).rglob("*") if _tracked(f)}
        if len(inside) > 1 and inside <= left:
            left -= inside
            found.append(folder.as_posix())
    return sorted([*found, *left])


def _tracked(path: Path) -> bool:
    return path.is_file() and "__pycache__" not in path.parts and path.name != "__init__.py"


def closure_digest(module: str, root: Path = ROOT) -> str:
    """Digest of the contents of the closure."""
    return files_digest({path: file_digest(root / path) for path in closure(module, root)})


def check_code(stage: str, code: str, root: Path = ROOT) -> None:
    """ArtifactError if this process, a worker, has other code of the stage than the one that sent it work.

    `code` is the sender's `closure_digest` of the stage's module.
    """
    found = files_digest({path: _first_seen(root / path) for path in closure(f"stages.{stage}", root)})
    if found != code:
        raise ArtifactError(
            f"A Dask worker has other code of the stage {stage} (in {root}) than this run, or was started before a "
            "change. Its shards would not fit: restart the workers from the same checkout."
        )


@cache
def _first_seen(path: Path) -> str:
    """A file's digest when a worker first looked: it imports a file once, whatever becomes of it later."""
    return file_digest(path)


def _module_file(name: str, root: Path) -> str | None:
    path = Path(*name.split("."))
    if (root / path.with_suffix(".py")).is_file():
        return path.with_suffix(".py").as_posix()
    if (root / path / "__init__.py").is_file():
        return None
    raise ModuleNotFoundError(f"first-party module {name} has no file under {root}")


@cache
def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


@cache
def _imports(path: Path, root: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(_parse(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names if alias.name.split(".")[0] in PACKAGES}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in PACKAGES:
            package = (root / Path(*node.module.split(".")) / "__init__.py").is_file()
            names |= {f"{node.module}.{alias.name}" for alias in node.names} if package else {node.module}
    return names


@cache
def _modules_beside(path: Path) -> list[Path]:
    """The modules of the folders beside a module that it names in a string with a slash at its end."""
    values = (node.value for node in ast.walk(_parse(path)) if isinstance(node, ast.Constant))
    named = {value for value in values if isinstance(value, str) and re.fullmatch(r"\w+/", value)}
    return [file for name in sorted(named) for file in sorted((path.parent / name).glob("*.py")) if file.name[0] != "_"]


@cache
def _data_files(path: Path) -> set[str]:
    """Files beside the module, or in a folder beside it, that it names in a string."""
    names: set[str] = set()
    for node in ast.walk(_parse(path)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and 0 < len(node.value) < 80:
            if not node.value.replace("_", "a").replace(".", "a").replace("/", "a").replace("-", "a").isalnum():
                continue
            target = path.parent / node.value
            if target.suffix == ".py" or node.value in (".", "..") or ".." in node.value or node.value.startswith("/"):
                continue
            if target.is_file():
                names.add(node.value)
            elif target.is_dir() and not any(target.glob("*.py")):
                names |= {f.relative_to(path.parent).as_posix() for f in sorted(target.rglob("*")) if f.is_file()}
    return names
