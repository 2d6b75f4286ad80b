"""Room flows: why a stage runs, in plain words, from what DVC found changed."""

from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from optogram.pipeline.dvc_yaml import is_code

ABSENT = object()
KINDS = ("made", "params", "code", "from", "input", "by hand", "uncached", "else")


def why(changes: list[Any], *, entry: Mapping[str, Any], makers: Mapping[str, str], params: Mapping[str, Any]) -> str:
    """What DVC reports of one stage as people say it: "not made yet", "params changed: vital.steps".

    changes: the stage's part of DVC's status. entry: what dvc.lock says of the stage. makers: the stage of each out of
    the pipeline. params: today's params.yaml.
    """
    if not entry:
        return "not made yet"
    # in the order in which people want to know
    found: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for change in changes:
        if isinstance(change, str):  # "changed command", "always changed"
            found["else"].append("its command changed" if "command" in change else "it runs every time")
            continue
        for path, how in change.get("changed outs", {}).items():
            gone = how == "deleted" or not Path(path).exists()
            found["made" if gone else "uncached" if how == "not in cache" else "by hand"].append(path)
        for path, how in change.get("changed deps", {}).items():
            if isinstance(how, dict):  # {key: modified}
                before = entry.get("params", {}).get(path, {})
                found["params"] += [leaf for key in sorted(how) for leaf in _leaves(key, before, params)]
            elif from_stages := _from(path, makers):
                found["from"] += from_stages
            else:
                found["code" if is_code(path) else "input"].append(path)
    phrases = {
        "params": "params changed: {}",
        "code": "code changed: {}",
        "from": "what it reads changed or is not here, from {}",
        "input": "changed or missing: {}",
        "by hand": "changed since it was made: {}",
        "uncached": "here, but no longer in DVC's cache: {}",
        "else": "{}",
    }
    said = ["not made yet"] if found["made"] else []
    # a stage that is to be made anyway, or for another reason, needs no word on what it reads
    own = any(found[kind] for kind in ("made", "params", "code", "input"))
    said += [
        phrases[kind].format(few(names))
        for kind, names in found.items()
        if names and kind in phrases and not (kind == "from" and own)
    ]
    return "; ".join(said)


def few(names: Iterable[str], most: int = 3) -> str:
    """The first names, and how many more there are."""
    unique = list(dict.fromkeys(names))
    shown = ", ".join(unique[:most])
    return f"{shown} and {len(unique) - most} more" if len(unique) > most else shown


def _from(path: str, makers: Mapping[str, str]) -> list[str]:
    """Stages that make this path, something above it or something below it."""
    wanted = PurePosixPath(path)
    return [
        stage
        for out, stage in makers.items()
        if wanted.is_relative_to(out) or PurePosixPath(out).is_relative_to(wanted)
    ]


def _leaves(key: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The settings at and below a key whose values differ; `key` itself where that cannot be told."""
    here: Any = now
    for part in key.split("."):
        here = here.get(part, ABSENT) if isinstance(here, dict) else ABSENT
    found: list[str] = []

    def walk(name: str, old: Any, new: Any) -> None:
        if isinstance(old, dict) and isinstance(new, dict):
            for part in dict.fromkeys([*old, *new]):
                walk(f"{name}.{part}", old.get(part, ABSENT), new.get(part, ABSENT))
        elif old != new:
            found.append(name)

    walk(key, before.get(key, ABSENT), here)
    return found or [key]
