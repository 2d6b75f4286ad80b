"""What a shell, make and DVC read: no name of a file, and nothing before params.yaml is checked."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from dvc.exceptions import ReproductionError
from dvc.repo import Repo

from optogram.params.profiles import profile_text

ROOT = Path(__file__).parent.parent
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
MODELS = {f"{word}_{kind}.models" for word in ("train", "load") for kind in ("clip", "classifier")}
GENERATIVE = ("train_gan", "load_generator", "train_diffusion", "load_diffusion", "sample", "generate", "train_judge")
GENERATIVE += ("drawn", "fidelity")
MODELS |= {f"{section}.models" for section in GENERATIVE}
# Of these only the keys are names, which the params keep plain; what they map to can be a path.
KEYS = {"scenes.splits", "photos.splits", "texts.files", "rosetta.groups", *MODELS}
KEYS |= {"counterfactuals.groups", "disagreement.groups", "neuron_pictures.groups"}
# Of these every entry is one of those names, a split, a built-in pool or a number.
ENTRIES = {"clips", "classifiers", "reference_sets.models", "texts.pools", "second_order.layers"}
ENTRIES |= {f"{section}.splits" for section in ("activations", "contributions", "second_order")}
NAMES = {"spurious.split", "visual_scores.clip", "rosetta.pool", "npca.split", "spurious_scores.split"}
# Of the values of these, what is a split or the name of a model.
ITEMS = {"train_classifier.models": {"item.split"}, "train_gan.models": {"item.split", "item.clip"}}
ITEMS["train_judge.models"] = {"item.split"}
ITEMS["train_diffusion.models"] = {"item.split", "item.clip"}
ITEMS["drawn.models"] = {"item.split", "item.clip", "item.judge"}
ITEMS["fidelity.models"] = {"item.split", "item.clip", "item.classifier"}
ITEMS["rosetta.groups"] = {"item.split"}
ITEMS["counterfactuals.groups"] = ITEMS["disagreement.groups"] = ITEMS["neuron_pictures.groups"] = {"item.split"}
ODD = "a $HOME 'q' \"d\" `touch ran` #1 %s (ü) & ; x"


def allowed(stage):
    """What may stand as ${…} in the command of a stage."""
    if source := stage.get("foreach", "")[2:-1]:
        assert source in KEYS | ENTRIES
        own = {"key"} if source in KEYS else {"item"}
        return NAMES | own | ITEMS.get(source, set())
    # a matrix over a mapping takes its keys, as foreach gives them as ${key}
    matrix = stage.get("matrix", {})
    assert {source[2:-1] for source in matrix.values()} <= KEYS | ENTRIES
    return NAMES | {f"item.{name}" for name in matrix}


@pytest.mark.parametrize("name", sorted(STAGES))
def test_only_names_stand_in_a_command(name):
    stage = STAGES[name]
    command = stage.get("do", stage)["cmd"]
    assert {*re.findall(r"\$\{([^}]*)\}", command)} <= allowed(stage)
    assert re.fullmatch(r"python -m stages\.\w+( --\w+ [\w./${}]+)+", command), "plain words only"


@pytest.mark.parametrize("name", sorted({*STAGES} - {"check_params"}))
def test_every_stage_follows_the_check(name):
    """Each reads what another stage made, and those that read nothing else read the mark of check_params."""
    stage = STAGES[name]
    assert any(dep.startswith("artifacts/") for dep in stage.get("do", stage)["deps"])


def test_no_command_is_put_together_for_a_shell():
    for package in ("optogram", "stages", "flows", "benchmarks", "examples"):
        for path in (ROOT / package).rglob("*.py"):
            assert not re.search(r"shell=True|os\.(system|popen)\(|getoutput\(", path.read_text()), path


@pytest.fixture
def checked(here, monkeypatch):
    """A checkout of the stage check_params as dvc.yaml has it, and of one stage that follows it."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    first = {**STAGES["check_params"], "deps": ["params.yaml"]}
    after = {"cmd": "echo x > out", "deps": ["artifacts/metrics/.checked"], "params": ["seed"], "outs": ["out"]}
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": {"after": after, "check_params": first}}))
    Path("params.yaml").write_text(profile_text("demo", []))
    Repo.init(no_scm=True).close()

    def repro(*targets):
        with Repo(".") as repo:
            return [stage.addressing for stage in repo.reproduce(targets or None)]

    return repro


def test_params_are_checked_first_whenever_they_change(checked, capfd):
    assert checked() == ["check_params", "after"]
    assert checked() == []
    path = Path("params.yaml")
    path.write_text("# a comment\n" + path.read_text())
    assert checked() == ["check_params"], "what follows does not run again for it"
    path.write_text(path.read_text().replace("seed: 0", "seed: 1\nsead: 0"))
    for targets in ((), ("after",)):
        with pytest.raises(ReproductionError, match="check_params"):
            checked(*targets)
        assert "sead is not a known key. Did you mean 'seed'" in capfd.readouterr().err


def test_a_name_that_would_be_run_is_refused_before_any_command_has_it(checked):
    path = Path("params.yaml")
    path.write_text(path.read_text().replace("  files: {}", "  files: {'$(touch ran)': a.txt}"))
    with pytest.raises(ReproductionError, match="check_params"):
        checked()
    assert not Path("ran").exists()


@pytest.fixture
def make(tmp_path):
    """`make WORDS` in a folder with an odd name, whose commands only say how they were called; [[command, word …]]."""
    folder = tmp_path / ODD
    (folder / ".venv/bin").mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", folder)
    (folder / "requirements.lock").write_text("")
    (folder / ".venv/bin/python").symlink_to(sys.executable)
    says = "import os, sys\nprint('\\n'.join(['', *sys.argv[:1], *sys.argv[1:]]).replace('.venv/bin/', '>'))\n"
    for name in ("optogram", "dvc", "pytest"):
        (folder / ".venv/bin" / name).write_text(says)
    (folder / ".venv/installed").write_text(str(folder))

    def run(*words, **environment):
        environment = {**os.environ, "CDPATH": "/", "PYTHONHOME": "/nowhere", **environment}
        done = subprocess.run(["make", "-s", *words], cwd=folder, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        assert not [*tmp_path.rglob("ran*")], "a part of a name was run"
        return [part.strip("\n").split("\n") for part in done.stdout.rstrip().split("\n>")[1:]]

    run.folder = folder
    return run


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], []),
        (["IMAGES= ", "SET=  ", "PROFILE= "], []),
        (["PROFILE=smoke"], ["--images=", "--set=", "--", "smoke"]),
        (["SET=seed=3"], ["--images=", "--set=seed=3", "--", "demo"]),
        (["IMAGES=a $(touch ran1) `touch ran2` $(shell touch ran3).zip", "SET=x='$HOME' y=\"; touch ran4\""], None),
        (['IMAGES=-x\'s "q" $$ \\ #.zip', "PROFILE=$(touch ran)"], None),
    ],
)
def test_make_passes_on_what_was_typed(make, words, told):
    said = make("demo", *words)
    typed = dict(word.split("=", 1) for word in words)
    if told is None:
        told = [f"--images={typed['IMAGES']}", f"--set={typed.get('SET', '')}", "--", typed.get("PROFILE", "photos")]
    assert said[0][-len(told) - 1 :] == ["profile", *told]
    assert said[1:] == [["optogram", "run", "--brief"]]


def test_make_reads_the_environment_as_it_is_too(make):
    assert "--images=$(shell touch ran)" in make("demo", IMAGES="$(shell touch ran)")[0]
    assert make("test", "STAGE=$(touch ran)")[0][-1] == "[$(touch ran)] or [$(touch ran)-"


def test_make_sees_that_the_folder_has_moved(make):
    (make.folder / ".venv/installed").write_text("/elsewhere")
    (make.folder / ".ci").mkdir()
    (make.folder / ".ci/environment").write_text('#!/bin/sh\necho "set up in $VIRTUAL_ENV"; exit 3\n')
    assert not os.access(make.folder / ".ci/environment", os.X_OK), "archives may lose this bit"
    done = subprocess.run(["make", "demo"], cwd=make.folder, capture_output=True, text=True)
    assert "another name than when .venv was set up" in done.stdout
    assert f"set up in {make.folder}/.venv" in done.stdout
    assert done.returncode == 2


def test_what_is_installed_goes_into_the_folder_s_own_environment(make):
    """uv is told of it whatever the folder's name is; nothing is installed here."""
    commands = {
        ".ci/environment": "",
        ".venv/bin/python": f'[ "$1 $2" = "-m pip" ] || exec {sys.executable} "$@"',
        ".venv/bin/uv": r"""printf '\n>uv'; printf '\n%s' "$VIRTUAL_ENV" "$@"; echo""",
    }
    (make.folder / ".ci").mkdir()
    (make.folder / ".venv/bin/python").unlink()
    for name, command in commands.items():
        (make.folder / name).write_text(f"#!/bin/sh\n{command}\n")
        (make.folder / name).chmod(0o755)
    (make.folder / ".venv/installed").unlink()
    said = make("demo")
    own = ["uv", f"{make.folder}/.venv", "pip", "install", "-q"]
    assert said[:2] == [[*own, "--require-hashes", "-r", "requirements.lock"], [*own, "--no-deps", "-e", "."]]
    assert (make.folder / ".venv/installed").read_text() == str(make.folder)
    assert make("demo")[0][0] == "optogram", "it is set up once"


@pytest.mark.parametrize(
    ("python", "said"),
    [("no such python", "there is no no such python here. Install Python 3.11"), ("./old", "expected 3.11 or later")],
)
def test_the_environment_says_which_python_it_needs(tmp_path, python, said):
    old = f'#!/bin/sh\nexec {sys.executable} -c "import sys; sys.version_info = (3, 9); $2"\n'
    (tmp_path / "old").write_text(old)
    (tmp_path / "old").chmod(0o755)
    done = subprocess.run(
        [str(ROOT / ".ci/environment")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHON": python},
    )
    assert done.returncode == 1
    assert said in done.stderr
    assert not (tmp_path / ".venv").exists()
