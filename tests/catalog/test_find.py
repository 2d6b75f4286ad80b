"""Artifacts by name: in the working tree, at a git revision, in another checkout, from a remote."""

import copy
import os
import shutil
import subprocess
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import optogram
from optogram.catalog.at import At
from optogram.errors import ArtifactError
from optogram.pipeline.lineage import lineage
from optogram.store.write import Provenance, write_sharded

VERSION_ONE, VERSION_TWO = 1.0, 2.0


def artifact(path, value):
    def rows(start, stop):
        values = np.full((stop - start, 1000), value, np.float32)
        names = [f"eval/{i}" for i in range(start, stop)]
        words = [f"word {i}" for i in range(start, stop)]
        return xr.Dataset({"z": (("image", "embed"), values), "word": ("image", words)}, coords={"image": names})

    shutil.rmtree(path, ignore_errors=True)
    write_sharded(path, rows, Provenance("contributions", "Contributions"), total=600, shard=300)


def git(folder, *words):
    subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True)


def dvc(folder, *words):
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1"}
    subprocess.run(["dvc", *words], cwd=folder, check=True, capture_output=True, env=environment)


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """Two revisions of one artifact, pushed to a folder remote."""
    folder = tmp_path_factory.mktemp("repository")
    git(folder, "init", "-q", "-b", "main")
    git(folder, "config", "user.email", "a@b.c")
    git(folder, "config", "user.name", "a")
    dvc(folder, "init", "-q")
    dvc(folder, "remote", "add", "-d", "store", str(folder.parent / "remote"))
    (folder / "dvc.yaml").write_text("stages: {}\n")
    for version in (VERSION_ONE, VERSION_TWO):
        artifact(folder / "artifacts/contributions/demo", version)
        dvc(folder, "add", "artifacts/contributions/demo")
        git(folder, "add", "-A")
        git(folder, "commit", "-qm", f"version {version}")
        git(folder, "tag", f"v{version:.0f}")
    dvc(folder, "push", "--all-commits")
    return folder


@pytest.fixture
def clone(repository, tmp_path):
    """A clone that has no data yet."""
    git(tmp_path, "clone", "-q", str(repository), "clone")
    return tmp_path / "clone"


def test_opens_lazily_from_the_working_tree(repository, monkeypatch):
    monkeypatch.chdir(repository)
    dataset = optogram.open("contributions/demo")
    assert dataset.z.chunks is not None
    assert dataset.sel(image="eval/7").z.values[0] == VERSION_TWO
    assert dataset.attrs["title"] == "Contributions"


def test_the_index_is_read_once_until_what_it_was_read_from_changes(clone):
    def read(rev=None):
        return At(str(clone), rev).indexed()

    known = read()
    for name in ("dvc.yaml", "params.yaml", ".dvc/config", ".dvc/config.local", "artifacts/contributions/demo.dvc"):
        assert read() is known, f"before {name} changes"
        path = clone / name
        path.write_text((path.read_text() if path.exists() else "") + "\n")
        assert read() is not known, name
        known = read()
    at_first = read("v1")
    (clone / "dvc.yaml").write_text("stages: {}\n")
    assert read("v1") is at_first
    git(clone, "tag", "-f", "v1", "v2")
    assert read("v1") is not at_first


def test_what_is_written_meanwhile_is_opened(clone):
    listing = clone / "artifacts/contributions/demo.dvc"
    assert float(optogram.open("contributions/demo", repo=str(clone)).z[0, 0]) == VERSION_TWO
    git(clone, "checkout", "-q", "v1", "--", str(listing))
    assert float(optogram.open("contributions/demo", repo=str(clone)).z[0, 0]) == VERSION_ONE
    # a file that is new
    (listing.parent / "other.dvc").write_text(listing.read_text().replace("path: demo", "path: other"))
    assert float(optogram.open("contributions/other", repo=str(clone)).z[0, 0]) == VERSION_ONE
    assert float(optogram.open("contributions/demo", repo=str(clone), rev="main").z[0, 0]) == VERSION_TWO
    git(clone, "branch", "-f", "main-before", "v1")
    assert float(optogram.open("contributions/demo", repo=str(clone), rev="main-before").z[0, 0]) == VERSION_ONE
    git(clone, "branch", "-f", "main-before", "v2")
    assert float(optogram.open("contributions/demo", repo=str(clone), rev="main-before").z[0, 0]) == VERSION_TWO


@pytest.mark.parametrize(("rev", "value"), [("v1", VERSION_ONE), ("v2", VERSION_TWO), ("main", VERSION_TWO)])
def test_opens_at_any_revision(repository, rev, value):
    dataset = optogram.open("contributions/demo", rev=rev, repo=str(repository))
    assert dataset.isel(image=[0, -1]).z.values[:, 0].tolist() == [value, value]
    assert dataset.image.values[-1] == "eval/599"


def test_opens_in_a_clone_without_data_from_the_remote(clone):
    assert not (clone / "artifacts/contributions/demo").exists()
    dataset = optogram.open("contributions/demo", repo=str(clone), remote="store")
    assert dataset.sel(image="eval/3").z.values[0] == VERSION_TWO


@pytest.fixture
def opened(repository, clone, tmp_path):
    """One artifact, opened from everywhere: the tree, the cache at a revision, a remote, a git URL, git itself."""
    shutil.copytree(repository / "artifacts/contributions/demo", clone / "artifacts/kept")
    git(clone, "add", "-f", "artifacts/kept")
    git(clone, "-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-qm", "an artifact that git holds")
    shutil.rmtree(clone / "artifacts/kept")
    repo, name = str(repository), "contributions/demo"
    return [
        optogram.open(name, repo=repo),
        optogram.open(name, repo=repo, rev="v2"),
        optogram.open(name, repo=str(clone), remote="store"),
        optogram.open(name, repo=f"file://{clone}"),
        optogram.open("kept", repo=str(clone), rev="HEAD"),
    ]


def last_word(dataset):
    """For a worker process: it reads for itself."""
    return dataset.word.values[-1], float(dataset.z[-1, 0])


def test_what_is_opened_from_anywhere_can_be_copied_and_goes_to_worker_processes(opened, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # a worker may be elsewhere
    for dataset in opened:
        assert last_word(copy.deepcopy(dataset)) == ("word 599", VERSION_TWO)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert [*pool.map(last_word, opened)] == [("word 599", VERSION_TWO)] * 5


def test_an_unknown_name_gets_the_nearest(repository):
    with pytest.raises(ArtifactError, match="Did you mean 'contributions/demo'"):
        optogram.open("contribution/demo", repo=str(repository))
    with pytest.raises(ArtifactError, match=r"at revision v1.*Did you mean"):
        optogram.open("contributions/dem", rev="v1", repo=str(repository))


def test_an_unknown_revision_and_a_folder_without_a_repository_are_named(repository, tmp_path):
    with pytest.raises(ArtifactError, match="at revision nowhere"):
        optogram.open("contributions/demo", rev="nowhere", repo=str(repository))
    with pytest.raises(ArtifactError, match=str(tmp_path)):
        optogram.open("contributions/demo", repo=str(tmp_path))


@pytest.mark.parametrize("rev", [None, "v1"])
def test_catalog(repository, rev):
    frame = optogram.catalog(repo=str(repository), rev=rev)
    assert list(frame.columns) == ["name", "kind", "dims", "dtype", "bytes", "hash", "stage", "title"]
    row = frame.iloc[0]
    assert (row["name"], row["kind"], row["dims"]) == ("contributions/demo", "table", "image 600, embed 1,000")
    assert (row["dtype"], row["stage"], row["title"]) == ("float32", "contributions", "Contributions")
    assert row["bytes"] >= 600 * 1000 * 4
    assert row["hash"] == optogram.open("contributions/demo", repo=str(repository), rev=rev).attrs["digest"]


def test_a_folder_of_artifacts_in_a_checkout_is_taken_as_it_is(repository, clone, monkeypatch):
    artifact(clone / "export/artifacts/contributions/demo", 3.0)
    (clone / "notebooks").mkdir()
    assert optogram.open("contributions/demo", repo=str(clone / "export")).z[0, 0].values == 3
    assert optogram.open("contributions/demo", repo=str(clone / "notebooks")).z[0, 0].values == VERSION_TWO
    monkeypatch.chdir(clone / "export")
    assert optogram.open("contributions/demo").z[0, 0].values == 3
    assert len(optogram.catalog()) == 1


def test_addresses_of_git_are_told_from_folders(tmp_path):
    for url in ("git@host:x.git", "me@host:x.git", "ssh://host/x.git"):
        assert (At(url, None).repo, At(url, None).home) == (url, None)
    for folder in ("nowhere", "me@host", str(tmp_path / "a@b:c")):
        with pytest.raises(ArtifactError, match="There is no folder"):
            At(folder, None)


def test_a_merge_conflict_in_the_lock_is_said(clone):
    lock = "<<<<<<< HEAD\nschema: '2.0'\n=======\nschema: '2.1'\n>>>>>>> other\n"
    (clone / "dvc.lock").write_text(lock)
    (clone / "artifacts").mkdir(exist_ok=True)
    for read in (lambda: optogram.catalog(repo=str(clone)), lambda: lineage("total", repo=str(clone))):
        with pytest.raises(ArtifactError, match=r"dvc\.lock cannot be read \(.*`git checkout HEAD dvc\.lock`"):
            read()


def test_pull_fetches_and_checks_out(clone, monkeypatch):
    monkeypatch.chdir(clone)
    assert optogram.pull("contributions/demo") == ["artifacts/contributions/demo"]
    assert optogram.open("contributions/demo").z[0, 0].values == VERSION_TWO
    with pytest.raises(ArtifactError, match=r"No stage makes 'contributions/dmo'\. Did you mean 'contributions/demo'"):
        optogram.pull("contributions/dmo")


def test_pull_says_what_to_do_where_no_remote_has_it(clone, monkeypatch, tmp_path):
    dvc(clone, "remote", "modify", "--local", "store", "url", str(tmp_path / "empty"))
    monkeypatch.chdir(clone)
    with pytest.raises(ArtifactError, match=r"`dvc push artifacts/contributions/demo\.dvc`"):
        optogram.pull("contributions/demo")
    assert not Path("artifacts/contributions/demo").exists()


def test_folders_of_files_are_told_by_their_index(tmp_path):
    kinds = {"models/demo": "config.json", "report": "index.html", "figures": "index.json"}
    for name, file in kinds.items():
        (tmp_path / "artifacts" / name).mkdir(parents=True)
        (tmp_path / "artifacts" / name / file).write_text("{}")
    frame = optogram.catalog(repo=str(tmp_path))
    assert dict(zip(frame["name"], frame["kind"], strict=True)) == {
        "figures": "figures",
        "models/demo": "model",
        "report": "report",
    }
