"""A disk that fills up in the middle of a cache: said clearly, nothing lost, resumed to the same hash."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from optogram.errors import ArtifactError
from optogram.store.cluster import on_cluster
from optogram.store.digests import folder_digest
from optogram.store.write import DISK_RESERVE, Provenance, write_sharded

MADE = Provenance("stage", "A cache")
ROWS, SHARD, WIDTH = 24, 4, 1 << 18  # 1 MB a row


def rows(start, stop):
    first = np.arange(start, stop, dtype=np.float32)[:, None]
    label = np.arange(start, stop, dtype=np.int16)
    return xr.Dataset({"z": (("image", "embed"), first + np.ones(WIDTH, np.float32)), "label": ("image", label)})


def filling(start, stop):
    """At the fourth shard, another program's file takes all of the disk but half a shard."""
    if start == 12 and not Path("ballast").exists():
        with Path("ballast").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(".").free - (2 << 20))
    return rows(start, stop)


@pytest.fixture
def small_disk(tmp_path, monkeypatch):
    """A real file system of 64 MB beyond the reserve, as the current folder."""
    folder = tmp_path / "disk"
    folder.mkdir()
    size = (DISK_RESERVE >> 20) + 64
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}m", "tmpfs", folder], capture_output=True)
    if mount.returncode:
        pytest.skip("no small file system can be mounted here: run as root, or in `unshare -rm`")
    try:
        monkeypatch.chdir(folder)
        yield folder
    finally:
        monkeypatch.chdir(tmp_path)
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize("where", ["loop", pytest.param("dask", marks=pytest.mark.slow)])
def test_a_disk_that_fills_up_costs_one_shard(small_disk, where):
    runner = on_cluster(processes=1) if where == "dask" else None
    said = r"the disk of .* is full \(\d\.\d MB free.*\)\. [34] of 6 shards are finished and kept: free some space, and"
    with pytest.raises(ArtifactError, match=said):
        write_sharded(Path("a"), filling, MADE, total=ROWS, shard=SHARD, runner=runner)
    assert not Path("a").exists()
    kept = len(list(Path(f".scratch/{MADE.key}/marks").glob("[0-9]*.json")))
    with pytest.raises(ArtifactError, match="kept in reserve"):  # the rest would not fit either: refused at once
        write_sharded(Path("a"), filling, MADE, total=ROWS, shard=SHARD)
    Path("ballast").unlink()
    made = []

    def counting(start, stop):
        made.append(start)
        return rows(start, stop)

    write_sharded(Path("a"), counting, MADE, total=ROWS, shard=SHARD)
    assert made == [*range(kept * SHARD, ROWS, SHARD)]
    resumed = folder_digest(Path("a"))
    shutil.rmtree("a")
    write_sharded(Path("a"), rows, MADE, total=ROWS, shard=SHARD)
    assert folder_digest(Path("a")) == resumed
