"""What is said of a run whose bytes are not those of the committed dvc.lock, on a tiny repository."""

import shutil

import pytest
import tiny
from typer.testing import CliRunner

from optogram.catalog.compare import Tolerance
from optogram.cli.main import app
from optogram.errors import ArtifactError
from optogram.pipeline import changed as module
from optogram.pipeline.changed import compare_lock

pytestmark = pytest.mark.slow
TOLERANCE = Tolerance(absolute=1e-5, relative=1e-4)


def compared(folder):
    before = tiny.contents(folder)
    found = compare_lock(str(folder), tolerance=TOLERANCE)
    assert tiny.contents(folder) == before
    return found, {out.path: out.state for out in found.differing}


def rerun(folder, monkeypatch, *stages, **settings):
    """Run stages anew, with noise as of another machine."""
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    tiny.dvc(folder, "repro", "-q", "--force", "--single-item", *stages)
    for name in settings:
        monkeypatch.delenv(name)


def test_equal_within_and_beyond_tolerance_and_what_follows(tiny_repository, monkeypatch):
    found, states = compared(tiny_repository)
    assert states == {}
    assert found.lines() == ["Every byte as committed: 4 outs are as dvc.lock has them."]

    rerun(tiny_repository, monkeypatch, "source@a", TINY_NOISE="1e-7")
    rerun(tiny_repository, monkeypatch, "source@b", TINY_NOISE="1")
    rerun(tiny_repository, monkeypatch, "total")
    monkeypatch.setattr(module, "_processor", lambda: "abacus")
    found, states = compared(tiny_repository)
    assert states == {
        "artifacts/source/a": "within",
        "artifacts/source/b": "beyond",
        "artifacts/total": "page",
        "artifacts/metrics/total.json": "beyond",
    }
    assert found.first == ("source@a", "source@b"), "total follows from these"
    summary, values, metrics, why = found.lines()
    assert summary == "4 of 4 outs differ from the committed dvc.lock, first those of source@a, source@b."
    assert "1 within tolerance (verify.absolute 1e-05, verify.relative 0.0001)" in values
    assert "2 beyond tolerance (artifacts/source/b, artifacts/metrics/total.json)" in values
    assert "total 30 -> 36 in total.json" in metrics
    assert "source@a, source@b are as committed: likely the committed run had another kind of processor" in why
    assert "(abacus)" in why

    told = CliRunner().invoke(app, ["changed"])
    assert told.exit_code == 0
    assert "4 of 4 outs differ" in told.output


def test_params_and_code_are_named_instead_of_the_machine(tiny_repository, monkeypatch):
    (tiny_repository / "params.yaml").write_text(
        (tiny_repository / "params.yaml").read_text().replace("\nseed: 0", "\nseed: 1", 1)
    )
    code = tiny_repository / "stages/total.py"
    code.write_text(code.read_text().replace("<p>", "<b>"))
    rerun(tiny_repository, monkeypatch, "source@a", TINY_NOISE="1")
    rerun(tiny_repository, monkeypatch, "total")
    found, _ = compared(tiny_repository)
    assert found.why == (
        "Params changed since the commit: seed 0 -> 1.",
        "Code changed since the commit: stages/total.py.",
    )


def test_bytes_that_are_nowhere_and_versions_that_are_not_the_pinned_ones(tiny_repository, monkeypatch):
    rerun(tiny_repository, monkeypatch, "source@a", TINY_NOISE="1")
    shutil.rmtree(tiny_repository / ".dvc/cache/files")
    (tiny_repository / "requirements.lock").write_text("numpy==1.0 ; x \\\n    --hash=sha256:0\nnosuchpackage==1\n")
    found, states = compared(tiny_repository)
    assert states == {"artifacts/source/a": "unknown"}
    assert "1 not comparable here" in found.lines()[1]
    assert "packages are not those of requirements.lock: numpy " in found.why[0]


def test_committed_bytes_in_a_remote_that_is_a_folder(tiny_repository, monkeypatch, tmp_path):
    tiny.dvc(tiny_repository, "remote", "add", "--local", "store", str(tmp_path / "remote"))
    tiny.dvc(tiny_repository, "push", "-q", "-r", "store")
    rerun(tiny_repository, monkeypatch, "source@a", TINY_NOISE="1e-7")
    shutil.rmtree(tiny_repository / ".dvc/cache/files")
    assert compared(tiny_repository)[1] == {"artifacts/source/a": "within"}


def test_stages_that_the_commit_lacks_and_no_commit(tiny_repository, tmp_path):
    pipeline = tiny_repository / "dvc.yaml"
    pipeline.write_text(pipeline.read_text().replace("[a, b]", "[a, b, c]"))
    tiny.dvc(tiny_repository, "repro", "-q", "source@c")
    found, states = compared(tiny_repository)
    assert (states, found.added) == ({}, 1)
    assert found.lines()[0].endswith("1 more is not in it.")
    tiny.git(tiny_repository, "rm", "-q", "--cached", "dvc.lock")
    tiny.git(tiny_repository, "commit", "-qm", "without")
    with pytest.raises(ArtifactError, match=r"git has no dvc\.lock at HEAD .* nothing to compare"):
        compare_lock(str(tiny_repository))
