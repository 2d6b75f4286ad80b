"""Commands that die with their starter, however it goes; for runs and `optogram verify` see their own tests."""

import os
import signal
import subprocess
import sys
import time

import pytest

from optogram.pipeline.child_process import GRACE_SECONDS, tethered
from tests.flows.conftest import ROOT, gone

# Starts a child of its own, says both process ids, and waits; deaf to Ctrl-C if told so.
FAMILY = """
import os, signal, subprocess, sys, time
if "deaf" in sys.argv:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(os.getpid(), child.pid, flush=True)
if "leave" in sys.argv:
    sys.exit(3)
time.sleep(60)
"""
# As `optogram run` and `optogram verify` do: starts a command on the tether and waits for it.
STARTER = "import sys; from optogram.pipeline.child_process import tethered; tethered(sys.argv[1:], output=None).wait()"


def family(*words):
    return [sys.executable, "-c", FAMILY, *words]


def said(child):
    """The process ids that FAMILY says."""
    return [int(word) for word in child.stdout.readline().split()]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_starter_takes_the_command_and_its_children_with_it(number):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    starter = subprocess.Popen([sys.executable, "-c", STARTER, *family()], stdout=subprocess.PIPE, env=environment)
    with starter:
        pids = said(starter)
        starter.send_signal(number)
    assert starter.returncode == -number
    assert len(pids) == 2
    assert all(gone(pid) for pid in pids)


@pytest.mark.parametrize("how", ["polite", "deaf"])
def test_closing_the_tether_interrupts_and_after_the_grace_period_kills(how):
    with tethered(family(how)) as child:
        pids = said(child)
        began = time.monotonic()
        child.stdin.close()
        code = child.wait(GRACE_SECONDS + 10)
        took = time.monotonic() - began
    if how == "polite":
        assert code == 128 + signal.SIGINT
        assert took < GRACE_SECONDS
    else:
        assert code == -signal.SIGKILL
        assert took >= GRACE_SECONDS
    assert all(gone(pid, 2) for pid in pids)


def test_the_status_is_the_command_s_and_what_it_leaves_behind_ends():
    with tethered(family("leave")) as child:
        pids = said(child)
        assert child.wait(10) == 3
    assert all(gone(pid, 2) for pid in pids)


def test_a_command_that_is_killed_gives_128_and_the_signal(tmp_path):
    with (tmp_path / "log").open("wb") as output, tethered(family(), output=output, cwd=tmp_path) as child:
        while not (tmp_path / "log").read_text().endswith("\n"):
            time.sleep(0.02)
        os.kill(int((tmp_path / "log").read_text().split()[0]), signal.SIGKILL)
        assert child.wait(10) == 128 + signal.SIGKILL
