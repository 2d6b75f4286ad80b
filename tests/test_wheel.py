"""What `pip install optogram` brings: the library alone, in an empty environment, far from this checkout."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import tiny
from test_readme import BLOCK, CHECKS

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LIBRARY = ("catalog", "data", "decompose", "methods", "metrics", "models", "store", "cli")
OURS = {"optogram", "stages", "flows", "benchmarks", "examples"}
NOT_THERE = ["prefect", "fastapi", "distributed", "plotly", "matplotlib", "transformers", "ruff", "pyright", "pytest"]
IMPORTS = f"""
import importlib, importlib.util, pkgutil, sys
import optogram
assert optogram.__file__.startswith(sys.prefix), optogram.__file__
assert not [name for name in {NOT_THERE} if importlib.util.find_spec(name)]
for room in {LIBRARY}:
    module = importlib.import_module("optogram." + room)
    for found in pkgutil.walk_packages(module.__path__, module.__name__ + "."):
        importlib.import_module(found.name)
for module in (optogram, optogram.decompose, optogram.methods, optogram.models, optogram.data):
    assert all(getattr(module, name) is not None for name in module.__all__)
"""


def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(*extras):
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in PROJECT["optional-dependencies"][extra])]
    return {plain(re.split(r"[^\w.-]", line)[0]) for line in lines}


def third_parties(path, *, top_only=False):
    """The modules of others that a file imports; without those that only functions or a type checker read."""
    todo = [ast.parse(path.read_text())]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if not (top_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
            todo += ast.iter_child_nodes(node)
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
        yield from {name.split(".")[0] for name in names} - OURS - sys.stdlib_module_names


def undeclared(folders, known, **options):
    """{module: files} of what the folders import that the known distributions do not bring."""
    brought = {module for module, by in packages_distributions().items() if {plain(name) for name in by} & known}
    found = {}
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        for name in set(third_parties(path, **options)) - brought:
            found.setdefault(name, []).append(str(path.relative_to(ROOT)))
    return found


def test_what_the_library_imports_is_declared_and_the_rest_with_the_pipeline():
    rooms = [f"optogram/{room}" for room in LIBRARY]
    assert not undeclared(rooms, declared(), top_only=True)
    assert not undeclared(OURS, declared("pipeline"))
    assert not declared("pipeline") & {"ruff", "pyright", "codespell", "pytest", "hypothesis", "beartype"}


def test_the_lock_pins_all_that_is_declared_and_names_no_address():
    lock = (ROOT / "requirements.lock").read_text()
    assert declared("pipeline", "dev") <= {plain(name) for name in re.findall(r"^([\w.-]+)==", lock, re.M)}
    assert "://" not in lock


# An index that gives the first page at once may still take an hour for torch.
PATIENCE_SECONDS = 600


def done(*command, cwd, status=0):
    """What a command prints, which ends with that status in time, without this environment's paths."""
    outer = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE")  # of the last: compile but once
    environment = {name: value for name, value in os.environ.items() if name not in outer} | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )
    assert ended.returncode == status, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


@pytest.fixture
def uv():
    """The uv of `make`, or any other; skips where it cannot reach the index of packages that it is to use."""
    found = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
    if not found:
        pytest.skip("there is no uv here: `make .venv/installed`")
    probe = [found, "pip", "install", "--python", sys.executable, "--dry-run", "--no-cache", "--reinstall", "--no-deps"]
    quick = {"UV_HTTP_TIMEOUT": "10", "UV_HTTP_RETRIES": "0"}
    asked = subprocess.run([*probe, "setuptools"], env=os.environ | quick, capture_output=True, text=True)
    if asked.returncode:
        pytest.skip(f"no index of packages can be reached: {' '.join(asked.stderr.split())[-200:]}")
    return found


@pytest.fixture
def away(tmp_path):
    """A folder that goes at the end: torch alone can be gigabytes."""
    folder = tmp_path / "away"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def wheel(uv, away):
    """Built of what the working tree has, in a copy: setuptools writes beside its sources."""
    source = away / "source"
    shutil.copytree(ROOT / "optogram", source / "optogram", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    done(uv, "build", "-q", "--wheel", "--out-dir", away / "dist", cwd=source)
    return next((away / "dist").glob("optogram-*.whl"))


@pytest.fixture
def prefix(uv, away, wheel):
    """An environment with the wheel and what it depends on, at the versions of the lock.

    `make` has left all of it in uv's cache. Where that is not so, the index is asked, and the test skipped if it takes
    too long.
    """
    done(uv, "venv", "-q", "--python", sys.executable, away / "env", cwd=away)
    install = [uv, "pip", "install", "-q", "--python", away / "env/bin/python", "-c", ROOT / "requirements.lock", wheel]
    try:
        done(*install, "--offline", cwd=away)
    except (AssertionError, subprocess.TimeoutExpired):
        try:
            done(*install, cwd=away)
        except subprocess.TimeoutExpired:
            pytest.skip(f"the index of packages did not give all in {PATIENCE_SECONDS} s")
    return away / "env"


@pytest.mark.slow
def test_the_library_alone_opens_loads_and_decomposes_and_says_what_more_needs(wheel, prefix, away):
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "optogram").rglob("*") if path.is_file()}
    assert {name for name in files if "__pycache__" not in name} <= set(zipfile.ZipFile(wheel).namelist())

    clone = away / "clone"
    tiny.git(away, "clone", "-q", "--shared", str(ROOT), str(clone))
    shutil.rmtree(clone / "optogram")  # what runs in it can have the wheel's code only
    blocks = BLOCK.findall((ROOT / "docs/notebook.md").read_text())
    assert blocks
    done(prefix / "bin/python", "-c", "".join([IMPORTS, *blocks, CHECKS["docs/notebook.md"]]), cwd=clone)

    command = prefix / "bin/optogram"
    assert "textspan/demo" in done(command, "catalog", "--rev", "HEAD", cwd=clone)
    assert "variance" in done(command, "open", "textspan/demo", cwd=clone)
    assert "artifacts/roles/demo is here" in done(command, "pull", "roles/demo", cwd=clone)
    html = ("lineage", "textspan/demo", "--html", "lineage.html")
    for arguments, package in ((["run"], "prefect"), (["ui"], "prefect"), (html, "plotly")):
        said = done(command, *arguments, cwd=clone, status=1)
        assert f"needs {package}" in said
        assert 'pip install "optogram[pipeline]"' in said
        assert "Traceback" not in said
