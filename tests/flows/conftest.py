"""A toy pipeline whose stages wait, fail and stay away as the test says, and a Prefect server for it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# One stage: waits, writes its name and what it read; marks when it began and ended; misbehaves if a file tells it to.
STAGE = """
import os, shutil, sys, time
from pathlib import Path
name, seconds, inputs = sys.argv[1], float(sys.argv[2]), sys.argv[3:]
marks = Path(os.environ.get("MARKS", "marks"))
marks.mkdir(exist_ok=True)
with (marks / name).open("a") as mark:
    mark.write(f"begin {time.time()} {os.getpid()} {os.environ.get('CUDA_VISIBLE_DEVICES', '-')}\\n")
order = Path(f"orders/{name}").read_text() if Path(f"orders/{name}").exists() else ""
if order == "fail once":
    Path(f"orders/{name}").unlink()
    sys.exit("RuntimeError: not this time")
if order == "fail":
    print("Traceback: …")
    print("RuntimeError: it broke <b>[bold]", flush=True)
    sys.exit(1)
if order == "user error":
    print("ParamError: toy.seconds = -1, expected at least 0.\\n  Set it to 0.", flush=True)
    sys.exit(2)
while order == "wait for go" and not Path("go").exists():
    time.sleep(0.05)
if order == "hang":
    time.sleep(600)
ticks = max(int(seconds * 10), 1)
for tick in range(ticks):
    time.sleep(seconds / ticks)
    left = seconds * (1 - tick / ticks)
    print(f"waiting -> {name}: {tick + 1} of {ticks} naps, 10 naps/s, eta {left:.0f} s", flush=True)
if Path(f"made/{name}").exists():
    shutil.copytree(f"made/{name}", ".", dirs_exist_ok=True)
Path(f"out_{name}").write_text(name + "".join(Path(f).read_text() for f in inputs))
with (marks / name).open("a") as mark:
    mark.write(f"end {time.time()}\\n")
"""


class Toy:
    """A checkout with a pipeline of `stages`: {name: (seconds, upstream, meta)}.

    A stage also makes what lies under made/NAME; `meta` names it as `also`.
    """

    def __init__(self, folder, stages):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        lines = ["stages:"]
        for name, (seconds, upstream, meta) in stages.items():
            outs = [f"out_{up}" for up in upstream]
            lines += [
                f"  {name}:",
                f"    desc: Toy stage {name}",
                f"    cmd: {sys.executable} stage.py {name} {seconds} {' '.join(outs)}",
                f"    deps: {json.dumps(['stage.py', *outs])}",
                f"    outs: {json.dumps([f'out_{name}', *meta.get('also', [])])}",
                f"    meta: {json.dumps(meta)}",
            ]
        (folder / "stage.py").write_text(STAGE)
        (folder / "dvc.yaml").write_text("\n".join(lines) + "\n")
        (folder / "params.yaml").write_text("# optogram profile toy\n")
        (folder / ".gitignore").write_text("/marks/\n/orders/\n/made/\n/.scratch/\n__pycache__/\n")
        (folder / "orders").mkdir()
        self.git("init", "-q", "-b", "main")
        self.git("config", "user.email", "a@b.c")
        self.git("config", "user.name", "a")
        (folder / ".dvc").mkdir()  # as `dvc init` leaves it
        (folder / ".dvc/.gitignore").write_text("/config.local\n/tmp\n/cache\n")
        (folder / ".dvc/config").write_text((ROOT / ".dvc/config").read_text().partition("['remote")[0])
        self.git("add", "-A")
        self.git("commit", "-qm", "toy")

    def git(self, *words):
        return subprocess.run(
            ["git", *words], cwd=self.folder, check=True, capture_output=True, text=True
        ).stdout.strip()

    def dvc(self, *words):
        command = [sys.executable, "-m", "dvc", *words]
        return subprocess.run(command, cwd=self.folder, check=True, capture_output=True, text=True).stdout

    def order(self, name, what):
        (self.folder / "orders" / name).write_text(what)

    def start(self, *words, **environment):
        """`optogram run` as a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "flows", "run", *words],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *words, code=0, **environment):
        """`optogram run` to its end; what it printed."""
        process = self.start(*words, **environment)
        text = process.communicate(timeout=240)[0]
        assert process.returncode == code, text
        return text

    def marks(self, name):
        """[(event, time, pid, device)] of a stage."""
        path = self.folder / "marks" / name
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def began(self, name):
        return [mark for mark in self.marks(name) if mark[0] == "begin"]

    def wait_for(self, name, count=1):
        """Until the stage has begun; its process id."""
        deadline = time.monotonic() + 240
        while len(self.began(name)) < count:
            assert time.monotonic() < deadline, f"{name} never began"
            time.sleep(0.02)
        return int(self.began(name)[count - 1][2])

    def lock(self):
        """dvc.lock's text."""
        return (self.folder / "dvc.lock").read_text()

    def done(self):
        """Stages that DVC calls up to date."""
        changed = set(json.loads(self.dvc("status", "--json")))
        return {name for name in re.findall(r"^  (\w+):$", (self.folder / "dvc.yaml").read_text(), re.M)} - changed


def alive(pid):
    """Whether the process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def gone(pid, seconds=15):
    """Whether the process ends within the time."""
    deadline = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not alive(pid)


@pytest.fixture(scope="session")
def prefect_home(tmp_path_factory):
    """Prefect's settings and database for this session, away from the user's."""
    home = tmp_path_factory.mktemp("prefect")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(home))
        patch.setenv("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
        patch.setenv("DO_NOT_TRACK", "1")
        patch.delenv("PREFECT_API_URL", raising=False)
        yield home


class Server:
    """A Prefect server that can be killed."""

    def __init__(self, log):
        from flows.listener import free_port
        from flows.server import healthy

        port = free_port(0)
        self.api = f"http://127.0.0.1:{port}/api"
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
        with log.open("w") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
        deadline = time.monotonic() + 240
        while not healthy(self.api):
            assert self.process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)

    def kill(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="session")
def server(prefect_home):
    """A Prefect server on loopback; its API address is PREFECT_API_URL in every child."""
    found = Server(prefect_home / "server.log")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_API_URL", found.api)
        yield found
    found.kill()
