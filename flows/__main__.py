"""Room flows: the commands `optogram run` and `optogram ui`, which need the checkout and Prefect."""

import contextlib
import logging
import os
import shlex
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from flows.checkout import only_run
from flows.display import Display, ending
from flows.graph import Plan, plan
from optogram.errors import FlowError, OptogramError

if TYPE_CHECKING:
    from flows.run import Execute

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
console = Console(stderr=True)
SETTINGS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # the display shows the stages' lines itself
    "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",  # and says itself, once, when the server is lost
    "PREFECT_CLIENT_MAX_RETRIES": "2",  # a lost server must not hold up the end of a run for minutes
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
) -> None:
    """Run the stale stages as one Prefect flow: independent ones at once, each in its own process."""
    again = shlex.join(["optogram", *sys.argv[1:]])
    with only_run(again, wait=wait):
        if profile:
            from optogram.cli import profile as write_profile

            write_profile(profile)
        found = plan(targets or (), data_here=on == "local")
        if not found.doubtful:
            console.print(f"All {len(found.stages)} stages are up to date.", highlight=False)
            _say_report()
            return
        from flows.server import available

        title = f"{_profile()}: {len(found.doubtful)} of {len(found.stages)} stages"
        console.print(f"{title} to look at. Waiting for Prefect's server …", highlight=False)
        with available() as api:
            os.environ["PREFECT_API_URL"] = api
            console.print(f"Watch at {api.removesuffix('/api')}", highlight=False)
            if on == "pools":
                code = _run_in_pools(found, title, again, timeout, lost_after)
            else:
                from flows.run import Here

                code = _run(found, Here(timeout=timeout, pull=pull), title, again, jobs, gpus)
    if code:
        raise typer.Exit(code)


@app.command()
def ui(
    port: Annotated[int, typer.Option(help="Prefect's, if no server is configured. Taken: any free one.")] = 4200,
    report_port: Annotated[int, typer.Option(help="The report's. Taken: any free one.")] = 4280,
) -> None:
    """Serve Prefect's UI and the report on 127.0.0.1 until Ctrl-C."""
    from flows.server import ui as serve

    for number in (signal.SIGINT, signal.SIGTERM):  # a shell starts its background jobs deaf to Ctrl-C
        signal.signal(number, signal.default_int_handler)
    console.print("Starting Prefect's server …")
    with contextlib.suppress(KeyboardInterrupt):
        serve(port=port, report_port=report_port)


def _run(found: Plan, execute: "Execute", title: str, again: str, jobs: int, gpus: int) -> int:
    """Run, show, say how it ended; the exit status."""
    from flows.exchange import tidy
    from flows.run import run as run_flow

    began = time.monotonic()
    with Display(found, console) as display:
        outcomes, left_out, seen = run_flow(found, execute, display, title=title, jobs=jobs, gpus=gpus)
    tidy(found.order)
    for line in ending(found, outcomes, left_out, again, time.monotonic() - began):
        console.print(line, highlight=False, soft_wrap=True)
    failed = [outcome for outcome in outcomes if not outcome.ok]
    if not failed and not left_out:
        _say_report()
    code = 130 if any(outcome.state == "stopped" for outcome in failed) else 1 if failed or left_out else 0
    if not seen:  # Prefect's threads would go on knocking at the lost server's door for half a minute
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _run_in_pools(found: Plan, title: str, again: str, timeout: float | None, lost_after: float) -> int:
    """As `_run`, with workers; at the end DVC itself must find nothing left to run."""
    from flows.pools import Pools

    pools = Pools(found, timeout=timeout, lost_after=lost_after)
    console.print("Pushing what workers will read …", highlight=False)
    pools.prepare()
    jobs = len(found.doubtful)
    code = _run(found, pools, title, again, jobs, jobs)
    if not code:
        console.print("Fetching what the workers made …", highlight=False)
        if left := pools.finish():
            raise FlowError(f"The workers are done, but `dvc repro --allow-missing` would still run:\n{left}")
        console.print("`dvc repro --allow-missing` has nothing to run.", highlight=False)
        _say_report()
    return code


def _profile() -> str:
    """The recipe in the first line of params.yaml, such as "demo" or "smoke textspan.size=4"."""
    from optogram.profiles import RECIPE

    first = Path("params.yaml").read_text().partition("\n")[0]
    return first.removeprefix(RECIPE).strip() if first.startswith(RECIPE) else "own params"


def _say_report() -> None:
    report = Path("artifacts/report/index.html")
    if report.exists():
        console.print(f"The report: file://{report.resolve()}   (`make ui` serves it)", highlight=False, soft_wrap=True)


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
