"""All stages that a checkout declares, in an order in which they can run."""

import ast
from collections.abc import Iterable
from graphlib import TopologicalSorter
from pathlib import Path

from optogram.params.families import FAMILIES
from optogram.pipeline.stage import Stage

ROOT = Path(__file__).resolve().parents[2]


def declared(root: Path = ROOT) -> dict[str, tuple[str, Stage]]:
    """The stages of a checkout by name, each with the name of its module, every one after what it reads.

    ValueError if two have a name, one has a family that there is not, or they wait for each other.
    """
    found: dict[str, tuple[str, Stage]] = {}
    for path in sorted((root / "stages").glob("[a-z]*.py")):
        for stage in declarations(path):
            if stage.name in found:
                raise ValueError(f"Two stages are called {stage.name}: in stages/{path.stem}.py and elsewhere.")
            found[stage.name] = path.stem, stage
    if strangers := sorted({stage.family for _, stage in found.values()} - {*FAMILIES}):
        raise ValueError(f"No family {strangers[0]!r}; optogram/params/families.py lists {', '.join(FAMILIES)}.")
    before = {
        name: [other for other, (_, source) in found.items() if any(meet(source.out, need) for need in stage.needs)]
        for name, (_, stage) in found.items()
    }
    return {name: found[name] for name in TopologicalSorter(before).static_order()}


def declarations(path: Path) -> list[Stage]:
    """The stages that a module declares. Of the module only that runs which the declarations name: not its libraries,
    whose import takes seconds.
    """
    lines: dict[str, ast.stmt] = {}
    wanted: list[str] = []
    for node in ast.parse(path.read_text(), str(path)).body:
        if isinstance(node, ast.ImportFrom):
            lines |= {alias.asname or alias.name: node for alias in node.names}
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            lines[node.targets[0].id] = node
            if isinstance(node.value, ast.Call) and ast.unparse(node.value.func) in ("Stage", "replace"):
                wanted.append(node.targets[0].id)
    used = [*wanted]
    for name in used:  # grows as it is walked through
        names = [node.id for node in ast.walk(lines[name]) if isinstance(node, ast.Name)]
        used += [one for one in names if one in lines and one not in used]
    kept = [node for node in dict.fromkeys(lines.values()) if any(lines[name] is node for name in used)]
    values: dict[str, object] = {}
    exec(compile(ast.Module(kept, []), str(path), "exec"), values)
    return [stage for name in wanted if isinstance(stage := values[name], Stage)]


def producers(needs: Iterable[str], *, leave: str, root: Path = ROOT) -> dict[str, list[Stage]]:
    """The stages whose outs meet each template of what is needed, but for those of the module `leave`, which asks."""
    paths = sorted((root / "stages").glob("[a-z]*.py"))
    stages = [stage for path in paths if path.stem != leave for stage in declarations(path)]
    return {need: [stage for stage in stages if meet(stage.out, need)] for need in needs}


def meet(one: str, other: str) -> bool:
    """Whether of two templates one lies in the other, or may be it."""
    pairs = zip(one.split("/"), other.split("/"), strict=False)
    return all("{" in a or "{" in b or a == b for a, b in pairs)
