"""A stage's start: as a fork of the warm parent, beside a process of its own."""

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from flows.child import environment
from optogram.pipeline.costs import COSTS, DVC_STAGE
from optogram.pipeline.warm import warm_stages

ROOT = Path(__file__).resolve().parent.parent
STAGES = ("scenes", "neurons", "segmentation")
REPEATS = 3
NOTED = ROOT / COSTS / "benchmark.json"


def rows() -> list[dict[str, Any]]:
    """CPU seconds from `python -m stages.NAME` until it has loaded all and read its arguments; the least of three."""
    with warm_stages(ROOT, environment=environment()) as extra:
        warm = {name: min(_seconds(name, extra) for _ in range(REPEATS)) for name in STAGES}
    cold = {name: min(_seconds(name, {}) for _ in range(REPEATS)) for name in STAGES}
    return [
        {
            "claim": f"CPU of the start of the stage {name}, as a fork (to stay under 0.5), over a process of its own",
            "ours": warm[name],
            "theirs": cold[name],
            "ratio": cold[name] / warm[name],
            "seconds": warm[name],
            "unit": "CPU seconds",
            "sizes": "imports and arguments",
            "peak_memory": None,
            "device": "cpu",
        }
        for name in STAGES
    ]


def _seconds(stage: str, extra: dict[str, str]) -> float:
    """CPU seconds of the process that is started, and of the fork that it stands for if there is one."""
    NOTED.unlink(missing_ok=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", f"stages.{stage}", "--help"],
        cwd=ROOT,
        env={**environment(), **extra, DVC_STAGE: NOTED.stem},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    noted = json.loads(NOTED.read_text())["cpu"]
    NOTED.unlink()
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime + (noted if extra else 0.0)
