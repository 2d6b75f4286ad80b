"""`optogram ship`: a clone that has run nothing opens, pulls, compares and verifies what was shipped."""

import pickle
import re
import shutil
from pathlib import Path

import pytest
import tiny
from typer.testing import CliRunner

import optogram
from optogram.catalog.remote import SHIPPED
from optogram.cli.main import app
from optogram.errors import ArtifactError
from optogram.pipeline.diff import diff
from optogram.pipeline.ship import FINDINGS, ship
from optogram.pipeline.verify import verify

NAME = "source/a"
CHECKPOINT = "aa/" + "0" * 30 + ".dir"
LARGE = """
import sys
from pathlib import Path
import numpy as np
import xarray as xr
from optogram.store.write import Provenance, write_sharded


def rows(start, stop):
    values = np.arange(start, stop, dtype=np.float32)[:, None] + np.arange(200_000, dtype=np.float32)
    return xr.Dataset({"z": (("image", "embed"), values)}, coords={"image": [f"i{k}" for k in range(start, stop)]})


write_sharded(Path(sys.argv[4]), rows, Provenance("source", "Large"), total=6, shard=3)
"""


def shipped(folder=Path()):
    return {
        path.relative_to(folder / SHIPPED / "files/md5").as_posix() for path in (folder / SHIPPED).glob("files/*/*/*")
    }


def make_anew(seed, monkeypatch):
    """Other values, locked."""
    monkeypatch.setenv("TINY_NOISE", str(seed))
    params = Path("params.yaml")
    params.write_text(re.sub(r"^seed: \d+", f"seed: {seed}", params.read_text(), flags=re.M))
    tiny.dvc(Path(), "repro", "-q", "source@a")


def commit(message):
    tiny.git(Path(), "add", "-A")
    tiny.git(Path(), "commit", "-qm", message)


def with_findings(folder):
    """Name one artifact as a finding, beside a checkpoint that lies there already."""
    listing = folder / SHIPPED / "files/md5" / CHECKPOINT
    listing.parent.mkdir(parents=True)
    listing.write_text('[{"md5": "bb", "relpath": "model.safetensors"}]')
    (folder / FINDINGS).write_text(f"# what a clone has at once\n{NAME}\n")
    return folder


@pytest.fixture
def findings(tiny_repository):
    """The tiny repository, nothing of it shipped yet."""
    return with_findings(tiny_repository)


@pytest.fixture(scope="module")
def cloned(tiny_made, tmp_path_factory):
    """A clone of what was shipped and committed; its origin is gone."""
    folder = tmp_path_factory.mktemp("shipped")
    origin = with_findings(tiny.copy(tiny_made, folder / "origin"))
    ship(str(origin))
    tiny.git(origin, "add", "-A")
    tiny.git(origin, "commit", "-qm", "shipped")
    tiny.git(folder, "clone", "-q", f"file://{origin}", "clone")
    shutil.rmtree(origin)
    return folder / "clone"


@pytest.fixture
def fresh(cloned, tmp_path, monkeypatch):
    """A fresh clone, in which nothing was run; the working directory."""
    monkeypatch.setenv("PYTHONPATH", str(tiny.ROOT))
    folder = tiny.copy(cloned, tmp_path / "somewhere else")
    monkeypatch.chdir(folder)
    return folder


def test_a_fresh_clone_has_what_was_shipped(fresh, monkeypatch):
    for rev in (None, "HEAD", "main"):
        opened = optogram.open(NAME, rev=rev)
        assert opened.z.sel(image="j").values.tolist() == [3, 4, 5]
        assert pickle.loads(pickle.dumps(opened)).word.values.tolist() == ["red", "blue"]
    assert optogram.catalog(rev="HEAD")["name"].tolist() == [NAME]
    assert [part.changes for part in diff(f"{NAME}@HEAD", NAME)] == [[]]
    assert not Path("artifacts/source").exists()
    with pytest.raises(
        ArtifactError, match=r"source/b.* neither in the cache nor in a remote .*`dvc repro source@b` makes it"
    ):
        optogram.open("source/b")
    with pytest.raises(ArtifactError, match=r"`git checkout main && dvc repro source@b` makes it"):
        optogram.open("source/b", rev="main")

    answer = CliRunner().invoke(app, ["pull", NAME, f"artifacts/{NAME}/"])
    assert "artifacts/source/a is here." in answer.output, answer.output
    shutil.rmtree(".dvc/cache")
    assert optogram.pull(NAME) == [f"artifacts/{NAME}"]  # here, and nowhere else
    Path("notebooks").mkdir()
    monkeypatch.chdir("notebooks")
    assert optogram.open(NAME).z.values[0, 0] == 0
    with pytest.raises(ArtifactError, match=rf"`dvc repro source@b` in {re.escape(str(fresh))} makes it"):
        optogram.open("source/b")


def test_dvc_itself_pulls_what_was_shipped_by_the_name_of_the_remote(fresh):
    tiny.dvc(fresh, "remote", "add", "shipped", str(fresh / SHIPPED))
    tiny.dvc(fresh, "pull", "-q", "-r", "shipped", "source@a")
    assert (fresh / "artifacts" / NAME / "zarr.json").is_file()


def test_a_fresh_clone_verifies_from_what_it_makes_on_the_way(fresh):
    alone = verify(["total"], rev="HEAD")[0]
    assert alone.state == "unverified"
    assert "Name source@b too" in alone.reason
    assert [verdict.state for verdict in verify(["source@b", "total"], rev="HEAD")] == ["equal"] * 2


def test_findings_go_when_no_revision_needs_them_and_checkpoints_stay(findings, monkeypatch):
    assert ship().dropped == 0
    first = shipped()
    commit("first")
    make_anew(1, monkeypatch)
    assert ship().dropped == 0  # HEAD has the first still
    commit("second")
    tiny.git(findings, "tag", "v1")
    make_anew(2, monkeypatch)
    gone = ship().dropped
    assert gone
    assert len(first - shipped()) == gone
    assert CHECKPOINT in shipped()
    commit("third")
    shutil.rmtree(".dvc/cache")
    shutil.rmtree("artifacts/source")
    # a revision brings its own
    values = [optogram.open(NAME, rev=rev).z.values[0, 0] for rev in ("HEAD~2", "v1", "HEAD")]
    assert values == [0, 1, 2]


def test_a_shard_of_several_chunks_is_read_out_of_a_revision(findings, tmp_path, monkeypatch):
    Path("stages/source.py").write_text(LARGE)
    tiny.dvc(Path(), "repro", "-q", "source@a")
    ship()
    commit("large")
    tiny.git(tmp_path, "clone", "-q", f"file://{findings}", "clone")
    monkeypatch.chdir(tmp_path)
    shutil.rmtree(findings)
    opened = optogram.open(NAME, rev="HEAD", repo=str(tmp_path / "clone"))
    assert opened.z[2, :3].values.tolist() == [2, 3, 4]
    assert opened.z[:, -1].values.tolist() == [199_999 + k for k in range(6)]


@pytest.mark.parametrize("text", ['[{"md5": "bb"', '[{"md5": "bb"}]', '["bb"]', "null"])
def test_a_damaged_listing_is_named_before_anything_is_written(findings, text):
    path = Path(SHIPPED, "files/md5", CHECKPOINT)
    path.write_text(text)
    with pytest.raises(ArtifactError, match=rf"{CHECKPOINT} is damaged: .*`git checkout HEAD .*{CHECKPOINT}`"):
        ship()
    assert shipped() == {CHECKPOINT}


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda: Path("stages/source.py").write_text("raise SystemExit(1)"), "Stale: source@a. Run `dvc repro` first"),
        (
            lambda: Path(FINDINGS).write_text("source/c"),
            r"'source/c', which no stage makes .*Did you mean 'source/[ab]'",
        ),
        (lambda: Path(FINDINGS).unlink(), "names the artifacts to ship"),
        (lambda: shutil.rmtree(".dvc/cache"), "dvc commit --force source@a"),
        (
            lambda: (shutil.rmtree(".dvc/cache"), Path("artifacts", NAME, "zarr.json").unlink()),
            "Stale: source@a. Run `dvc repro` first",
        ),
    ],
)
def test_what_cannot_be_shipped_is_refused_at_once(findings, harm, said):
    harm()
    with pytest.raises(ArtifactError, match=said):
        ship()
    assert shipped() == {CHECKPOINT}


def test_more_than_the_limit_is_refused(findings):
    with pytest.raises(ArtifactError, match=r"expected at most 0\.00 MB. Largest: source/a"):
        ship(limit=1000)
    assert shipped() == {CHECKPOINT}


def test_a_zip_of_the_repository_has_what_was_shipped_too(fresh):
    shutil.rmtree(".git")
    assert optogram.open(NAME).z.values[0, 0] == 0
    with pytest.raises(ArtifactError, match=r"There is no \.git here"):
        optogram.open(NAME, rev="HEAD")


def test_the_command_prints_sizes_and_the_total(findings):
    done = CliRunner().invoke(app, ["ship"])
    assert re.search(r"MB  source/a\n.*MB  together, of at most 10\n\d+ objects came, 0 went", done.output), done.output
    again = CliRunner().invoke(app, ["ship"])
    assert "0 objects came, 0 went" in again.output
