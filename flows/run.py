"""Room flows: the Prefect flow. It decides when a stage starts; DVC decides whether there is anything to do."""

import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Protocol

import httpx
from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.context import refresh_global_settings_context
from prefect.exceptions import PrefectException
from prefect.states import Cancelled, Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.tasks import exponential_backoff

from flows.artifacts import Artifacts
from flows.brief import Brief
from flows.child import Outcome, StageFailed, run_stage
from flows.display import LOG_SECONDS, Display, clock
from flows.graph import Plan, Stage
from flows.schedule import Schedule
from optogram.progress import step

refresh_global_settings_context()  # Prefect may have read its settings before the server's address was among them
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
    """Runs stages in this checkout; `timeout` is for those whose meta has none, `warm` what `warm_stages` gives."""

    retries = 0

    def __init__(
        self, *, timeout: float | None = None, pull: bool = False, warm: Mapping[str, str] | None = None
    ) -> None:
        self.timeout, self.options, self.warm = timeout, ["--pull"] if pull else [], warm

    def __call__(self, stage: Stage, hear: Callable[[str], None], stop: threading.Event, slot: int | None) -> Outcome:
        """One stage as a child process."""
        timeout = stage.timeout or self.timeout
        return run_stage(stage.name, hear, stop, timeout=timeout, slot=slot, options=self.options, warm=self.warm)


def run(
    plan: Plan, execute: Execute, display: Display | Brief, *, title: str, jobs: int, gpus: int, watched: bool = True
) -> tuple[list[Outcome], dict[str, str], bool]:
    """Run the doubtful stages of a plan as one Prefect flow run called `title`; without Prefect if not `watched`.

    Returns the outcomes in the order in which the stages ended, the stages left out with the reason, and whether
    Prefect's server was there to the end. Losing the server loses the view, not the work: the stages go on.
    """
    work = _Work(plan, execute, display, jobs=jobs, gpus=gpus, watched=watched)

    @flow(
        name="optogram",
        description="The stages of dvc.yaml that are stale, each after those that it reads.",
        flow_run_name=title,
        persist_result=False,
        task_runner=ThreadPoolTaskRunner(max_workers=jobs),  # type: ignore[arg-type]
    )
    def pipeline() -> State[Any]:
        return work.do()

    if watched:
        try:
            state: Any = pipeline(return_state=True)  # type: ignore[call-arg]
        except Exception as error:  # whatever Prefect stumbles over, before the first stage or after the last
            if work.begun and not work.schedule.over:
                raise
            work.artifacts.lose(error)
        else:
            if work.begun and not work.schedule.over:  # an error of ours, which Prefect has put into the state
                state.result()
    if not work.begun:
        work.artifacts.seen = False
        work.do()
    return work.outcomes, work.schedule.left_out, work.artifacts.seen


class _Work:
    """One run: starts stages as the schedule says, each as a task run, or in a bare thread once Prefect is lost."""

    def __init__(
        self, plan: Plan, execute: Execute, display: Display | Brief, *, jobs: int, gpus: int, watched: bool
    ) -> None:
        self.plan, self.execute, self.display = plan, execute, display
        self.schedule = Schedule(plan, jobs=jobs, gpus=gpus)
        self.artifacts = Artifacts(plan, watched=watched)
        self.outcomes: list[Outcome] = []
        self.ended: dict[str, Outcome] = {}
        self.stop = threading.Event()
        self.begun = False
        self.threads = ThreadPoolExecutor(jobs)

    def do(self) -> State[Any]:
        """Run until no stage runs or waits; the state of the flow run."""
        self.begun = True
        finished: queue.Queue[Any] = queue.Queue()
        names: dict[Any, str] = {}

        def watch(future: Any, name: str) -> None:
            names[future] = name
            future.add_done_callback(finished.put)

        with _signalled() as signalled:
            while not self.schedule.over:
                if signalled.is_set() and not self.stop.is_set():
                    self._stop()
                for chosen, slot in self.schedule.start():
                    watch(self._launch(chosen, slot), chosen.name)
                try:
                    future = finished.get(timeout=0.5)
                except queue.Empty:
                    continue
                name = names.pop(future)
                if name in self.ended:
                    self._note(self.ended[name])
                else:  # Prefect itself failed before the stage could start
                    self.artifacts.lose(RuntimeError(f"it could not start {name}: {future!r}"))
                    watch(self._bare(self.plan.stages[name], self.schedule.running[name]), name)
        self.artifacts.final(self.outcomes, self.schedule.left_out)
        return _state(self.outcomes, self.schedule.left_out, self.stop.is_set())

    def _stop(self) -> None:
        self.display.console.print("[yellow]Stopping: the running stages are told, what they finished is kept.[/]")
        self.stop.set()
        self.schedule.stop()
        self.display.left_out(self.schedule.left_out)

    def _note(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self.schedule.end(outcome.stage, ok=outcome.ok)
        self.display.end(outcome)
        self.display.left_out(self.schedule.left_out)
        if not self.schedule.over:
            self.artifacts.progress(self.outcomes, self.schedule)

    def _launch(self, chosen: Stage, slot: int | None) -> Any:
        """A future of the stage's task run; of a bare thread once the server is lost."""
        if not self.artifacts.seen:
            return self._bare(chosen, slot)
        retries = self._retries(chosen)

        @task(task_run_name="{name}", cache_policy=NO_CACHE, persist_result=False)
        def stage(name: str, slot: int | None) -> State[Any]:
            outcome = self._attempt(name, slot, get_run_logger().info)
            if not outcome.ok:
                raise StageFailed(outcome)
            return Completed(name=outcome.state.capitalize(), message=f"{outcome.state} in {clock(outcome.seconds)}")

        try:
            # no tags: for these Prefect asks the server for slots before each task, which takes seconds (measured)
            return stage.with_options(
                description=chosen.desc,
                retries=retries,
                retry_delay_seconds=exponential_backoff(BACKOFF_SECONDS) if retries else 0,
                retry_condition_fn=lambda _task, task_run, _state: self._worth_another_try(task_run.name),
            ).submit(chosen.name, slot)
        except LOST as error:
            self.artifacts.lose(error)
            return self._bare(chosen, slot)

    def _bare(self, chosen: Stage, slot: int | None) -> Any:
        """A future of the stage in a thread, with the retries that Prefect would give it."""

        def attempts() -> None:
            self._attempt(chosen.name, slot, lambda _line: None)
            for number in range(self._retries(chosen)):
                if not self._worth_another_try(chosen.name) or self.stop.wait(BACKOFF_SECONDS * 2**number):
                    return
                self._attempt(chosen.name, slot, lambda _line: None)

        return self.threads.submit(attempts)

    def _attempt(self, name: str, slot: int | None, log: Callable[[str], None]) -> Outcome:
        said = 0.0

        def hear(line: str) -> None:
            nonlocal said
            self.display.line(name, line)
            now = time.monotonic()
            if step(line) is None or now - said >= LOG_SECONDS:
                said = now
                log(line)

        if self.stop.is_set():  # as it may be by the time of another try
            return self.ended.setdefault(name, Outcome(name, "stopped", 0.0, "stopped before it began"))
        self.display.start(name)
        began = time.monotonic()
        try:
            outcome = self.execute(self.plan.stages[name], hear, self.stop, slot)
        except Exception as error:  # of the disk, of a pool's server: the stage failed; it is not "not started"
            outcome = Outcome(name, "failed", time.monotonic() - began, f"{type(error).__name__}: {error}")
        self.ended[name] = outcome
        return outcome

    def _retries(self, chosen: Stage) -> int:
        return max(chosen.retries, self.execute.retries)

    def _worth_another_try(self, name: str) -> bool:
        outcome = self.ended.get(name)
        if outcome is None or not outcome.again or self.stop.is_set():
            return False
        self.display.print(name, f"{outcome.state}: {outcome.why}; it is tried again", style="yellow")
        return True


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
    return Completed(message=f"{ran} {'stage' if ran == 1 else 'stages'} ran{rest}.")
