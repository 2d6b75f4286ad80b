"""Stages as forks of a warm parent: a fork has all that is its client's, ends with it, and differs in no byte."""

import ast
import fcntl
import json
import os
import pty
import shutil
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from optogram.pipeline.closure import PACKAGES, closure
from optogram.pipeline.warm import warm_stages
from optogram.pipeline.warm_client import WARM
from stages.warm_parent import Loaded
from tests.flows.conftest import gone

ROOT = Path(__file__).parents[2]
# A stage that says how it finds itself, and then does as it is told.
PROBE = """
import sys
warm = "torch" in sys.modules
modules = sorted(sys.modules)
import json, os, subprocess, threading, time
print(json.dumps({
    "warm": warm, "pid": os.getpid(), "argv": sys.argv, "folder": os.getcwd(), "mark": os.environ.get("MARK"),
    "threads": os.environ.get("OMP_NUM_THREADS"), "tasks": len(os.listdir("/proc/self/task")),
    "path": sys.path, "terminal": os.get_terminal_size(1).columns if os.isatty(1) else None,
    "modules": modules if "modules" in sys.argv else None,
}), flush=True)
if "read" in sys.argv:
    print(sys.stdin.read().upper(), file=sys.stderr)
if "wait" in sys.argv:
    try:
        child = subprocess.Popen(["sleep", "60"])
        print(child.pid, flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        sys.exit(130)
sys.exit(sys.argv[-1] if sys.argv[-1] == "broken" else 3)
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A checkout of code alone, with a stage that tells of itself."""
    folder = tmp_path_factory.mktemp("warm") / "checkout"
    for name in ("optogram", "stages"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "stages/probe.py").write_text(PROBE)
    (folder / "params.yaml").write_text("threads: 2\n")
    return folder


@pytest.fixture(scope="module")
def parent(checkout):
    with warm_stages(checkout) as extra:
        yield extra


def start(checkout, extra, *words, **options):
    environment = {**os.environ, "PYTHONPATH": "", **extra}
    # a shell's background jobs ignore Ctrl-C, and so would all that they start
    command = ["env", "--default-signal=INT", sys.executable, "-m", "stages.probe", *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.PIPE, **options}
    return subprocess.Popen(command, cwd=checkout, env=environment, text=True, **pipes)


def probe(checkout, extra, *words, said="", **options):
    with start(checkout, extra, *words, **options) as client:
        out, errors = client.communicate(said)
    return json.loads(out), errors, client.returncode


def waits(checkout, extra):
    """A client whose fork waits, with the process ids of the fork and of its child."""
    client = start(checkout, extra, "wait", stderr=subprocess.DEVNULL, start_new_session=True)
    found = json.loads(client.stdout.readline())
    assert found["warm"]
    assert found["pid"] != client.pid
    return client, [found["pid"], int(client.stdout.readline())]


def test_a_fork_has_what_is_its_clients(checkout, parent):
    warm, errors, code = probe(checkout, {**parent, "MARK": "mine"}, "--out", "a b", "read", said="heard")
    cold, cold_errors, cold_code = probe(checkout, {"MARK": "mine"}, "--out", "a b", "read", said="heard")
    assert (warm.pop("warm"), cold.pop("warm")) == (True, False)
    assert warm.pop("pid") != cold.pop("pid")
    assert warm == cold
    assert warm["tasks"] == 1
    assert (errors, code) == (cold_errors, cold_code) == ("HEARD\n", 3)
    assert probe(checkout, parent, "broken")[1:] == ("broken\n", 1)


def test_a_fork_writes_to_its_clients_terminal(checkout, parent):
    master, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 133, 0, 0))
    with start(checkout, parent, stdout=terminal):
        found = json.loads(os.read(master, 100_000))
    os.close(master)
    os.close(terminal)
    assert found["warm"]
    assert found["terminal"] == 133


def test_all_that_stages_import_is_there(checkout, parent):
    there = set(probe(checkout, parent, "modules")[0]["modules"])
    files = {file for path in (ROOT / "stages").glob("[a-z]*.py") for file in closure(f"stages.{path.stem}")}
    wanted = set()
    for file in (ROOT / name for name in files if name.endswith(".py")):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.Import):
                wanted |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                wanted.add(node.module)
    assert {name for name in wanted - there if name.split(".")[0] not in (*PACKAGES, *sys.stdlib_module_names)} == set()
    assert not there & {"stages.doorway", "optogram.params.root", "torch._dynamo.exc"}


@pytest.mark.parametrize("what", ["threads", "environment", "limit", "code"])
def test_a_stage_that_a_fork_would_run_otherwise_runs_cold(checkout, parent, tmp_path, what):
    other = shutil.copytree(checkout, tmp_path / "other")
    assert probe(other, parent)[0]["warm"], "another checkout of the same code may have it"
    extra, options = dict(parent), {}
    if what == "threads":
        (other / "params.yaml").write_text("threads: 1\n")
    elif what == "environment":
        extra["HF_HOME"] = str(tmp_path)
    elif what == "limit":
        options["umask"] = 0o077
    else:
        with (other / "optogram/store/rounding.py").open("a") as file:
            file.write("# another line\n")
    found, _, code = probe(other, extra, **options)
    assert not found["warm"]
    assert code == 3


def test_a_changed_library_is_noticed(tmp_path):
    file = tmp_path / "library.py"
    file.write_text("x = 1\n")
    spec = {"root": str(tmp_path), "folder": str(tmp_path), "environment": {}, "path": [], "circumstances": {}}
    (tmp_path / "params.yaml").write_text("threads: 2\n")
    stamp = (file.stat().st_mtime_ns, file.stat().st_size)
    settings = Loaded.now({}).settings
    threads = Loaded.now({}).threads
    loaded = Loaded({str(file): stamp}, {}, [], {}, settings, threads, {})
    assert loaded.differs(spec) == ""
    file.write_text("x = 2 \n")
    assert "library.py has changed" in loaded.differs(spec)


@pytest.mark.parametrize(("number", "code"), [("SIGINT", 130), ("SIGTERM", -15), ("SIGKILL", -9)])
def test_what_ends_a_client_ends_the_fork_and_its_children(checkout, parent, number, code):
    client, processes = waits(checkout, parent)
    with client:
        os.killpg(client.pid, getattr(signal, number))
        assert client.wait(10) == code
    assert all(gone(process) for process in processes)


def test_a_fork_that_is_killed_ends_its_client_likewise(checkout, parent):
    client, processes = waits(checkout, parent)
    with client:
        os.kill(processes[0], signal.SIGKILL)
        assert client.wait(10) == -signal.SIGKILL
    assert all(gone(process) for process in processes)


STARTER = """
import sys, time
from optogram.pipeline.warm import warm_stages
with warm_stages(sys.argv[1]) as extra:
    print(extra["OPTOGRAM_WARM"], flush=True)
    time.sleep(60)
"""


def test_a_killed_starter_takes_parent_and_forks_with_it(checkout):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", STARTER, str(checkout)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as starter:
        extra = {WARM: starter.stdout.readline().strip()}
        client, processes = waits(checkout, extra)
        with client:
            parent = int(Path(f"/proc/{processes[0]}/stat").read_text().rsplit(") ")[1].split()[1])
            assert oct(Path(extra[WARM]).parent.stat().st_mode) == "0o40700"
            starter.kill()
            assert client.wait(10) == 70
        assert all(gone(process) for process in (parent, *processes))
    shutil.rmtree(Path(extra[WARM]).parent)
    assert not probe(checkout, extra)[0]["warm"], "a parent that has gone is no hindrance"


def test_no_parent_for_few_stages_or_for_any_threads_or_for_other_stages(checkout, tmp_path):
    with warm_stages(checkout, stages=2) as few, warm_stages(tmp_path) as others:
        assert few == others == {}
    shutil.copytree(checkout / "stages", tmp_path / "stages")
    (tmp_path / "params.yaml").write_text("threads: auto\n")
    with warm_stages(tmp_path) as automatic:
        assert automatic == {}
