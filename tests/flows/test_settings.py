"""Where Prefect's address comes from, what is asked through a proxy, and whose server listens."""

import contextlib
import json
import os
import socket
import sqlite3
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from unittest import mock

import httpx
import psutil
import pytest
from prefect import __version__ as version
from prefect.context import refresh_global_settings_context
from prefect.settings import PREFECT_API_URL

from flows import settings
from flows.child import environment
from flows.database import ServerError, check_home
from flows.listener import free_port, is_loopback, own_listeners
from flows.server import available, healthy, stranger
from flows.settings import configured, current, opened, point, shown
from optogram.errors import FlowError

DEAD = "http://127.0.0.1:9/api"
PROXY = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def home(tmp_path):
    """An empty folder, a Prefect home, and an environment that knows neither Prefect nor proxies."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PREFECT_") and not name.lower().endswith("_proxy")
    }
    found = tmp_path / "home"
    found.mkdir()
    with contextlib.chdir(tmp_path), mock.patch.dict(os.environ, {**kept, "PREFECT_HOME": str(found)}, clear=True):
        yield found
    settings.SET_ASIDE.clear()
    refresh_global_settings_context()


class Fake:
    """A server of this process that gives fixed answers and notes what it was asked."""

    def __init__(self, answers):
        self.asked = asked = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                asked.append(self.path)
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                found = next((body for path, body in answers.items() if self.path.endswith(path)), None)
                self.send_response(404 if found is None else 200)
                self.end_headers()
                self.wfile.write(json.dumps(found).encode())

            do_POST = do_GET

            def log_message(self, *_):
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def fake():
    made = []

    def make(**answers):
        made.append(Fake({f"/{name.replace('_', '/')}": value for name, value in answers.items()}))
        return made[-1]

    yield make
    for one in made:
        one.server.shutdown()
        one.server.server_close()


PLACES = [
    ("home/profiles.toml", f'active = "old"\n[profiles.old]\nPREFECT_API_URL = "{DEAD}"\n', "active profile 'old'"),
    (".env", f"PREFECT_API_URL={DEAD}\n", "take that line out of .env"),
    ("prefect.toml", f'[api]\nurl = "{DEAD}"\n', r"out of its table \[api\]"),
    ("pyproject.toml", f'[tool.prefect.api]\nurl = "{DEAD}"\n', r"out of its table \[tool.prefect.api\]"),
]


@pytest.mark.parametrize(("file", "text", "said"), PLACES)
def test_a_server_that_is_gone_is_said_with_the_place_of_its_address(tmp_path, file, text, said):
    (tmp_path / file).write_text(text)
    with pytest.raises(FlowError, match=said) as caught, available():
        pass
    assert f"is {DEAD}, but no Prefect server answers there" in str(caught.value)
    assert ("`prefect config unset PREFECT_API_URL`" in str(caught.value)) == (file == PLACES[0][0])


@pytest.mark.parametrize("name", ["PREFECT_API_URL", "prefect_api_url"])
def test_the_environment_comes_first(tmp_path, name):
    (tmp_path / ".env").write_text("PREFECT_API_URL=http://127.0.0.1:8/api\n")
    os.environ[name] = f"{DEAD}/"
    found = configured()
    assert (found.url, found.undo) == (DEAD, f"unset it (`unset {name}`)")
    os.environ[name] = ""
    assert configured() is None


def test_the_advice_for_a_profile_works(home):
    (home / "profiles.toml").write_text(PLACES[0][1])
    command = [sys.executable, "-m", "prefect", *configured().undo.strip("`").split()[1:]]
    subprocess.run(command, check=True, input="y\n", capture_output=True, text=True)
    assert configured() is None


@pytest.mark.parametrize("file", ["home/profiles.toml", "prefect.toml", "pyproject.toml"])
def test_a_damaged_file_is_named(tmp_path, file):
    (tmp_path / file).write_text('active = "old\n[profiles')
    with pytest.raises(FlowError, match=file), available():
        pass


def test_a_setting_that_prefect_refuses_is_named():
    os.environ["PREFECT_SERVER_API_PORT"] = "many"
    with pytest.raises(FlowError, match=r"port(.|\n)*many"):
        configured()


def _greet(server):
    with server.accept()[0] as caller:
        caller.sendall(b"SSH-2.0-x\r\n")


def test_what_speaks_no_http_is_not_healthy():
    with socket.create_server(("127.0.0.1", 0)) as server:
        greeting = threading.Thread(target=_greet, args=[server])
        greeting.start()
        assert not healthy(f"http://127.0.0.1:{server.getsockname()[1]}/api")
        greeting.join()


def test_a_password_in_an_address_is_not_shown():
    assert shown("http://me:secret@lab:4200/api") == "http://lab:4200/api"
    assert shown("http://lab:4200/a@b") == "http://lab:4200/a@b"
    assert shown("http://me:secret@lab/api/x@y") == "http://lab/api/x@y"
    assert shown("http://me:sec@ret@lab?of=a@b") == "http://lab?of=a@b"


def test_what_answers_but_is_not_prefect_is_refused(fake):
    os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{fake().port}"
    with pytest.raises(FlowError, match=r"status 404; Prefect's API ends in /api"), available():
        pass


def test_another_version_is_said_and_used(fake, capsys):
    os.environ["PREFECT_API_URL"] = api = f"http://127.0.0.1:{fake(filter=[], version='3.0.0').port}/api"
    with available() as found:
        assert found == api
    assert f"Prefect 3.0.0 runs there, and this is {version}." in capsys.readouterr().err


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/api", "http://localhost:1", "http://127.9.9.9", "http://[::1]:1", "http://0.0.0.0:4200"]
)
def test_loopback_is_known(url):
    assert is_loopback(url)
    assert not is_loopback("https://api.prefect.cloud/api")
    assert not is_loopback("http://localhost.example/api")


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("proxy", [PROXY, "socks5://127.0.0.1:9", "socks://127.0.0.1:9"])
def test_loopback_is_asked_without_a_proxy(fake, name, proxy):
    os.environ |= {name: proxy, "NO_PROXY": "lab.example, 127.0.0.0/8"}
    api = f"http://127.0.0.1:{fake(health=True).port}/api"
    assert healthy(api)
    point(api)
    assert PREFECT_API_URL.value() == api
    assert httpx.get(f"{api}/health").json() is True
    children = environment()
    assert children[name] == proxy
    expected = "lab.example,127.0.0.0/8,127.0.0.1,localhost,::1"
    assert (children["no_proxy"], children["NO_PROXY"]) == (expected, expected)


def test_the_address_of_every_interface_is_asked_without_a_proxy_too(fake):
    os.environ["http_proxy"] = PROXY
    api = f"http://0.0.0.0:{fake(health=True).port}/api"
    assert healthy(api)
    point(api)
    assert httpx.get(f"{api}/health").json() is True


def test_each_of_the_two_spellings_keeps_its_own():
    os.environ |= {"no_proxy": "*", "NO_PROXY": "a.example,localhost"}
    point(DEAD)
    assert (os.environ["no_proxy"], os.environ["NO_PROXY"]) == ("*", "a.example,localhost,127.0.0.1,::1")


def test_a_remote_server_is_asked_through_the_proxy(fake):
    proxy = fake(health=True)
    os.environ["http_proxy"] = f"http://127.0.0.1:{proxy.port}"
    point("http://prefect.example/api")
    assert opened("http://prefect.example/api/health") == b"true"
    assert httpx.get("http://prefect.example/api/health").json() is True
    assert proxy.asked == ["http://prefect.example/api/health"] * 2
    assert "no_proxy" not in os.environ


def test_a_server_is_ours_by_process_home_and_version(fake, home):
    assert stranger(fake(nothing=1).port) == "something that is no Prefect server, or does not answer"
    assert "does not say whose it is" in stranger(fake(health=True).port)
    other = fake(health=True, admin_settings={"home": "/other"}, admin_version=version)
    assert stranger(other.port).startswith("a Prefect server with another PREFECT_HOME (/other; here it is ")
    older = fake(health=True, admin_settings={"home": str(home)}, admin_version="3.0.0")
    with pytest.raises(ServerError, match=r"Prefect 3\.0\.0 runs at port"):
        stranger(older.port)
    assert not stranger(fake(health=True, admin_settings={"home": str(home)}, admin_version=version).port)


def test_a_server_that_ends_while_it_is_asked_is_not_ours(fake, monkeypatch):
    def gone(process):
        raise psutil.NoSuchProcess(process.pid)

    monkeypatch.setattr(psutil.Process, "environ", gone)
    assert stranger(fake(health=True).port) == "a server that has just ended, or does not show whose it is"


def test_where_the_system_shows_no_sockets_no_server_is_known_to_be_ours(fake, monkeypatch):
    def refuse(_kind):
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil, "net_connections", refuse)
    port = fake(health=True).port
    assert own_listeners(port) is None
    assert stranger(port) == "a server whose process this system does not show"


def test_another_user_s_server_is_not_ours():
    assert os.getuid() == 0, "only root can start a process of another user"
    port = free_port(0)
    code = (
        f"import os, socket; one = socket.create_server(('127.0.0.1', {port})); os.setuid(65534); "
        "print(flush=True); one.accept()"
    )
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "\n"
        assert free_port(port) != port
        assert own_listeners(port) == []
        assert stranger(port).startswith("a server of another user")
        other.kill()


def test_a_home_or_database_that_cannot_be_used_is_named(home):
    check_home(current())
    (home / "prefect.db").write_bytes(b"not a database" * 1000)
    with pytest.raises(ServerError, match=r"prefect\.db cannot be used(.|\n)*move it away"):
        check_home(current())
    os.environ["PREFECT_HOME"] = "/proc/nothing"
    with pytest.raises(ServerError, match=r"/proc/nothing \(PREFECT_HOME\)"):
        check_home(current())


@pytest.mark.parametrize("url", ["nonsense:secret", "postgresql://me:secret@lab:port/prefect"])
def test_an_address_that_is_no_database_s_is_said_without_it(url):
    os.environ["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = url
    with pytest.raises(ServerError, match=r"PREFECT_SERVER_DATABASE_CONNECTION_URL is no address") as caught:
        check_home(current())
    assert "secret" not in str(caught.value)


def test_a_locked_database_is_named(home, monkeypatch):
    monkeypatch.setattr("flows.database.LOCK_SECONDS", 0.1)
    holder = sqlite3.connect(home / "prefect.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(ServerError, match="Another program holds Prefect's database"):
        check_home(current())
    holder.close()
