"""The schemas of the artifacts, as docs/artifacts tells them."""

import re
from itertools import chain
from pathlib import Path

INDEX = Path(__file__).parents[2] / "docs/artifacts/README.md"
FAMILIES = sorted(path for path in INDEX.parent.glob("*.md") if path != INDEX)


def schemas():
    """{artifact pattern: {variable: dims}} from the tables of docs/artifacts."""
    found, name = {}, None
    for line in chain.from_iterable(path.read_text().splitlines() for path in FAMILIES):
        if heading := re.match(r"## `(\S+)`", line):
            name = heading.group(1)
            assert name not in found
            found[name] = {}
        elif name and (row := re.match(r"\| `(\w+)` \| ([\w, ]*) \|", line)):
            found[name][row.group(1)] = tuple(d for d in row.group(2).replace(" ", "").split(",") if d)
    return found
