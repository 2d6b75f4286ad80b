"""What stages cost: noted where DVC runs them, and expected from a table or from what was noted."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from optogram.params.root import load_params
from optogram.pipeline.costs import COSTS, DVC_STAGE, calibrate, expected, recorded
from optogram.pipeline.doctor import cost

ROOT = Path(__file__).parents[2]
WORK = """
import os, subprocess, sys
from optogram.pipeline.costs import record_at_end
record_at_end()
assert "DVC_STAGE" not in os.environ
while os.times().user < 0.3: pass
os.chdir("/")
"""


def test_a_stage_notes_its_cost_where_it_began(here):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), DVC_STAGE: "texts@words"}
    subprocess.run([sys.executable, "-c", WORK], env=environment, check=True)
    ((name, seconds),) = recorded().items()
    assert name == "texts@words"
    assert 0.25 < seconds < 5
    assert recorded(since=json.loads((COSTS / "texts@words.json").read_text())["ended"] + 1) == {}


def test_outside_a_run_nothing_is_noted(here):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop(DVC_STAGE, None)
    subprocess.run([sys.executable, "-c", WORK], env=environment, check=True)
    assert not COSTS.exists()


def test_expected_costs_are_the_noted_ones_then_the_tables_by_name_then_by_group(here):
    table = here / "table.json"
    table.write_text(json.dumps({"calibration": 2.0, "stages": {"a@x": 10.0, "a@y": 20.0, "b": 4.0}}))
    COSTS.mkdir(parents=True)
    (COSTS / "b.json").write_text(json.dumps({"cpu": 7.0, "ended": 1.0}))
    found = expected(["a@x", "a@z", "b", "new"], calibration=1.0, table=table)
    assert found == pytest.approx({"a@x": 5.0, "a@z": 7.5, "b": 7.0, "new": 2.5})


def test_the_calibration_is_some_milliseconds_and_the_doctor_adds_up(here):
    assert 1e-5 < calibrate() < 1
    assert "CPU-minutes; most: " in cost(load_params(ROOT / "params.yaml")).found
