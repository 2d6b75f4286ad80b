"""The rooms, and the code that each stage depends on."""

import ast
import hashlib
import itertools
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from optogram.closure import PACKAGES, check_code, closure, closure_digest
from optogram.errors import ArtifactError
from optogram.params import Params
from optogram.pipeline import is_code, stage_module, synced

ROOT = Path(__file__).parent.parent
STAGES = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
SOURCES = sorted(p for package in PACKAGES for p in (ROOT / package).rglob("*.py"))

# Which rooms a room may import from, beside itself, errors, progress and hub.
MAY = {
    "store": set(),
    "data": {"store"},
    "models": {"data", "store"},
    "decompose": {"models", "store"},
    "methods": {"decompose", "models", "metrics", "store"},
    "metrics": {"store"},
    "report": {"metrics", "methods", "store", "data"},
}


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_dependencies_point_one_way(path):
    names = set(imported(path))
    package = path.relative_to(ROOT).parts[0]
    outer = {"optogram": {"stages", "flows"}, "stages": {"flows"}, "flows": set()}[package]
    assert not {n for n in names if n.split(".")[0] in outer}
    if package == "optogram":
        assert not any(n.split(".")[0] == "prefect" for n in names), "the library knows no Prefect"
    room = path.relative_to(ROOT).parts[1]
    if package == "optogram" and room in MAY and path.name != "__init__.py":
        rooms = {n.split(".")[1] for n in names if n.startswith("optogram.") and n.count(".") >= 1}
        assert not (rooms & set(MAY)) - MAY[room] - {room}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_says_which_room_it_is_and_stays_small(path):
    text = path.read_text()
    if path.name == "__init__.py" and not text:
        return
    assert ast.get_docstring(ast.parse(text)), f"{path} has no first line"
    assert len(text.splitlines()) <= 420
    if path.parent.name == "stages" and path.name != "doorway.py":
        assert len(text.splitlines()) <= 60


@pytest.mark.parametrize("path", [p for p in SOURCES if p.name == "__init__.py"], ids=lambda p: p.parent.name)
def test_packages_hold_only_lazy_exports(path):
    """So that closures may leave them out: importing a package runs nothing that a stage could depend on."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            assert not any(n.startswith("optogram") for n in imported_of(node)), f"{path} imports {ast.unparse(node)}"


def imported_of(node):
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]


def test_dvc_yaml_names_every_stage_s_code():
    assert synced(ROOT / "dvc.yaml")[1] == [], "run `optogram sync`"


@pytest.mark.parametrize("name", sorted(STAGES))
def test_every_stage_is_described_and_touches_only_what_it_declares(name):
    body = STAGES[name].get("do", STAGES[name])
    assert body["desc"]
    command = body["cmd"].split()
    assert (ROOT / (stage_module(body["cmd"]).replace(".", "/") + ".py")).is_file()
    outs = [out if isinstance(out, str) else next(iter(out)) for out in [*body["outs"], *body.get("metrics", [])]]
    data = [dep for dep in body["deps"] if not is_code(dep)]
    for flag, value in itertools.pairwise(command):
        if flag in ("--out", "--metrics"):
            assert value in outs
        elif flag.startswith("--") and value.startswith("artifacts/"):
            inside = [dep for dep in data if dep == value or dep.startswith(f"{value}/")]
            assert inside, f"{name} reads {value} but does not depend on it"


@pytest.mark.parametrize("name", sorted(STAGES))
def test_no_param_hides_a_key_that_dvc_s_run_cache_ignores(name):
    """DVC 3.67 leaves nested keys called size and nfiles out of a run's key: it would restore another size's result."""

    def keys(value):
        return {*value, *(key for below in value.values() for key in keys(below))} if isinstance(value, dict) else set()

    for param in STAGES[name].get("do", STAGES[name]).get("params", []):
        value = Params().model_dump()
        for part in param.split("."):
            value = next(iter(value.values()), None) if part.startswith("${") else value[part]
        assert not keys(value) & {"size", "nfiles"}, f"{name}: list the keys of {param} one by one"


SHIPPED = ("train_clip@demo", *(f"train_classifier@{name}" for name in ("resnet", "vit", "resnet_biased")))


@pytest.mark.parametrize("stage", [*SHIPPED, "scenes@train", "scenes@train_biased"])
def test_the_shipped_checkpoints_are_found_up_to_date(stage):
    """Else a fresh clone trains for many minutes: after a change of its code, `dvc commit -f train_clip@demo`."""
    locked = YAML(typ="safe").load((ROOT / "dvc.lock").read_text())["stages"]
    for dep in locked[stage]["deps"]:
        if is_code(dep["path"]):
            assert hashlib.md5((ROOT / dep["path"]).read_bytes()).hexdigest() == dep["md5"], dep["path"]
    if stage in SHIPPED:
        found = locked[stage]["outs"][0]["md5"]
        assert (ROOT / ".dvc/shipped/files/md5" / found[:2] / found[2:]).is_file()


def write(folder, **files):
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path = path if path.suffix else path.with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def tree(tmp_path):
    write(
        tmp_path,
        stages__one="from optogram.a import f\n",
        optogram__a="def f():\n    import optogram.b\n    return open('words.txt')\n",
        optogram__b="from optogram.pkg import c\n",
        optogram__pkg__c="",
        optogram__other="",
    )
    (tmp_path / "optogram/pkg/__init__.py").write_text("")
    (tmp_path / "optogram/__init__.py").write_text("")
    (tmp_path / "optogram/words.txt").write_text("a")
    return tmp_path


def test_closure_is_transitive_and_sees_nested_imports_and_data_files(tree):
    assert closure("stages.one", tree) == [
        "optogram/a.py",
        "optogram/b.py",
        "optogram/pkg/c.py",
        "optogram/words.txt",
        "stages/one.py",
    ]


def test_the_digest_changes_with_any_of_them_and_with_nothing_else(tree):
    before = closure_digest("stages.one", tree)
    (tree / "optogram/other.py").write_text("x = 1\n")
    assert closure_digest("stages.one", tree) == before
    (tree / "optogram/words.txt").write_text("b")
    assert closure_digest("stages.one", tree) != before


def test_a_worker_with_other_code_refuses():
    check_code("contributions", closure_digest("stages.contributions"))
    with pytest.raises(ArtifactError, match=r"other code of the stage contributions .* restart the workers"):
        check_code("contributions", "0" * 64)


def test_a_worker_that_was_started_before_a_change_refuses(tree):
    check_code("one", closure_digest("stages.one", tree), tree)
    (tree / "optogram/other.py").write_text("x = 1\n")
    check_code("one", closure_digest("stages.one", tree), tree)
    (tree / "optogram/words.txt").write_text("b")
    with pytest.raises(ArtifactError, match=rf"in {tree}.* was started before a change"):
        check_code("one", closure_digest("stages.one", tree), tree)


def test_a_missing_first_party_module_is_an_error(tree):
    (tree / "stages/one.py").write_text("from optogram.pkg import gone\n")
    with pytest.raises(ModuleNotFoundError, match=r"optogram\.pkg\.gone"):
        closure("stages.one", tree)
