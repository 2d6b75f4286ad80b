"""Room flows: one run at a time in a checkout."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from optogram.errors import FlowError
from optogram.progress import say
from optogram.store.disk import open_lock, try_lock

LOCK = Path(".scratch/run.lock")


@contextmanager
def only_run(command: str, *, wait: bool = False) -> Iterator[None]:
    """Hold the checkout for this run. FlowError that names the other run if there is one, or `wait` for its end."""
    with open_lock(LOCK) as lock:
        said = False
        while not try_lock(lock):
            lock.seek(0)
            other = lock.read().strip() or "another run"
            if not wait:
                raise FlowError(
                    f"This checkout is in use by {other}. "
                    "Wait for it (`--wait` does), stop it, or run in another clone."
                )
            if not said:
                say(f"Waiting for {other} …")
                said = True
            time.sleep(0.5)
        lock.truncate(0)
        lock.write(f"`{command}` (process {os.getpid()})")
        lock.flush()
        yield
        lock.truncate(0)
