"""`optogram run` on a toy pipeline: what it runs, shows and leaves in Prefect, and what faults do to it."""

import contextlib
import io
import json
import os
import re
import signal
import time

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    LogFilter,
    LogFilterFlowRunId,
    TaskRunFilter,
    TaskRunFilterFlowRunId,
)
from prefect.client.schemas.sorting import FlowRunSort, LogSort, TaskRunSort
from rich.console import Console

from flows.artifacts import posted
from flows.display import Display
from flows.graph import Plan, Stage
from flows.report import report_url
from flows.run import run
from tests.flows.conftest import Server, Toy, gone

pytestmark = pytest.mark.slow
GPU = {"pool": "gpu"}
TREE = {
    "a": (0.3, [], {}),
    "b": (0.3, ["a"], GPU),
    "c": (0.3, ["a"], GPU),
    "d": (0.3, ["b", "c"], {}),
    "e": (0.3, [], {}),
}


@pytest.fixture
def toy(tmp_path, server):
    return Toy(tmp_path / "toy", TREE)


@pytest.fixture(scope="module")
def plain_lock(tmp_path_factory):
    """dvc.lock of the tree as a plain `dvc repro` writes it."""
    toy = Toy(tmp_path_factory.mktemp("plain") / "toy", TREE)
    toy.dvc("repro")
    return toy.lock()


def last_run(server):
    """The newest flow run, its task runs by name, its artifacts by key, its log lines."""
    with SyncPrefectClient(server.api) as client:
        run = client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC, limit=1)[0]
        tasks, deadline = {}, time.monotonic() + 20
        while time.monotonic() < deadline:  # task runs and logs reach the database some time after the run's end
            tasks = {
                task.name: task
                for task in client.read_task_runs(
                    task_run_filter=TaskRunFilter(flow_run_id=TaskRunFilterFlowRunId(any_=[run.id])),
                    sort=TaskRunSort.NAME_ASC,
                    limit=200,
                )
            }
            if tasks and all(task.state.is_final() for task in tasks.values()):
                break
            time.sleep(0.2)
        artifacts = posted(client, run.id)
        logs = client.read_logs(
            LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id])), limit=200, offset=0, sort=LogSort.TIMESTAMP_ASC
        )
    return run, tasks, artifacts, [log.message for log in logs]


def overlap(toy, first, second):
    """Whether two stages ran at the same time."""
    (_, begin_one, *_), (_, end_one, *_) = toy.marks(first)
    (_, begin_two, *_), (_, end_two, *_) = toy.marks(second)
    return float(begin_one) < float(end_two) and float(begin_two) < float(end_one)


def test_it_gets_everything_done_with_the_lock_of_a_plain_repro(toy, server, plain_lock):
    other = toy.folder / "artifacts/metrics/other.json"
    other.parent.mkdir(parents=True)
    other.write_text('{"of": "another run"}')
    text = toy.run("--jobs", "3", "--gpus", "1")
    assert "5 ran in" in text
    assert re.search(r"^d +waits for b, c$", text, re.M)
    assert re.search(r"^d +not made yet$", text, re.M)
    assert toy.lock() == plain_lock
    assert toy.done() == set(TREE)
    assert not overlap(toy, "b", "c"), "one GPU: one stage of its pool at a time"

    run, tasks, artifacts, logs = last_run(server)
    assert (run.name, run.state.name) == ("toy: 5 of 5 stages", "Completed")
    assert run.state.message == "5 stages ran."
    assert {name: task.state.name for name, task in tasks.items()} == dict.fromkeys(TREE, "Ran")
    assert set(artifacts) == {"progress", "stages"}, "what no stage of the run makes is not the run's"
    assert artifacts["progress"] == 100.0
    rows = {row["stage"]: row for row in json.loads(artifacts["stages"])}
    assert {row["state"] for row in rows.values()} == {"ran"}
    assert (rows["a"]["pool"], rows["b"]["pool"]) == ("cpu", "gpu")
    assert rows["b"]["hash"] == re.search(r"path: out_b\n\s+hash: md5\n\s+md5: (\w{10})", toy.lock())[1]
    assert any("Running stage 'd'" in line for line in logs)

    assert "All 5 stages are up to date" in toy.run()
    toy.order("e", "run")  # not an input
    (toy.folder / "out_b").unlink()
    text = toy.run()
    assert "2 ran" not in text
    assert re.search(r"3 cached, 1 restored|1 restored", text), text


def test_a_run_shows_what_its_stages_made_and_no_more(tmp_path, server):
    also = ["artifacts/metrics/toy.json", "artifacts/figures", "artifacts/report"]
    toy = Toy(tmp_path / "toy", {"a": (0, [], {"also": also}), "b": (0, [], {"also": ["artifacts/metrics/b.json"]})})
    toy.order("b", "fail")
    figures, report = (toy.folder / "made/a/artifacts" / name for name in ("figures", "report"))
    files = {
        toy.folder / "made/a" / also[0]: '{"accuracy": {"shape": 0.5}}',
        toy.folder / "artifacts/metrics/b.json": '{"of": "an earlier try"}',
        toy.folder / "artifacts/metrics/other.json": '{"of": "another run"}',
        figures / "one.png": "PNG",
        figures / "index.json": json.dumps([{"file": "one.png", "title": "One", "caption": "It.", "model": "m"}]),
        report / "index.html": "<p>the report</p>",
    }
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    toy.run("--jobs", "2", code=1)
    artifacts = last_run(server)[2]
    assert set(artifacts) == {"progress", "stages", "metrics", "figure-one", "report"}
    assert json.loads(artifacts["metrics"]) == [{"source": "toy", "metric": "accuracy.shape", "value": 0.5}]
    assert artifacts["figure-one"].startswith("data:image/png;base64,")
    with contextlib.chdir(toy.folder):
        assert artifacts["report"] == f"[Report]({report_url()})"
    assert report_url() not in artifacts["report"], "another checkout has another address"


def test_more_gpus_run_more_at_once_each_with_its_device(tmp_path, server):
    toy = Toy(tmp_path / "toy", {"a": (0, [], {}), "b": (5, ["a"], GPU), "c": (5, ["a"], GPU)})
    toy.run("--gpus", "2", "--jobs", "4", CUDA_VISIBLE_DEVICES="5,7")
    assert overlap(toy, "b", "c")
    assert {toy.began("b")[0][3], toy.began("c")[0][3]} == {"5", "7"}
    assert toy.began("a")[0][3] == "5,7"


def test_a_failure_stops_nothing_but_what_needs_it(toy, server):
    toy.order("b", "fail")
    text = toy.run("--jobs", "3", code=1)
    assert toy.done() == {"a", "c", "e"}
    assert "b failed: RuntimeError: it broke <b>[bold]\n" in text
    assert "d not run: it needs b" in text
    assert "To continue: optogram run --jobs 3" in text
    run, tasks, artifacts, _ = last_run(server)
    assert run.state.name == "Failed"
    assert run.state.message == "b failed; 1 that need them were not run. The same command continues."
    assert tasks["b"].state.name == "Failed"
    rows = {row["stage"]: row for row in json.loads(artifacts["stages"])}
    assert (rows["b"]["state"], rows["d"]["state"], rows["e"]["state"]) == ("failed", "not run", "ran")
    (toy.folder / "orders/b").unlink()
    before = toy.marks("e")
    toy.run("--jobs", "3")
    assert toy.done() == set(TREE)
    assert toy.marks("e") == before, "what was done is not done again"


def test_retries_only_where_marked_and_only_what_may_pass(tmp_path, server):
    toy = Toy(tmp_path / "toy", {"r": (0, [], {"retries": 2}), "u": (0, [], {"retries": 2}), "n": (0, [], {})})
    toy.order("r", "fail once")
    toy.order("u", "user error")
    toy.order("n", "fail once")
    text = toy.run("--jobs", "3", code=1)
    assert [len(toy.began(name)) for name in ("r", "u", "n")] == [2, 1, 1]
    assert toy.done() == {"r"}
    assert "u failed: ParamError: toy.seconds = -1, expected at least 0.\n  Set it to 0." in text
    pause = float(toy.began("r")[1][1]) - float(toy.began("r")[0][1])
    assert pause >= 2, "the retry waits"


def test_a_stage_that_takes_too_long_is_ended(tmp_path, server):
    toy = Toy(tmp_path / "toy", {"slow": (60, [], {"timeout": 4}), "quick": (0, [], {})})
    text = toy.run(code=1)
    assert "slow timed out: took longer than 4 s (meta.timeout)" in text
    assert toy.done() == {"quick"}
    assert gone(int(toy.began("slow")[0][2]), 0.1)


def test_a_stage_whose_log_cannot_be_written_failed_and_is_not_started_again(tmp_path, server):
    toy = Toy(tmp_path / "toy", {"a": (0, [], {"retries": 2}), "b": (0, ["a"], {})})
    (toy.folder / ".scratch").mkdir()
    (toy.folder / ".scratch/logs").write_text("no folder")
    text = toy.run(code=1)
    assert len(re.findall(r"^a +failed after", text, re.M)) == 1, text
    assert "a failed: FileExistsError: " in text
    assert "b not run: it needs a" in text
    assert not toy.began("a")


def test_an_error_of_ours_in_a_bare_thread_fails_the_stage_once():
    plan = Plan(
        {name: Stage(name, "", frozenset(upstream), ()) for name, upstream in {"a": [], "b": ["a"], "c": []}.items()},
        {"a": "not made yet", "c": "not made yet"},
        ("a", "b", "c"),
    )
    asked = []

    class Full:
        retries = 2

        def __call__(self, stage, hear, stop, slot):
            asked.append(stage.name)
            if len(asked) > 10:  # it would go on for ever
                stop.set()
            raise OSError(28, "No space left on device")

    display = Display(plan, Console(file=io.StringIO()))
    outcomes, left_out, _ = run(plan, Full(), display, title="full", jobs=2, gpus=1, watched=False)
    assert sorted(asked) == ["a", "c"]
    assert {(one.state, one.why) for one in outcomes} == {("failed", "OSError: [Errno 28] No space left on device")}
    assert left_out == {"b": "a"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_the_children_and_the_same_command_continues(tmp_path, server, number, plain_lock):
    toy = Toy(tmp_path / "toy", {**TREE, "b": (30, ["a"], GPU)})
    process = toy.start("--jobs", "3")
    pid = toy.wait_for("b")
    process.send_signal(number)
    text = process.communicate(timeout=60)[0]
    assert process.returncode == 130, text
    assert "b stopped" in text
    assert "To continue: optogram run --jobs 3" in text
    assert gone(pid, 0.5)
    assert "a" in toy.done()
    assert last_run(server)[0].state.name == "Cancelled"
    path = toy.folder / "dvc.yaml"
    path.write_text(path.read_text().replace("b 30", "b 0.3"))
    toy.run()
    assert toy.lock() == plain_lock


@pytest.mark.parametrize("victim", ["stage", "flow"])
def test_sigkill_loses_nothing(tmp_path, server, victim, plain_lock):
    toy = Toy(tmp_path / "toy", {**TREE, "b": (30, ["a"], GPU)})
    process = toy.start("--jobs", "3")
    pid = toy.wait_for("b")
    os.kill(pid if victim == "stage" else process.pid, signal.SIGKILL)
    text = process.communicate(timeout=120)[0]
    if victim == "stage":
        assert process.returncode == 1
        assert "b failed: killed by signal 9" in text
        assert toy.done() == {"a", "c", "e"}
    else:
        assert process.returncode == -signal.SIGKILL
        assert gone(pid), "the flow's child outlived it"
    path = toy.folder / "dvc.yaml"
    path.write_text(path.read_text().replace("b 30", "b 0.3"))
    toy.run()
    assert toy.done() == set(TREE)
    assert toy.lock() == plain_lock


def test_sigkill_of_the_server_loses_the_view_only(tmp_path, prefect_home, plain_lock, monkeypatch):
    toy = Toy(tmp_path / "toy", TREE | {"a": (3, [], {})})
    own = Server(tmp_path / "server.log")
    process = toy.start(PREFECT_API_URL=own.api)
    toy.wait_for("a")
    own.kill()
    text = process.communicate(timeout=120)[0]
    assert process.returncode == 0, text
    assert "the run goes on without it" in text
    assert toy.done() == set(TREE)
    assert toy.lock() == plain_lock.replace("a 0.3", "a 3")


def test_a_second_run_in_the_checkout_is_refused_or_waits(tmp_path, server):
    toy = Toy(tmp_path / "toy", {"slow": (0, [], {})})
    toy.order("slow", "wait for go")
    first = toy.start()
    toy.wait_for("slow")
    text = toy.run(code=1)
    assert re.search(rf"FlowError: This checkout is in use by `optogram run` \(process {first.pid}\)", text)
    second = toy.start("--wait")
    assert "Waiting for `optogram run`" in second.stdout.readline()
    (toy.folder / "go").touch()
    assert "1 ran" in first.communicate(timeout=60)[0]
    assert "All 1 stages are up to date" in second.communicate(timeout=60)[0]
    assert len(toy.began("slow")) == 1


def test_a_configured_server_that_does_not_answer_is_named(tmp_path):
    toy = Toy(tmp_path / "toy", TREE)
    text = toy.run(code=1, PREFECT_API_URL="http://127.0.0.1:9/api")
    assert "PREFECT_API_URL is http://127.0.0.1:9/api, but no Prefect server answers there" in text
    assert not toy.began("a")
