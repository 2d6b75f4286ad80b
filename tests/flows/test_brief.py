"""A run told briefly: a line a stage with the time that is left, costs, and the most telling numbers."""

import io
import json

import pytest
from rich.console import Console

from flows.brief import Brief, telling
from flows.child import Outcome
from flows.graph import Plan, Stage
from optogram.metrics.headline import Headline
from optogram.params.root import Params
from optogram.pipeline.costs import COSTS


@pytest.fixture
def said():
    return io.StringIO()


@pytest.fixture
def brief(here, said):
    stages = {name: Stage(name, "", frozenset(), ()) for name in ("a", "b@[x]", "c")}
    plan = Plan(stages, dict.fromkeys(stages, "new"), tuple(stages))
    return Brief(plan, Console(file=said, width=60), {"a": 300.0, "b@[x]": 100.0, "c": 0.0}, jobs=1)


def test_it_says_what_it_will_take_and_a_line_a_stage(brief, said):
    with brief:
        brief.start("a")
        brief.line("a", "working: 3 of 4 images, 1 image/s, eta 1 s")
        brief.began -= 30
        brief.end(Outcome("a", "ran", 30.0))
        brief.end(Outcome("b@[x]", "failed", 2.0, "it broke"))
        brief.left_out(["c"])
    lines = said.getvalue().splitlines()
    assert lines[0] == "3 of 3 stages to run: about 8 min here (7 min of CPU time)."
    assert lines[1].split() == ["1/3", "a", "ran", "in", "30", "s", "10", "s", "left"], "100 of 400 at the pace so far"
    assert lines[2].startswith("2/3 b@[x] failed, see .scratch/logs")
    assert len(lines) == 3


def test_costs_of_this_run_the_costliest_first(brief, said):
    COSTS.mkdir(parents=True)
    for number in range(12):
        noted = {"cpu": float(number), "ended": brief.at + 1 if number else 0.0}
        (COSTS / f"s{number}.json").write_text(json.dumps(noted))
    brief.console.print(brief.costs())
    rows = [line.split() for line in said.getvalue().splitlines()]
    assert rows[1] == ["11.0", "s11"]
    assert rows[-2:] == [["1.0", "1", "more"], ["66.0", "in", "all"]]


def test_the_most_telling_numbers_are_the_headlines_that_are_there(tmp_path):
    shown = {
        "textspan_demo": Headline("accuracy, heads as 16 descriptions", 0.897, 2000, "random", 0.893, 0.987).columns(),
        "segmentation_demo": Headline("mean IoU", 0.594, 1000, "raw attention", 0.503).columns(),
        "visual_scores_resnet": Headline("named", 0.5, 12, "", float("nan")).columns(),
        "spurious_demo": {"skipped": "no groups"},
    }
    for name, columns in shown.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(columns))
    assert telling(Params(), tmp_path) == [
        "demo, accuracy, heads as 16 descriptions: 89.7% (random 89.3%, yardstick 98.7%).",
        "demo, mean IoU: 59.4% (raw attention 50.3%).",
        "resnet, named: 50.0%.",
    ]
