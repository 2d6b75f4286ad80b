"""Room flows: a worker's side of `optogram run --on pools`: one stage in this worker's own clone.

What goes in and out: the revision through git, data and run cache through the DVC remote, the lock through Prefect.
"""

import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows.checkout import only_run
from flows.child import run_stage
from flows.display import LOG_SECONDS, clock
from flows.exchange import check_remote, fetch_inputs, handed_in, put_lock, send_outs, stage_entry
from flows.graph import LOCK
from optogram.errors import FlowError, OptogramError
from optogram.progress import step

RESULT = "result"


@flow(name="optogram-stage", flow_run_name="{stage}", persist_result=False)
def stage(stage: str, revision: str, lock: str, timeout: float | None = None) -> State[Any]:
    """Run `stage` of `revision` on the data that `lock` (dvc.lock's text) describes, and push what it makes.

    Leaves an artifact with the outcome, the stage's lock entry and its metrics files for the run that asked.
    """
    log = get_run_logger()
    quiet_since = time.monotonic()

    def hear(line: str) -> None:
        nonlocal quiet_since
        now = time.monotonic()
        if step(line) is None or now - quiet_since >= LOG_SECONDS:
            quiet_since = now
            log.info(line)

    # the run that asked takes a long silence for a lost worker
    with _every(LOG_SECONDS, lambda: log.info("still at work")):
        try:
            if not re.fullmatch(r"\w[\w@.-]*", stage):
                raise FlowError(f"{stage!r} is no stage's name.")
            with only_run(f"worker, stage {stage}"):
                at_revision(revision)
                check_remote()
                put_lock(lock)
                fetch_inputs(stage)
                outcome = run_stage(stage, hear, threading.Event(), timeout=timeout, options=["--pull"])
                result = {
                    "state": outcome.state,
                    "seconds": outcome.seconds,
                    "why": outcome.why,
                    "again": outcome.again,
                }
                if outcome.ok:
                    send_outs(stage)
                    result |= {"entry": stage_entry(stage), "files": handed_in(stage)}
        except OptogramError as error:
            why = f"{type(error).__name__}: {error}"
            log.error(why)
            result = {"state": "failed", "seconds": 0.0, "why": why, "again": False}
    create_markdown_artifact(f"```json\n{json.dumps(result, indent=1)}\n```", key=RESULT)
    if "entry" not in result:
        return Failed(message=result["why"])
    return Completed(name=result["state"].capitalize(), message=f"{result['state']} in {clock(result['seconds'])}")


def at_revision(revision: str) -> None:
    """Bring this clone to `revision`, or refuse: FlowError if it has edits of its own, or does not know the commit."""
    rewritten, own = edits()
    if own:
        raise FlowError(
            f"This worker's clone {Path.cwd()} has edits of its own ({', '.join(own[:3])}), so it is not at "
            f"{revision[:10]}. A worker's clone is for its worker alone: commit or drop them there."
        )
    if rewritten:  # the last run's lock and metrics
        git("checkout", "--quiet", "HEAD", "--", *rewritten)
    here = git("rev-parse", "HEAD")
    if here != revision:
        try:
            git("fetch", "--quiet", "origin")
            git("checkout", "--quiet", "--detach", revision)
        except subprocess.CalledProcessError as error:
            raise FlowError(
                f"This worker's clone {Path.cwd()} is at {here[:10]} and cannot get to {revision[:10]}, which the run "
                f"asks for: {error.stderr.strip()} Push that commit to where the clone fetches from."
            ) from None


def edits() -> tuple[list[str], list[str]]:
    """Tracked files that differ from HEAD: those that runs and DVC themselves rewrite, and all others."""
    changed = git("diff", "--name-only", "HEAD").splitlines()
    rewritten = [
        path
        for path in changed
        if path == str(LOCK) or path.startswith("artifacts/metrics/") or Path(path).name == ".gitignore"
    ]
    return rewritten, [path for path in changed if path not in rewritten]


def git(*words: str) -> str:
    """The output of a git command in this checkout."""
    done = subprocess.run(
        ["git", *words], check=True, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}
    )
    return done.stdout.strip()


@contextmanager
def _every(seconds: float, call: Any) -> Iterator[None]:
    over = threading.Event()

    def loop() -> None:
        while not over.wait(seconds):
            call()

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
