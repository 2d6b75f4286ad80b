"""The `optogram` command: find, open, fetch, compare and verify artifacts; set a profile; look at the machine."""

import io
import os
import shutil
import signal
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from optogram import __version__
from optogram.catalog.checkout import find_checkout
from optogram.cli.study import app as study
from optogram.cli.terminal import Name, Remote, complain, console, enter, enter_artifacts
from optogram.cli.transfer import app as transfer
from optogram.errors import ExtraError, FlowError, OptogramError, ParamError

if TYPE_CHECKING:
    from optogram.catalog.compare import Change
    from optogram.pipeline.verify import Verdict

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(study, name="study")
app.add_typer(transfer)

STATES = {
    "equal": ("equal", "green"),
    "within": ("within tolerance", "green"),
    "differs": ("differs", "bold red"),
    "unverified": ("could not be verified", "yellow"),
}
Rev = Annotated[str | None, typer.Option(help="A git revision: branch, tag or commit. Default: the working tree.")]
Repo = Annotated[str, typer.Option(help="Path or git URL of the repository.")]


def _tell_version(asked: bool) -> None:
    if asked:
        print(f"optogram {__version__}")
        raise typer.Exit


@app.callback(help=__doc__)
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Say which version this is.", is_eager=True, callback=_tell_version)
    ] = False,
) -> None:
    pass


@app.command(epilog="Example: optogram catalog --rev v1")
def catalog(rev: Rev = None, repo: Repo = ".") -> None:
    """List all artifacts: name, kind, dims, bytes, hash, stage, title."""
    from optogram.catalog.find import catalog as find

    enter_artifacts(repo)
    frame = find(rev=rev, repo=repo)
    if frame.empty:
        console.print(
            "No artifacts here yet: `make demo` makes them, `optogram catalog --rev HEAD` says what is shipped."
        )
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("name", "dims", "MB", "hash", "stage", "title"):
        table.add_column(column, justify="right" if column == "MB" else "left", overflow="fold")
    for row in frame.to_dict("records"):
        cells = {**row, "MB": f"{row['bytes'] / 1e6:,.1f}", "hash": row["hash"][:10]}
        table.add_row(*(cells[str(column.header)] for column in table.columns))
    console.print(table)


@app.command(name="open", epilog="Example: optogram open textspan/demo --rev v1")
def open_(name: Name, rev: Rev = None, repo: Repo = ".", remote: Remote = None) -> None:
    """Show an artifact: its dimensions, variables, units and provenance."""
    from optogram.catalog.find import open as open_artifact

    enter_artifacts(repo)
    dataset = open_artifact(name, rev=rev, repo=repo, remote=remote)
    console.print(repr(dataset), markup=False, highlight=False)
    for variable in sorted(map(str, dataset.data_vars)):
        if meaning := dataset[variable].attrs.get("long_name"):
            console.print(f"  {variable}: {meaning}", markup=False, highlight=False)


@app.command(epilog='Example: optogram profile photos "photos.path=my photos.zip" textspan.size=8')
def profile(
    name: Annotated[
        str | None, typer.Argument(help="demo (the defaults), or a file in profiles/ without .yaml. None: what it is.")
    ] = None,
    settings: Annotated[list[str] | None, typer.Argument(help="KEY=VALUE on top, such as textspan.size=8.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Drop your own edits of params.yaml, and let files be missing.")
    ] = False,
    images: Annotated[str, typer.Option(help="Your photographs: short for photos.path=IMAGES.")] = "",
    words: Annotated[str, typer.Option("--set", help="Further settings in one text; quotes keep spaces.")] = "",
) -> None:
    """Write params.yaml for a profile. Values of text fields are taken as they are typed, others are YAML."""
    from optogram.params.profiles import described, split_settings, write_profile
    from optogram.params.settings import seen_from
    from optogram.pipeline.dvc_yaml import declared_outs

    root = find_checkout()
    chosen = [*([f"photos.path={images}"] if images.strip() else []), *split_settings(words), *(settings or [])]
    if root != Path.cwd():
        chosen = seen_from(root, chosen)
    enter()
    if name is None and chosen:
        raise ParamError("Settings lie on top of a profile: name it first, such as `optogram profile demo seed=1`.")
    if name is not None:
        outs = declared_outs()
        if write_profile(name, chosen, force=force):
            # what the new profile does not make would lie beside what it makes, and be read with it; DVC's cache
            # keeps it
            now = declared_outs()
            for stray in sorted(outs - now if now else ()):
                if Path(stray).exists():
                    shutil.rmtree(stray) if Path(stray).is_dir() else Path(stray).unlink()
                    console.print(f"{stray}: not part of this profile, taken out of the working tree.", markup=False)
    console.print(f"params.yaml is {described()}.", markup=False, highlight=False, soft_wrap=True)


@app.command(epilog="Example: optogram sync --check")
def sync(check: Annotated[bool, typer.Option(help="Change nothing; status 1 if a file is behind.")] = False) -> None:
    """Write dvc.yaml, and the index of docs/artifacts, from what the stages declare and import."""
    from optogram.pipeline.dvc_yaml import changed_stages, dvc_yaml
    from optogram.pipeline.schema_index import schema_index

    enter()
    root, index = Path.cwd(), Path("docs/artifacts/README.md")
    now = {Path("dvc.yaml"): dvc_yaml(root)} | ({index: schema_index(root)} if index.exists() else {})
    was = {path: path.read_text() if path.exists() else "" for path in now}
    behind = [path for path in now if now[path] != was[path]]
    for path in behind:
        of = f" ({', '.join(changed_stages(was[path], now[path]))})" if path.suffix == ".yaml" else ""
        console.print(f"{path} {'is behind the stages' if check else 'is written'}{of}.", highlight=False)
    if behind and check:
        console.print("Run `optogram sync`.")
        raise typer.Exit(1)
    if not behind:
        console.print("dvc.yaml and docs/artifacts are in step with the stages.")
    for path in behind:
        path.write_text(now[path])


PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@app.command(context_settings=PASSED_ON, epilog="Example: optogram run textspan")
def run(context: typer.Context) -> None:
    """Run what is stale as one Prefect flow, here or in work pools (`optogram run --help`)."""
    _in_checkout("run", context.args)


@app.command(context_settings=PASSED_ON, epilog="Example: optogram ui")
def ui(context: typer.Context) -> None:
    """Serve Prefect's UI and the report on 127.0.0.1 until Ctrl-C."""
    _in_checkout("ui", context.args)


def _in_checkout(command: str, arguments: list[str]) -> None:
    """Become a command of this checkout's `flows/`: the library itself knows no Prefect."""
    enter()
    if not Path("flows/__main__.py").is_file():
        raise FlowError(f"`optogram {command}` runs in a checkout of Optogram; {Path.cwd()} has no flows/.")
    if find_spec("prefect") is None:
        raise ExtraError(f"`optogram {command}`", "prefect")
    os.execv(sys.executable, [sys.executable, "-m", "flows", command, *arguments])


@app.command(epilog="Example: optogram verify textspan vital@resnet")
def verify(
    stages: Annotated[list[str] | None, typer.Argument(help="Stages (textspan@demo) or groups (textspan).")] = None,
    rev: Rev = None,
) -> None:
    """Recompute stages in a throw-away clone, each from its locked inputs, and compare their bytes with dvc.lock.

    Status 0: all equal, or within verify.absolute or verify.relative of params.yaml; 1: something differs; 2: something
    could not be verified. Neither the working tree nor the cache is written to.
    """
    from optogram.catalog.compare import Tolerance
    from optogram.params.root import load_params
    from optogram.pipeline.clone import uncommitted
    from optogram.pipeline.verify import verify as recompute

    def tell(verdict: "Verdict") -> None:
        console.print(f"{verdict.stage}: {STATES[verdict.state][0]}", markup=False, highlight=False)

    # so that the clone goes, whoever ends us
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        enter()
        bounds = load_params().verify
        if rev is None and (edited := uncommitted()):
            more = f" and {len(edited) - 5} more" if len(edited) > 5 else ""
            console.print(f"As the working tree has it, not committed: {', '.join(edited[:5])}{more}", markup=False)
        verdicts = recompute(stages or (), rev=rev, tolerance=Tolerance(bounds.absolute, bounds.relative), tell=tell)
    except OptogramError as error:
        complain(error)
        raise typer.Exit(2) from None
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("stage", "result", "seconds"):
        table.add_column(column, justify="right" if column == "seconds" else "left")
    for verdict in verdicts:
        table.add_row(verdict.stage, Text(*STATES[verdict.state]), f"{verdict.seconds:.1f}")
    console.print(table)
    for verdict in verdicts:
        for line in (verdict.reason, *verdict.notes):
            if line:
                console.print(Text(f"\n{verdict.stage}: {line}"))
        for out in dict.fromkeys(out for out, _ in verdict.changes):
            console.print(Text(f"\n{out}", style="bold"))
            _show(change for one, change in verdict.changes if one == out)
    states = {verdict.state for verdict in verdicts}
    raise typer.Exit(1 if "differs" in states else 2 if "unverified" in states else 0)


@app.command(epilog="Example: optogram changed --rev v1")
def changed(
    rev: Annotated[str, typer.Option(help="The git revision whose dvc.lock is compared with.")] = "HEAD",
) -> None:
    """Say how many outs of the last run differ from the committed dvc.lock, by how much, and likely why."""
    from optogram.catalog.compare import Tolerance
    from optogram.params.root import load_params
    from optogram.pipeline.changed import compare_lock

    enter()
    bounds = load_params().verify
    for line in compare_lock(rev=rev, tolerance=Tolerance(bounds.absolute, bounds.relative)).lines():
        console.print(line, markup=False, highlight=False)


@app.command(epilog="Example: optogram diff textspan/demo@v1 textspan/demo --html diff.html")
def diff(
    a: Annotated[str, typer.Argument(help="NAME or NAME@REV, such as textspan/demo@v1.")],
    b: Annotated[str, typer.Argument(help="Likewise; without @REV it is the working tree's.")],
    html: Annotated[
        Path | None, typer.Option(help="Write a standalone page with plots to this file.", resolve_path=True)
    ] = None,
) -> None:
    """Say what differs between two revisions of an artifact: variables, labels, values, attributes, and by how much."""
    from optogram.pipeline.diff import diff as compare
    from optogram.pipeline.diff import write_diff

    enter_artifacts()
    compared = compare(a, b)
    for part in compared:
        if len(compared) > 1 and part.changes:
            console.print(Text(f"\n{part.name}", style="bold"))
        if part.changes:
            _show(part.changes, tolerance=False)
    same = [part.name for part in compared if not part.changes]
    if same:
        console.print(f"No difference in {', '.join(same)}.", markup=False, highlight=False)
    if html:
        write_diff(html, a, b, compared)
        console.print(f"The page: {html}", markup=False, highlight=False)


@app.command(epilog="Example: optogram lineage textspan/demo --html lineage.html")
def lineage(
    name: Name,
    rev: Rev = None,
    mermaid: Annotated[bool, typer.Option("--mermaid", help="Print a mermaid flowchart instead of a tree.")] = False,
    html: Annotated[
        Path | None, typer.Option(help="Draw it as a standalone page in this file.", resolve_path=True)
    ] = None,
) -> None:
    """Show the artifacts, params and code that led to an artifact, and whether the tree still has what was made."""
    from optogram.pipeline import lineage as lines

    enter()
    found = lines.lineage(name, rev=rev)
    if mermaid:
        print(lines.mermaid(found))
    elif html is None:
        console.print(lines.tree(found))
    if html:
        lines.write_lineage(html, found)
        print(f"The page: {html}", file=sys.stderr)
    for made in found.made.values():
        for note in made.notes:
            Console(stderr=True).print(Text(f"{made.name}: {note}", "yellow"), soft_wrap=True)


@app.command(epilog="Example: optogram gc --dry-run")
def gc(
    all_commits: Annotated[bool, typer.Option("--all-commits", help="Keep what any commit uses.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask, for scripts.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would go.")] = False,
) -> None:
    """Take out of the DVC cache what no branch, tag or the workspace uses, and what dead runs left in .scratch/."""
    from optogram.pipeline.gc import drop_scratch, drop_unused, scratch_folders, unused_objects

    enter()
    unused, scratch = unused_objects(all_commits=all_commits), scratch_folders()
    stale = [one for one in scratch if not one.busy]
    folders = sum(path.name.endswith(".dir") for path in unused.paths)
    kept = "any commit uses" if all_commits else "the workspace, HEAD, branches and tags use"
    count = f"{len(unused.paths):,} objects ({folders:,} folders), {unused.bytes / 1e6:,.1f} MB"
    console.print(f"DVC cache: {count}, beside what {kept}.")
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("scratch", "belongs to", "age", "MB", ""):
        table.add_column(column, justify="right" if column in ("age", "MB") else "left", overflow="fold")
    for one in scratch:
        age = f"{one.age / 86400:.1f} days" if one.age > 86400 else f"{one.age / 3600:.1f} h"
        state = "in use, stays" if one.busy else "stale"
        table.add_row(one.folder.name[:12], Text(one.belongs), age, f"{one.bytes / 1e6:,.1f}", state)
    if scratch:
        console.print(table)
    total = unused.bytes + sum(one.bytes for one in stale)
    console.print(
        f"Together {total / 1e6:,.1f} MB. A cut-off run resumes from its scratch; without it, it starts anew."
    )
    if dry_run or not (unused.paths or stale):
        return
    if not yes and not sys.stdin.isatty():
        raise ParamError("`optogram gc` asks before it removes, and nobody can answer here. Pass --yes or --dry-run.")
    if not yes and not typer.confirm("Remove them?"):
        raise typer.Exit(1)
    if unused.paths:
        drop_unused(all_commits=all_commits)
    gone = sum(drop_scratch(one) for one in stale)
    console.print(f"Removed {len(unused.paths):,} objects and {gone} scratch folders.")


@app.command(epilog="Example: optogram doctor")
def doctor() -> None:
    """Say what this machine has, and what the run in params.yaml needs."""
    from optogram.pipeline.doctor import findings

    enter()
    table = Table(box=None, show_header=False, pad_edge=False)
    bad = 0
    for finding in findings():
        mark = {"ok": "[green]ok[/]", "note": "[yellow]note[/]", "bad": "[red]bad[/]"}[finding.state]
        bad += finding.state == "bad"
        table.add_row(mark, finding.what, finding.found)
    console.print(table)
    if bad:
        raise typer.Exit(1)


def _show(changes: "Iterable[Change]", *, tolerance: bool = True, most: int = 30) -> None:
    """What differs, as a table."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("what", "", "differ", "largest", "relative", *(["tolerance"] if tolerance else []), "where"):
        right = column in ("differ", "largest", "relative")
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    rows = list(changes)
    for change in rows[:most]:
        share = f"{change.differing:,} of {change.entries:,}" if change.entries else ""
        sizes = [f"{value:.2g}" if value is not None else "" for value in (change.absolute, change.relative)]
        passes = [Text("within", "green") if change.within else Text("beyond", "red")] if tolerance else []
        # user-made names and values: Text takes no markup
        table.add_row(Text(change.name), change.kind, share, *sizes, *passes, Text(change.says))
    console.print(table)
    if len(rows) > most:
        console.print(f"… and {len(rows) - most:,} more")


def main() -> None:
    """Entry point: a user's error is printed without a traceback and ends with status 1."""
    # rich cuts tables to 80 columns in a pipe; a log can take more
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 160
    for stream in (sys.stdout, sys.stderr):  # names of files can be no UTF-8, and the terminal can be ASCII
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except OptogramError as error:
        complain(error)
        raise SystemExit(1) from None
    except ModuleNotFoundError as error:  # the library's packages are always there, an extra's may not be
        package = (error.name or "optogram").partition(".")[0]
        if package in {"optogram", "stages", "flows"} | sys.stdlib_module_names:
            raise
        complain(ExtraError("This command", package))
        raise SystemExit(1) from None
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
