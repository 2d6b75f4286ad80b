"""`optogram verify`, on a tiny repository: what it finds, and that it leaves everything as it was."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny
from typer.testing import CliRunner

from optogram.catalog.compare import Tolerance
from optogram.cli.main import app
from optogram.errors import ArtifactError
from optogram.pipeline.verify import verify
from tests.flows.conftest import gone

TOLERANCE = Tolerance(absolute=1e-5, relative=1e-4)
pytestmark = pytest.mark.slow


@pytest.fixture
def repository(tiny_repository, tmp_path, monkeypatch):
    """A tiny repository; afterwards no clone is left."""
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setattr("tempfile.tempdir", None)
    yield tiny_repository
    assert not list(scratch.glob("optogram-verify-*"))


def verdicts(*names, folder, **options):
    """{stage: Verdict}; the checkout and its cache are the same before and after."""
    before = tiny.contents(folder)
    found = {verdict.stage: verdict for verdict in verify(names, repo=str(folder), tolerance=TOLERANCE, **options)}
    assert tiny.contents(folder) == before
    return found


def test_all_equal(repository):
    found = verdicts(folder=repository)
    assert list(found) == ["source@a", "source@b", "total"]
    assert {v.state for v in found.values()} == {"equal"}
    assert not any(v.notes or v.changes for v in found.values())


def test_rounding_is_within_and_does_not_reach_the_next_stage(repository, monkeypatch):
    monkeypatch.setenv("TINY_NOISE", "1e-7")
    found = verdicts("source@a", "total", folder=repository)
    assert {name: v.state for name, v in found.items()} == {"source@a": "within", "total": "equal"}
    [(out, change)] = found["source@a"].changes
    assert (out, change.name, change.differing, change.beyond) == ("artifacts/source/a", "z", 6, 0)
    assert change.absolute == pytest.approx(1e-7)


def test_a_true_difference_is_told_by_variable(repository, monkeypatch):
    monkeypatch.setenv("TINY_NOISE", "0.5")
    monkeypatch.setenv("TINY_WORD", "green")
    [verdict] = verdicts("source@b", folder=repository).values()
    assert verdict.state == "differs"
    changes = {change.name: change for _, change in verdict.changes}
    assert changes["z"].absolute == 0.5
    assert changes["word"].says == "image=j: 'blue' -> 'green'"


def test_the_threads_are_those_of_the_lock(repository):
    for name, old, new in (
        ("dvc.yaml", "[textspan.size]", "[textspan.size, threads]"),
        ("params.yaml", "threads: 2", "threads: 1"),
    ):
        path = repository / name
        path.write_text(path.read_text().replace(old, new, 1))
    code = repository / "stages/total.py"
    code.write_text(
        code.read_text()
        + "(out / 'threads').write_text(Path('params.yaml').read_text().partition('threads: ')[2][:1])\n"
    )
    tiny.dvc(repository, "repro", "-q", "total")
    params = repository / "params.yaml"
    params.write_text(params.read_text().replace("threads: 1", "threads: 3"))
    [verdict] = verdicts("total", folder=repository).values()
    assert verdict.state == "equal", verdict
    assert verdict.notes == ("recomputed with threads = 1, as dvc.lock has it; params.yaml says 3",)


def test_metrics_by_number_and_pages_by_file(repository, monkeypatch):
    monkeypatch.setenv("TINY_METRIC", "1e-7")
    [verdict] = verdicts("total", folder=repository).values()
    assert verdict.state == "within"
    assert [(out, c.name) for out, c in verdict.changes] == [("artifacts/metrics/total.json", "total")]
    code = repository / "stages/total.py"
    code.write_text(code.read_text().replace("<p>", "<b>"))
    [verdict] = verdicts("total", folder=repository).values()
    assert verdict.state == "differs"
    assert ("artifacts/total", "index.html", "file") in [(out, c.name, c.kind) for out, c in verdict.changes]
    assert verdict.notes == ("changed since dvc.lock was written: stages/total.py",)
    [verdict] = verdicts("total", folder=repository, rev="HEAD").values()
    assert verdict.state == "within", "the committed page, with the noise"


def test_new_files_and_deletions_of_the_working_tree_count(repository):
    code = repository / "stages/total.py"
    code.rename(repository / "stages/sum.py")
    pipeline = repository / "dvc.yaml"
    pipeline.write_text(
        pipeline.read_text().replace("stages.total", "stages.sum").replace("stages/total", "stages/sum")
    )
    [verdict] = verdicts("total", folder=repository).values()
    assert verdict.state == "equal"
    assert "its command changed since" in verdict.notes


def test_inputs_that_are_nowhere_and_inputs_from_a_remote(repository, tmp_path):
    tiny.dvc(repository, "remote", "add", "-d", "--local", "store", str(tmp_path / "remote"))
    tiny.dvc(repository, "push", "-q")
    shutil.rmtree(repository / ".dvc/cache")
    shutil.rmtree(repository / "artifacts/source")
    found = verdicts("total", folder=repository)
    assert found["total"].state == "equal", found["total"].reason
    assert not (repository / ".dvc/cache/files").exists()
    shutil.rmtree(tmp_path / "remote")
    found = verdicts("total", folder=repository)["total"]
    assert found.state == "unverified"
    assert "artifacts/source/a: not in the cache, " in found.reason
    assert "remote" in found.reason


def test_a_corrupted_cache_object_is_named_and_left_alone(repository):
    chunk = repository / "artifacts/source/a/z/c/0/0"
    chunk.chmod(0o644)
    chunk.write_bytes(b"corrupted")  # a hardlink into the cache
    chunk.chmod(0o444)
    [verdict] = verdicts("total", folder=repository).values()
    assert verdict.state == "unverified"
    assert "artifacts/source/a: the cache object" in verdict.reason
    assert "is corrupted, and no remote is configured" in verdict.reason


def test_a_corrupted_locked_out_cannot_be_measured(repository, monkeypatch):
    chunk = repository / "artifacts/source/a/z/c/0/0"
    chunk.chmod(0o644)
    chunk.write_bytes(b"corrupted")
    monkeypatch.setenv("TINY_NOISE", "1e-7")
    [verdict] = verdicts("source@a", folder=repository).values()
    assert verdict.state == "differs"
    assert "by how much cannot be told" in verdict.changes[0][1].says


def test_a_stage_that_fails_says_why(repository, monkeypatch):
    monkeypatch.setenv("TINY_FAIL", "1")
    found = verdicts("total", "source@b", folder=repository)
    assert found["total"].state == "unverified"
    assert "the disk of tiny is full" in found["total"].reason
    assert found["source@b"].state == "equal"


def test_a_stage_that_writes_into_its_inputs_spoils_no_cache(repository, monkeypatch):
    monkeypatch.setenv("TINY_SPOIL", "1")
    [verdict] = verdicts("total", folder=repository).values()
    assert verdict.state == "unverified"
    assert "made from another artifacts/source" in verdict.reason


def test_locks_that_do_not_fit_together(repository):
    lock = repository / "dvc.lock"
    before, _, after = lock.read_text().partition("path: artifacts/source\n")
    digest = after.partition("md5: ")[2][:32]
    lock.write_text(before + "path: artifacts/source\n" + after.replace(digest, "0" * 32, 1))
    [verdict] = verdicts("total", folder=repository).values()
    assert verdict.state == "unverified"
    assert "contradicts itself" in verdict.reason


def test_a_stage_that_is_not_locked_yet(repository):
    pipeline = repository / "dvc.yaml"
    pipeline.write_text(pipeline.read_text().replace("[a, b]", "[a, b, c]"))
    [verdict] = verdicts("source@c", folder=repository).values()
    assert (verdict.state, verdict.seconds) == ("unverified", 0)
    assert "dvc repro" in verdict.reason


def test_code_on_pythonpath_does_not_come_before_the_clone_s(repository, monkeypatch, tmp_path):
    (tmp_path / "other/stages").mkdir(parents=True)
    for name in ("source", "__init__"):
        (tmp_path / f"other/stages/{name}.py").write_text("raise SystemExit('the wrong code')\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}/other{os.pathsep}{tiny.ROOT}")
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    assert verdicts("source@a", folder=repository)["source@a"].state == "equal"


def test_a_linked_worktree_called_from_a_git_hook(repository, tmp_path, monkeypatch):
    tiny.git(repository, "worktree", "add", "-q", str(tmp_path / "linked"), "HEAD")
    monkeypatch.setenv("GIT_DIR", str(repository / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(repository / ".git/index"))
    assert verdicts("source", folder=tmp_path / "linked")["source@b"].state == "equal"


@pytest.mark.parametrize(
    ("names", "rev", "message"),
    [
        (["totl"], None, "No stage is called 'totl'. Did you mean 'total'"),
        (["source@z"], None, "Did you mean 'source@"),
        ([], "nowhere", "nowhere"),
    ],
)
def test_unknown_names_and_revisions(repository, names, rev, message):
    with pytest.raises(ArtifactError, match=message):
        verify(names, rev=rev, repo=str(repository))


def test_a_folder_without_a_repository(tmp_path):
    with pytest.raises(ArtifactError, match="Expected a git checkout"):
        verify(repo=str(tmp_path))


def test_a_full_disk_is_refused_before_anything_runs(repository, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10}))
    with pytest.raises(ArtifactError, match="TMPDIR"):
        verify(["source@a"], repo=str(repository))


@pytest.mark.parametrize(
    ("noise", "rev", "status", "says"),
    [("0", "HEAD", 0, "equal"), ("1e-7", None, 0, "within"), ("2", None, 1, "beyond"), ("0", "nowhere", 2, "")],
)
def test_the_command_s_status(repository, monkeypatch, noise, rev, status, says):
    monkeypatch.setenv("TINY_NOISE", noise)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        done = CliRunner().invoke(app, ["verify", "source@a", *(["--rev", rev] if rev else [])])
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert done.exit_code == status
    assert says in done.stdout


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_stopping_it_removes_the_clone_and_ends_the_stage(repository, how, tmp_path):
    (repository / "stages/source.py").write_text("import time; time.sleep(60)\n")
    run = "from optogram.cli.main import main; main()"
    child = subprocess.Popen([sys.executable, "-c", run, "verify", "source@a"], cwd=repository, stderr=subprocess.PIPE)
    sleeping = []
    for _ in range(300):
        # of this test's own clone: others run a stage of this name beside it
        sleeping = [p for p in Path("/proc").glob("[0-9]*/cmdline") if b"stages.source" in _bytes(p)]
        sleeping = [p for p in sleeping if _cwd(p.parent).is_relative_to(tmp_path)]
        if sleeping:
            break
        time.sleep(0.1)
    assert sleeping, "the stage runs"
    child.send_signal(how)
    child.communicate(timeout=20)
    assert child.returncode in (130, 143)
    assert not any(b"stages.source" in _bytes(p) for p in sleeping)


def test_a_killed_verify_takes_its_stage_with_it(repository, tmp_path):
    pid = tmp_path / "pid"
    code = f"import os, time\nopen({str(pid)!r}, 'w').write(f'{{os.getpid()}}\\n')\ntime.sleep(60)\n"
    (repository / "stages/source.py").write_text(code)
    run = "from optogram.cli.main import main; main()"
    verifying = subprocess.Popen([sys.executable, "-c", run, "verify", "source@a"], cwd=repository)
    deadline = time.monotonic() + 60
    while not (pid.exists() and pid.read_text().endswith("\n")):
        assert verifying.poll() is None
        assert time.monotonic() < deadline, "the stage never ran"
        time.sleep(0.1)
    verifying.kill()
    verifying.wait()
    assert gone(int(pid.read_text()))
    [left] = (tmp_path / "tmp").glob("optogram-verify-*")  # nobody was there to remove it
    shutil.rmtree(left)


def _cwd(process):
    try:
        return (process / "cwd").readlink()
    except OSError:  # it ended meanwhile
        return Path("/")


def _bytes(path):
    try:
        return path.read_bytes()
    except OSError:
        return b""
