"""The `optogram` command: find, open and fetch artifacts; set a profile; keep dvc.yaml in step; look at the machine."""

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from optogram.errors import OptogramError, ParamError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
console = Console()

Name = Annotated[str, typer.Argument(help="An artifact, such as textspan/demo; `optogram catalog` lists them.")]
Rev = Annotated[str | None, typer.Option(help="A git revision: branch, tag or commit. Default: the working tree.")]
Repo = Annotated[str, typer.Option(help="Path or git URL of the repository.")]


@app.command()
def catalog(rev: Rev = None, repo: Repo = ".") -> None:
    """List all artifacts: name, kind, dims, bytes, hash, stage, title."""
    from optogram.store.catalog import catalog as find

    frame = find(rev=rev, repo=repo)
    if frame.empty:
        console.print("No artifacts yet. `make demo` (or `dvc repro`) makes them.")
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("name", "dims", "MB", "hash", "stage", "title"):
        table.add_column(column, justify="right" if column == "MB" else "left", overflow="fold")
    for row in frame.to_dict("records"):
        cells = {**row, "MB": f"{row['bytes'] / 1e6:,.1f}", "hash": row["hash"][:10]}
        table.add_row(*(cells[str(column.header)] for column in table.columns))
    console.print(table)


@app.command(name="open")
def open_(name: Name, rev: Rev = None, repo: Repo = ".") -> None:
    """Show an artifact: its dimensions, variables, units and provenance."""
    from optogram.store.catalog import open as open_artifact

    dataset = open_artifact(name, rev=rev, repo=repo)
    console.print(repr(dataset), markup=False, highlight=False)
    for variable in sorted(map(str, dataset.data_vars)):
        if meaning := dataset[variable].attrs.get("long_name"):
            console.print(f"  {variable}: {meaning}", markup=False, highlight=False)


@app.command()
def pull(name: Name, repo: Repo = ".") -> None:
    """Fetch an artifact from the DVC cache or a remote, and check it out."""
    from optogram.store.catalog import pull as fetch

    for out in fetch(name, repo=repo):
        console.print(f"{out} is here.")


@app.command()
def profile(
    name: Annotated[str, typer.Argument(help="demo (the defaults), or a file in profiles/ without .yaml.")],
    settings: Annotated[list[str] | None, typer.Argument(help="KEY=VALUE on top, such as textspan.size=8.")] = None,
    force: Annotated[bool, typer.Option(help="Drop your own edits of params.yaml.")] = False,
) -> None:
    """Write params.yaml for a profile."""
    from optogram.params import RECIPE, profile_text
    from optogram.pipeline import declared_outs

    path = Path("params.yaml")
    text = profile_text(name, settings or [])
    before = path.read_text() if path.exists() else text
    if before != text and not force:
        recipe = shlex.split(before.partition("\n")[0].removeprefix(RECIPE))
        try:
            untouched = bool(recipe) and profile_text(recipe[0], recipe[1:]) == before
        except OptogramError:  # the profile it was made from is no more
            untouched = False
        if not untouched:
            raise ParamError(
                "params.yaml has edits of your own, which would be lost. Give them as settings "
                f"(`optogram profile {name} KEY=VALUE`), or pass --force."
            )
    outs = declared_outs()
    if before != text or not path.exists():
        path.write_text(text)
        # what the new profile does not make would lie beside what it makes, and be read with it; DVC's cache keeps it
        for stray in sorted(outs - declared_outs()):
            if Path(stray).exists():
                shutil.rmtree(stray) if Path(stray).is_dir() else Path(stray).unlink()
                console.print(f"{stray}: not part of this profile, taken out of the working tree.")
    console.print(f"params.yaml is profile {name}{' with ' + ' '.join(settings) if settings else ''}.", markup=False)


@app.command()
def sync(check: Annotated[bool, typer.Option(help="Change nothing; status 1 if dvc.yaml is behind.")] = False) -> None:
    """Rewrite each stage's code deps in dvc.yaml from what its module imports."""
    from optogram.pipeline import synced

    path = Path("dvc.yaml")
    text, changed = synced(path)
    if not changed:
        console.print("dvc.yaml is in step with the code.")
    elif check:
        console.print(f"dvc.yaml is behind the code: {', '.join(changed)}. Run `optogram sync`.")
        raise typer.Exit(1)
    else:
        path.write_text(text)
        console.print(f"Rewrote the code deps of {', '.join(changed)}.")


@app.command()
def doctor() -> None:
    """Say what this machine has, and what the run in params.yaml needs."""
    from optogram.doctor import findings

    table = Table(box=None, show_header=False, pad_edge=False)
    bad = 0
    for finding in findings():
        mark = {"ok": "[green]ok[/]", "note": "[yellow]note[/]", "bad": "[red]bad[/]"}[finding.state]
        bad += finding.state == "bad"
        table.add_row(mark, finding.what, finding.found)
    console.print(table)
    if bad:
        raise typer.Exit(1)


def main() -> None:
    """Entry point: a user's error is printed without a traceback and ends with status 1."""
    # rich cuts tables to 80 columns in a pipe; a log can take more
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 160
    try:
        app()
    except OptogramError as error:
        Console(stderr=True).print(f"[bold red]{type(error).__name__}[/]:", end=" ")
        print(error, file=sys.stderr)
        raise SystemExit(1) from None
