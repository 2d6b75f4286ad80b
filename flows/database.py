"""Room flows: Prefect's home and database: what keeps a server of ours from starting, said with what mends it."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from flows.settings import KEY, NEEDS_NONE
from optogram.errors import FlowError

# A database is locked for moments only while a server works with it.
LOCK_SECONDS = 5.0
OTHER = f"set PREFECT_HOME to another folder, or {KEY} to a server that runs. {NEEDS_NONE}"
# What the log of a server that did not come up says, and what it means.
SIGNS = {
    "Can't locate revision": "Prefect's database was written by a newer Prefect than this: install that one, or",
    "database is locked": "Another program holds Prefect's database: end it, or",
    "file is not a database": "Prefect's database is damaged: move it away (a new one is made), or",
    "disk image is malformed": "Prefect's database is damaged: move it away (a new one is made), or",
}


class ServerError(FlowError):
    """No server of our own can be had. Stages need none, so a run here goes on; pools do need one."""


def check_home(settings: Any) -> None:
    """ServerError unless Prefect's home can be written to, and its SQLite database, if there is one, opened."""
    home = Path(settings.home)
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(home, os.W_OK | os.X_OK):
            raise PermissionError(f"{home} is not writable")
    except OSError as error:
        raise ServerError(
            f"Prefect keeps its database in {home} (PREFECT_HOME), and cannot: {error}. Please {OTHER}"
        ) from None
    if path := sqlite_file(settings):
        _check_sqlite(path)


def sqlite_file(settings: Any) -> Path | None:
    """The file of Prefect's SQLite database; None for another kind of database. ServerError for no address at all."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    given = settings.server.database.connection_url
    try:
        url = make_url(given.get_secret_value()) if given else None
    except (ArgumentError, ValueError):  # without the address, which can hold a password
        raise ServerError(
            "PREFECT_SERVER_DATABASE_CONNECTION_URL is no address of a database; expected one such as "
            "sqlite+aiosqlite:////home/me/prefect.db. Set it right or unset it, or set "
            f"{KEY} to a server that runs. {NEEDS_NONE}"
        ) from None
    if url is None or url.get_backend_name() != "sqlite" or not url.database or url.database.startswith((":", "file:")):
        return None
    return Path(url.database)


def meaning(log: str) -> str:
    """What the log of a server that did not come up means, and what to do; "" if we know no better than the log."""
    return next((f"{said} {OTHER}" for sign, said in SIGNS.items() if sign in log), "")


def _check_sqlite(path: Path) -> None:
    if not path.exists():
        return
    try:
        with closing(sqlite3.connect(path, timeout=LOCK_SECONDS, isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE")
            database.execute("ROLLBACK")
    except sqlite3.Error as error:
        fix = meaning(str(error)) or f"Mend or move the file, or {OTHER}"
        raise ServerError(f"Prefect's database {path} cannot be used ({error}). {fix}") from None
