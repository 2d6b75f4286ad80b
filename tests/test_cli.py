"""The `optogram` command, as a user types it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from optogram.doctor import findings, needed_bytes
from optogram.params import Params
from optogram.profiles import profile_text

ROOT = Path(__file__).parent.parent
COMMAND = [str(Path(sys.executable).parent / "optogram")]


def optogram(*words, cwd=ROOT):
    done = subprocess.run(
        [*COMMAND, *words], cwd=cwd, capture_output=True, text=True, env={**os.environ, "COLUMNS": "160"}
    )
    assert "Traceback" not in done.stderr
    return done


def test_help_lists_the_commands():
    text = optogram("--help").stdout
    for command in ("catalog", "open", "pull", "profile", "sync", "doctor", "verify", "diff", "lineage", "gc"):
        assert command in text


def test_open_of_what_is_not_there_names_the_nearest_without_a_traceback(tmp_path):
    done = optogram("open", "textspan/demo", cwd=tmp_path)
    assert done.returncode == 1
    assert "ArtifactError" in done.stderr


def test_sync_check_finds_dvc_yaml_in_step():
    assert optogram("sync", "--check").returncode == 0


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "profiles").symlink_to(ROOT / "profiles")
    (tmp_path / "params.yaml").write_text(profile_text("demo", []))
    return tmp_path


def test_profile_writes_and_comes_back(folder):
    assert optogram("profile", "smoke", "textspan.size=6", "textspan.sizes=[6]", cwd=folder).returncode == 0
    assert (folder / "params.yaml").read_text().startswith("# optogram profile smoke textspan.size=6")
    assert optogram("profile", "demo", cwd=folder).returncode == 0
    assert (folder / "params.yaml").read_text() == profile_text("demo", [])


def test_profile_does_not_drop_edits(folder):
    path = folder / "params.yaml"
    path.write_text(path.read_text().replace("seed: 0", "seed: 7"))
    done = optogram("profile", "smoke", cwd=folder)
    assert done.returncode == 1
    assert "edits of your own" in done.stderr
    assert "seed: 7" in path.read_text()
    assert optogram("profile", "smoke", "--force", cwd=folder).returncode == 0


def test_profile_with_a_misspelt_key_changes_nothing(folder):
    done = optogram("profile", "demo", "textspan.sice=3", cwd=folder)
    assert done.returncode == 1
    assert "Did you mean 'size'" in done.stderr
    assert (folder / "params.yaml").read_text() == profile_text("demo", [])


def test_doctor_says_what_the_machine_has_and_what_the_run_needs(folder, monkeypatch):
    monkeypatch.chdir(folder)
    found = {finding.what: finding for finding in findings()}
    assert {"python", "torch", "device", "bf16", "memory", "disk", "params.yaml"} <= set(found)
    assert found["params.yaml"].state == "ok"
    (folder / "params.yaml").write_text("sead: 1\n")
    assert {f.what: f.state for f in findings()}["params.yaml"] == "bad"


def test_the_disk_needed_grows_with_the_images():
    more = Params.model_validate(
        {"scenes": {"splits": {**Params().model_dump()["scenes"]["splits"], "eval": {"count": 9000}}}}
    )
    assert needed_bytes(more) > needed_bytes(Params()) + 7000 * 64 * 64 * 3


def test_profile_takes_out_what_it_does_not_make_and_nothing_else(tmp_path):
    """Artifacts of another profile would be read with those of this one; metrics lie in git and stay."""
    for name in ("dvc.yaml", "profiles", "optogram", "stages"):
        (tmp_path / name).symlink_to(ROOT / name)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    dvc = [str(Path(sys.executable).parent / "dvc"), "init", "-q"]
    subprocess.run(dvc, cwd=tmp_path, check=True, env={**os.environ, "DVC_NO_ANALYTICS": "1"})
    (tmp_path / "params.yaml").write_text(profile_text("demo", []))
    for name in ("textspan/demo/x", "images/eval/x", "metrics/textspan_demo.json", "mine/x"):
        (tmp_path / "artifacts" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "artifacts" / name).write_text("x")
    assert optogram("profile", "smoke", cwd=tmp_path).returncode == 0
    left = {
        p.relative_to(tmp_path / "artifacts").as_posix() for p in (tmp_path / "artifacts").rglob("*") if p.is_file()
    }
    assert left == {"images/eval/x", "metrics/textspan_demo.json", "mine/x"}
