"""Profiles: params.yaml written from the defaults, an overlay of profiles/ and settings on top, with its comments."""

import io
import shlex
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from optogram.errors import OptogramError, ParamError, nearest
from optogram.params.crosschecks import missing_files
from optogram.params.root import Params, load_params, read_mapping, validated
from optogram.params.sections import Section
from optogram.params.settings import parsed

RECIPE = "# optogram profile"
FOLLOWS = {"targets.inner": "classifiers", "reference_sets.models": "classifiers", "visual_scores.clip": "clips"}
"""What names models of those that are studied, so that studying another takes one setting."""


def profile_params(name: str, settings: list[str], folder: Path = Path("profiles")) -> Params:
    """The params of a profile (`demo` = the defaults) with "key.path=value" settings on top.

    Raises ParamError for an unknown profile or key, or a value that does not fit.
    """
    values = Params().model_dump()
    given: list[str] = []
    known = ["demo", *sorted(p.stem for p in folder.glob("*.yaml"))]
    if name not in known:
        raise ParamError(f"No profile {name!r}; there are {', '.join(known)}.{nearest(name, known)}")
    if name != "demo":
        overlay = read_mapping(folder / f"{name}.yaml")
        values = _overlay(values, overlay, replaced=("splits", "models", "files", "groups"))
        given += [f"{section}.{key}" for section, of in overlay.items() if isinstance(of, dict) for key in of]
    for key, value in parsed(settings).items():
        nested = value
        for part in reversed(key.split(".")):
            nested = {part: nested}
        values = _overlay(values, nested)
        given.append(key)
    _follow(values, given)
    return validated(values, f"profile {name}")


def _follow(values: dict[str, Any], given: list[str]) -> None:
    """Where params name models of those that are studied, and were not given, they go with what is studied."""
    for key, chosen in FOLLOWS.items():
        section, field = key.split(".")
        studied, of = values[chosen], values[section]
        if key in given or section in given or not (isinstance(studied, list) and studied and isinstance(of, dict)):
            continue
        if isinstance(of[field], list):
            of[field] = [name for name in of[field] if name in studied] or studied[:1]
        elif of[field] not in studied:
            of[field] = studied[0]


def profile_text(name: str, settings: list[str], folder: Path = Path("profiles")) -> str:
    """params.yaml for a profile with settings on top; raises as `profile_params` does.

    Its first line is the recipe, so that params.yaml can tell whether it has been edited since.
    """
    stream = io.StringIO()
    yaml = YAML()
    yaml.width = 120
    yaml.dump(_commented(profile_params(name, settings, folder)), stream)
    recipe = f"{RECIPE} {shlex.join([name, *settings])}"
    note = "# The first line tells what wrote this file. Edit freely; `optogram profile` warns first."
    return f"{recipe}\n{note}\n{stream.getvalue()}"


def write_profile(name: str, settings: list[str], *, force: bool = False, path: Path = Path("params.yaml")) -> bool:
    """Write params.yaml for a profile; whether that changed it.

    Raises ParamError as `profile_params` does, and, unless `force`, if the file has edits of its own or if the params
    name a file that is not there.
    """
    text = profile_text(name, settings)
    before = _text(path) if path.exists() else None
    if not force:
        if before not in (None, text) and not is_untouched(str(before)):
            raise ParamError(
                f"{path} has edits of your own, which would be lost. Give them as settings "
                f"(`optogram profile {name} KEY=VALUE`), or pass --force."
            )
        if missing := list(missing_files(profile_params(name, settings))):
            raise ParamError("\n".join(f"{line}." for line in missing) + "\n--force writes it all the same.")
    if before != text:
        path.write_text(text, encoding="utf-8")
    return before != text


def split_settings(text: str) -> list[str]:
    """The settings in one text such as `SET` of make; quotes keep spaces, as in a shell, and nothing is run."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ParamError(f"SET={text}: {error}. Quotes come in pairs, such as SET=\"photos.path='a b.zip'\".") from None


def recipe(text: str) -> list[str]:
    """The profile and the settings in the first line of a params.yaml; none if something else stands there."""
    first = text.partition("\n")[0]
    if not first.startswith(f"{RECIPE} "):
        return []
    try:
        return shlex.split(first.removeprefix(RECIPE))
    except ValueError:  # quotes that do not close: a comment of somebody's own
        return []


def is_untouched(text: str) -> bool:
    """Whether params.yaml is still what its first line says."""
    words = recipe(text)
    try:
        return bool(words) and profile_text(words[0], words[1:]) == text
    except OptogramError:  # the profile it was made from is no more
        return False


def described(path: Path = Path("params.yaml")) -> str:
    """What params.yaml is, such as "profile smoke with textspan.size=4"; ParamError if it cannot be used."""
    load_params(path)
    text = _text(path)
    if not (words := recipe(text)):
        return "params of your own"
    said = f"profile {words[0]}" + (f" with {shlex.join(words[1:])}" if words[1:] else "")
    return said if is_untouched(text) else f"{said}, and edits of your own"


def _text(path: Path) -> str:
    """A file's text; what is not UTF-8 is nobody's recipe, and is kept apart by marks."""
    return path.read_text(encoding="utf-8-sig", errors="replace")


def _overlay(base: Any, top: dict[str, Any], replaced: tuple[str, ...] = ()) -> Any:
    """`top` laid over `base`, mapping by mapping; mappings whose key is in `replaced` are taken whole."""
    merged = dict(base)
    for key, value in top.items():
        below = merged.get(key)
        # an empty mapping on top empties the one below
        merge = isinstance(below, dict) and isinstance(value, dict) and value and key not in replaced
        merged[key] = _overlay(below, value, replaced) if merge else value
    return merged


def _commented(section: Section) -> CommentedMap:
    """A section as YAML with its fields' descriptions as comments."""
    out = CommentedMap()
    for name, info in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Section):
            out[name] = _commented(value)
            if type(value).__doc__:
                out.yaml_set_comment_before_after_key(name, before="\n" + str(type(value).__doc__))
        elif isinstance(value, dict):
            out[name] = CommentedMap({k: _flow(v) if isinstance(v, Section) else v for k, v in value.items()})
        elif isinstance(value, list):
            out[name] = CommentedSeq(value)
            out[name].fa.set_flow_style()
        else:
            out[name] = value
        if info.description:
            out.yaml_add_eol_comment(info.description, name)
    return out


def _flow(section: Section) -> CommentedMap:
    """A section as a plain mapping, on one line where it is a few numbers."""
    mapping = CommentedMap(section.model_dump())
    # never texts: ruamel writes `{spec: open_clip:x}`, which it then refuses to read
    if len(mapping) <= 4 and not any(isinstance(value, str) for value in mapping.values()):
        mapping.fa.set_flow_style()
    return mapping
