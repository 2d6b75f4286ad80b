"""The `optogram` command, as a user types it."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import optogram as optogram_package
from optogram import __version__, data, decompose, methods, models
from optogram.cli.main import app, main
from optogram.params.profiles import profile_text
from optogram.params.root import Params
from optogram.pipeline.doctor import findings, needed_bytes
from optogram.store.write import Provenance, write_dataset

ROOT = Path(__file__).parent.parent.parent
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
    (tmp_path / "artifacts").mkdir()
    done = optogram("open", "textspan/demo", cwd=tmp_path)
    assert done.returncode == 1
    assert "ArtifactError" in done.stderr


def test_sync_check_finds_dvc_yaml_in_step():
    assert optogram("sync", "--check").returncode == 0


@pytest.fixture
def folder(tmp_path):
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "docs").mkdir()
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


@pytest.fixture
def typed(folder, monkeypatch, capsys):
    """`optogram WORDS` in a subfolder, in this process: status, what it printed, and its errors."""

    def run(*words, below="docs"):
        monkeypatch.chdir(folder / below)
        monkeypatch.setattr(sys, "argv", ["optogram", *words])
        with pytest.raises(SystemExit) as end:
            main()
        said = capsys.readouterr()
        return end.value.code or 0, " ".join(said.out.split()), " ".join(said.err.split())

    return run


def test_commands_find_the_checkout_around(folder, typed):
    (folder / "docs/my photos.zip").write_text("")
    status, out, err = typed(
        "profile", "photos", "--images", "my photos.zip", "--set", "seed=3 'device=cpu'", "vital.seeds=1"
    )
    assert (status, err) == (0, "")
    settings = "'photos.path=docs/my photos.zip' seed=3 device=cpu vital.seeds=1"
    assert out == f"params.yaml is profile photos with {settings}."
    assert not (folder / "docs/params.yaml").exists()
    assert (folder / "params.yaml").read_text().startswith(f"# optogram profile photos {settings}\n")
    assert typed("catalog")[1].startswith("No artifacts here yet: `make demo` makes them")
    status, _, err = typed("doctor", below="..")
    assert status == 1
    assert "is in no checkout of Optogram" in err


def test_artifacts_of_the_checkout_are_found_from_a_subfolder(folder, typed):
    made = xr.Dataset({"shade": ("place", np.zeros(2, np.float32))})
    write_dataset(folder / "artifacts/shades", made, Provenance("texts", "Shades"), scratch=folder / ".scratch")
    status, out, _ = typed("catalog")
    assert (status, "shades" in out) == (0, True)
    status, out, _ = typed("open", "shades")
    assert (status, "shade (place)" in out) == (0, True)
    assert typed("sync", "--check")[0] == 1
    assert typed("sync")[0] == 0
    assert typed("sync", "--check")[:2] == (0, "dvc.yaml and docs/artifacts are in step with the stages.")


def test_a_folder_of_artifacts_below_the_checkout_is_listed_and_other_commands_work_in_the_checkout(folder, typed):
    (folder / "artifacts/figures").mkdir(parents=True)
    (folder / "artifacts/figures/index.json").write_text("[]")
    (folder / "docs/artifacts/report").mkdir(parents=True)
    (folder / "docs/artifacts/report/index.html").write_text("")
    assert "figures" in typed("catalog", below=".")[1]
    _, out, _ = typed("catalog")
    assert "report" in out
    assert "figures" not in out
    assert typed("profile", "smoke")[1] == "params.yaml is profile smoke."
    assert "dvc.yaml is written" in typed("sync")[1]


@pytest.mark.parametrize("command", [["sync"], ["pull", "x"], ["gc"], ["lineage", "x"]])
def test_what_needs_a_checkout_says_so_in_a_folder_of_artifacts(tmp_path, monkeypatch, capsys, command):
    (tmp_path / "artifacts").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["optogram", *command])
    with pytest.raises(SystemExit):
        main()
    assert f"CheckoutError: {tmp_path} is in no checkout of Optogram" in capsys.readouterr().err


def test_commands_in_an_error_are_meant_in_the_checkout(tiny_repository, typed):
    (tiny_repository / "docs").mkdir()
    lock = tiny_repository / "dvc.lock"
    lock.write_text(f"<<<<<<< HEAD\n{lock.read_text()}")
    said = f"`git checkout HEAD dvc.lock`. Commands are meant in {tiny_repository}."
    assert typed("catalog", below="repository/docs")[2].endswith(said)
    assert typed("catalog", below="repository")[2].endswith("`git checkout HEAD dvc.lock`.")
    assert "Commands are meant" not in typed("open", "../x", below="repository/docs")[2]


def test_help_says_what_repo_may_be(typed):
    for command in ("pull", "repair"):
        assert "Path of a checkout." in typed(command, "--help")[1]
    assert "Path or git URL" in typed("open", "--help")[1]


def test_profile_alone_says_what_params_are_and_checks_them(folder, typed):
    assert typed("profile")[:2] == (0, "params.yaml is profile demo.")
    path = folder / "params.yaml"
    path.write_text(path.read_text().replace("seed: 0", "seed: 7"))
    assert typed("profile")[1] == "params.yaml is profile demo, and edits of your own."
    path.write_text("# mine\n" + path.read_text())
    assert typed("profile")[1] == "params.yaml is params of your own."
    path.write_text(path.read_text().replace("seed: 7", "sead: 7"))
    assert "sead is not a known key. Did you mean 'seed'" in typed("profile")[2]
    assert "name it first" in typed("profile", "--set", "seed=1")[2]


def test_version_and_commands_that_are_none(typed):
    assert typed("--version")[:2] == (0, f"optogram {__version__}")
    assert "Did you mean 'profile'" in typed("profle")[2]


@pytest.mark.parametrize(
    "command", sorted(command.name or command.callback.__name__ for command in app.registered_commands)
)
def test_every_command_has_an_example(command, typed):
    if command not in ("run", "ui"):
        assert f"Example: optogram {command}" in typed(command, "--help")[1]


def test_a_reader_that_has_enough_and_a_terminal_of_ascii_end_no_command_in_a_traceback(folder):
    words = f"{shlex.quote(COMMAND[0])} profile --help"
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = subprocess.run(
        f"{words} | head -n 1", shell=True, cwd=folder, capture_output=True, text=True, env=ascii_only
    )
    assert done.stderr == ""


def test_packages_list_their_public_names():
    for package in (optogram_package, decompose, methods, data, models):
        assert set(package.__all__) == {*dir(package)} - {"__version__"}
    assert {"open", "catalog", "pull", "load_model", "methods", "__version__"} <= {*dir(optogram_package)}


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
