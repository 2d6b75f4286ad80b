"""The server that a run reports to: one, the one it names, ours, and none where none can be had."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.flows.conftest import ROOT, Toy

pytestmark = pytest.mark.slow
DEAD = "http://127.0.0.1:9"


@pytest.fixture
def toy(tmp_path):
    return Toy(tmp_path / "toy", {"a": (0, [], {})})


def alone(toy, home, **environment):
    """What `namespace.py` saw of a run that has a network namespace and a PREFECT_HOME to itself."""
    toy.order("a", "wait for go")
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    done = subprocess.run(
        ["unshare", "-n", sys.executable, str(Path(__file__).with_name("namespace.py"))],
        cwd=toy.folder,
        env={**kept, "PYTHONPATH": str(ROOT), "PREFECT_HOME": str(home), **environment},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, f"a namespace of its own needs root, unshare and ip: {done.stderr}"
    return json.loads(done.stdout)


@pytest.mark.parametrize("proxy", [DEAD, "socks5://127.0.0.1:9"])
def test_one_server_that_has_the_run_whatever_proxies_there_are(toy, tmp_path, proxy):
    proxies = {"http_proxy": proxy, "HTTPS_PROXY": proxy, "all_proxy": proxy, "no_proxy": "127.0.0.0/8,lab.example"}
    found = alone(toy, tmp_path / "home", **proxies)
    assert found["code"] == 0, found["said"]
    assert found["ports"] == [4200]
    assert "Watch at http://127.0.0.1:4200\n" in found["said"]
    assert found["flows"] == ["toy: 1 of 1 stages"]
    assert "goes on without" not in found["said"]


def test_without_a_usable_database_stages_run_all_the_same_and_are_tried_again(tmp_path):
    toy = Toy(tmp_path / "toy", {"a": (0, [], {"retries": 1}), "b": (0, ["a"], {})})
    toy.order("a", "fail once")
    home = tmp_path / "home"
    home.mkdir()
    (home / "prefect.db").write_bytes(b"not a database" * 1000)
    text = toy.run(PREFECT_HOME=str(home), PREFECT_API_URL="")
    assert "prefect.db cannot be used (file is not a database)" in text
    assert "The run goes on without Prefect." in text
    assert "it is tried again" in text
    assert toy.done() == {"a", "b"}


def test_a_port_that_is_somebody_else_s_is_said_and_passed_over(toy, tmp_path):
    """A server without Prefect at port 4200 of the run's own namespace."""
    found = alone(toy, tmp_path / "home", TAKE="4200")
    assert found["code"] == 0, found["said"]
    assert "At port 4200 is something that is no Prefect server, or does not answer: not used." in found["said"]
    (own,) = set(found["ports"]) - {4200}
    assert f"Watch at http://127.0.0.1:{own}\n" in found["said"]
    assert found["flows"] == ["toy: 1 of 1 stages"]
