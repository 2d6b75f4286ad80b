"""What stages cost: each run's CPU seconds in .scratch/costs, and a table of the demo's, made on one machine."""

import atexit
import json
import os
import resource
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

COSTS = Path(".scratch/costs")
# `python -m benchmarks.costs` writes it, from the costs of a run.
TABLE = Path(__file__).with_name("costs.json")
# DVC names the stage that it runs here.
DVC_STAGE = "DVC_STAGE"
# Of a stage that the table knows neither by name nor by group.
UNKNOWN_SECONDS = 5.0
CALIBRATION_SECONDS = 0.5


def record_at_end() -> None:
    """At the end of this process, note its CPU seconds and its children's, if DVC runs it as a stage."""
    # taken out, so that no process that this one starts notes its own
    stage, started = os.environ.pop(DVC_STAGE, ""), time.time()
    if not stage or "/" in stage:
        return
    folder = COSTS.absolute()

    def record() -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            found = {"cpu": round(cpu_seconds(), 2), "ended": time.time(), "seconds": round(time.time() - started, 2)}
            temporary = folder / f"{stage}.{os.getpid()}"
            temporary.write_text(json.dumps(found))
            temporary.replace(folder / f"{stage}.json")
        except OSError as error:  # a full disk: the stage has done its work
            print(f"The cost of {stage} could not be noted: {error}", file=sys.stderr)

    atexit.register(record)


def cpu_seconds() -> float:
    """CPU seconds of this process and of the children that it has waited for."""
    used = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def recorded(folder: Path = COSTS, *, since: float = 0.0) -> dict[str, float]:
    """CPU seconds of each stage's last run that ended after `since` (seconds since 1970), the costliest first."""
    found = {}
    for path in folder.glob("*.json"):
        noted = json.loads(path.read_text())
        if noted["ended"] >= since:
            found[path.stem] = float(noted["cpu"])
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def calibrate() -> float:
    """CPU seconds that this machine takes for a fixed small piece of work: matrix products, which most stages do."""
    import numpy as np

    values = np.ones((384, 384), np.float32)
    best = float("inf")
    until = time.monotonic() + CALIBRATION_SECONDS
    while time.monotonic() < until:
        began = time.process_time()
        for _ in range(8):
            np.matmul(values, values)
        best = min(best, time.process_time() - began)
    return best


def expected(
    stages: Iterable[str], *, calibration: float, folder: Path = COSTS, table: Path = TABLE
) -> dict[str, float]:
    """CPU seconds that stages will take here: as the last run of each here did, or as the table has it.

    The table's seconds are scaled by this machine's `calibration` over that of the machine that they were measured on.
    """
    here, there = recorded(folder), read_table(table)
    scale = calibration / there["calibration"]
    groups: dict[str, list[float]] = {}
    for name, seconds in there["stages"].items():
        groups.setdefault(name.partition("@")[0], []).append(seconds)
    return {name: here[name] if name in here else scale * _tabled(name, there["stages"], groups) for name in stages}


def read_table(table: Path = TABLE) -> dict[str, Any]:
    """The table: `stages` -> CPU seconds, and the `calibration` of the machine."""
    return json.loads(table.read_text())


def _tabled(name: str, stages: Mapping[str, float], groups: Mapping[str, list[float]]) -> float:
    alike = groups.get(name.partition("@")[0], [UNKNOWN_SECONDS])
    return stages.get(name, sum(alike) / len(alike))
