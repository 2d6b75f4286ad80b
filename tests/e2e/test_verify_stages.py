"""`optogram verify` on real stages, at micro size."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from test_pipeline import checkout

from optogram.pipeline.verify import verify

pytestmark = pytest.mark.slow


def test_rendering_and_texts_come_out_again(tmp_path):
    folder = checkout(tmp_path / "checkout")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1", "PYTHONPATH": ""}
    subprocess.run(["dvc", "repro", "-q", "texts@descriptions"], cwd=folder, env=environment, check=True)
    tiny.git(folder, "add", "-A")
    tiny.git(folder, "commit", "-qm", "micro")
    before = tiny.contents(folder)
    verdicts = verify(["scenes@reference", "texts@descriptions", "textspan"], repo=str(folder))
    assert {v.stage: v.state for v in verdicts} == {
        "scenes@reference": "equal",
        "texts@descriptions": "equal",
        "textspan@smoke": "unverified",
    }
    assert tiny.contents(folder) == before
