"""Room flows: a Prefect server on loopback when none is configured, and the report served beside it."""

import functools
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from flows.child import LOGS
from optogram.errors import FlowError
from optogram.tether import tethered

HOST = "127.0.0.1"
PORT = 4200
REPORT_PORT = 4280
REPORT_URL = f"http://{HOST}:{REPORT_PORT}/"
REPORT = Path("artifacts/report")
START_SECONDS = 120.0


def healthy(api: str) -> bool:
    """Whether a Prefect server answers at this API address."""
    try:
        with urllib.request.urlopen(f"{api}/health", timeout=5) as answer:
            return answer.read() == b"true"
    except (OSError, urllib.error.URLError, ValueError):
        return False


def configured() -> str | None:
    """The API address in Prefect's own settings (PREFECT_API_URL or a profile), if there is one."""
    if url := os.environ.get("PREFECT_API_URL"):
        return url.rstrip("/")
    from prefect.settings import get_current_settings

    url = get_current_settings().api.url
    return str(url).rstrip("/") if url else None


def free_port(first: int) -> int:
    """`first` if nothing listens there, else any free port of this machine."""
    for port in (first, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return probe.getsockname()[1]
    raise FlowError(f"No port of {HOST} is free.")


@contextmanager
def started(port: int | None = None) -> Iterator[str]:
    """A Prefect server of our own on loopback, with SQLite in Prefect's home; yields its API address.

    It ends with the block, or with this process. Raises FlowError with the end of its log if it does not come up.
    """
    port = free_port(PORT) if port is None else port
    api = f"http://{HOST}:{port}/api"
    log = LOGS / "prefect-server.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(port)]
    # Prefect's client settings must not reach the server: its UI would talk to another one
    environment = {key: value for key, value in os.environ.items() if key != "PREFECT_API_URL"}
    with log.open("wb") as output:
        server = tethered(command, environment=environment, output=output)
    try:
        _wait(server, api, log)
        yield api
    finally:
        assert server.stdin is not None
        server.stdin.close()
        server.wait()


def _wait(server: subprocess.Popen[bytes], api: str, log: Path) -> None:
    began = time.monotonic()
    while not healthy(api):
        if server.poll() is not None or time.monotonic() - began > START_SECONDS:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-8:])
            how = "ended" if server.poll() is not None else f"did not answer within {START_SECONDS:.0f} s"
            raise FlowError(
                f"The Prefect server {how} (log: {log}). Set PREFECT_API_URL to use another, or run `dvc repro`, "
                f"which needs none. Its last lines:\n{tail}"
            )
        time.sleep(0.1)


@contextmanager
def available() -> Iterator[str]:
    """The server to use: the configured one, the one that `make ui` runs, or our own for as long as the block."""
    if url := configured():
        if not healthy(url):
            raise FlowError(f"PREFECT_API_URL is {url}, but no Prefect server answers there. Start it, or unset it.")
        yield url
    elif healthy(local := f"http://{HOST}:{PORT}/api"):
        yield local
    else:
        with started() as url:
            yield url


@contextmanager
def report_served(port: int = REPORT_PORT) -> Iterator[str]:
    """Serve artifacts/report on loopback, at another port if this one is taken; yields its address."""
    handler = functools.partial(_Quiet, directory=str(REPORT.resolve()))
    with ThreadingHTTPServer((HOST, free_port(port)), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://{HOST}:{server.server_port}/"
        finally:
            server.shutdown()


class _Quiet(SimpleHTTPRequestHandler):
    """Files of the report; says how to make it while there is none."""

    def log_message(self, *_: object) -> None:
        """Nothing: the terminal belongs to the two addresses."""

    def do_GET(self) -> None:
        """A file, or a hint."""
        if Path(self.directory, "index.html").exists():
            super().do_GET()
            return
        text = b"There is no report yet: `make demo` or `optogram run` makes it. Then reload this page.\n"
        self.send_response(404)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


def ui(*, port: int = PORT, report_port: int = REPORT_PORT) -> None:
    """Keep a Prefect server and the report up until Ctrl-C, and print their addresses."""
    url = configured()
    api = url or f"http://{HOST}:{port}/api"
    with report_served(report_port) as report:
        while True:
            if healthy(api):
                _say(api, report, "already running")
                _while_healthy(api)  # a run's own server ends with the run: then ours takes over
            elif url:
                raise FlowError(f"PREFECT_API_URL is {url}, but no Prefect server answers there.")
            else:
                with started(free_port(port)) as own:
                    _say(own, report, "started here")
                    _while_healthy(own)


def _while_healthy(api: str) -> None:
    while healthy(api):
        time.sleep(2)


def _say(api: str, report: str, how: str) -> None:
    print(f"Prefect: {api.removesuffix('/api')}   ({how})", flush=True)
    print(f"Report:  {report}   (Ctrl-C ends both)", flush=True)
