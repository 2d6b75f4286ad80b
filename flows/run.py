"""Room flows: the Prefect flow. It decides when a stage starts; DVC decides whether there is anything to do."""

import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Protocol

import httpx
from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.exceptions import PrefectException
from prefect.states import Cancelled, Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.tasks import exponential_backoff

from flows.artifacts import Artifacts
from flows.child import Outcome, StageFailed, run_stage
from flows.display import LOG_SECONDS, Display, clock
from flows.graph import Plan, Stage
from flows.schedule import Schedule
from optogram.progress import step

BACKOFF_SECONDS = 2
# What Prefect's client raises when its server is gone.
LOST = (PrefectException, httpx.HTTPError, OSError)


class Execute(Protocol):
    """Gets one stage done: here (`Here`) or in a work pool (pools.py). `retries` are given to every stage at least."""

    retries: int

    def __call__(self, stage: Stage, hear: Callable[[str], None], stop: threading.Event, slot: int | None) -> Outcome:
        """Run `stage` to its end; `hear` gets its lines, `stop` ends it early, `slot` is its GPU."""
        ...


class Here:
    """Runs stages in this checkout; `timeout` is for those whose meta has none."""

    retries = 0

    def __init__(self, *, timeout: float | None = None, pull: bool = False) -> None:
        self.timeout, self.options = timeout, ["--pull"] if pull else []

    def __call__(self, stage: Stage, hear: Callable[[str], None], stop: threading.Event, slot: int | None) -> Outcome:
        """One stage as a child process."""
        timeout = stage.timeout or self.timeout
        return run_stage(stage.name, hear, stop, timeout=timeout, slot=slot, options=self.options)


def run(
    plan: Plan, execute: Execute, display: Display, *, title: str, jobs: int, gpus: int
) -> tuple[list[Outcome], dict[str, str], bool]:
    """Run the doubtful stages of a plan as one Prefect flow run called `title`.

    Returns the outcomes in the order in which the stages ended, the stages left out with the reason, and whether
    Prefect's server was there to the end. Losing the server loses the view, not the work: the stages go on.
    """
    schedule = Schedule(plan, jobs=jobs, gpus=gpus)
    stop = threading.Event()
    ended: dict[str, Outcome] = {}
    outcomes: list[Outcome] = []
    artifacts = Artifacts(plan)
    without_prefect = ThreadPoolExecutor(jobs)

    def attempt(name: str, slot: int | None, log: Callable[[str], None]) -> Outcome:
        said = 0.0

        def hear(line: str) -> None:
            nonlocal said
            display.line(name, line)
            now = time.monotonic()
            if step(line) is None or now - said >= LOG_SECONDS:
                said = now
                log(line)

        if stop.is_set():  # as it may be by the time of another try
            return ended.setdefault(name, Outcome(name, "stopped", 0.0, "stopped before it began"))
        display.start(name)
        outcome = ended[name] = execute(plan.stages[name], hear, stop, slot)
        return outcome

    @task(task_run_name="{name}", cache_policy=NO_CACHE, persist_result=False)
    def stage(name: str, slot: int | None) -> State[Any]:
        outcome = attempt(name, slot, get_run_logger().info)
        if not outcome.ok:
            raise StageFailed(outcome)
        return Completed(name=outcome.state.capitalize(), message=f"{outcome.state} in {clock(outcome.seconds)}")

    def worth_another_try(_task: Any, task_run: Any, _state: Any) -> bool:
        outcome = ended.get(task_run.name)
        if outcome is None or not outcome.again or stop.is_set():
            return False
        display.print(outcome.stage, f"{outcome.state}: {outcome.why}; it is tried again", style="yellow")
        return True

    def launch(chosen: Stage, slot: int | None) -> Any:
        """A future of the stage's task run; of a bare thread once the server is lost."""
        retries = max(chosen.retries, execute.retries)
        if artifacts.seen:
            try:
                # no tags: for these Prefect asks the server for slots before each task, which takes seconds (measured)
                return stage.with_options(
                    description=chosen.desc,
                    retries=retries,
                    retry_delay_seconds=exponential_backoff(BACKOFF_SECONDS) if retries else 0,
                    retry_condition_fn=worth_another_try,
                ).submit(chosen.name, slot)
            except LOST as error:
                artifacts.lose(error)
        return without_prefect.submit(attempt, chosen.name, slot, lambda _line: None)

    @flow(
        name="optogram",
        description="The stages of dvc.yaml that are stale, each after those that it reads.",
        flow_run_name=title,
        persist_result=False,
        task_runner=ThreadPoolTaskRunner(max_workers=jobs),  # type: ignore[arg-type]
    )
    def pipeline() -> State[Any]:
        finished: queue.Queue[Any] = queue.Queue()
        names: dict[Any, str] = {}
        with _signalled() as signalled:
            while not schedule.over:
                if signalled.is_set() and not stop.is_set():
                    display.console.print(
                        "[yellow]Stopping: the running stages are told, what they finished is kept.[/]"
                    )
                    stop.set()
                    schedule.stop()
                    display.left_out(schedule.left_out)
                for chosen, slot in schedule.start():
                    future = launch(chosen, slot)
                    names[future] = chosen.name
                    future.add_done_callback(finished.put)
                try:
                    future = finished.get(timeout=0.5)
                except queue.Empty:
                    continue
                name = names.pop(future)
                outcome = ended.get(name)
                if outcome is None:  # Prefect itself failed before the stage could start
                    outcome = Outcome(name, "failed", 0.0, f"Prefect could not start it: {future!r}")
                outcomes.append(outcome)
                schedule.end(name, ok=outcome.ok)
                display.end(outcome)
                display.left_out(schedule.left_out)
                if not schedule.over:
                    artifacts.progress(outcomes, schedule)
        artifacts.final(outcomes, schedule.left_out)
        return _state(outcomes, schedule.left_out, stop.is_set())

    try:
        pipeline(return_state=True)  # type: ignore[call-arg]
    except LOST as error:
        if not schedule.over:
            raise
        artifacts.lose(error)
    return outcomes, schedule.left_out, artifacts.seen


@contextmanager
def _signalled() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set. An exception could fall between a stage's start and our note of it."""
    event = threading.Event()
    before = {number: signal.signal(number, lambda *_: event.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _state(outcomes: list[Outcome], left_out: dict[str, str], stopped: bool) -> State[Any]:
    """The state of the flow run, with a message that says it all in one line."""
    lost = [outcome.stage for outcome in outcomes if not outcome.ok]
    if stopped:
        return Cancelled(message=f"Stopped with {', '.join(lost) or 'nothing'} running; the same command continues.")
    if lost:
        rest = f"; {len(left_out)} that need them were not run" if left_out else ""
        return Failed(message=f"{', '.join(lost)} failed{rest}. The same command continues.")
    ran = sum(outcome.state == "ran" for outcome in outcomes)
    rest = f", {len(outcomes) - ran} had not changed after all" if len(outcomes) > ran else ""
    return Completed(message=f"{ran} stage{'s' * (ran != 1)} ran{rest}.")
