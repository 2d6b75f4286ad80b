"""Room flows: what a run leaves in Prefect's UI: progress, the table of stages, metrics, key figures, the report."""

import base64
import json
import re
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.client.orchestration import SyncPrefectClient

from flows.child import Outcome
from flows.graph import Plan, locked
from flows.report import report_url
from flows.schedule import Schedule
from optogram.progress import say

METRICS = "artifacts/metrics/"
FIGURES = "artifacts/figures"
REPORT = "artifacts/report"


class Artifacts:
    """Posts to the flow run that is going on. When the server is lost it says so once and posts no more."""

    def __init__(self, plan: Plan, *, watched: bool = True) -> None:
        self.plan = plan
        self.seen = watched
        self._bar: Any = None
        self._progress: Future[None] | None = None
        self._beside = ThreadPoolExecutor(1)  # the next stage must not wait for a busy server

    def progress(self, outcomes: list[Outcome], schedule: Schedule) -> None:
        """Move the progress bar: stages that have ended, of those that were doubtful. Does not wait for the server."""
        if self._progress is None or self._progress.done():
            total, ended = len(self.plan.doubtful), len(outcomes)
            percent = 100 * (ended + len(schedule.left_out)) / max(total, 1)
            # with the context, by which Prefect knows the flow run
            self._progress = self._beside.submit(copy_context().run, self._move, percent, f"{ended} of {total} stages")

    def _move(self, percent: float, text: str) -> None:
        if self._bar is None:
            self._bar = self._post(lambda: create_progress_artifact(percent, key="progress", description=text))
        else:
            self._post(lambda: update_progress_artifact(self._bar, percent, description=text))

    def final(self, outcomes: list[Outcome], left_out: dict[str, str]) -> None:
        """Post what there is to see at the end."""
        self._beside.shutdown()
        self._move(100.0, f"{len(outcomes)} of {len(self.plan.doubtful)} stages")
        table = stage_table(self.plan, outcomes, left_out)
        self._post(lambda: create_table_artifact(table, key="stages", description="What became of every stage"))
        made = fresh_outs(self.plan, outcomes, left_out)
        if metrics := metric_table(Path(out) for out in made if out.startswith(METRICS)):
            self._post(lambda: create_table_artifact(metrics, key="metrics", description="artifacts/metrics/*.json"))
        for figure in figures(Path(FIGURES)) if FIGURES in made else []:
            self._post(lambda figure=figure: create_image_artifact(**figure))
        page = Path(REPORT, "index.html")
        if REPORT in made and page.exists():
            text = f"Served at this address while `make ui` runs in {Path.cwd()}; on disk it is {page}."
            self._post(lambda: create_link_artifact(report_url(), link_text="Report", key="report", description=text))

    def lose(self, error: Exception) -> None:
        """The server is lost: say so, once."""
        if self.seen:
            self.seen = False
            say(f"Prefect's server does not answer ({type(error).__name__}): the run goes on without it.")

    def _post(self, call: Callable[[], Any]) -> Any:
        if not self.seen:
            return None
        try:
            return call()
        except Exception as error:  # whatever it is, a run must not fail for want of an onlooker
            self.lose(error)
            return None


def posted(client: SyncPrefectClient, flow_run: UUID) -> dict[str, Any]:
    """The data of a flow run's artifacts by key."""
    # by hand: the synchronous client's read_artifacts (3.8) sends nulls that the server refuses
    wanted = {"artifacts": {"flow_run_id": {"any_": [str(flow_run)]}}, "sort": "ID_DESC", "limit": 200}
    return {found["key"]: found["data"] for found in client.request("POST", "/artifacts/filter", json=wanted).json()}


def stage_table(plan: Plan, outcomes: list[Outcome], left_out: dict[str, str]) -> list[dict[str, Any]]:
    """A row a stage: what became of it, seconds, the hash of its first out as dvc.lock has it."""
    ended = {outcome.stage: outcome for outcome in outcomes}
    lock = locked()
    rows = []
    for name in plan.stages:
        outcome = ended.get(name)
        outs = lock.get(name, {}).get("outs") or [{}]
        rows.append(
            {
                "stage": name,
                "pool": plan.stages[name].pool,
                "state": outcome.state if outcome else "not run" if name in left_out else "cached",
                "seconds": round(outcome.seconds, 1) if outcome else 0.0,
                "hash": str(outs[0].get("md5", ""))[:10] if outcome is None or outcome.ok else "",
                "why": outcome.why if outcome else left_out.get(name, ""),
            }
        )
    return rows


def fresh_outs(plan: Plan, outcomes: list[Outcome], left_out: dict[str, str]) -> list[str]:
    """Outs of this run's stages, without what stages that did not get done, or other runs, have left beside them."""
    lost = {outcome.stage for outcome in outcomes if not outcome.ok} | set(left_out)
    return sorted(out for name, stage in plan.stages.items() if name not in lost for out in stage.outs)


def metric_table(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """A row a number: file, dotted key, value. In pools a file may not be here: it has no rows."""
    rows: list[dict[str, Any]] = []

    def walk(source: str, key: str, value: Any) -> None:
        if isinstance(value, dict):
            for name, below in sorted(value.items()):
                walk(source, f"{key}.{name}" if key else name, below)
        elif isinstance(value, int | float | str):
            rows.append({"source": source, "metric": key, "value": value})

    for path in paths:
        if path.suffix == ".json" and path.exists():
            walk(path.stem, "", json.loads(path.read_text()))
    return rows


def figures(folder: Path) -> list[dict[str, str]]:
    """The key figures as arguments for Prefect, the image itself in the address: no server has to stay up for it."""
    index = folder / "index.json"
    if not index.exists():
        return []
    found = []
    for entry in json.loads(index.read_text()):
        data = base64.b64encode((folder / entry["file"]).read_bytes()).decode()
        text = f"{entry['title']}. {entry['caption']}"
        key = re.sub(r"[^a-z0-9]+", "-", f"figure-{entry['file']}".lower().removesuffix(".png"))
        found.append({"image_url": f"data:image/png;base64,{data}", "key": key, "description": text})
    return found
