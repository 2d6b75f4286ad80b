"""Room flows: the asking side of `optogram run --on pools`: each stage goes to a worker of its pool (see worker.py)."""

import json
import threading
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.client.schemas.sorting import LogSort
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelling, Crashed

from flows import exchange
from flows.artifacts import posted
from flows.child import Outcome
from flows.graph import LOCK, POOLS, Plan, Stage
from flows.worker import RESULT, edits, git
from optogram.errors import FlowError

POLL_SECONDS = 1.0


class Pools:
    """Gets stages done by workers. Calling it is one stage; it may be called from several threads at once."""

    retries = 2  # a worker may be lost; what it had not pushed is done again, by another

    def __init__(self, plan: Plan, *, lost_after: float, timeout: float | None = None) -> None:
        """`lost_after`: seconds without a line from a worker; at work it logs one every ten seconds (worker.py)."""
        self.plan, self.lost_after, self.timeout = plan, lost_after, timeout
        self.revision = git("rev-parse", "HEAD")
        self.lock = threading.Lock()
        self.held = exchange.present(out for stage in plan.stages.values() for out in stage.outs)

    def prepare(self) -> None:
        """FlowError unless the deployments are there and git and the DVC remote hold all that a worker needs."""
        if own := edits()[1]:
            raise FlowError(
                f"Workers get code and params through git, but this is not committed: {', '.join(own[:3])}. "
                "Commit and push, then run again."
            )
        exchange.check_remote()
        with get_client(sync_client=True) as client:
            for pool in POOLS:
                try:
                    client.read_deployment_by_name(f"optogram-stage/{pool}")
                    client.read_work_pool(pool)
                except ObjectNotFound:
                    raise FlowError(
                        f"Prefect has no work pool {pool!r} with the deployment optogram-stage/{pool}. Make them: "
                        f"`prefect work-pool create {pool} --type process`, `prefect deploy --all` (docs/pools.md)."
                    ) from None
        doubtful = set(self.plan.doubtful)
        read = {up for name in doubtful for up in self.plan.stages[name].upstream}
        exchange.send_inputs(read - doubtful)

    def __call__(self, stage: Stage, hear: Callable[[str], None], stop: threading.Event, slot: int | None) -> Outcome:
        """Send one stage to its pool and wait; its lines come through Prefect's log."""
        began = time.monotonic()
        with self.lock:
            parameters = {
                "stage": stage.name,
                "revision": self.revision,
                "lock": LOCK.read_text() if LOCK.exists() else "",
                "timeout": stage.timeout or self.timeout,
            }
        asked: Any = run_deployment(f"optogram-stage/{stage.pool}", parameters=parameters, timeout=0)
        with get_client(sync_client=True) as client:
            assert isinstance(client, SyncPrefectClient)
            why = self._follow(client, asked.id, stage, hear, stop)
            if why:
                state = "stopped" if stop.is_set() else "failed"
                return Outcome(stage.name, state, time.monotonic() - began, why, again=not stop.is_set())
            result = _result(client, asked.id)
        if result is None:
            return Outcome(stage.name, "failed", time.monotonic() - began, "the worker's flow crashed", again=True)
        if "entry" in result:
            with self.lock:
                exchange.merge(stage.name, result["entry"], result["files"], self.plan.order)
        return Outcome(stage.name, result["state"], result["seconds"], result["why"], again=result["again"])

    def finish(self) -> str:
        """Fetch the report (all new data, where this checkout holds data), and ask DVC whether all is done.

        Returns "" or what DVC would still run.
        """
        last = [name for name, stage in self.plan.stages.items() if "artifacts/report" in stage.outs]
        exchange.pull(self.plan.doubtful if self.held else last)
        return exchange.nothing_to_do(self.plan.stages)

    def _follow(
        self, client: SyncPrefectClient, asked: UUID, stage: Stage, hear: Callable[[str], None], stop: threading.Event
    ) -> str:
        """Pass on the worker's lines until its flow run is over; "" then, or why it will not be."""
        lines = 0
        heard = told = time.monotonic()
        while True:
            run = client.read_flow_run(asked)
            logs = client.read_logs(
                LogFilter(flow_run_id=LogFilterFlowRunId(any_=[asked])),
                offset=lines,
                limit=200,
                sort=LogSort.TIMESTAMP_ASC,
            )
            now = time.monotonic()
            for log in logs:
                heard = now
                hear(log.message)
            lines += len(logs)
            if run.state is not None and run.state.is_final():
                return ""
            if stop.is_set():
                client.set_flow_run_state(asked, Cancelling(), force=True)
                return "stopped; what it had finished is kept"
            if run.state is None or not run.state.is_running():
                heard = now
                if now - told > 30:
                    told = now
                    hear(f"waiting for a worker of pool {stage.pool}: `prefect worker start --pool {stage.pool}`")
            elif now - heard > self.lost_after:
                message = f"no sign of its worker for {self.lost_after:.0f} s"
                client.set_flow_run_state(asked, Crashed(message=message), force=True)
                return message
            time.sleep(POLL_SECONDS)


def _result(client: SyncPrefectClient, asked: UUID) -> dict[str, Any] | None:
    """What the worker left in its result artifact."""
    text = posted(client, asked).get(RESULT)
    return None if text is None else json.loads(text.removeprefix("```json\n").removesuffix("\n```"))
