"""Stages in work pools: two workers in two clones and a coordinator, one ssh remote, and what faults do to them."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.flows.conftest import ROOT, Toy, gone

pytestmark = pytest.mark.slow
STAGES = {
    "a": (0.2, [], {}),
    "b": (0.2, ["a"], {"pool": "gpu"}),
    "c": (0.2, ["a"], {}),
    "d": (0.2, ["b", "c"], {}),
}
ENVIRONMENT = {"PREFECT_WORKER_QUERY_SECONDS": "1", "PYTHONPATH": ""}


class Clone:
    """A clone of the lab's repository, with its own DVC cache and key."""

    def __init__(self, lab, folder):
        self.lab, self.folder = lab, folder
        subprocess.run(["git", "clone", "-q", str(lab.origin), str(folder)], check=True, capture_output=True)
        for key, value in (("user.email", "a@b.c"), ("user.name", "a")):
            self.git("config", key, value)
        shutil.copy(lab.local_config, folder / ".dvc/config.local")
        (folder / "orders").mkdir()

    git = Toy.git
    dvc = Toy.dvc
    marks = Toy.marks
    began = Toy.began
    wait_for = Toy.wait_for
    lock = Toy.lock
    order = Toy.order

    def worker(self, pool):
        """A worker of the pool in this clone, in a process group of its own."""
        command = [
            sys.executable,
            "-m",
            "prefect",
            "worker",
            "start",
            "--pool",
            pool,
            "--type",
            "process",
            "--limit",
            "1",
        ]
        with (self.folder.parent / f"{self.folder.name}.log").open("a") as log:
            return subprocess.Popen(
                command,
                cwd=self.folder,
                env={**os.environ, **ENVIRONMENT, "OPTOGRAM_CLONE": str(self.folder)},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def start(self, *words):
        return subprocess.Popen(
            [sys.executable, "-m", "flows", "run", "--on", "pools", *words],
            cwd=self.folder,
            env={**os.environ, **ENVIRONMENT},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *words, code=0):
        process = self.start(*words)
        text = process.communicate(timeout=280)[0]
        assert process.returncode == code, text
        return text


class Lab:
    """A git origin that holds the toy pipeline and our flows, an ssh remote, and the pools' deployments."""

    def __init__(self, folder, ssh_server):
        toy = Toy(folder / "toy", STAGES)
        for package in ("flows", "optogram"):
            shutil.copytree(ROOT / package, toy.folder / package, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "prefect.yaml", toy.folder)
        ssh_server.add_remote(toy.folder, "lab", ssh_server.folder / folder.name)
        toy.git("add", "-A")
        toy.git("commit", "-qm", "the pipeline")
        self.folder, self.origin = folder, folder / "origin.git"
        self.remote = ssh_server.folder / folder.name
        self.local_config = toy.folder / ".dvc/config.local"
        subprocess.run(["git", "clone", "-q", "--bare", str(toy.folder), str(self.origin)], check=True)
        self.plain = Toy(folder / "plain", STAGES)
        self.plain.dvc("repro")
        prefect = [sys.executable, "-m", "prefect"]
        for pool in ("cpu", "gpu"):
            subprocess.run([*prefect, "work-pool", "create", pool, "--type", "process", "--overwrite"], check=True)
        subprocess.run(
            [*prefect, "--no-prompt", "deploy", "--all"],
            cwd=toy.folder,
            check=True,
            capture_output=True,
            env=os.environ,
        )

    def clone(self, name):
        return Clone(self, self.folder / name)


@pytest.fixture(scope="module")
def lab(tmp_path_factory, server, ssh_server):
    return Lab(tmp_path_factory.mktemp("lab"), ssh_server)


@pytest.fixture
def workers(lab, tmp_path):
    """{pool: (clone, worker process)} of two fresh clones; ended after the test."""
    found = {}
    for pool in ("cpu", "gpu"):
        clone = lab.clone(tmp_path / pool)
        found[pool] = (clone, clone.worker(pool))
    yield found
    for _, process in found.values():
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def cold(lab):
    """Nothing in the remote, as before the first run."""
    shutil.rmtree(lab.remote, ignore_errors=True)


def test_workers_do_it_all_and_the_coordinator_recomputes_nothing(lab, workers, tmp_path):
    cold(lab)
    coordinator = lab.clone(tmp_path / "coordinator")
    text = coordinator.run()
    assert "4 ran in" in text
    assert "`dvc repro --allow-missing` has nothing to run." in text
    assert coordinator.lock() == lab.plain.lock()
    assert not (coordinator.folder / "marks").exists(), "the coordinator ran a stage"
    ran = {pool: sorted(p.name for p in (clone.folder / "marks").iterdir()) for pool, (clone, _) in workers.items()}
    assert ran == {"cpu": ["a", "c", "d"], "gpu": ["b"]}
    assert "All 4 stages are up to date" in coordinator.run()

    # any clone that has the lock gets the data without running a stage
    reader = lab.clone(tmp_path / "reader")
    (reader.folder / "dvc.lock").write_text(coordinator.lock())
    reader.dvc("pull")
    assert (reader.folder / "out_d").read_text() == (lab.plain.folder / "out_d").read_text()


def test_sigkill_of_a_worker_costs_its_stage_only(lab, workers, tmp_path):
    cold(lab)
    coordinator = lab.clone(tmp_path / "coordinator")
    gpu, process = workers["gpu"]
    gpu.order("b", "hang")
    run = coordinator.start("--lost-after", "40")
    try:
        child = gpu.wait_for("b")
    except AssertionError as error:
        run.kill()
        said = [run.communicate()[0], *(log.read_text() for log in tmp_path.glob("*.log"))]
        raise AssertionError("\n".join([str(error), *said])) from None
    os.killpg(process.pid, signal.SIGKILL)
    for pid in running_in(gpu.folder):  # the machine is lost, with all that runs in it
        os.kill(pid, signal.SIGKILL)
    process.wait()
    assert gone(child)
    again = lab.clone(tmp_path / "gpu2")
    workers["gpu"] = (again, again.worker("gpu"))
    text = run.communicate(timeout=280)[0]
    assert run.returncode == 0, text
    assert re.search(
        r"b +failed: (no sign of its worker for 40 s|the worker's flow crashed); it is tried again", text
    ), text
    assert coordinator.lock() == lab.plain.lock()
    assert len(again.began("b")) == 1
    assert len(workers["cpu"][0].began("a")) == 1


def test_a_worker_at_another_revision_refuses(lab, workers, tmp_path):
    cold(lab)
    coordinator = lab.clone(tmp_path / "coordinator")
    (coordinator.folder / "stage.py").write_text((coordinator.folder / "stage.py").read_text() + "# edited\n")
    assert "this is not committed: stage.py. Commit and push" in coordinator.run(code=1)
    coordinator.git("commit", "-qam", "not pushed")
    text = coordinator.run("a", code=1)
    assert re.search(r"a failed: FlowError: This worker's clone \S+ is at \w{10} and cannot get to \w{10}", text), text
    assert not workers["cpu"][0].began("a")

    coordinator.git("reset", "-q", "--hard", "origin/main")
    clone = workers["cpu"][0]
    (clone.folder / "params.yaml").write_text("mine: 1\n")
    text = coordinator.run("a", code=1)
    assert re.search(r"clone \S+ has edits of its own \(params.yaml\), so it is not at \w{10}", text), text
    clone.git("checkout", "-q", "params.yaml")
    coordinator.run("a")
    assert len(clone.began("a")) == 1


def test_pools_and_remotes_that_are_not_there_are_named(lab, tmp_path):
    coordinator = lab.clone(tmp_path / "coordinator")
    coordinator.dvc("remote", "modify", "lab", "verify", "false")
    coordinator.git("commit", "-qam", "unverified")
    assert "Set `dvc remote modify lab verify true`" in coordinator.run(code=1)
    coordinator.dvc("config", "--unset", "core.remote")
    coordinator.git("commit", "-qam", "no remote")
    assert "has no default DVC remote" in coordinator.run(code=1)


def running_in(folder):
    """Processes whose working directory is `folder`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if (entry / "cwd").readlink().is_relative_to(folder):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found
