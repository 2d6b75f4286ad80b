"""Progress of long work: a live bar with rate and ETA on a terminal, a plain line now and then in a log."""

import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

# `optogram run` reads the lines of its stages, and asks for them more often than a person would
LOG_SECONDS = float(os.environ.get("OPTOGRAM_LOG_SECONDS", "10"))
LINE = re.compile(r": ([\d,]+) of ([\d,]+) (.+), ([\d,]+ \S.*/s), (?:eta|took) (\d+) s$")


@dataclass(frozen=True)
class Step:
    """What one progress line of a log says."""

    done: int
    total: int
    unit: str
    rate: str
    eta: float


def step(line: str) -> Step | None:
    """The step that a line of a log tells of, as `progress` writes it; None if it is any other line."""
    found = LINE.search(line)
    if found is None:
        return None
    done, total, unit, rate, seconds = found.groups()
    count, of = int(done.replace(",", "")), int(total.replace(",", ""))
    return Step(count, of, unit, rate, 0.0 if count >= of else float(seconds))


def say(text: str) -> None:
    """One line about work in progress, where its progress goes too."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def progress(title: str, total: int, unit: str, *, done: int = 0, bar: bool = True) -> Iterator[Callable[[int], None]]:
    """Yield `advance(count)`. `done` items (a resumed run's) count towards the total but not towards the rate.

    bar: False for work within work that has a bar of its own: lines on a terminal too.
    """
    console = Console(stderr=True)
    started = time.monotonic()
    worked = 0

    def rate() -> str:
        return f"{worked / max(time.monotonic() - started, 1e-9):,.0f} {unit}/s"

    if console.is_terminal and bar:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console) as shown:
            task = shown.add_task(title, total=total, completed=done, rate="")

            def advance(count: int) -> None:
                nonlocal worked
                worked += count
                shown.update(task, advance=count, rate=rate())

            yield advance
        return

    said = started

    def log(count: int) -> None:
        nonlocal worked, said
        worked += count
        now = time.monotonic()
        finished = done + worked >= total
        if finished or now - said >= LOG_SECONDS:
            said = now
            left = (total - done - worked) * (now - started) / max(worked, 1)
            eta = f"took {now - started:.0f} s" if finished else f"eta {left:.0f} s"
            print(f"{title}: {done + worked:,} of {total:,} {unit}, {rate()}, {eta}", file=sys.stderr, flush=True)

    yield log


@contextmanager
def counted(title: str, unit: str) -> Iterator[Callable[[int, int, float], None]]:
    """Yield `tell(done, total, loss)`: progress for work that counts by itself; its first call says where it starts."""
    with ExitStack() as stack:
        advance: Callable[[int], None] | None = None
        before = 0

        def tell(done: int, total: int, loss: float) -> None:
            nonlocal advance, before
            if advance is None:
                advance = stack.enter_context(progress(title, total, unit, done=done))
            else:
                advance(done - before)
            before = done

        yield tell


def stretch(tell: Callable[[int, int], None] | None, at: int, of: int) -> Callable[[int, int], None] | None:
    """What work tells that is number `at`, from 0 on, of `of` pieces that take as long: how much of all is done."""
    return None if tell is None else lambda done, total: tell(at * total + done, of * total)
