"""Stages that start at once: while `warm_stages` lasts, each is a fork of one process that has loaded the libraries."""

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from optogram.pipeline.warm_client import WARM
from optogram.store.rounding import threads_in

ROOT = Path(__file__).resolve().parents[2]
# Without it, a folder holds other stages, or those of an old revision.
PARENT = "stages/warm_parent.py"
# From so many stages on the parent saves more than it costs: it loads what all stages need, and each needs a part.
WORTH_STAGES = 3


@contextmanager
def warm_stages(
    folder: str | Path = ".", *, stages: int = WORTH_STAGES, environment: Mapping[str, str] | None = None
) -> Iterator[dict[str, str]]:
    """Yield what the environment of stages must have, beside their own, to fork from a parent that lives meanwhile.

    The parent rounds as the params.yaml in `folder` says, and has loaded the libraries with `environment` (by default
    this process's). A stage that asks otherwise runs cold. Stages that come while it loads wait for it. Nothing is
    yielded, and all run as they do without, for fewer than three `stages`, with `threads: auto`, where `folder` is no
    checkout with warm stages, inside another `warm_stages`, and where the name of the temporary folder is too long for
    a socket. The parent dies with us.
    """
    values = dict(os.environ if environment is None else environment)
    threads = threads_in(Path(folder, "params.yaml"))
    with tempfile.TemporaryDirectory(prefix="optogram-warm-") as name, socket.socket(socket.AF_UNIX) as listener:
        address = str(Path(name, "socket"))  # the folder is this user's alone
        ours = Path(folder, PARENT).is_file()
        enough = ours and stages >= WORTH_STAGES and threads != "auto"
        if values.get(WARM) or not enough or not _bound(listener, address):
            yield {}
            return
        Path(name, "params.yaml").write_text(f"threads: {threads}\n")
        values["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), values.get("PYTHONPATH", ""))))
        parent = subprocess.Popen(
            [sys.executable, "-m", "stages.warm_parent", str(listener.fileno())],
            stdin=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the stages
            pass_fds=[listener.fileno()],
            env=values,
            cwd=name,
        )
        listener.close()  # with the parent's end, stages must find nobody there
        assert parent.stdin is not None
        try:
            yield {WARM: address}
        finally:
            parent.stdin.close()
            parent.wait()


def _bound(listener: socket.socket, address: str) -> bool:
    try:
        listener.bind(address)
    except OSError:
        return False
    listener.listen(64)
    return True
