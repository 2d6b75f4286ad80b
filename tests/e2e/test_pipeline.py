"""The pipeline through DVC, at micro size: same lock twice, nothing reruns in vain, and just what must rerun does."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from optogram.params.profiles import profile_text
from optogram.pipeline.warm import warm_stages

ROOT = Path(__file__).parents[2]
SETTINGS = [
    "threads=1",  # xdist fills the cores
    "scenes.splits.train.count=128",
    "scenes.splits.reference.count=96",
    "scenes.splits.eval.count=96",
    "scenes.splits.biased.count=64",
    "scenes.splits.train_biased.count=32",
    "train_clip.models.smoke.epochs=1",
    "train_clip.models.smoke.batch=16",
    "segmentation.images=16",
    "second_order.layers=[1]",
    "classifiers=[smoke_resnet]",
]
# The dvc.lock of a run of the smoke profile that CI has made from this very code, to compare with.
SMOKE = os.environ.get("OPTOGRAM_SMOKE_LOCK")
if SMOKE:
    SETTINGS = []
AFTER_TEXTSPAN = {"textspan@smoke", "roles@smoke", "spurious@smoke", "joint@smoke", "report", "figures"}
CHANGE = """
_as_it_was = textspan_heads
def textspan_heads(*args, **options):
    found = _as_it_was(*args, **options)
    return found.assign(variance=found["variance"] * 2)
"""
pytestmark = pytest.mark.slow


def checkout(folder):
    """What git would hold, without history, data or locks, at the micro size."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.decode()
    for name in filter(None, listed.split("\0")):
        if (
            name != "dvc.lock"
            and not name.startswith(("artifacts/", ".dvc/shipped/", "tests/"))
            and (ROOT / name).is_file()
        ):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    (folder / "params.yaml").write_text(profile_text("smoke", SETTINGS, ROOT / "profiles"))
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    return folder


def environment(warm):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": "", "DVC_NO_ANALYTICS": "1", **warm}


def repro(folder, warm):
    """Run `dvc repro`, with stages as forks of the warm parent; the names of the stages that ran."""
    done = subprocess.run(["dvc", "repro"], cwd=folder, env=environment(warm), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return set(re.findall(r"Running stage '([^']+)'", done.stdout))


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    return checkout(tmp_path_factory.mktemp("one"))


@pytest.fixture(scope="module")
def warm(fresh):
    with warm_stages(fresh, environment=environment({})) as extra:
        yield extra


@pytest.fixture(scope="module")
def run(fresh, warm):
    ran = repro(fresh, warm)
    assert ran == {*locked(fresh / "dvc.lock")}
    assert len(ran) >= 44
    return fresh


def locked(path):
    return yaml.safe_load(path.read_text())["stages"]


def test_an_empty_folder_gives_the_same_lock(run, warm, tmp_path):
    if SMOKE:  # beside the entries of the demo, which is what is committed
        ours, theirs = locked(run / "dvc.lock"), locked(Path(SMOKE))
        assert {name: theirs.get(name) for name in ours} == ours
        return
    other = checkout(tmp_path)
    repro(other, warm)
    assert (other / "dvc.lock").read_text() == (run / "dvc.lock").read_text()


@pytest.mark.parametrize(
    "stage", ["scenes@eval", "contributions@smoke-eval", "textspan@smoke", "neurons@smoke-1", "vital@smoke_resnet"]
)
def test_a_stage_that_runs_cold_gives_the_bytes_of_a_warm_one(run, tmp_path, stage):
    words = shlex.split(locked(run / "dvc.lock")[stage]["cmd"])
    for place, option in enumerate(words[:-1]):
        if option in ("--out", "--metrics"):
            words[place + 1] = str(tmp_path / words[place + 1])
    done = subprocess.run(words, cwd=run, env=environment({}), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    made = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()]
    assert made
    for path in made:
        assert (tmp_path / path).read_bytes() == (run / path).read_bytes(), path


def test_what_reruns(run, warm):
    assert repro(run, warm) == set(), "a second run runs nothing"

    params = run / "params.yaml"
    params.write_text(
        params.read_text().replace("size: 8 # desc", "size: 7 # desc").replace("sizes: [1, 4, 8]", "sizes: [1, 7]")
    )
    again = {"check_params", *AFTER_TEXTSPAN}
    assert repro(run, warm) == again, "another textspan.size reruns TextSpan and what follows"

    module = run / "optogram/methods/heads/textspan.py"
    module.write_text(module.read_text() + CHANGE)
    assert repro(run, warm) == AFTER_TEXTSPAN, "so does another line in its module"
    assert repro(run, warm) == set()


def command(folder, *words):
    """Run a command in the folder, with the folder's own code."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_a_method_is_added_by_the_steps_of_the_docs(run, warm):
    """Seven files and one line: docs/adding-a-method.md, whose files are written as they stand there."""
    (run / "params.yaml").write_text(profile_text("smoke", SETTINGS, ROOT / "profiles"))
    repro(run, warm)  # after what another test changed
    shutil.copytree(ROOT / "tests", run / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    git = ("git", "-c", "user.name=a", "-c", "user.email=a@b.c")
    for words in (("add", "-A"), ("commit", "-qm", "before")):
        command(run, *git, *words)
    text = (ROOT / "docs/adding-a-method.md").read_text()
    files = dict(re.findall(r"`(\S+)`:\n\n```(?:python|markdown)\n(.*?)```\n", text, re.S))
    files |= dict.fromkeys(re.findall(r"`(\S+)` is empty", text), "")
    (line,) = re.findall(r"`(\S+)`:\n\n```diff\n-(.*?)\n\+(.*?)\n```\n", text)
    for name, content in files.items():
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(content)
    changed, old, new = line
    before = (run / changed).read_text()
    assert before.count(f"{old}\n") == 1
    (run / changed).write_text(before.replace(old, new))

    command(run, "optogram", "sync")
    command(run, "optogram", "profile", "--force", "--set", " ".join(SETTINGS), "smoke")
    assert "\nnorms:\n" in (run / "params.yaml").read_text()
    assert repro(run, warm) == {"check_params", "norms@smoke", "report"}
    page = (run / "artifacts/report/index.html").read_text()
    assert "Norms of contributions" in page
    assert "The head that writes most has a mean norm of" in page

    generated = {
        "dvc.yaml",
        "dvc.lock",
        "params.yaml",
        "docs/artifacts/README.md",
        "artifacts/metrics/norms_smoke.json",
    }
    status = command(run, "git", "status", "--porcelain", "-uall").splitlines()
    status = {name: mark for mark, name in (row.split() for row in status) if name not in generated}
    assert status == {changed: "M"} | dict.fromkeys(files, "??")
    assert len(files) <= 7
    assert command(run, "git", "diff", "--numstat", changed).split()[:2] == ["1", "1"]

    rooms = ("tests/pipeline/test_closure.py", "tests/methods/norms", "tests/stages/test_stages.py")
    said = command(
        run, sys.executable, "-m", "pytest", "-q", "-n", "0", *rooms, "-k", "norms or index_of or dvc_yaml_is"
    )
    assert "passed" in said
