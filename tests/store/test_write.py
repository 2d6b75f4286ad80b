"""The artifact protocol: whole or not at all, resumable, same bytes, never overwritten."""

import fcntl
import hashlib
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

from optogram.errors import ArtifactError
from optogram.store.digests import folder_digest
from optogram.store.read import read
from optogram.store.write import Provenance, write_dataset, write_sharded

MADE = Provenance("stage", "A title", {"seed": 1}, {"images": "d" * 64}, "code")


def rows(start, stop):
    values = np.arange(start * 6, stop * 6, dtype=np.float32).reshape(-1, 2, 3)
    return xr.Dataset(
        {
            "z": (("image", "head", "embed"), values),
            "mask": (("image", "y"), values[:, :, 0] % 2 == 0),
            "caption": ("image", [f"größe {i} <b>" for i in range(start, stop)]),
            "basis": (("head", "embed"), np.ones((2, 3), np.float32), {"long_name": "a map", "units": "1"}),
        },
        coords={"image": [f"eval/{i:06d}" for i in range(start, stop)], "head": [0, 1]},
    )


def test_what_is_written_is_read(here):
    write_sharded(Path("a/b"), rows, MADE, total=23, shard=5)
    back = read(Path("a/b")).load()
    xr.testing.assert_equal(back.drop_attrs().drop_vars("caption"), rows(0, 23).drop_attrs().drop_vars("caption"))
    assert list(back.caption.values) == list(rows(0, 23).caption.values)
    assert back.basis.attrs == {"long_name": "a map", "units": "1"}
    assert back.sel(image="eval/000017").z.values[0, 0] == 17 * 6
    assert not list(Path(".scratch").iterdir())


def test_layout_follows_the_protocol(here):
    write_sharded(Path("a"), rows, MADE, total=20, shard=5)
    meta = zarr.open_group("a", mode="r")["z"].metadata.to_dict()
    assert meta["codecs"][0]["configuration"]["index_location"] == "start"
    assert [c["name"] for c in meta["codecs"][0]["configuration"]["codecs"]] == ["bytes"]
    assert len(list(Path("a/z/c").iterdir())) == 4
    assert "consolidated_metadata" in Path("a/zarr.json").read_text()


def test_no_time_host_or_path_in_an_artifact(here):
    write_dataset(Path("a"), rows(0, 3), MADE)
    text = Path("a/zarr.json").read_text()
    assert str(here) not in text
    assert os.uname().nodename not in text
    assert set(read(Path("a")).attrs) == {"digest", "inputs", "params", "protocol", "stage", "title"}


@pytest.mark.parametrize("shard", [1, 4, 7, 40])
def test_same_inputs_same_bytes(here, shard):
    for name in ("a", "b"):
        write_sharded(Path(name), rows, MADE, total=23, shard=shard)
    assert folder_digest(Path("a")) == folder_digest(Path("b"))


def test_different_content_different_digest(here):
    write_sharded(Path("a"), rows, MADE, total=8, shard=4)
    write_sharded(Path("b"), lambda i, j: rows(i, j).assign(z=rows(i, j).z + 1), MADE, total=8, shard=4)
    assert read(Path("a")).attrs["digest"] != read(Path("b")).attrs["digest"]


def test_a_failed_run_leaves_nothing_at_the_out_and_resumes(here):
    calls = []

    def failing(start, stop):
        calls.append((start, stop))
        if start == 10 and calls.count((10, 15)) == 1:
            raise RuntimeError("power cut")
        return rows(start, stop)

    with pytest.raises(RuntimeError, match="power cut"):
        write_sharded(Path("a"), failing, MADE, total=23, shard=5)
    assert not Path("a").exists()
    write_sharded(Path("a"), failing, MADE, total=23, shard=5)
    # one row for the layout, then shards; the second run computes no row that was kept
    assert calls == [(0, 1), (0, 5), (5, 10), (10, 15), (10, 15), (15, 20), (20, 23)]
    write_sharded(Path("whole"), rows, MADE, total=23, shard=5)
    assert folder_digest(Path("a")) == folder_digest(Path("whole"))


@pytest.mark.parametrize("damaged", ["z/c/1/0/0", "caption/c/0", "marks", "z/c/4/0/0"])
def test_a_damaged_shard_is_made_again(here, damaged, monkeypatch):
    # cut off at the very end, when every shard is written, the last and partial one too
    with monkeypatch.context() as patch:
        patch.setattr("optogram.store.write._finish", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write_sharded(Path("a"), rows, MADE, total=23, shard=5)
    scratch = Path(".scratch") / MADE.key
    target = scratch / "marks" / "000001.json" if damaged == "marks" else scratch / "store" / damaged
    target.write_bytes(target.read_bytes()[:-3])
    write_sharded(Path("a"), rows, MADE, total=23, shard=5)
    write_sharded(Path("whole"), rows, MADE, total=23, shard=5)
    assert folder_digest(Path("a")) == folder_digest(Path("whole"))


def test_never_overwrites(here):
    write_dataset(Path("a"), rows(0, 2), MADE)
    before = folder_digest(Path("a"))
    with pytest.raises(ArtifactError, match="never overwritten"):
        write_dataset(Path("a"), rows(0, 3), MADE)
    assert folder_digest(Path("a")) == before


def test_a_second_writer_is_refused(here):
    Path(".scratch").mkdir()
    with Path(f".scratch/{MADE.key}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ArtifactError, match="another process"):
            write_dataset(Path("a"), rows(0, 2), MADE)
    write_dataset(Path("a"), rows(0, 2), MADE)


def test_disk_too_small_is_said_before_anything_is_written(here):
    huge = xr.Dataset({"z": (("image", "embed"), np.zeros((1, 1024), np.float32))})
    with pytest.raises(ArtifactError, match=r"needs about .* GB, but the disk has"):
        write_sharded(Path("a"), lambda i, j: huge, MADE, total=10**12, shard=1)
    assert not Path("a").exists()


def test_a_variable_that_says_what_is_missing_may_hold_nan_and_no_infinity(here):
    def some(start, stop, value=np.nan, missing="no such head"):
        part = rows(start, stop)
        part["basis"].values[1, 0] = value
        part["z"].values[:, 1, 2] = value
        for name in ("basis", "z"):
            part[name].attrs["missing"] = missing
        return part

    write_sharded(Path("a"), some, MADE, total=23, shard=5)
    back = read(Path("a")).load()
    assert back.z.attrs["missing"] == back.basis.attrs["missing"] == "no such head"
    assert np.isnan(back.z.values[:, 1, 2]).all()
    assert np.isnan(back.z).sum() == 23
    assert np.isnan(back.basis).sum() == 1
    for given in ({"value": np.inf}, {"missing": ""}):
        with pytest.raises(ArtifactError, match="basis has a NaN or infinite value, first at head=1, embed=0"):
            write_sharded(Path("b"), partial(some, **given), MADE, total=23, shard=5)


def test_nan_is_named_with_its_place(here):
    def bad(start, stop):
        part = rows(start, stop)
        if start == 5:
            part.z[2, 1, 0] = np.nan
        return part

    with pytest.raises(ArtifactError, match="z has a NaN or infinite value, first at image=7, head=1, embed=0"):
        write_sharded(Path("a"), bad, MADE, total=10, shard=5)


def test_missing_artifact_names_the_nearest(here):
    write_dataset(Path("textspan/demo"), rows(0, 2), MADE)
    with pytest.raises(ArtifactError, match="Did you mean 'demo'"):
        read(Path("textspan/dmeo"))


def test_another_protocol_version_is_refused(here):
    write_dataset(Path("a"), rows(0, 2), MADE)
    path = Path("a/zarr.json")
    path.write_text(path.read_text().replace('"protocol": 1', '"protocol": 99'))
    with pytest.raises(ArtifactError, match="artifact protocol 99, expected 1"):
        read(Path("a"))


CHILD = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_write import MADE, rows
from optogram.store.write import write_sharded
def slow(start, stop):
    time.sleep(0.03)
    return rows(start, stop)
write_sharded(Path("killed"), slow, MADE, total=203, shard=5)
"""


def test_killed_ten_times_at_random_moments_it_resumes_to_the_same_hash(here):
    write_sharded(Path("whole"), rows, MADE, total=203, shard=5)
    script = textwrap.dedent(CHILD).format(tests=str(Path(__file__).parent))
    marks = Path(".scratch") / MADE.key / "marks"

    def finished():
        try:
            return sum(path.suffix == ".json" for path in marks.iterdir())
        except FileNotFoundError:
            return 0

    moments = random.Random(4)
    for _ in range(10):
        before = finished()
        child = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
        while child.poll() is None and finished() <= before:
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.03))
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL  # it was killed at work, not found finished
        assert not Path("killed").exists()
    write_sharded(Path("killed"), rows, MADE, total=203, shard=5)
    assert folder_digest(Path("killed")) == folder_digest(Path("whole"))


def test_digest_is_of_the_content_alone(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(b"1")
    one = folder_digest(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "b")
    assert folder_digest(tmp_path / "b") == one
    assert hashlib.sha256(b"1").hexdigest() not in one


def test_a_sample_lays_out_what_is_dear_to_compute(here):
    asked = []

    def compute(start, stop):
        asked.append((start, stop))
        return rows(start, stop)

    write_sharded(Path("a"), compute, MADE, total=12, shard=5, sample=rows(0, 1))
    assert asked == [(0, 5), (5, 10), (10, 12)]
    write_sharded(Path("b"), rows, MADE, total=12, shard=5)
    assert folder_digest(Path("a")) == folder_digest(Path("b"))
