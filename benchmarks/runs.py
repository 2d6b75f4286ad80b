"""`optogram run` beside the ideal, and beside plain `dvc repro` where there is nothing to do."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from flows.server import started

ROOT = Path(__file__).resolve().parent.parent
STAGES, SECONDS, JOBS = 12, 10, 4
REPEATS = 3
PIPELINE = f"""stages:
  wait:
    foreach: [{", ".join(f"s{number}" for number in range(STAGES))}]
    do:
      cmd: sleep {SECONDS} && echo ${{item}} > ${{item}}
      outs:
        - ${{item}}
"""


def rows() -> list[dict[str, Any]]:
    """Twelve waiting stages, four at once, a server being up; and a run of which all is cached, best of three."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / ".dvc").mkdir()
        (folder / ".dvc/config").write_text((ROOT / ".dvc/config").read_text().partition("['remote")[0])
        (folder / "dvc.yaml").write_text(PIPELINE)
        (folder / "params.yaml").write_text("# optogram profile bench\n")
        subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
        with started() as api:
            busy = _seconds(folder, ["flows", "run", "--jobs", str(JOBS)], PREFECT_API_URL=api)
        cached = min(_seconds(folder, ["flows", "run"]) for _ in range(REPEATS))
        plain = min(_seconds(folder, ["dvc", "repro"]) for _ in range(REPEATS))
    common = {"unit": "seconds", "peak_memory": None, "device": "cpu"}
    ideal = STAGES * SECONDS / JOBS
    return [
        {
            "claim": f"{STAGES} independent stages of {SECONDS} s, {JOBS} at once, over the ideal (to stay under 1.3)",
            "ours": busy,
            "theirs": ideal,
            "ratio": busy / ideal,
            "seconds": busy,
            "sizes": f"{STAGES} x {SECONDS} s",
            **common,
        },
        {
            "claim": "a run of which all is cached, over dvc repro (to stay within 3 s of it)",
            "ours": cached,
            "theirs": plain,
            "ratio": cached / plain,
            "seconds": cached,
            "sizes": f"{STAGES} stages",
            **common,
        },
    ]


def _seconds(folder: Path, words: list[str], **environment: str) -> float:
    """Wall time of a whole command, the interpreter's start included."""
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", *words],
        cwd=folder,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "DO_NOT_TRACK": "1", **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return time.perf_counter() - began
