"""The rooms, and the code that each stage depends on."""

import ast
import itertools
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML

from optogram.errors import ArtifactError
from optogram.params.root import Params
from optogram.pipeline.closure import PACKAGES, check_code, closure, closure_digest, folders
from optogram.pipeline.declared import declared
from optogram.pipeline.dvc_yaml import changed_stages, dvc_yaml, is_code, stage_module
from optogram.pipeline.stage import Stage

ROOT = Path(__file__).parent.parent.parent
STAGES = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
SOURCES = sorted(p for package in PACKAGES for p in (ROOT / package).rglob("*.py"))

# Which rooms a room may import from, beside itself, errors and progress.
MAY = {
    "store": set(),
    "params": {"store"},
    "catalog": {"store"},
    "data": {"store"},
    "models": {"data", "store"},
    "decompose": {"models", "store"},
    "metrics": {"store"},
    "guidance": {"models", "data", "store"},
    "methods": {"decompose", "guidance", "models", "metrics", "data", "store"},
    "report": {"metrics", "methods", "store", "data", "params"},
    "pipeline": {"catalog", "params", "report", "store"},
    "study": {"catalog", "models", "report"},
    "cli": {"catalog", "params", "pipeline", "study", "report", "store"},
}
LOOSE = {"__init__", "errors", "progress"}
FAMILIES = {p.name for p in (ROOT / "optogram/methods").iterdir() if p.is_dir()}


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
    if package != "optogram" or path.name == "__init__.py":
        return
    room, *inner = path.relative_to(ROOT / package).with_suffix("").parts
    if not inner:
        assert room in LOOSE
        return
    rooms = {n.split(".")[1] for n in names if n.startswith("optogram.")}
    assert not (rooms & set(MAY)) - MAY[room] - {room}
    if room == "methods" and len(inner) > 1:
        families = {n.split(".")[2] for n in names if n.startswith("optogram.methods.")} & FAMILIES
        assert families <= {inner[0]}, "families of methods know nothing of each other"


def test_no_two_modules_import_each_other():
    modules = {".".join(p.relative_to(ROOT).with_suffix("").parts): p for p in SOURCES if p.name != "__init__.py"}
    graph = {name: set(imported_when_run(path)) & set(modules) for name, path in modules.items()}
    assert list(TopologicalSorter(graph).static_order())


def imported_when_run(path):
    """As `imported`, without what only a type checker reads."""
    tree = ast.parse(path.read_text())
    unread = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and id(node) not in unread:
            yield from {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_says_which_room_it_is_and_stays_small(path):
    text = path.read_text()
    if path.name == "__init__.py" and not text:
        return
    assert ast.get_docstring(ast.parse(text)), f"{path} has no first line"
    assert len(text.splitlines()) <= 400
    if path.parent.name == "stages" and path.name not in ("doorway.py", "warm_parent.py"):
        told = [node for node in ast.parse(text).body if isinstance(node, ast.Assign)]  # what the stage declares
        assert len(text.splitlines()) - sum(node.end_lineno - node.lineno + 1 for node in told) <= 60


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_functions_stay_small(path):
    functions = [
        (node.name, node.end_lineno - node.lineno + 1)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert not [(name, lines) for name, lines in functions if lines > 60]


# Every stage depends on the first through the doorway. The others decide where it runs and note what that took: a fork
# gives the bytes of a process of its own (tests/e2e).
UNTRACKED_IMPORTS = {"optogram.store.rounding", "optogram.pipeline.warm_client", "optogram.pipeline.costs"}


@pytest.mark.parametrize("path", [p for p in SOURCES if p.name == "__init__.py"], ids=lambda p: p.parent.name)
def test_packages_hold_only_lazy_exports(path):
    """So that closures may leave them out: importing a package runs nothing that a stage could depend on."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {n for n in imported_of(node) if n.startswith("optogram")}
            assert names <= UNTRACKED_IMPORTS, f"{path} imports {ast.unparse(node)}"


def imported_of(node):
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]


def test_dvc_yaml_is_what_the_stages_declare():
    assert changed_stages((ROOT / "dvc.yaml").read_text(), dvc_yaml()) == [], "run `optogram sync`"


def test_a_declaration_read_alone_is_the_one_of_the_module_that_runs():
    for name, (module, stage) in declared().items():
        assert stage in vars(import_module(f"stages.{module}")).values(), name


def test_a_folder_stands_for_its_files_where_all_of_them_are_needed(tmp_path):
    room = tmp_path / "optogram/room"
    (room / "__pycache__").mkdir(parents=True)
    for name in ("__init__.py", "one.py", "two.py", "__pycache__/one.pyc"):
        (room / name).write_text("")
    (tmp_path / "optogram/alone").mkdir()
    (tmp_path / "optogram/alone/it.py").write_text("")
    paths = ["optogram/room/one.py", "optogram/room/two.py"]
    assert folders([*paths, "optogram/alone/it.py", "stages/x.py"], tmp_path) == [
        "optogram/alone/it.py",
        "optogram/room",
        "stages/x.py",
    ]
    (room / "three.py").write_text("")
    assert folders(paths, tmp_path) == paths


def test_no_folder_of_code_that_dvc_reads_has_what_python_leaves_there():
    assert "__pycache__/" in (ROOT / ".dvcignore").read_text().splitlines()


def test_a_stage_uses_no_variable_that_it_is_not_repeated_over():
    with pytest.raises(ValueError, match=r"Stage toy uses \{layre\}, but is repeated over \['model'\]"):
        Stage("toy", family="heads", desc="A toy", over={"model": "clips"}, out="toy/{layre}")


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


@pytest.mark.parametrize("name", ["ablation", "indirect", "segmentation", "visual_scores", "reference_sets"])
def test_a_new_text_pool_does_not_rerun_what_reads_the_zero_shot_classifier_only(name):
    read = [
        dep
        for dep in STAGES[name].get("do", STAGES[name])["deps"]
        if dep.startswith(("artifacts/emb", "artifacts/texts"))
    ]
    assert [dep.rsplit("/", 1)[-1] for dep in read] == ["zeroshot"]
    assert not {"texts.pools", "texts.files"} & {*STAGES[name].get("do", STAGES[name])["params"]}


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


SHIPPED = (
    "train_clip@demo",
    *(f"train_classifier@{name}" for name in ("resnet", "vit", "resnet_biased")),
    *("train_judge@judge", "train_diffusion@prior", "train_gan@gan"),
)


@pytest.mark.parametrize("stage", [*SHIPPED, "scenes@train", "scenes@train_biased"])
def test_the_shipped_checkpoints_are_found_up_to_date(stage):
    """Else a fresh clone trains for many minutes: after a change of its code, `dvc commit -f train_clip@demo`."""
    with Repo(str(ROOT)) as repo:
        (found,) = repo.stage.collect(stage)
        changed = [dep.def_path for dep in found.deps if is_code(dep.def_path) and dep.status()]
    assert not changed
    if stage in SHIPPED:
        locked = YAML(typ="safe").load((ROOT / "dvc.lock").read_text())["stages"]
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


def test_a_folder_of_modules_that_are_imported_by_name_is_taken_whole(tree):
    write(
        tree,
        optogram__a="FOLDER = 'parts/'\n",
        optogram__parts__x="from optogram.other import f\n",
        optogram__parts__y="",
    )
    (tree / "optogram/parts/__init__.py").write_text("")
    found = ["optogram/a.py", "optogram/other.py", "optogram/parts/x.py", "optogram/parts/y.py", "stages/one.py"]
    assert closure("stages.one", tree) == found
    write(tree, stages__two="from optogram import bare\n", optogram__bare="FOLDER = 'parts'\n")
    assert closure("stages.two", tree) == ["optogram/bare.py", "stages/two.py"]


def test_the_report_depends_on_all_sections():
    sections = {path.relative_to(ROOT).as_posix() for path in (ROOT / "optogram/report/sections").glob("[!_]*.py")}
    assert sections < set(closure("stages.report"))


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
