"""Commands that die with their starter, through this very file: `python -I -S tether.py COMMAND…`.

So it imports the standard library only. Its own session leads the command and all that it starts. Standard input is
the tether: while the starter lives it holds the other end. When that end closes (the starter stops the command, or is
itself killed, even by SIGKILL), everything in the session gets SIGINT, so that stages say where they stopped, and
SIGKILL after a grace period. What the command leaves behind at its end is killed too. The exit status is the command's
(128 + signal if it was killed).
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

GRACE_SECONDS = 5.0


def tethered(
    command: Sequence[str],
    *,
    environment: dict[str, str] | None = None,
    cwd: str | Path = ".",
    output: int | IO[bytes] = subprocess.PIPE,
) -> subprocess.Popen[bytes]:
    """Start a command that ends when its standard input is closed, or when this process dies.

    `output` takes what it says, errors included. Ended early, it has a grace period: wait for it after closing.
    """
    return subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, *command],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env=environment,
        cwd=cwd,
    )


def main(command: list[str]) -> int:
    """Run `command` to its end, or to the end of standard input."""
    # handlers, not SIG_IGN: that would be inherited by the command
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    ended = os.pidfd_open(child.pid)
    ready, _, _ = select.select([ended, sys.stdin.fileno()], [], [])
    if ended not in ready:
        os.killpg(0, signal.SIGINT)
        select.select([ended], [], [], GRACE_SECONDS)
    code = child.poll()
    if code is None:
        os.killpg(0, signal.SIGKILL)  # and with the rest, this process
    end_session(os.getpid())
    assert code is not None
    return code if code >= 0 else 128 - code


def end_session(session: int) -> None:
    """Kill all processes of a session but this one, such as the workers that a stage left when it was killed."""
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):  # it is gone already
                if os.getsid(int(entry.name)) == session:
                    os.kill(int(entry.name), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
