"""What all commands share: the terminal, the checkout that they work in, how an error is said, common arguments."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from optogram.catalog.checkout import find_checkout
from optogram.errors import OptogramError

console = Console()
Name = Annotated[str, typer.Argument(help="An artifact, such as textspan/demo; `optogram catalog` lists them.")]
Remote = Annotated[str | None, typer.Option(help="A DVC remote. Default: the default one.")]
_moved: Path | None = None  # the root that a command went to from below


def enter(repo: str = ".") -> None:
    """Go to the root of the checkout around, where all paths begin, unless another repository is asked for.

    Raises CheckoutError if there is none.
    """
    if repo == ".":
        _go(find_checkout())


def enter_artifacts(repo: str = ".") -> None:
    """As `enter`, for commands that only read: a folder of artifacts is taken as it is, in a checkout or in none."""
    if repo == ".":
        _go(Path.cwd() if Path("artifacts").is_dir() else find_checkout())


def _go(root: Path) -> None:
    global _moved
    _moved = root if root != Path.cwd() else None
    os.chdir(root)


def complain(error: OptogramError) -> None:
    """Say an error; of the commands in it also where they are meant, if that is not the user's own folder."""
    Console(stderr=True).print(f"[bold red]{type(error).__name__}[/]:", end=" ")
    where = f" Commands are meant in {_moved}." if _moved and "`" in str(error) else ""
    print(f"{error}{where}", file=sys.stderr)
