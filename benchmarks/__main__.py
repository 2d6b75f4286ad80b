"""`make bench`: every claim measured beside the naive or reference algorithm, in docs/benchmarks.md and results.json.

`python -m benchmarks textspan scenes` measures these only and leaves the other rows of results.json as they are.
"""

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from stages.doorway import rounded

RESULTS = Path(__file__).parent / "results.json"
DOCUMENT = Path(__file__).parents[1] / "docs/benchmarks.md"
MARKS = ("<!-- bench -->", "<!-- /bench -->")
SUBJECTS = (
    "scenes",
    "contributions",
    "second_order",
    "vit_l",
    "textspan",
    "sparse",
    "sort_matching",
    "sampling",
    "guidance",
    "diffusion_training",
    "rosetta",
    "store",
    "dask",
    "runs",
    "start",
)


def main(subjects: list[str]) -> None:
    """Measure, print, write."""
    unknown = sorted(set(subjects) - set(SUBJECTS))
    if unknown:
        raise SystemExit(f"no benchmark called {unknown[0]!r}; there are {', '.join(SUBJECTS)}")
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() and subjects else []
    chosen = subjects or list(SUBJECTS)
    rows = [row for row in kept if row["subject"] not in chosen]
    for subject in chosen:
        print(f"measuring {subject} …", file=sys.stderr, flush=True)
        rows += [{"subject": subject, **row} for row in import_module(f"benchmarks.{subject}").rows()]
    rows.sort(key=lambda row: SUBJECTS.index(row["subject"]))
    table = Table(title="Ours beside the naive or reference algorithm")
    for column in ("claim", "ours", "theirs", "ratio", "unit", "sizes", "device"):
        table.add_column(column, justify="right" if column in ("ours", "theirs", "ratio") else "left", overflow="fold")
    for row in rows:
        numbers = {name: f"{row[name]:,.4g}" if row[name] is not None else "" for name in ("ours", "theirs", "ratio")}
        cells = {**row, **numbers}
        table.add_row(*(str(cells.get(str(column.header), "")) for column in table.columns))
    console = Console(width=None if sys.stdout.isatty() else 180)
    console.print(table)
    RESULTS.write_text(json.dumps(rounded(rows), indent=1, sort_keys=True) + "\n")
    write_document(rows)


def write_document(rows: list[dict[str, Any]]) -> None:
    """Put the table between the document's two marks."""
    lines = ["| claim | ours | theirs | ratio | unit | device |", "|---|---|---|---|---|---|"]
    for row in rows:
        numbers = " | ".join(f"{row[name]:,.4g}" for name in ("ours", "theirs", "ratio"))
        lines.append(f"| {row['claim']} | {numbers} | {row['unit']} | {row['device']} |")
    before, _, rest = DOCUMENT.read_text().partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    DOCUMENT.write_text(f"{before}{MARKS[0]}\n{chr(10).join(lines)}\n{MARKS[1]}{after}")


if __name__ == "__main__":
    main(sys.argv[1:])
