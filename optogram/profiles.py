"""Profiles: params.yaml written from the defaults, an overlay of profiles/ and settings on top, with its comments."""

import io
import shlex
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from optogram.errors import ParamError, nearest
from optogram.params import Params, validated
from optogram.sections import Section

RECIPE = "# optogram profile"


def profile_text(name: str, settings: list[str], folder: Path = Path("profiles")) -> str:
    """params.yaml for a profile (`demo` = the defaults) with "key.path=value" settings on top.

    Its first line is the recipe, so that params.yaml can tell whether it has been edited since. Raises ParamError for
    an unknown profile or key, or a value that does not fit.
    """
    values = Params().model_dump()
    if name != "demo":
        path = folder / f"{name}.yaml"
        if not path.is_file():
            known = ["demo", *sorted(p.stem for p in folder.glob("*.yaml"))]
            raise ParamError(f"No profile {name!r}; there are {', '.join(known)}.{nearest(name, known)}")
        values = _overlay(values, YAML(typ="safe").load(path.read_text()) or {}, replaced=("splits", "models", "files"))
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ParamError(f"{setting!r} is no setting; expected KEY=VALUE, such as textspan.size=8.")
        nested: Any = YAML(typ="safe").load(text)
        for part in reversed(key.split(".")):
            nested = {part: nested}
        values = _overlay(values, nested)
    params = validated(values, f"profile {name}")
    stream = io.StringIO()
    yaml = YAML()
    yaml.width = 120
    yaml.dump(_commented(params), stream)
    recipe = f"{RECIPE} {shlex.join([name, *settings])}"
    note = "# The first line tells what wrote this file. Edit freely; `optogram profile` warns first."
    return f"{recipe}\n{note}\n{stream.getvalue()}"


def _overlay(base: Any, top: dict[str, Any], replaced: tuple[str, ...] = ()) -> Any:
    """`top` laid over `base`, mapping by mapping; mappings whose key is in `replaced` are taken whole."""
    merged = dict(base)
    for key, value in top.items():
        below = merged.get(key)
        merge = isinstance(below, dict) and isinstance(value, dict) and key not in replaced
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
