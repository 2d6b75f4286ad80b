"""Room flows: the commands `optogram run` and `optogram ui`, which need the checkout and Prefect."""

import contextlib
import logging
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from flows.brief import Brief, telling
from flows.checkout import only_run
from flows.child import Outcome, environment
from flows.display import Display, ending
from flows.graph import Plan, plan
from optogram.errors import ArtifactError, FlowError, OptogramError
from optogram.params.root import load_params
from optogram.pipeline.costs import calibrate, expected
from optogram.pipeline.warm import warm_stages

if TYPE_CHECKING:
    from flows.run import Execute

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
console = Console(stderr=True)
PORT = partial(typer.Option, min=1, max=65535)
SETTINGS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # the display shows the stages' lines itself
    "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",  # and says itself, once, when the server is lost
    "PREFECT_CLIENT_MAX_RETRIES": "2",  # a lost server must not hold up the end of a run for minutes
    "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",  # no second server beside the one that a run names
}


def default_jobs() -> int:
    """Stages at once: most of a stage's work uses several threads already, but its start does not."""
    return max(2, (os.cpu_count() or 2) // 4)


def default_gpus() -> int:
    """CUDA devices of this machine; where there is none, stages of the gpu pool are like any other."""
    return len(list(Path("/dev").glob("nvidia[0-9]*"))) or default_jobs()


@app.command()
def run(
    targets: Annotated[
        list[str] | None, typer.Argument(help="Stages, groups (textspan) or outs. Default: all.")
    ] = None,
    profile: Annotated[str | None, typer.Option(help="First write params.yaml for this profile.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Stages at once.")] = default_jobs(),
    gpus: Annotated[int, typer.Option(min=1, help="Stages of the gpu pool at once, a device each.")] = default_gpus(),
    on: Annotated[
        Literal["local", "pools"], typer.Option(help="Here, or in Prefect's work pools, whose workers set the limits.")
    ] = "local",
    pull: Annotated[bool, typer.Option(help="Fetch from the DVC remote what it has, instead of computing it.")] = False,
    timeout: Annotated[float | None, typer.Option(help="Seconds for stages whose meta names no timeout.")] = None,
    lost_after: Annotated[
        float, typer.Option(help="With --on pools: seconds without a sign that a worker may take.")
    ] = 90,
    wait: Annotated[bool, typer.Option(help="Wait for another run in this checkout instead of refusing.")] = False,
    brief: Annotated[
        bool, typer.Option("--brief", help="Here, without Prefect's view: a line a stage, costs, what was found.")
    ] = False,
) -> None:
    """Run the stale stages as one Prefect flow: independent ones at once, each in its own process."""
    again = shlex.join(["optogram", *sys.argv[1:]])
    with only_run(again, wait=wait):
        if profile:
            from optogram.cli.main import profile as write_profile

            write_profile(profile)
        load_params()  # DVC sees only the keys that stages name: a misspelt one changes nothing
        found = plan(targets or (), data_here=on == "local")
        if not found.doubtful:
            console.print(f"All {len(found.stages)} stages are up to date.", highlight=False)
            _done()
            return
        title = f"{_profile()}: {len(found.doubtful)} of {len(found.stages)} stages"
        if brief and on == "local":
            code = _run_briefly(found, timeout, pull, again, jobs, gpus)
            if code:
                raise typer.Exit(code)
            return
        console.print(f"{title} to look at. Waiting for Prefect's server …", highlight=False, markup=False)
        with _server(needed=on == "pools") as watched:
            if on == "pools":
                code, seen = _run_in_pools(found, title, again, timeout, lost_after)
            else:
                from flows.run import Here

                with warm_stages(stages=len(found.doubtful), environment=environment()) as warm:
                    here = Here(timeout=timeout, pull=pull, warm=warm)
                    code, seen = _run(found, here, title, again, jobs, gpus, watched=watched)
            if not code:
                _compare()
                _done()
            if watched and not seen:  # Prefect's threads would go on knocking at the lost server's door
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
    if code:
        raise typer.Exit(code)


@app.command()
def ui(
    port: Annotated[int, PORT(help="Prefect's, if no server is configured. Taken: any free one.")] = 4200,
    report_port: Annotated[int, PORT(help="The report's. Taken: any free one.")] = 4280,
) -> None:
    """Serve Prefect's UI and the report on 127.0.0.1 until Ctrl-C."""
    from flows.server import ui as serve

    for number in (signal.SIGINT, signal.SIGTERM):  # a shell starts its background jobs deaf to Ctrl-C
        signal.signal(number, signal.default_int_handler)
    console.print("Starting Prefect's server …")
    with contextlib.suppress(KeyboardInterrupt):
        serve(port=port, report_port=report_port)


@contextlib.contextmanager
def _server(*, needed: bool) -> Iterator[bool]:
    """Prefect's server for the block, and whether there is one: unless it is `needed`, stages run without."""
    from flows.database import ServerError
    from flows.server import available, watch_at

    with contextlib.ExitStack() as stack:
        try:
            api = stack.enter_context(available())
        except ServerError as error:
            if needed:
                raise
            console.print(f"{error}\nThe run goes on without Prefect.", highlight=False, markup=False, soft_wrap=True)
            yield False
            return
        console.print(f"Watch at {watch_at(api)}", highlight=False, markup=False, soft_wrap=True)
        yield True


def _run(
    found: Plan, execute: "Execute", title: str, again: str, jobs: int, gpus: int, *, watched: bool = True
) -> tuple[int, bool]:
    """Run, show, say how it ended; the exit status, and whether Prefect's server was there to the end."""
    from flows.exchange import tidy
    from flows.run import run as run_flow

    began = time.monotonic()
    with Display(found, console) as display:
        outcomes, left_out, seen = run_flow(found, execute, display, title=title, jobs=jobs, gpus=gpus, watched=watched)
    tidy(found.order)
    for line in ending(found, outcomes, left_out, again, time.monotonic() - began):
        console.print(line, highlight=False, soft_wrap=True)
    return _status(outcomes, left_out), seen


def _run_briefly(found: Plan, timeout: float | None, pull: bool, again: str, jobs: int, gpus: int) -> int:
    """As `_run`, without Prefect's server; then the costs, how it compares, the most telling numbers, the report."""
    costs = expected(found.doubtful, calibration=calibrate())
    with Brief(found, console, costs, jobs=jobs) as display:
        from flows.exchange import tidy
        from flows.run import Here
        from flows.run import run as run_flow

        began = time.monotonic()
        with warm_stages(stages=len(found.doubtful), environment=environment()) as warm:
            here = Here(timeout=timeout, pull=pull, warm=warm)
            outcomes, left_out, _ = run_flow(found, here, display, title="brief", jobs=jobs, gpus=gpus, watched=False)
    tidy(found.order)
    console.print(display.costs())
    for line in ending(found, outcomes, left_out, again, time.monotonic() - began):
        console.print(line, highlight=False, soft_wrap=True)
    if code := _status(outcomes, left_out):
        return code
    _compare()
    for line in telling(load_params()):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    _done()
    return 0


def _status(outcomes: list[Outcome], left_out: dict[str, str]) -> int:
    """A run's exit status."""
    failed = [outcome for outcome in outcomes if not outcome.ok]
    return 130 if any(outcome.state == "stopped" for outcome in failed) else 1 if failed or left_out else 0


def _run_in_pools(found: Plan, title: str, again: str, timeout: float | None, lost_after: float) -> tuple[int, bool]:
    """As `_run`, with workers; at the end DVC itself must find nothing left to run."""
    from flows.pools import Pools

    pools = Pools(found, timeout=timeout, lost_after=lost_after)
    console.print("Pushing what workers will read …", highlight=False)
    pools.prepare()
    jobs = len(found.doubtful)
    code, seen = _run(found, pools, title, again, jobs, jobs)
    if not code:
        console.print("Fetching what the workers made …", highlight=False)
        if left := pools.finish():
            raise FlowError(f"The workers are done, but `dvc repro --allow-missing` would still run:\n{left}")
        console.print("`dvc repro --allow-missing` has nothing to run.", highlight=False)
    return code, seen


def _profile() -> str:
    """The recipe in the first line of params.yaml, such as "demo" or "smoke textspan.size=4"."""
    from optogram.params.profiles import RECIPE

    first = Path("params.yaml").read_text().partition("\n")[0]
    return first.removeprefix(RECIPE).strip() if first.startswith(RECIPE) else "own params"


def _compare() -> None:
    """Say how what ran compares with the committed dvc.lock, where there is one."""
    from optogram.catalog.compare import Tolerance
    from optogram.pipeline.changed import compare_lock

    bounds = load_params().verify
    try:
        said = compare_lock(tolerance=Tolerance(bounds.absolute, bounds.relative)).lines()
    except ArtifactError as error:
        said = [str(error)]
    for line in said:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _done() -> None:
    """What is said at the end of a run when all its stages are up to date, whoever ran them."""
    report = Path("artifacts/report/index.html")
    if report.exists():
        said = f"The report: {report.resolve().as_uri()}   (`make ui` serves it)"
        console.print(said, highlight=False, markup=False, soft_wrap=True)


def main() -> None:
    """Entry point: a user's error is printed without a traceback and ends with status 1."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    logging.raiseExceptions = False  # Prefect's log handler writes to the terminal for every line it cannot send
    try:
        app(prog_name="optogram")
    except OptogramError as error:
        console.print(f"[bold red]{type(error).__name__}[/]:", end=" ")
        print(error, file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
