"""Room flows: whose process listens at a port of this machine."""

import contextlib
import ipaddress
import os
import socket
from urllib.parse import urlsplit

import psutil

from optogram.errors import FlowError

HOST = "127.0.0.1"
# Addresses at which a process listens if it takes what is sent to HOST.
HERE = {HOST, "0.0.0.0", "::", "::ffff:127.0.0.1"}


def is_loopback(url: str) -> bool:
    """Whether an address means this machine (0.0.0.0 too), so that no proxy has any business with it."""
    host = (urlsplit(url).hostname or "").rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def free_port(first: int) -> int:
    """`first` if nothing listens there, else any free port of this machine."""
    for port in (first, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except (OSError, OverflowError):  # taken, not allowed to us, or no port at all
                continue
            return probe.getsockname()[1]
    raise FlowError(f"No port of {HOST} is free.")


def own_listeners(port: int) -> list[psutil.Process] | None:
    """Processes of this user that listen at a port of HOST. The kernel says so: nobody else can pretend to be one.

    None where the kernel shows no sockets: then nothing is known.
    """
    try:
        sockets = psutil.net_connections("tcp")
    except (psutil.Error, OSError):
        return None
    found = []
    for socket_ in sockets:
        if socket_.status != psutil.CONN_LISTEN or socket_.pid is None or not socket_.laddr:
            continue
        if socket_.laddr.port == port and socket_.laddr.ip in HERE:
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(socket_.pid)
                if process.uids().real == os.getuid():
                    found.append(process)
    return found
