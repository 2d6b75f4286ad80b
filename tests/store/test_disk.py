"""Disks that refuse: no locks, no forced writes of folders, another disk for the scratch, no space at the end."""

import errno
import fcntl
import os
import pathlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from flows.checkout import only_run
from optogram.errors import ArtifactError
from optogram.pipeline.gc import scratch_folders
from optogram.store.digests import folder_digest
from optogram.store.disk import put, refusals_explained
from optogram.store.write import Provenance, write_dataset

MADE = Provenance("stage", "A table")
TABLE = xr.Dataset({"z": ("x", np.arange(3.0, dtype=np.float32))})


def write(out="a", **options):
    write_dataset(Path(out), TABLE, MADE, **options)


def start_run():
    with only_run("optogram run"):
        pass


def look_for_scratch():
    Path(f".scratch/{MADE.key}").mkdir(parents=True)
    scratch_folders()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EIO])
@pytest.mark.parametrize("locking", [write, start_run, look_for_scratch])
def test_a_disk_without_locks_is_said(here, monkeypatch, locking, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    said = rf"{here}/\.scratch: files cannot be locked on this disk \({os.strerror(number)}\).*local disk"
    with pytest.raises(ArtifactError, match=said):
        locking()
    assert not Path("a").exists()


@pytest.mark.parametrize(("number", "raises"), [(errno.EINVAL, False), (errno.ENOTSUP, False), (errno.EIO, True)])
def test_a_disk_that_cannot_force_folders_is_taken_as_it_is_but_a_failure_is_not(here, monkeypatch, number, raises):
    real = os.fsync

    def refuse_folders(descriptor):
        if Path(f"/proc/self/fd/{descriptor}").resolve().is_dir():
            raise OSError(number, os.strerror(number))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    if raises:
        with pytest.raises(ArtifactError, match="the disk fails"):
            write()
    else:
        write()
        assert Path("a/zarr.json").is_file()


@pytest.fixture
def another_disk():
    """A folder on another device than the tests' own."""
    folder = Path("/dev/shm/optogram-test-scratch")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    assert folder.stat().st_dev != Path().stat().st_dev
    yield folder
    shutil.rmtree(folder)


def test_the_scratch_may_be_a_link_to_another_disk(here, another_disk):
    Path(".scratch").symlink_to(another_disk)
    write("far/a")
    shutil.rmtree(".scratch", ignore_errors=True)
    Path(".scratch").unlink()
    write("near/a")
    assert folder_digest(Path("far/a")) == folder_digest(Path("near/a"))
    assert list(Path("far").iterdir()) == [Path("far/a")]
    assert not list(another_disk.iterdir())


def test_a_copy_to_another_disk_that_fails_leaves_nothing(here, another_disk, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), "far/.a.part/zarr.json")

    Path(".scratch").symlink_to(another_disk)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copytree", full)
        with pytest.raises(ArtifactError, match=r"far/a cannot be made: .*quota.*same command goes on"):
            write("far/a")
    assert list(Path("far").iterdir()) == []
    write("far/a")


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "the disk is full: free some space"),
        (errno.EROFS, "the disk is read-only"),
        (errno.EACCES, "you have no access"),
    ],
)
def test_a_refusal_at_the_very_end_is_said(here, monkeypatch, number, said):
    def refuse(path, target):
        raise OSError(number, os.strerror(number), str(path), None, str(target))

    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "rename", refuse)
        with pytest.raises(ArtifactError, match=f"a cannot be made.*{said}"):
            write()
    assert not Path("a").exists()
    write()


@pytest.mark.parametrize("blocking", ["file", "link"])
def test_a_scratch_that_is_no_folder_is_said(here, blocking):
    Path(".scratch").write_text("") if blocking == "file" else Path(".scratch").symlink_to("nowhere")
    for locking in (write, start_run):
        with pytest.raises(ArtifactError, match=r"\.scratch.*something else has that name.*remove it"):
            locking()


def test_an_out_that_came_meanwhile_is_said(here):
    for name in ("made", "out"):
        Path(name).mkdir()
        Path(name, "file").write_text(name)
    said = r"out cannot be made: .*a folder that is not empty has that name"
    with pytest.raises(ArtifactError, match=said), refusals_explained(Path("out")):
        put(Path("made"), Path("out"))
    assert Path("out/file").read_text() == "out"


def test_a_name_too_long_for_the_disk_is_said(here):
    with pytest.raises(ArtifactError, match="too long a name"):
        write(f"textspan/{'a' * 300}")
