"""`optogram pull`, `ship`, `repair`: artifacts between this checkout, what the repository ships, and remotes."""

from typing import Annotated

import typer

from optogram.cli.terminal import Name, Remote, console, enter

app = typer.Typer()
Names = Annotated[list[str], typer.Argument(help="Artifacts, such as textspan/demo roles/demo.")]
Repo = Annotated[str, typer.Option(help="Path of a checkout.")]


@app.command(epilog="Example: optogram pull textspan/demo roles/demo")
def pull(names: Names, repo: Repo = ".", remote: Remote = None) -> None:
    """Fetch artifacts from what is shipped, the DVC cache or a remote, every object checked, and check them out."""
    from optogram.catalog.find import pull as fetch

    enter(repo)
    for out in fetch(*names, repo=repo, remote=remote):
        console.print(f"{out} is here.")


@app.command(epilog="Example: optogram ship && git add .dvc/shipped")
def ship() -> None:
    """Put the findings that .dvc/shipped/findings.txt names into the repository, for clones that have run nothing."""
    from optogram.pipeline.ship import LIMIT
    from optogram.pipeline.ship import ship as put

    enter()
    shipment = put()
    for name, size in shipment.sizes.items():
        console.print(f"{size / 1e6:8.3f} MB  {name}", markup=False, highlight=False)
    total = sum(shipment.sizes.values())
    console.print(f"{total / 1e6:8.3f} MB  together, of at most {LIMIT / 1e6:g}", highlight=False)
    console.print(f"{shipment.added} objects came, {shipment.dropped} went. Commit them: `git add .dvc/shipped`.")


@app.command(epilog="Example: optogram repair textspan/demo --remote lab")
def repair(name: Name, repo: Repo = ".", remote: Remote = None) -> None:
    """Replace the artifact's damaged or missing objects in a remote by those in this cache (`dvc push` would not)."""
    from optogram.catalog.find import repair as mend

    enter(repo)
    replaced = mend(name, repo=repo, remote=remote)
    for oid in replaced:
        console.print(f"{oid} replaced.")
    if not replaced:
        console.print(f"{name}: every object in the remote is right.")
