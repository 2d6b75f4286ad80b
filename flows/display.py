"""Room flows: what a run shows in the terminal: a live table of stages, or in a log one line an event."""

import threading
import time
from collections.abc import Iterable

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from flows.child import Outcome
from flows.graph import Plan
from flows.reasons import few
from optogram.progress import Step, step

STYLES = {
    "waiting": "dim",
    "running": "bold cyan",
    "ran": "green",
    "cached": "dim green",
    "restored": "green",
    "failed": "bold red",
    "timed out": "bold red",
    "stopped": "yellow",
    "not run": "yellow",
}
LOG_SECONDS = 10.0


def clock(seconds: float) -> str:
    """A duration as people read it: 7 s, 4:05, 1:02:03."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


class Display:
    """State, progress, rate, ETA and time of every doubtful stage; the stages' own lines scroll above it."""

    def __init__(self, plan: Plan, console: Console) -> None:
        self.plan, self.console = plan, console
        self.names = plan.doubtful
        self.states = dict.fromkeys(self.names, "waiting")
        self.seconds: dict[str, float] = {}
        self.began: dict[str, float] = {}
        self.steps: dict[str, Step] = {}
        self.said: dict[str, float] = {}
        self.started = time.monotonic()
        self.lock = threading.Lock()
        self.width = max((len(name) for name in self.names), default=0)
        self.live = Live(get_renderable=self.table, console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> "Display":
        if self.console.is_terminal:
            self.live.start()
            return self
        for name in self.names:
            if before := self.waits_for(name):
                self.print(name, f"waits for {few(before)}", style="dim")
        return self

    def __exit__(self, *_: object) -> None:
        self.live.stop()

    def waits_for(self, name: str) -> list[str]:
        """Stages that this one reads from and that have not ended."""
        upstream = self.plan.stages[name].upstream
        return [other for other in self.names if other in upstream and self.states[other] in ("waiting", "running")]

    def start(self, name: str) -> None:
        """A stage starts (or starts again), and why."""
        with self.lock:
            self.states[name] = "running"
            self.began[name] = time.monotonic()
            self.steps.pop(name, None)
        upstream = [other for other in self.names if other in self.plan.stages[name].upstream]
        self.print(name, self.plan.changed.get(name, f"may change with {few(upstream)}"), style="dim")

    def line(self, name: str, text: str) -> None:
        """A line that the stage wrote: progress moves the table, anything else is shown."""
        found = step(text)
        if found is None:
            self.print(name, text)
            return
        with self.lock:
            self.steps[name] = found
        now = time.monotonic()
        if not self.console.is_terminal and (now - self.said.get(name, 0.0) >= LOG_SECONDS or not found.eta):
            self.said[name] = now
            self.print(name, text)

    def end(self, outcome: Outcome) -> None:
        """A stage has ended."""
        with self.lock:
            self.states[outcome.stage] = outcome.state
            self.seconds[outcome.stage] = outcome.seconds
        text = f"{outcome.state} after {clock(outcome.seconds)}"
        self.print(outcome.stage, f"{text}: {outcome.why}" if outcome.why else text, style=STYLES[outcome.state])

    def left_out(self, names: Iterable[str]) -> None:
        """These will not run."""
        with self.lock:
            self.states.update(dict.fromkeys(names, "not run"))

    def print(self, name: str, text: str, *, style: str = "") -> None:
        """One line of one stage."""
        label = escape(f"{name:<{self.width}}")
        body = f"[{style}]{escape(text)}[/]" if style else escape(text)
        self.console.print(f"[bold]{label}[/] {body}", highlight=False, soft_wrap=True)

    def table(self) -> RenderableType:
        """The live table, and below it the whole run."""
        now = time.monotonic()
        table = Table(box=None, pad_edge=False, header_style="dim")
        for title in ("stage", "state", "progress", "", "rate", "eta", "time"):
            table.add_column(title, justify="right" if title in ("rate", "eta", "time") else "left", no_wrap=True)
        with self.lock:
            states, steps, began = dict(self.states), dict(self.steps), dict(self.began)
            seconds = dict(self.seconds)
        room = max(self.console.height - 6, 4)
        for name in _most_telling(self.names, states, room):
            state = states[name]
            found = steps.get(name) if state == "running" else None
            before = self.waits_for(name) if state == "waiting" else []
            waits = f"waits for {few(before)}" if before else ""
            spent = seconds.get(name, now - began[name] if name in began else None)
            table.add_row(
                name,
                Text(state, STYLES[state]),
                ProgressBar(found.total, found.done, width=20) if found else "",
                f"{found.done:,}/{found.total:,} {found.unit}" if found else waits,
                found.rate if found else "",
                clock(found.eta) if found else "",
                "" if spent is None else clock(spent),
            )
        done = sum(state not in ("waiting", "running") for state in states.values())
        whole = f"{done} of {len(states)} stages, {clock(now - self.started)} so far"
        if hidden := len(states) - table.row_count:
            whole += f" ({hidden} more stages not shown)"
        return Group("", table, Text(whole, "bold"))


def _most_telling(names: list[str], states: dict[str, str], room: int) -> list[str]:
    """At most `room` stages, in order: running and failed ones first of all, then the next to come."""
    rank = {"running": 0, "failed": 0, "timed out": 0, "waiting": 1}
    chosen = sorted(names, key=lambda name: rank.get(states[name], 2))[:room]
    return [name for name in names if name in set(chosen)]


def ending(plan: Plan, outcomes: list[Outcome], left_out: dict[str, str], again: str, seconds: float) -> list[str]:
    """The last lines of a run: counts, what failed and why, and the one command that continues. Rich markup."""
    counts = {"cached": len(plan.stages) - len(plan.doubtful)}
    for outcome in outcomes:
        counts[outcome.state] = counts.get(outcome.state, 0) + 1
    counts["not run"] = len(left_out)
    parts = [f"[{STYLES[state]}]{number} {state}[/]" for state, number in counts.items() if number]
    lines = [f"{', '.join(parts)} in {clock(seconds)}."]
    for outcome in outcomes:
        if not outcome.ok:
            lines.append(f"[{STYLES[outcome.state]}]{escape(outcome.stage)}[/] {outcome.state}: {escape(outcome.why)}")
    for name, because in left_out.items():
        lines.append(
            f"[yellow]{escape(name)}[/] not run: " + (because if because == "stopped" else f"it needs {because}")
        )
    if any(not outcome.ok for outcome in outcomes) or left_out:
        lines.append(f"Nothing that was finished is lost. To continue: [bold]{escape(again)}[/]")
    return lines
