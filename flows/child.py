"""Room flows: one stage as a child process, `dvc repro --single-item STAGE`, whose life is tied to ours."""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flows.settings import SET_ASIDE
from optogram.pipeline import dvc_command
from optogram.pipeline.child_process import tethered

LOGS = Path(".scratch/logs")
# Exit status of a stage that ended with a user's error (stages/doorway.py): the same again would fail again.
USER_ERROR = 2
ERROR = re.compile(r"^(?:[\w.]*(?:Error|Exception|Interrupt)\b.*|ERROR: (?!failed to reproduce).*)")
# What DVC says to a person at a prompt after every stage.
CHATTER = re.compile(
    r"^(To track the changes|To enable auto|Use `dvc push`|Updating lock file|\s+git add |\s+dvc config )"
)
EXITED = re.compile(r"exited with (-?\d+)")


@dataclass(frozen=True)
class Outcome:
    """How a stage ended: `state` is ran, cached (nothing had changed), restored, failed, timed out or stopped."""

    stage: str
    state: str
    seconds: float
    why: str = ""
    again: bool = False

    @property
    def ok(self) -> bool:
        """Whether what follows the stage can start."""
        return self.state in ("ran", "cached", "restored")


class StageFailed(Exception):
    """Carries the outcome of a stage that did not get done through Prefect."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.why)
        self.outcome = outcome


def environment(slot: int | None = None) -> dict[str, str]:
    """For a child: this interpreter first, progress every second, threads that do not spin while others work.

    The number of threads is left alone: sums are rounded by it, and a run must give the bytes of a plain `dvc repro`.
    `slot` is the number of the GPU among those that this process may use.
    """
    values = {
        **SET_ASIDE,
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONUNBUFFERED": "1",
        "OPTOGRAM_LOG_SECONDS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "DVC_NO_ANALYTICS": "1",
    }
    if slot is not None:
        devices = [d for d in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if d]
        if devices:
            values["CUDA_VISIBLE_DEVICES"] = devices[slot % len(devices)]
        elif Path("/dev/nvidia0").exists():
            values["CUDA_VISIBLE_DEVICES"] = str(slot)
    return values


def run_stage(
    name: str,
    hear: Callable[[str], None],
    stop: threading.Event,
    *,
    timeout: float | None = None,
    slot: int | None = None,
    options: Sequence[str] = (),
    cwd: str | Path = ".",
    warm: Mapping[str, str] | None = None,
) -> Outcome:
    """Run one stage to its end; `hear` gets each line. Setting `stop`, or `timeout` seconds, ends it early.

    `warm` is what `warm_stages` gives for the stage's environment.

    Whatever the end, dvc.lock holds the stage if and only if it was finished, and its scratch folder what can be kept.
    """
    began = time.monotonic()
    command = [sys.executable, "-P", dvc_command.__file__, "--wait-for-lock", "repro", "--single-item", *options, name]
    cut = threading.Event()
    late = threading.Event()

    def watch(child: subprocess.Popen[bytes]) -> None:
        while child.poll() is None:
            if timeout is not None and time.monotonic() - began > timeout:
                late.set()
            if stop.is_set() or late.is_set():
                cut.set()
                child.stdin.close()  # type: ignore[union-attr]
                return
            time.sleep(0.1)

    lines: list[str] = []
    log = Path(cwd) / LOGS / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    # the log comes first: where it is refused, no child is left running
    with log.open("w") as file, tethered(command, environment={**environment(slot), **(warm or {})}, cwd=cwd) as child:
        watcher = threading.Thread(target=watch, args=[child], daemon=True)
        watcher.start()
        assert child.stdout is not None
        for raw in child.stdout:
            line = raw.decode(errors="replace").rstrip()
            if line:
                lines.append(line)
                print(line, file=file, flush=True)
                if not CHATTER.match(line):
                    hear(line)
        code = child.wait()
        watcher.join()
    seconds = time.monotonic() - began
    if cut.is_set() and code != 0:
        if late.is_set():
            return Outcome(name, "timed out", seconds, f"took longer than {timeout:,.0f} s (meta.timeout)", again=True)
        return Outcome(name, "stopped", seconds, "stopped; what it had finished is kept")
    return _outcome(name, code, lines, seconds)


def _outcome(name: str, code: int, lines: list[str], seconds: float) -> Outcome:
    text = "\n".join(lines)
    if code == 0:
        state = "ran" if "Running stage" in text else "restored" if "is cached" in text else "cached"
        return Outcome(name, state, seconds)
    exited = EXITED.findall(text)
    status = int(exited[-1]) if exited else code
    errors = [line for line in lines if ERROR.match(line)]
    why = errors[-1] if errors else lines[-1] if lines else ""
    if errors and status == USER_ERROR:  # its text may go over several lines
        why = "\n".join(line for line in lines[lines.index(errors[-1]) :] if not line.startswith("ERROR: failed to"))
    if status < 0 or status > 128:
        number = -status if status < 0 else status - 128
        why = f"killed by signal {number}" + (" (SIGKILL: perhaps out of memory)" if number == 9 else "")
    return Outcome(name, "failed", seconds, why or f"ended with status {status}", again=status != USER_ERROR)
