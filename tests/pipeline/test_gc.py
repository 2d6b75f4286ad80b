"""`optogram gc`: what goes, and above all what stays."""

import fcntl
import os
import re
import shutil
import subprocess
import sys

import pytest
import tiny
from typer.testing import CliRunner

from optogram.cli.main import app
from optogram.errors import ArtifactError
from optogram.pipeline.gc import drop_scratch, drop_unused, scratch_folders, unused_objects

KEYS = [letter * 32 for letter in "abcdef"]


def is_metrics(path):
    """DVC's run cache keeps copies of the metrics that git holds; its gc takes them for unused."""
    return path.read_bytes().startswith(b'{"total"')


def objects(folder):
    found = [path for path in (folder / ".dvc/cache/files").rglob("*") if path.is_file() and not is_metrics(path)]
    return {path.relative_to(folder).as_posix() for path in found}


def another(folder, size, noise, monkeypatch):
    """Make and lock other artifacts."""
    monkeypatch.setenv("TINY_NOISE", noise)
    params = folder / "params.yaml"
    params.write_text(re.sub(r"^  size: \d+", f"  size: {size}", params.read_text(), flags=re.M))
    tiny.dvc(folder, "repro", "--force", "--no-run-cache")


@pytest.fixture(scope="module")
def three_once(tiny_made, tmp_path_factory):
    """A tiny repository for `three`, and what each version has in the cache."""
    folder = tiny.copy(tiny_made, tmp_path_factory.mktemp("three") / "repository")
    tiny.git(folder, "checkout", "-qb", "old")
    first = objects(folder)
    tiny.git(folder, "checkout", "-qb", "work")
    found = [first]
    with pytest.MonkeyPatch.context() as patch:
        for k, name in enumerate(("tagged", "dropped")):
            another(folder, 15 - k, f"0.{k + 1}", patch)
            tiny.git(folder, "commit", "-qam", name)
            found.append(objects(folder) - set().union(*found))
            if name == "tagged":
                tiny.git(folder, "tag", name)
        another(folder, 13, "0.3", patch)
        tiny.git(folder, "commit", "-qam", "last")
        another(folder, 12, "0.4", patch)
    found.append(objects(folder) - set().union(*found))
    return folder, found


@pytest.fixture
def three(three_once, tmp_path, monkeypatch):
    """A commit on a branch of its own, a tagged one that no branch has, a plain one, and what is not committed."""
    made, found = three_once
    monkeypatch.chdir(tiny.copy(made, tmp_path / "repository"))
    return tmp_path / "repository", found


def names(unused, folder):
    return {path.relative_to(folder.resolve()).as_posix() for path in unused.paths if not is_metrics(path)}


def test_what_branches_tags_and_the_workspace_use_stays(three):
    folder, (branch, tagged, dropped, rest) = three
    assert all((branch, tagged, dropped, rest))
    unused = unused_objects()
    assert names(unused, folder) == dropped
    assert unused.bytes == sum(path.stat().st_size for path in unused.paths)
    assert names(unused_objects(all_commits=True), folder) == set()
    before = objects(folder)
    drop_unused(all_commits=True)
    assert objects(folder) == before
    tree = {path for path in tiny.contents(folder) if not path.startswith(".dvc/cache")}
    drop_unused()
    assert objects(folder) == before - dropped, "just what was shown"
    assert {path for path in tiny.contents(folder) if not path.startswith(".dvc/cache")} == tree
    assert unused_objects().paths == ()


def test_a_detached_head_keeps_its_artifacts(three):
    folder, (_, _, dropped, _) = three
    tiny.git(folder, "stash", "-q")
    tiny.git(folder, "checkout", "-q", "HEAD~1")
    shutil.copy(folder / "dvc.lock", folder / "head.lock")
    tiny.git(folder, "checkout", "-q", "work", "--", "dvc.lock")  # the tree has others than HEAD
    assert names(unused_objects(), folder).isdisjoint(dropped)


def test_a_cache_that_others_may_share_is_refused(tiny_repository, tmp_path):
    tiny.dvc(tiny_repository, "config", "--local", "cache.dir", str(tmp_path / "shared"))
    with pytest.raises(ArtifactError, match="--projects"):
        unused_objects()
    tiny.dvc(tiny_repository, "config", "--local", "cache.dir", str(tiny_repository / ".dvc/shipped"))
    tiny.dvc(tiny_repository, "remote", "add", "--local", "shipped", str(tiny_repository / ".dvc/shipped"))
    with pytest.raises(ArtifactError, match="in a remote"):
        drop_unused()


def test_a_folder_without_a_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArtifactError, match="Nothing was removed"):
        unused_objects()


def scratch(folder, key, *, store=(), age=0.0, lock=True):
    (folder / ".scratch" / key).mkdir(parents=True)
    if lock:
        (folder / ".scratch" / f"{key}.lock").write_text("")
    for name in store:
        (folder / ".scratch" / key / "store" / name).mkdir(parents=True)
        (folder / ".scratch" / key / "store" / name / "c").write_bytes(b"x" * 100)
    (folder / ".scratch" / key / "note").write_text("")
    for path in [folder / ".scratch" / f"{key}.lock", *(folder / ".scratch" / key).rglob("*")]:
        if path.is_file():
            now = path.stat().st_mtime
            os.utime(path, (now - age, now - age))


def test_scratch_folders(tiny_repository):
    scratch(tiny_repository, KEYS[0], store=("z", "word", "image"), age=90_000)
    scratch(tiny_repository, KEYS[1], store=("other",), lock=False)
    scratch(tiny_repository, KEYS[2], age=5000)
    (tiny_repository / ".scratch" / "mine").mkdir()
    (tiny_repository / ".scratch" / f"{KEYS[3]}.lock").write_text("")
    before = tiny.contents(tiny_repository)
    with (tiny_repository / ".scratch" / f"{KEYS[2]}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = {one.folder.name: one for one in scratch_folders()}
        assert not drop_scratch(found[KEYS[2]]), "taken by another process since it was listed"
    assert tiny.contents(tiny_repository) == before, "looking changes nothing"
    assert set(found) == set(KEYS[:4]), "what is not named as the writer names it is not ours"
    assert {key: one.busy for key, one in found.items()} == dict.fromkeys(KEYS[:4], False) | {KEYS[2]: True}
    assert found[KEYS[0]].belongs == "like source/a and 1 more, 0 shards done"
    assert found[KEYS[0]].bytes == 300
    assert 90_000 <= found[KEYS[0]].age < 90_100
    assert found[KEYS[1]].belongs == "a table of other, 0 shards done"
    assert found[KEYS[3]].belongs == "a lock only"
    assert all(drop_scratch(found[key]) for key in (KEYS[0], KEYS[1], KEYS[3]))
    left = {path.name for path in (tiny_repository / ".scratch").iterdir()}
    assert left == {"mine", KEYS[2], f"{KEYS[2]}.lock"}


def gc(*words, **more):
    return CliRunner().invoke(app, ["gc", *words], **more)


def test_the_command_refuses_to_guess_and_dry_runs_change_nothing(tiny_repository):
    drop_unused()
    (tiny_repository / ".dvc/shipped").mkdir()
    (tiny_repository / ".dvc/shipped/object").write_text("x")
    stray = tiny_repository / ".dvc/cache/files/md5/12/3456789012345678901234567890ab"
    stray.parent.mkdir(exist_ok=True)
    stray.write_bytes(b"x" * 2_000_000)
    scratch(tiny_repository, KEYS[0])
    before = tiny.contents(tiny_repository)
    done = gc("--dry-run")
    assert done.exit_code == 0
    assert "1 objects (0 folders), 2.0 MB" in done.stdout
    assert KEYS[0][:12] in done.stdout
    piped = [sys.executable, "-c", "from optogram.cli.main import main; main()", "gc"]
    refused = subprocess.run(piped, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "--yes or --dry-run" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert tiny.contents(tiny_repository) == before
    assert gc("--yes").exit_code == 0
    gone = set(before) - set(tiny.contents(tiny_repository))
    assert {path.split("/")[-1] for path in gone} == {stray.name, "note", f"{KEYS[0]}.lock"}
    assert gc().exit_code == 0, "nothing to remove, nothing to ask"
