"""Artifacts in a folder remote and over ssh: only what is touched is read, and what is damaged is refused by name."""

import asyncio
import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import torch
import xarray as xr
from counting_relay import CountingRelay
from dvc.config import Config
from dvc.repo import Repo
from zarr.core.buffer import default_buffer_prototype

import optogram
from optogram.catalog.find import repair
from optogram.catalog.remote import Objects, ObjectStore, out_of
from optogram.errors import ArtifactError, ModelError
from optogram.models.loading.checkpoints import read_checkpoint
from optogram.store.write import Provenance, write_sharded

NAME = "contributions/demo"
OUT = f"artifacts/{NAME}"
LIMIT = 5e6
ENVIRONMENT = {**os.environ, "DVC_NO_ANALYTICS": "1"}


def run(folder, *words, ok=True):
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, env=ENVIRONMENT, timeout=60)
    assert (done.returncode == 0) == ok, done.stdout + done.stderr
    return done.stdout + done.stderr


def write(path, total, floats, shard):
    noise = np.random.default_rng(0).integers(0, 2**23, (shard, floats), dtype=np.int32)

    def rows(start, stop):
        bits = noise[: stop - start]
        bits[:, 0] = np.arange(start, stop, dtype=np.float32).view(np.int32)
        names = [f"eval/{i}" for i in range(start, stop)]
        return xr.Dataset({"z": (("image", "embed"), bits.view(np.float32).copy())}, coords={"image": names})

    scratch = path.parents[2] / ".scratch"
    write_sharded(path, rows, Provenance("contributions", "Contributions"), total=total, shard=shard, scratch=scratch)


def repository(origin):
    origin.mkdir()
    run(origin, "git", "init", "-q", "-b", "main")
    run(origin, "git", "config", "user.email", "a@b.c")
    run(origin, "git", "config", "user.name", "a")
    run(origin, "dvc", "init", "-q")
    run(origin, "dvc", "config", "cache.type", "hardlink")
    run(origin, "dvc", "remote", "add", "-d", "lab", str(origin.parent / "remote"))
    (origin / "dvc.yaml").write_text("stages: {}\n")


def commit_and_push(origin):
    run(origin, "dvc", "add", *(str(p.relative_to(origin)) for p in origin.glob("artifacts/*/*") if p.is_dir()))
    run(origin, "git", "add", "-A")
    run(origin, "git", "commit", "-qm", "artifacts")
    run(origin, "dvc", "push")


@pytest.fixture(scope="module")
def pushed(tmp_path_factory):
    """A repository with one small artifact, pushed to the folder beside it."""
    home = tmp_path_factory.mktemp("pushed")
    repository(home / "origin")
    write(home / "origin" / OUT, total=600, floats=1000, shard=300)
    commit_and_push(home / "origin")
    return home


@pytest.fixture
def world(pushed, tmp_path):
    """A copy of `pushed` of the test's own: origin, remote, and a clone without data."""
    home = tmp_path / "world"
    shutil.copytree(pushed, home)
    config = home / "origin/.dvc/config"
    config.write_text(config.read_text().replace(str(pushed), str(home)))
    run(home / "origin", "git", "commit", "-qam", "remote")
    run(home, "git", "clone", "-q", "origin", "clone")
    return home


@pytest.fixture(params=["folder", "ssh"])
def lab(request, world):
    """`world`, its remote reached as a folder or over ssh."""
    if request.param == "ssh":
        server = request.getfixturevalue("ssh_server")
        for checkout in (world / "origin", world / "clone"):
            server.add_remote(checkout, "lab", world / "remote")
    return world


def listing(world):
    out = next(line.split()[-1] for line in (world / f"origin/{OUT}.dvc").read_text().splitlines() if "md5:" in line)
    return out, {entry["relpath"]: entry["md5"] for entry in json.loads(object_file(world, out).read_text())}


def object_file(world, oid):
    return world / "remote/files/md5" / oid[:2] / oid[2:]


def damage(path, how, at=100):
    data = bytearray(path.read_bytes())
    if how == "flipped":
        data[at] ^= 1
    path.chmod(0o644)
    path.write_bytes({"flipped": data, "cut": data[: len(data) // 2], "empty": b""}[how])
    path.chmod(0o444)  # as DVC leaves its objects


@pytest.mark.parametrize("how", ["flipped", "cut", "empty"])
@pytest.mark.parametrize("verify", [True, False])
def test_pull_refuses_a_corrupted_object_by_name_and_repair_replaces_it(lab, how, verify):
    _, files = listing(lab)
    oid = files["z/c/1/0"]
    damage(object_file(lab, oid), how)
    with Config(str(lab / "clone/.dvc")).edit("repo") as config:
        config["remote"]["lab"]["verify"] = verify
    with pytest.raises(ArtifactError, match=rf"{NAME}: object {oid} is corrupted in the remote, .*{oid[2:]}"):
        optogram.pull(NAME, repo=str(lab / "clone"))
    assert not (lab / "clone" / OUT).exists()

    if how == "flipped" and verify:
        wrong = object_file(lab, oid).read_bytes()
        run(lab / "origin", "dvc", "push")
        assert object_file(lab, oid).read_bytes() == wrong  # DVC takes what is there to be right: hence `repair`
    assert repair(NAME, repo=str(lab / "origin")) == [oid]
    assert repair(NAME, repo=str(lab / "origin")) == []
    optogram.pull(NAME, repo=str(lab / "clone"))
    assert optogram.open(NAME, repo=str(lab / "clone")).z[599, 0].values == 599


@pytest.mark.parametrize("how", ["renamed", "cut", "empty"])
def test_pull_and_open_refuse_a_corrupted_listing_which_dvc_may_believe(lab, how):
    root, _ = listing(lab)
    path = object_file(lab, root)
    if how == "renamed":
        path.chmod(0o644)
        path.write_text(path.read_text().replace("z/c/1/0", "z/c/1/1"))
    else:
        damage(path, how)
    for read in (optogram.pull, optogram.open):
        with pytest.raises(ArtifactError, match=rf"object {root} is corrupted in the remote"):
            read(NAME, repo=str(lab / "clone"))
    assert not (lab / "clone" / OUT).exists()
    assert repair(NAME, repo=str(lab / "origin")) == [root]
    optogram.pull(NAME, repo=str(lab / "clone"))


def test_an_object_pulled_corrupted_without_verify_is_fetched_again(world):
    _, files = listing(world)
    oid = files["z/c/0/0"]
    damage(object_file(world, oid), "flipped", at=-4)
    run(world / "clone", "dvc", "pull")  # DVC, not asked to verify, believes it
    assert repair(NAME, repo=str(world / "origin")) == [oid]
    shutil.rmtree(world / "clone" / OUT)
    optogram.pull(NAME, repo=str(world / "clone"))
    assert hashlib.md5((world / "clone" / OUT / "z/c/0/0").read_bytes()).hexdigest() == oid


def test_another_remote_has_the_object_that_one_has_damaged(world):
    shutil.copytree(world / "remote", world / "second")
    run(world / "clone", "dvc", "remote", "add", "second", str(world / "second"))
    _, files = listing(world)
    damage(object_file(world, files["image/c/0"]), "flipped")
    with pytest.raises(ArtifactError, match=files["image/c/0"]):
        optogram.open(NAME, repo=str(world / "clone"))
    assert optogram.open(NAME, repo=str(world / "clone"), remote="second").z[7, 0].values == 7
    with pytest.raises(ArtifactError, match=files["image/c/0"]):
        optogram.pull(NAME, repo=str(world / "clone"))
    optogram.pull(NAME, repo=str(world / "clone"), remote="second")


def test_a_remote_beyond_repair_from_this_cache_says_so(world):
    _, files = listing(world)
    damage(object_file(world, files["zarr.json"]), "flipped")
    with pytest.raises(ArtifactError, match=r"neither in the cache nor in a remote|corrupted"):
        repair(NAME, repo=str(world / "clone"))


@pytest.mark.parametrize(
    ("file", "how", "message"),
    [
        ("zarr.json", "flipped", "md5"),
        ("image/c/0", "flipped", "md5"),
        ("z/c/0/0", "flipped", "crc32c of the shard index"),
        ("z/c/0/0", "cut", "expected at least"),
        ("z/c/0/0", "empty", "expected at least"),
        ("z/c/0/0", "missing", "neither in the cache nor in a remote"),
    ],
)
def test_a_lazy_read_refuses_what_it_can_check(lab, file, how, message):
    _, files = listing(lab)
    path = object_file(lab, files[file])
    path.unlink() if how == "missing" else damage(path, how, at=5)
    with pytest.raises(ArtifactError, match=rf"{NAME}: object {files[file]} .*{message}"):
        assert np.isfinite(optogram.open(NAME, repo=str(lab / "clone")).z[299].values).all()


def test_shards_with_their_index_at_the_end_are_not_ours(world):
    other = world / "origin/artifacts/contributions/other"
    shutil.copytree(world / "origin" / OUT, other)
    for meta in (other / "z/zarr.json", other / "zarr.json"):
        text = meta.read_text()
        assert '"index_location": "start"' in text
        meta.unlink()  # a hardlink into the cache
        meta.write_text(text.replace('"index_location": "start"', '"index_location": "end"'))
    commit_and_push(world / "origin")
    run(world / "clone", "git", "pull", "-q")
    z = optogram.open("contributions/other", repo=str(world / "clone")).z
    with pytest.raises(
        ArtifactError, match=r"contributions/other: the shards of z have their index at the end, expected"
    ):
        print(z[5].values)


def test_nothing_can_be_written_through_a_store_that_reads_objects(world):
    with Repo(str(world / "clone")) as repo:
        found = out_of(repo, PurePosixPath(OUT))
        assert found
        store = ObjectStore(Objects(found[0], NAME), found[1])
    before = sorted(path for path in world.rglob("*") if path.is_file())
    buffer = default_buffer_prototype().buffer.from_bytes(b"new")
    for writing in (store.set("z/c/0/0", buffer), store.delete("z/c/0/0")):
        with pytest.raises(ValueError, match="read-only"):
            asyncio.run(writing)
    assert sorted(path for path in world.rglob("*") if path.is_file()) == before


def test_opening_a_revision_leaves_tree_index_and_cache_as_they_are(lab):
    clone = lab / "clone"
    run(clone, "git", "status")  # git itself refreshes its index

    def state():
        skip = {".git/index.lock"}
        return {
            p.relative_to(clone).as_posix(): (p.stat().st_mtime_ns, p.stat().st_size)
            for p in clone.rglob("*")
            if p.is_file() and ".dvc/tmp" not in p.as_posix() and p.relative_to(clone).as_posix() not in skip
        }

    before = state()
    assert optogram.open(NAME, repo=str(clone), rev="main").z[5, 0].values == 5
    assert state() == before


def test_a_scheme_without_its_plugin_names_the_command(world):
    for url, extra in (("s3://bucket/x", "s3"), ("gs://bucket/x", "gs"), ("azure://container/x", "azure")):
        run(world / "clone", "dvc", "remote", "add", "--force", "-d", "cloud", url)
        for read in (optogram.open, optogram.pull):
            with pytest.raises(ArtifactError, match=rf"pip install 'optogram\[{extra}\]'"):
                read(NAME, repo=str(world / "clone"))


class Payload:
    """Unpickled, it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_nothing_that_was_pulled_is_unpickled(world, tmp_path):
    """An artifact whose codec or filter is pickle, in Zarr v3 and v2, and a model file with code in it."""
    origin, clone, touched = world / "origin", world / "clone", tmp_path / "touched"
    payload = pickle.dumps(Payload(touched))
    evil = origin / "artifacts/contributions/evil"
    shutil.copytree(origin / OUT, evil)
    shutil.rmtree(evil / "z/c")
    for meta in (evil / "z/zarr.json", evil / "zarr.json"):
        content = json.loads(meta.read_text())
        array = content if "codecs" in content else content["consolidated_metadata"]["metadata"]["z"]
        array["codecs"] = [{"name": "numcodecs.pickle", "configuration": {"protocol": 5}}]
        array["chunk_grid"]["configuration"]["chunk_shape"] = array["shape"]
        meta.chmod(0o644)
        meta.unlink()
        meta.write_text(json.dumps(content))
    (evil / "z/c/0").mkdir(parents=True)
    (evil / "z/c/0/0").write_bytes(payload)

    older = origin / "artifacts/contributions/older"
    (older / "z").mkdir(parents=True)
    (older / ".zgroup").write_text('{"zarr_format": 2}')
    (older / "z/.zarray").write_text(
        json.dumps(
            dict(zarr_format=2, shape=[1], chunks=[1], dtype="|O", order="C", compressor=None, fill_value=None)
            | {"filters": [{"id": "pickle", "protocol": 5}]}
        )
    )
    (older / "z/0").write_bytes(payload)

    model = origin / "artifacts/models/evil"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    torch.save({"weight": Payload(touched)}, model / "model.pt")
    (model / "model.bin").write_bytes(payload)
    commit_and_push(origin)
    run(clone, "git", "pull", "-q")

    for repo in (origin, clone):  # from the working tree, and from the remote
        for name in ("contributions/evil", "contributions/older", "models/evil"):
            with pytest.raises(ArtifactError):
                print(optogram.open(name, repo=str(repo)).z.values)
    optogram.pull("models/evil", repo=str(clone))
    for name in ("model.pt", "model.bin"):
        with pytest.raises(ModelError):
            read_checkpoint(clone / "artifacts/models/evil" / name)
    assert not touched.exists()
    pickle.loads(payload)
    assert touched.exists()  # the payload is live


@pytest.fixture(scope="module")
def gigabyte(tmp_path_factory):
    """A remote folder with an artifact of 1 GB (and a small one), and a clone without data.

    The remote is the origin's cache, which is laid out as a remote is: no second gigabyte is written.
    """
    home = tmp_path_factory.mktemp("gigabyte")
    origin = home / "origin"
    repository(origin)
    write(origin / OUT, total=16384, floats=16384, shard=1024)
    write(origin / "artifacts/contributions/small", total=10, floats=16, shard=10)
    (home / "remote").symlink_to(origin / ".dvc/cache")
    run(origin, "dvc", "add", OUT, "artifacts/contributions/small")
    run(origin, "git", "add", "-A")
    run(origin, "git", "commit", "-qm", "artifacts")
    run(home, "git", "clone", "-q", "origin", "clone")
    assert sum(p.stat().st_size for p in (origin / ".dvc/cache").rglob("*") if p.is_file()) > 1e9
    yield home
    shutil.rmtree(home)


# In a process of its own, so that nothing is open or cached; the small artifact first, so that modules are imported.
READ = """
import json, sys, time
import numpy as np
import optogram
def read_so_far(): return int(open("/proc/self/io").readline().split()[1])
optogram.open("contributions/small", repo=sys.argv[1]).z[3].values
before, started = read_so_far(), time.monotonic()
z = optogram.open("contributions/demo", repo=sys.argv[1]).z
opened = time.monotonic()
assert z.sel(image="eval/7777").values[0] == 7777
one, read = time.monotonic(), read_so_far() - before
rows = np.sort(np.random.default_rng(0).choice(16384, int(sys.argv[2]), replace=False))
assert (z.isel(image=rows).values[:, 0] == rows).all()
print(json.dumps({"read": read, "open": opened - started, "row": one - opened, "rows": time.monotonic() - one}))
"""


def measured(clone, rows):
    words = [sys.executable, "-c", READ, str(clone), str(rows)]
    done = subprocess.run(words, check=True, capture_output=True, text=True, env=ENVIRONMENT, timeout=60)
    return json.loads(done.stdout)


@pytest.mark.slow
def test_a_row_of_a_gigabyte_costs_under_5_mb_from_a_folder(gigabyte):
    found = measured(gigabyte / "clone", rows=0)
    print(found)
    assert 16384 * 4 < found["read"] < LIMIT


@pytest.mark.slow
def test_a_row_of_a_gigabyte_costs_under_5_mb_over_ssh_and_100_rows_one_connection(gigabyte, ssh_server):
    with CountingRelay("127.0.0.1", ssh_server.port) as relay:
        ssh_server.add_remote(gigabyte / "clone", "lab", gigabyte / "remote", port=relay.port)
        found = measured(gigabyte / "clone", rows=0)
        print(found, relay.received)
        assert 16384 * 4 < relay.received < LIMIT
        assert relay.connections <= 2
        relay.connections = relay.received = 0
        found = measured(gigabyte / "clone", rows=100)
        print(found, relay.received)
        assert relay.connections <= 2
        assert relay.received < 120 * 2**20  # 100 chunks of 1 MB
        assert found["rows"] < 20
