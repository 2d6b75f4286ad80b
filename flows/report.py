"""Room flows: the report of this checkout, served on loopback under an address that no other checkout has."""

import functools
import hashlib
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from flows.listener import HOST, free_port

REPORT_PORT = 4280
REPORT = Path("artifacts/report")


def checkout_id() -> str:
    """A word for this checkout, so that a link to its report never shows another's."""
    whose = f"{socket.gethostname()}\n{os.getuid()}\n".encode()
    return hashlib.sha256(whose + os.fsencode(Path.cwd().resolve())).hexdigest()[:12]


def report_url() -> str:
    """Where this checkout's report is while `optogram ui` runs in it."""
    return f"http://{HOST}:{REPORT_PORT}/{checkout_id()}/"


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
    """Files of the report, at the root and below the checkout's word; says how to make it while there is none."""

    def log_message(self, *_: object) -> None:
        """Nothing: the terminal belongs to the two addresses."""

    def do_GET(self) -> None:
        """A file, or a hint."""
        self.path = self.path.removeprefix(f"/{checkout_id()}")
        if not Path(self.directory, "index.html").exists():
            self._hint("There is no report yet: `make demo` or `optogram run` makes it. Then reload this page.")
        elif not Path(self.translate_path(self.path)).exists():
            self._hint(f"No such page in the report of {Path.cwd()}. Another checkout's: run `optogram ui` there.")
        else:
            super().do_GET()

    def _hint(self, text: str) -> None:
        body = f"{text}\n".encode(errors="backslashreplace")  # a folder's name can be no UTF-8
        self.send_response(404)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
