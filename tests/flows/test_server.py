"""`optogram ui`: Prefect's server and the report on loopback, both gone after Ctrl-C."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from unittest import mock

import psutil
import pytest

from flows.listener import free_port
from flows.report import checkout_id, report_served
from flows.server import healthy, started
from tests.flows.conftest import ROOT

pytestmark = pytest.mark.slow


def get(url):
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def serving(tmp_path, prefect_home, monkeypatch):
    """`optogram ui` in an empty checkout: the process, its two addresses and its folder."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("PREFECT_API_URL", None)
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "flows", "ui", "--port", str(free_port(0)), "--report-port", str(free_port(0))],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    found = {}
    for line in process.stdout:
        if said := re.match(r"(Prefect|Report): +(http://127\.0\.0\.1:(\d+)\S*)", line):
            found[said[1]] = (said[2], int(said[3]))
        if len(found) == 2:
            break
    assert len(found) == 2
    yield process, found, tmp_path
    process.kill()
    process.communicate()


def test_it_serves_both_until_ctrl_c(serving):
    process, found, folder = serving
    (prefect, prefect_port), (report, report_port) = found["Prefect"], found["Report"]
    assert healthy(f"{prefect}/api")
    assert "<title>Prefect" in get(prefect)[1]
    status, text = get(report)
    assert (status, "`make demo` or `optogram run` makes it" in text) == (404, True)
    (folder / "artifacts/report").mkdir(parents=True)
    (folder / "artifacts/report/index.html").write_text("<p>the report</p>")
    (folder / "secret").write_text("secret")
    assert get(report) == (200, "<p>the report</p>")
    with contextlib.chdir(folder):
        assert get(f"{report}{checkout_id()}/") == (200, "<p>the report</p>")
    status, text = get(f"{report}{checkout_id()}/")
    assert (status, "Another checkout's: run `optogram ui` there" in text) == (404, True)
    assert get(f"{report}../../secret")[0] == 404
    assert get(f"{report}%2e%2e/%2e%2e/secret")[0] == 404
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    deadline = time.monotonic() + 10
    while (listens(prefect_port) or listens(report_port)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not listens(prefect_port)
    assert not listens(report_port)


def test_both_end_with_the_command_even_when_it_is_killed(serving):
    process, found, _ = serving
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while listens(found["Prefect"][1]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not listens(found["Prefect"][1])


def test_only_loopback_listens(serving):
    _, found, _ = serving
    own = subprocess.run(["hostname", "-I"], capture_output=True, text=True).stdout.split()
    for _, port in found.values():
        for address in own:
            with pytest.raises(OSError, match=r"refused|timed out|unreachable"):
                socket.create_connection((address, port), timeout=2)


def test_our_server_is_used_where_the_system_shows_no_sockets(tmp_path, prefect_home, monkeypatch):
    def refuse(_kind):
        raise psutil.AccessDenied

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(psutil, "net_connections", refuse)
    with mock.patch.dict(os.environ), started() as api:
        assert healthy(api)


def test_a_folder_whose_name_is_no_utf_8_has_a_report(tmp_path, monkeypatch):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    (folder / "artifacts/report").mkdir(parents=True)
    (folder / "artifacts/report/index.html").write_text("<p>the report</p>")
    monkeypatch.chdir(folder)
    with report_served(free_port(0)) as report:
        assert get(f"{report}{checkout_id()}/") == (200, "<p>the report</p>")
        status, text = get(f"{report}nothing")
    assert (status, r"caf\udce9. Another" in text) == (404, True)


@pytest.mark.parametrize(("option", "port"), [("--port", "0"), ("--report-port", "99999")])
def test_a_port_that_is_none_is_refused(option, port):
    command = [sys.executable, "-m", "flows", "ui", option, port]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert f"Invalid value for '{option}'" in done.stderr


def test_a_taken_port_is_passed_over():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert free_port(port) != port
