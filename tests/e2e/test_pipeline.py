"""The pipeline through DVC, at micro size: same lock twice, nothing reruns in vain, and just what must rerun does."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from preloaded import preloaded

from optogram.profiles import profile_text

ROOT = Path(__file__).parents[2]
SETTINGS = [
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


def repro(folder, python):
    """Run `dvc repro` with the `python` in a folder; the names of the stages that ran."""
    path = os.pathsep.join(map(str, (python, Path(sys.executable).parent, os.environ["PATH"])))
    environment = {**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(["dvc", "repro"], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return set(re.findall(r"Running stage '([^']+)'", done.stdout))


@pytest.fixture(scope="module")
def run(tmp_path_factory, forks):
    folder = checkout(tmp_path_factory.mktemp("one"))
    assert len(repro(folder, forks)) == 39
    return folder


@pytest.fixture(scope="module")
def forks(tmp_path_factory):
    """Where a `python` is that starts at once: CI and `make demo` run the pipeline as users do."""
    with preloaded(tmp_path_factory.mktemp("forks") / "bin") as folder:
        yield folder


def test_an_empty_folder_gives_the_same_lock(run, forks, tmp_path):
    other = checkout(tmp_path)
    repro(other, forks)
    assert (other / "dvc.lock").read_text() == (run / "dvc.lock").read_text()


def test_what_reruns(run, forks):
    assert repro(run, forks) == set(), "a second run runs nothing"

    params = run / "params.yaml"
    params.write_text(
        params.read_text().replace("size: 8 # desc", "size: 7 # desc").replace("sizes: [1, 4, 8]", "sizes: [1, 7]")
    )
    assert repro(run, forks) == AFTER_TEXTSPAN, "another textspan.size reruns TextSpan and what follows"

    module = run / "optogram/methods/textspan.py"
    module.write_text(module.read_text() + CHANGE)
    assert repro(run, forks) == AFTER_TEXTSPAN, "so does another line in its module"
    assert repro(run, forks) == set()
