"""The index of docs/artifacts: every artifact, what its stage says of it, and the file that has its schema."""

import re
from pathlib import Path

from optogram.params.families import FAMILIES
from optogram.pipeline.declared import ROOT, declared

BEGIN, END = "<!-- written by `optogram sync` -->", "<!-- /written -->"


def schema_index(root: Path = ROOT) -> str:
    """docs/artifacts/README.md as it has to be. ValueError for an artifact without a schema, or one with two."""
    folder = root / "docs/artifacts"
    files: dict[str, str] = {}
    for path in sorted(folder.glob("[a-z]*.md")):
        for name in re.findall(r"^## `(\S+)`$", path.read_text(), re.M):
            if files.setdefault(name, path.name) != path.name:
                raise ValueError(f"docs/artifacts has two schemas of {name}, in {files[name]} and {path.name}.")
    rows = ["| artifact | what its stage does | schema |", "|---|---|---|"]
    for name, desc in _artifacts(root).items():
        if name not in files:
            raise ValueError(f"docs/artifacts has no schema of {name}. Add `## `{name}`` to the file of its family.")
        rows.append(f"| `{name}` | {desc} | [{files[name]}]({files[name]}) |")
    text = (folder / "README.md").read_text()
    start, stop = text.index(BEGIN), text.index(END)
    return text[:start] + "\n".join([BEGIN, *rows, ""]) + text[stop:]


def _artifacts(root: Path) -> dict[str, str]:
    """What its stages say of each artifact, family by family. The report is for people, and has no schema."""
    found: dict[str, list[str]] = {}
    for _, stage in sorted(declared(root).values(), key=lambda one: FAMILIES.index(one[1].family)):
        name, desc = (re.sub(r"\{(\w+)\}", r"<\1>", text) for text in (stage.out, stage.desc))
        if stage.cached and stage.out != "report":
            found.setdefault(name, []).append(re.sub(r"<(\w+)>", r"`<\1>`", desc))
    return {name: "; ".join(said) for name, said in found.items()}
