"""Artifacts by name: in the working tree, at a git revision, in another checkout, from a remote."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import optogram
from optogram.errors import ArtifactError
from optogram.store.write import Provenance, write_sharded

VERSION_ONE, VERSION_TWO = 1.0, 2.0


def artifact(path, value):
    def rows(start, stop):
        values = np.full((stop - start, 1000), value, np.float32)
        names = [f"eval/{i}" for i in range(start, stop)]
        return xr.Dataset({"z": (("image", "embed"), values)}, coords={"image": names})

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


@pytest.mark.parametrize(("rev", "value"), [("v1", VERSION_ONE), ("v2", VERSION_TWO), ("main", VERSION_TWO)])
def test_opens_at_any_revision(repository, rev, value):
    dataset = optogram.open("contributions/demo", rev=rev, repo=str(repository))
    assert dataset.isel(image=[0, -1]).z.values[:, 0].tolist() == [value, value]
    assert dataset.image.values[-1] == "eval/599"


def test_opens_in_a_clone_without_data_from_the_remote(clone):
    assert not (clone / "artifacts/contributions/demo").exists()
    dataset = optogram.open("contributions/demo", repo=str(clone), remote="store")
    assert dataset.sel(image="eval/3").z.values[0] == VERSION_TWO


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


def test_pull_fetches_and_checks_out(clone, monkeypatch):
    monkeypatch.chdir(clone)
    assert optogram.pull("contributions/demo") == ["artifacts/contributions/demo"]
    assert optogram.open("contributions/demo").z[0, 0].values == VERSION_TWO
    with pytest.raises(ArtifactError, match=r"No stage makes 'contributions/dmo'\. Did you mean 'contributions/demo'"):
        optogram.pull("contributions/dmo")


def test_pull_says_what_to_do_where_no_remote_has_it(clone, monkeypatch, tmp_path):
    dvc(clone, "remote", "modify", "--local", "store", "url", str(tmp_path / "empty"))
    monkeypatch.chdir(clone)
    with pytest.raises(ArtifactError, match="`dvc repro`"):
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
