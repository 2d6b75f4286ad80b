"""Room flows: a run told briefly, as `make demo` shows it: what it will take, a line a stage, and what it found."""

import json
import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from flows.child import LOGS, Outcome
from flows.display import STYLES, clock
from flows.graph import Plan
from optogram.params.root import Params
from optogram.pipeline.costs import recorded
from optogram.progress import Step, step

METRICS = Path("artifacts/metrics")
# Of the processors that stages at once keep busy: DVC, the disk and what waits for one stage take the rest.
BUSY = 0.85
# Stages in the table of costs.
MOST = 10
# What is believed of this run's own pace, from so much of its expected cost on.
TELLING_SHARE = 0.05


class Brief:
    """One line a stage as it ends, with the time that is left; on a terminal also what runs now.

    `expected` are the CPU seconds of the stages that may run. What the stages say goes to their logs alone.
    """

    def __init__(self, plan: Plan, console: Console, expected: dict[str, float], *, jobs: int) -> None:
        self.plan, self.console, self.expected = plan, console, expected
        self.names = plan.doubtful
        self.ended: dict[str, Outcome] = {}
        self.running: dict[str, float] = {}
        self.steps: dict[str, Step] = {}
        self.pace = 1 / (BUSY * min(jobs, os.cpu_count() or 1))
        self.began, self.at = time.monotonic(), time.time()
        self.lock = threading.Lock()
        self.width = max((len(name) for name in self.names), default=0)
        self.live = Live(get_renderable=self._now, console=console, refresh_per_second=2, transient=True)

    def __enter__(self) -> "Brief":
        seconds = sum(self.expected.values())
        self._say(
            f"{len(self.names)} of {len(self.plan.stages)} stages to run: about {_about(self.pace * seconds)} here "
            f"({_about(seconds)} of CPU time)."
        )
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.live.stop()

    def start(self, name: str) -> None:
        """A stage starts (or starts again)."""
        with self.lock:
            self.running[name] = time.monotonic()
            self.steps.pop(name, None)

    def line(self, name: str, text: str) -> None:
        """A line that the stage wrote; only its progress is shown."""
        if found := step(text):
            with self.lock:
                self.steps[name] = found

    def end(self, outcome: Outcome) -> None:
        """A stage has ended."""
        with self.lock:
            self.running.pop(outcome.stage, None)
            self.ended[outcome.stage] = outcome
            left = self.left()
        number = f"{len(self.ended):>{len(str(len(self.names)))}}/{len(self.names)}"
        ending = f"{outcome.state} in {clock(outcome.seconds)}" if outcome.ok else f"{outcome.state}, see {LOGS}"
        self._say(f"{number} {outcome.stage:<{self.width}} {ending:<16} {_about(left)} left", STYLES[outcome.state])

    def left_out(self, names: Iterable[str]) -> None:
        """These will not run: no time is left for them to take."""
        for name in names:
            self.expected[name] = 0.0

    def print(self, name: str, text: str, *, style: str = "") -> None:
        """One line about one stage."""
        self._say(f"{name}: {text}", style)

    def left(self) -> float:
        """Seconds to the end of the run, by its own pace once that tells."""
        whole = sum(self.expected.values())
        done = sum(self.expected[name] for name in self.ended)
        spent = time.monotonic() - self.began
        pace = spent / done if done > TELLING_SHARE * whole else self.pace
        return max(pace * whole - spent, 0.0) if len(self.ended) < len(self.names) else 0.0

    def costs(self) -> Table:
        """CPU seconds of this run by stage, the costliest first, and the sum."""
        found = recorded(since=self.at)
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column("CPU seconds", justify="right")
        table.add_column("stage")
        for name in [*found][:MOST]:
            table.add_row(f"{found[name]:,.1f}", name)
        if rest := [*found.values()][MOST:]:
            table.add_row(f"{sum(rest):,.1f}", f"{len(rest)} more")
        table.add_row(f"{sum(found.values()):,.1f}", "in all", style="bold")
        return table

    def _now(self) -> Text:
        with self.lock:
            parts = []
            for name in self.running:
                found = self.steps.get(name)
                parts.append(f"{name} {found.done:,}/{found.total:,} {found.unit}" if found else name)
            return Text(
                f"{len(self.ended)}/{len(self.names)}  {'  |  '.join(parts)}  {_about(self.left())} left", "bold"
            )

    def _say(self, text: str, style: str = "") -> None:
        self.console.print(
            f"[{style}]{escape(text)}[/]" if style else escape(text), highlight=False, soft_wrap=True, crop=False
        )


def telling(params: Params, metrics: Path = METRICS) -> list[str]:
    """The most telling numbers of a run, as far as its metrics hold them: five sentences where all methods ran."""
    clip, classifier = (names[0] if names else "" for names in (params.clips, params.classifiers))
    of_clip = [(name, clip) for name in ("ablation", "textspan", "spurious", "segmentation")]
    found = [(of, _read(metrics / f"{name}_{of}.json")) for name, of in [*of_clip, ("visual_scores", classifier)]]
    return [_sentence(of, headline) for of, headline in found if "value" in headline]


def _sentence(model: str, headline: dict[str, Any]) -> str:
    """A headline of a share (optogram/metrics/headline.py) in words."""
    beside = [f"{headline['versus']} {headline['versus_value']:.1%}"] if "versus_value" in headline else []
    beside += [f"yardstick {headline['yardstick']:.1%}"] if "yardstick" in headline else []
    said = f" ({', '.join(beside)})" if beside else ""
    return f"{model}, {headline['measure']}: {headline['value']:.1%}{said}."


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def _about(seconds: float) -> str:
    return f"{max(round(seconds / 60), 1)} min" if seconds >= 90 else f"{round(seconds)} s"
