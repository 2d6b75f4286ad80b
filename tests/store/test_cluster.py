"""Shards made by Dask workers: the same bytes, and what is lost when a worker, the scheduler or the user goes."""

import os
import pickle
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from distributed import LocalCluster
from test_write import MADE, rows

from optogram.errors import ArtifactError
from optogram.store import cluster as module
from optogram.store.cluster import Once, on_cluster
from optogram.store.digests import bytes_digest, folder_digest
from optogram.store.shards import Work
from optogram.store.write import write_sharded

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address():
    """A cluster that outlives the runs on it, as one at an address does."""
    with LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0") as cluster:
        yield cluster.scheduler_address


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The digest of what the plain loop writes."""
    folder = tmp_path_factory.mktemp("whole")
    write_sharded(folder / "a", rows, MADE, total=53, shard=5, scratch=folder / "scratch")
    return folder_digest(folder / "a")


def logged(log, start, stop):
    with Path(log).open("a") as file:
        file.write(f"{start} {os.getpid()}\n")
    return rows(start, stop)


def opened(log):
    """What a worker builds once and keeps."""
    with Path(log).open("a") as file:
        file.write(f"opened {os.getpid()}\n")
    return partial(logged, log)


def test_the_bytes_are_those_of_the_plain_loop_and_each_worker_opens_once(here, address, whole):
    compute = Once(opened, str(here / "log"))
    write_sharded(Path("a"), compute, MADE, total=53, shard=5, runner=on_cluster(address=address))
    assert folder_digest(Path("a")) == whole
    assert not list(Path(".scratch").iterdir())
    lines = [line.split() for line in (here / "log").read_text().splitlines()]
    workers = {pid for _, pid in lines}
    assert str(os.getpid()) not in workers
    assert sorted(pid for what, pid in lines if what == "opened") == sorted(workers)
    assert sorted(int(start) for start, _ in lines if start != "opened") == sorted([0, *range(0, 53, 5)])
    # a kept worker does not take another run's work for this one's
    other = write_other(here, address)
    assert folder_digest(other) != whole


def shifted(start, stop):
    return rows(start, stop).assign(z=rows(start, stop).z + 1)


def write_other(here, address):
    write_sharded(here / "b", shifted, MADE, total=53, shard=5, runner=on_cluster(address=address))
    return here / "b"


def dying(log, times, start, stop):
    """Kill this very process at one shard, the first few times."""
    if start == 20:
        with Path(log).open("a") as file:
            file.write("died\n")
        if Path(log).read_text().count("died") <= times:
            os.kill(os.getpid(), signal.SIGKILL)
    elif stop - start > 1:
        with Path(log).open("a") as file:
            file.write(f"made {start}\n")
    return rows(start, stop)


def test_a_worker_that_dies_costs_its_shard_only(here, whole):
    compute = partial(dying, str(here / "log"), 1)
    write_sharded(Path("a"), compute, MADE, total=53, shard=5, runner=on_cluster(processes=2))
    assert folder_digest(Path("a")) == whole
    lines = (here / "log").read_text().splitlines()
    assert lines.count("died") == 2
    # work that was queued behind the dead one's may be sent again, but what was marked is not made twice
    assert {line for line in lines if line != "died"} == {f"made {start}" for start in range(0, 53, 5) if start != 20}


def test_a_shard_that_kills_every_worker_is_given_up_and_the_rest_kept(here, whole):
    compute = partial(dying, str(here / "log"), 100)
    with pytest.raises(ArtifactError, match="died 4 times on the same shard"):
        write_sharded(Path("a"), compute, MADE, total=53, shard=5, runner=on_cluster(processes=2))
    assert not Path("a").exists()
    kept = len(list((Path(".scratch") / MADE.key / "marks").glob("[0-9]*.json")))
    assert kept >= 4
    made = []

    def counting(start, stop):
        made.append(start)
        return rows(start, stop)

    write_sharded(Path("a"), counting, MADE, total=53, shard=5)
    assert folder_digest(Path("a")) == whole
    assert len(made) == 11 - kept


def bad(start, stop):
    part = rows(start, stop)
    if start == 5:
        part.z[2, 1, 0] = np.nan
    return part


def test_an_error_in_a_worker_is_the_user_s_own(here, address):
    with pytest.raises(ArtifactError, match="z has a NaN or infinite value, first at image=7, head=1, embed=0"):
        write_sharded(Path("a"), bad, MADE, total=53, shard=5, runner=on_cluster(address=address))
    assert not Path("a").exists()


def refused():
    raise ArtifactError("this worker has other code")


def test_a_worker_that_the_check_refuses_computes_nothing(here, address):
    compute = partial(logged, str(here / "log"))
    with pytest.raises(ArtifactError, match="other code"):
        write_sharded(Path("a"), compute, MADE, total=53, shard=5, runner=on_cluster(address=address, check=refused))
    assert not (here / "log").exists()


def test_a_worker_that_does_not_see_the_folder_refuses(here, address, monkeypatch):
    (here / "task.pickle").write_bytes(b"of another run, in a folder of the same name")
    for path in (here / "task.pickle", here / "nowhere/task.pickle"):
        with pytest.raises(ArtifactError, match=r"does not see the scratch folder .*share the disk"):
            module._opened(str(path), "0" * 64)


def test_the_task_that_is_loaded_is_the_one_that_was_checked(here, monkeypatch):
    work = Work(here, Path("a"), "image", 53, 5)
    mine = pickle.dumps((work, rows, None, torch.get_num_threads(), module.kernels(), "mine"))
    Path("task.pickle").write_bytes(mine)

    def replaced(content):
        Path("task.pickle").write_bytes(b"of another run, written since")
        return bytes_digest(content)

    monkeypatch.setattr(module, "bytes_digest", replaced)
    assert module._opened("task.pickle", bytes_digest(mine)) == (work, rows)


def test_no_scheduler_at_the_address(here, monkeypatch):
    monkeypatch.setattr(module, "CONNECT_SECONDS", 1)
    for address in ("tcp://127.0.0.1:9", "nonsense://x"):
        with pytest.raises(ArtifactError, match=r"no scheduler answers there .* dask\.address to null"):
            write_sharded(Path("a"), rows, MADE, total=53, shard=5, runner=on_cluster(address=address))


def test_a_function_of_the_main_module_is_a_mistake_of_ours(here, monkeypatch):
    monkeypatch.setattr(rows, "__module__", "__main__")
    monkeypatch.setattr(sys.modules["__main__"], "rows", rows, raising=False)
    with pytest.raises(TypeError, match="move it to a module"):
        write_sharded(Path("a"), rows, MADE, total=53, shard=5, runner=on_cluster(processes=1))


def slow(start, stop):
    time.sleep(0.2)
    return rows(start, stop)


def killing(scheduler, start, stop):
    if start == 15:
        os.kill(scheduler, signal.SIGKILL)
        time.sleep(0.5)
    return slow(start, stop)


def test_a_lost_scheduler_is_said_and_the_run_resumes_without_it(here, whole):
    environment = os.environ | {"PYTHONPATH": f"{Path(__file__).parent}:{Path(__file__).parents[2]}"}
    dask = [sys.executable, "-m", "dask"]
    quiet = {"env": environment, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    arguments = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", "scheduler.json"]
    scheduler = subprocess.Popen([*dask, "scheduler", *arguments], **quiet)
    worker = subprocess.Popen(
        [*dask, "worker", "--scheduler-file", "scheduler.json", "--nthreads", "1", "--no-dashboard"], **quiet
    )
    try:
        while not Path("scheduler.json").exists():
            assert scheduler.poll() is None
            time.sleep(0.1)
        address = __import__("json").loads(Path("scheduler.json").read_text())["address"]
        with pytest.raises(ArtifactError, match=rf"The Dask scheduler at {address} was lost. .*resumes"):
            write_sharded(
                Path("a"),
                partial(killing, scheduler.pid),
                MADE,
                total=53,
                shard=5,
                runner=on_cluster(address=address),
            )
    finally:
        for process in (worker, scheduler):
            process.kill()
            process.wait()
    assert list((Path(".scratch") / MADE.key / "marks").glob("[0-9]*.json"))
    write_sharded(Path("a"), rows, MADE, total=53, shard=5)
    assert folder_digest(Path("a")) == whole


CHILD = """
import sys
from pathlib import Path
from test_cluster import MADE, on_cluster, slow, write_sharded
if __name__ == "__main__":
    try:
        write_sharded(Path("a"), slow, MADE, total=1000, shard=5, runner=on_cluster(processes=2))
    except KeyboardInterrupt:
        sys.exit(130)
"""


def test_control_c_closes_the_cluster(here):
    (here / "child.py").write_text(CHILD)
    environment = os.environ | {"PYTHONPATH": f"{Path(__file__).parent}:{Path(__file__).parents[2]}"}
    child = subprocess.Popen(
        [sys.executable, "child.py"], env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    marks = Path(".scratch") / MADE.key / "marks"
    while len(list(marks.glob("[0-9]*.json"))) < 3:
        assert child.poll() is None
        time.sleep(0.1)
    family = psutil.Process(child.pid).children(recursive=True)
    assert family
    os.killpg(child.pid, signal.SIGINT)  # as a terminal does: to the workers too
    _, said = child.communicate(timeout=60)
    assert child.returncode == 130, said
    assert "Traceback" not in said
    psutil.wait_procs(family, timeout=10)
    assert not [process for process in family if process.is_running() and process.status() != "zombie"]
