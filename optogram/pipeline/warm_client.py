"""A stage's process that hands itself to the warm parent (`stages/warm_parent.py`), which runs it in a fork.

`stages/__init__` calls `hand_over` before anything heavy is imported, so this module imports the standard library only.
"""

import contextlib
import json
import os
import resource
import signal
import socket
import struct
import sys
from pathlib import Path
from types import FrameType
from typing import Any, Never

# The environment names the parent's socket here.
WARM = "OPTOGRAM_WARM"
# Python's, those aside that a fork can have as its client has them.
FLAGS = ("dev_mode", "ignore_environment", "isolated", "no_site", "no_user_site", "optimize", "safe_path", "utf8_mode")
# Length of a message, which goes before it.
HEADER = struct.Struct("!I")
# Exit status of a stage whose parent went while it ran.
LOST = 70
# What a person or a scheduler sends to a stage. The fork is in a session of its own, so it hears it from us.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def hand_over() -> None:
    """End this process as its fork of the warm parent ends, if it is a stage and the environment names a parent.

    Returns where the stage must run cold: no parent is named, none answers, or a fork of it would not be the same. What
    the parent sends is {"started": process}, then {"status": exit status, or minus a signal}; or {"cold": reason}.
    """
    address = os.environ.get(WARM)
    # under `python -m`, until the module is found, argv is ["-m", arguments…]
    words = sys.orig_argv[-len(sys.argv) :]
    if not address or sys.argv[:1] != ["-m"] or not words[0].startswith("stages."):
        return
    with socket.socket(socket.AF_UNIX) as server:
        try:
            server.connect(address)
            if peer_user(server) != os.getuid():
                return
            send(server, request(words), (0, 1, 2))
            started, _ = receive(server)
        except OSError:  # the parent is gone, or one of our three streams is closed
            return
        if started is None or "cold" in started:
            return
        _forward_signals(server)
        ended, _ = receive(server)
    _end(ended["status"] if ended else LOST)


def request(words: list[str]) -> dict[str, Any]:
    """What a fork needs to be this process."""
    return {
        "words": words,
        "root": str(Path(__file__).resolve().parents[2]),
        "folder": str(Path.cwd()),
        "environment": dict(os.environ),
        "path": sys.path,
        "circumstances": circumstances(),
    }


def circumstances() -> dict[str, Any]:
    """What a fork takes from its parent and cannot change, or not easily: they must be the same in both."""
    limits = {name: list(resource.getrlimit(getattr(resource, name))) for name in dir(resource) if "RLIMIT_" in name}
    umask = os.umask(0)
    os.umask(umask)
    return {
        "python": [sys.executable, sys.version],
        "flags": [*(getattr(sys.flags, name) for name in FLAGS), sys.warnoptions, sorted(sys._xoptions)],
        "user": [os.getuid(), os.getgid(), umask],
        "limits": limits,
        "processors": sorted(os.sched_getaffinity(0)),
        "niceness": os.nice(0),
        "cgroup": Path("/proc/self/cgroup").read_text(),
    }


def send(peer: socket.socket, message: Any, descriptors: tuple[int, ...] = ()) -> None:
    """One message as JSON, with open files if there are any."""
    data = json.dumps(message).encode()
    socket.send_fds(peer, [HEADER.pack(len(data))], descriptors)
    peer.sendall(data)


def receive(peer: socket.socket) -> tuple[Any, list[int]]:
    """The next message and the open files that came with it; None if the peer has gone."""
    descriptors: list[int] = []
    with contextlib.suppress(ConnectionError):
        header, descriptors, _, _ = socket.recv_fds(peer, HEADER.size, 3)
        if len(header) == HEADER.size:
            (size,) = HEADER.unpack(header)
            data = peer.recv(size, socket.MSG_WAITALL)
            if len(data) == size:
                return json.loads(data), descriptors
    return None, descriptors


def peer_user(peer: socket.socket) -> int:
    """The user whose process is at the other end, by the kernel's word."""
    credentials = struct.Struct("3i")
    return credentials.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, credentials.size))[1]


def _forward_signals(server: socket.socket) -> None:
    def forward(number: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(OSError):
            server.send(bytes([number]))

    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it: the fork need not hear of it either
            signal.signal(number, forward)


def _end(status: int) -> Never:
    """End as the fork has ended: with its exit status, or of the signal that killed it."""
    if status < 0:
        with contextlib.suppress(OSError):  # SIGKILL's handler cannot be set
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)
