"""Room flows: the Prefect server that a run reports to: the configured one, one of ours that runs, or a new one."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import psutil

from flows.child import LOGS
from flows.database import ServerError, check_home, meaning
from flows.listener import HOST, free_port, own_listeners
from flows.report import REPORT_PORT, report_served
from flows.settings import KEY, NEEDS_NONE, configured, current, opened, point, reach, shown
from optogram.pipeline.child_process import tethered
from optogram.progress import say

PORT = 4200
START_SECONDS = 120.0
# In the environment of a server of ours: what it lives as long as.
MARK = "OPTOGRAM_SERVER"


def healthy(api: str) -> bool:
    """Whether a Prefect server answers at this API address."""
    try:
        return opened(f"{api}/health") == b"true"
    except (OSError, ValueError):
        return False


def stranger(port: int, *, passing: bool = False) -> str:
    """Why what listens at a port of this machine is not a server to report to; "" if it is ours.

    Ours is a Prefect server that a process of this user runs, with this Prefect's version and home. One that another
    run brought ends with that run: it is ours only in `passing`. Raises ServerError for one that a second server beside
    it would harm.
    """
    from prefect import __version__ as version

    listeners = own_listeners(port)
    if listeners is None:
        return "a server whose process this system does not show"
    ours = [process for process in listeners if _is_python(process)]
    if not ours:
        return "a server of another user, a tunnel or a container"
    if not healthy(api := f"http://{HOST}:{port}/api"):
        return "something that is no Prefect server, or does not answer"
    try:
        if not passing and ours[0].environ().get(MARK) == "run":
            return "the server of another run, which ends with it"
    except psutil.Error:
        return "a server that has just ended, or does not show whose it is"
    try:
        settings, theirs = _asked(api, "/admin/settings"), _asked(api, "/admin/version")
        their_home = Path(settings["home"])
    except Exception as error:  # of httpx, of Prefect: whatever it is, the server has not said whose it is
        return f"a Prefect server that does not say whose it is ({type(error).__name__})"
    home = current().home
    if their_home.resolve() != home.resolve():
        return f"a Prefect server with another PREFECT_HOME ({their_home}; here it is {home})"
    if theirs != version:
        raise ServerError(
            f"Prefect {theirs} runs at port {port} on {home}, and this is Prefect {version}: a second server would "
            f"change the other's database. Stop it, set PREFECT_HOME to another folder, or set {KEY}={api} to use it."
        )
    return ""


def _is_python(process: psutil.Process) -> bool:
    try:
        return Path(process.exe()).name.startswith("python")
    except psutil.Error:
        return False


def _asked(api: str, route: Literal["/admin/settings", "/admin/version"]) -> Any:
    """What a server of this user's answers to Prefect's own client, which knows the password if there is one."""
    from prefect.client.orchestration import get_client

    point(api)
    with get_client(sync_client=True) as client:
        return client.request("GET", route).json()


@contextmanager
def started(port: int | None = None, *, lives_with: Literal["run", "ui"] = "run") -> Iterator[str]:
    """A Prefect server of our own on loopback, with SQLite in Prefect's home; yields its API address.

    It ends with the block, or with this process. Raises ServerError with the reason if it does not come up.
    """
    settings = current()
    check_home(settings)
    if password := settings.server.api.auth_string:  # what the server asks for, its client must say
        os.environ["PREFECT_API_AUTH_STRING"] = password.get_secret_value()
    server, api = _brought_up(free_port(PORT) if port is None else port, lives_with)
    try:
        point(api)
        yield api
    finally:
        _end(server)


def _brought_up(port: int, lives_with: str) -> tuple[subprocess.Popen[bytes], str]:
    """Start a server and wait until it answers; at another port if somebody else was quicker to take this one."""
    log = LOGS / "prefect-server.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    tries = 3
    while True:
        api = f"http://{HOST}:{port}/api"
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(port)]
        # Prefect's client settings must not reach the server: its UI would talk to another one
        environment = {key: value for key, value in os.environ.items() if key != KEY}
        environment |= {MARK: lives_with, "PREFECT_SERVER_UI_API_URL": api}
        with log.open("wb") as output:
            server = tethered(command, environment=environment, output=output)
        try:
            _wait(server, port, log)
        except BaseException as error:
            _end(server)
            tries -= 1
            if not (isinstance(error, ServerError) and tries and "already in use" in log.read_text(errors="replace")):
                raise
            port = free_port(0)
        else:
            return server, api


def _wait(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Until this very server, and no other at the same port, answers."""
    began = time.monotonic()
    while not (healthy(f"http://{HOST}:{port}/api") and _listens(server, port)):
        if server.poll() is not None or time.monotonic() - began > START_SECONDS:
            text = log.read_text(errors="replace")
            tail = "\n".join(line for line in text.splitlines() if line.strip())[-800:]
            how = "ended" if server.poll() is not None else f"did not answer within {START_SECONDS:.0f} s"
            raise ServerError(
                f"The Prefect server {how} (log: {log}). "
                + (meaning(text) or f"Set {KEY} to use another. {NEEDS_NONE} Its last lines:\n{tail}")
            )
        time.sleep(0.1)


def _listens(server: subprocess.Popen[bytes], port: int) -> bool:
    """Whether what listens at the port belongs to the server's session (optogram/pipeline/child_process.py).

    Where the system does not show that, it is enough that the server runs.
    """
    listeners = own_listeners(port)
    if listeners is None:
        return server.poll() is None
    for process in listeners:
        try:
            if os.getsid(process.pid) == server.pid:
                return True
        except ProcessLookupError:
            continue
    return False


def _end(server: subprocess.Popen[bytes]) -> None:
    assert server.stdin is not None
    server.stdin.close()
    server.wait()


def _running(port: int, *, passing: bool = False) -> str | None:
    """The address of a server of ours at this port. Whatever else is there is said, and None."""
    if free_port(port) == port:
        return None
    api = f"http://{HOST}:{port}/api"
    if why := stranger(port, passing=passing):
        say(f"At port {port} is {why}: not used. {KEY}={api} would use it, if it is a server you trust.")
        return None
    return api


@contextmanager
def available() -> Iterator[str]:
    """The server to report to, and Prefect's client pointed at it; yields its API address.

    It is the configured one, or one of ours that runs already (`make ui`), or a new one for as long as the block.
    Raises FlowError if the configured one does not answer, and ServerError if no new one can be had.
    """
    if address := configured():
        reach(address)
        yield address.url
    elif local := _running(PORT):
        point(local)
        yield local
    else:
        with started() as url:
            yield url


def watch_at(api: str) -> str:
    """Where people see what the server at this address has: Prefect knows it of its cloud too."""
    return shown(str(current().ui_url or api.removesuffix("/api")))


def ui(*, port: int = PORT, report_port: int = REPORT_PORT) -> None:
    """Keep a Prefect server and the report up until Ctrl-C, and print their addresses."""
    address = configured()
    if address:
        reach(address)
    with report_served(report_port) as report:
        if address:
            _say(watch_at(address.url), report, "configured")
            while True:
                time.sleep(60)
        while True:
            if api := _running(port, passing=True):
                point(api)
                _say(watch_at(api), report, "already running")
                _while_healthy(api)  # a run's own server ends with the run: then ours takes over
            else:
                with started(free_port(port), lives_with="ui") as own:
                    _say(watch_at(own), report, "started here")
                    _while_healthy(own)


def _while_healthy(api: str) -> None:
    while healthy(api):
        time.sleep(2)


def _say(prefect: str, report: str, how: str) -> None:
    print(f"Prefect: {prefect}   ({how})", flush=True)
    print(f"Report:  {report}   (Ctrl-C ends both)", flush=True)
