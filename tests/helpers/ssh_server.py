"""A real OpenSSH server on loopback, for tests of DVC remotes over ssh: own port, host key, user key and folder.

Tests take the fixture `ssh_server` (one server a session, exposed by tests/conftest.py):

    def test_something(ssh_server, checkout):
        ssh_server.add_remote(checkout, "lab")  # then `dvc push`, `dvc pull` in the checkout
"""

import contextlib
import os
import pwd
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

SSHD = Path("/usr/sbin/sshd")  # sshd refuses to be called by anything but its absolute path

CONFIG = """\
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
Subsystem sftp internal-sftp
"""


@dataclass(frozen=True)
class SSHServer:
    """Where the server is, who may log in with which key, and a folder that it serves."""

    host: str
    port: int
    user: str
    keyfile: Path
    folder: Path
    log: Path

    def url(self, folder: Path | None = None, *, port: int | None = None) -> str:
        """The address of `folder`; `port` for a relay in front of the server."""
        return f"ssh://{self.host}:{port or self.port}{folder or self.folder}"

    def add_remote(
        self, checkout: Path, name: str = "lab", folder: Path | None = None, *, port: int | None = None
    ) -> None:
        """Make `folder` on this server the default DVC remote of `checkout`, as a lab would.

        The address and `verify true` go into .dvc/config, which is committed; who logs in with which key goes into
        .dvc/config.local, which is not.
        """
        from dvc.config import Config

        config = Config(str(checkout / ".dvc"))  # what `dvc remote add` and `modify` do, without four processes
        with config.edit("repo") as shared:
            shared["remote"][name] = {"url": self.url(folder, port=port), "verify": True}
            shared["core"]["remote"] = name
        with config.edit("local") as own:
            own["remote"][name] = {"user": self.user, "keyfile": str(self.keyfile)}


@pytest.fixture(scope="session")
def ssh_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SSHServer]:
    """A running OpenSSH server on 127.0.0.1; the test is skipped only where sshd is not installed."""
    if not SSHD.is_file():
        pytest.skip(f"needs an OpenSSH server: {SSHD} is not installed (Debian: apt-get install openssh-server)")
    home = tmp_path_factory.mktemp("sshd")
    for key in ("host_key", "user_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(home / key)], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (home / "sshd_config").write_text(CONFIG.format(port=port, folder=home))
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where a privileged sshd locks itself in; a service would make it
    log = home / "log"
    server = subprocess.Popen([str(SSHD), "-D", "-f", str(home / "sshd_config"), "-E", str(log)])
    try:
        _wait(server, port, log)
        (home / "remote").mkdir()
        user = pwd.getpwuid(os.getuid()).pw_name
        yield SSHServer("127.0.0.1", port, user, home / "user_key", home / "remote", log)
    finally:
        server.terminate()
        server.wait(10)


def _wait(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Until the server greets."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            if connection.recv(4) == b"SSH-":
                return
        time.sleep(0.05)
    raise RuntimeError(f"sshd does not answer on port {port}: {log.read_text() if log.exists() else 'no log'}")
