"""Settings as they are typed, KEY=VALUE: the value of a text field is what stands there, all others are YAML."""

import os
import re
import unicodedata
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from optogram.errors import ParamError
from optogram.params.crosschecks import exists
from optogram.params.root import Params
from optogram.params.sections import Section

# stands in for a "#" in a trial reading: YAML takes what follows " #" for a comment
STAND_IN = "\ue000"
FILES = re.compile(r"photos\.path|texts\.files\.[^.]+|load_(clip|classifier|generator)\.models\.[^.]+\.checkpoint")
# control characters, halves of characters (a name that is not UTF-8), ends of lines and paragraphs
CONTROLS = ("Cc", "Cs", "Zl", "Zp")


def parsed(settings: list[str]) -> dict[str, Any]:
    """{"textspan.size": 8} of ["textspan.size=8"].

    Raises ParamError for what is no setting, a key that comes twice, and a value that can be no value of its field.
    """
    values: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        key = key.strip()
        if not equals or not all(key.split(".")):
            raise ParamError(f"{setting!r} is no setting; expected KEY=VALUE, such as textspan.size=8.")
        if any(unicodedata.category(character) in CONTROLS for character in setting):
            raise ParamError(
                f"{setting!r} has a line break or another character that cannot be shown. Take it out; a file or "
                "folder with such a name: rename it."
            )
        value = _value(key, text)
        if key in values:
            raise ParamError(f"{key} is set twice, to {values[key]!r} and to {value!r}. Leave one out.")
        values[key] = value
    return values


def seen_from(root: Path, settings: list[str]) -> list[str]:
    """Settings as params.yaml in `root` says them, where files of the current folder have another path."""
    found = []
    for setting in settings:
        key, _, path = setting.partition("=")
        if FILES.fullmatch(key.strip()) and path and not Path(path).is_absolute() and exists(path):
            setting = f"{key}={os.path.relpath(path, root)}"
        found.append(setting)
    return found


def _value(key: str, text: str) -> Any:
    kinds = _kinds(key)
    if str in kinds or any(get_origin(kind) is Literal for kind in kinds):
        if NoneType in kinds and text.strip() in ("null", ""):
            if not text:
                raise ParamError(f"{key}= has no value. Write {key}=null to leave it unset.")
            return None
        return text
    if not text.strip():
        raise ParamError(f"{key}= has no value. Expected KEY=VALUE, such as textspan.size=8.")
    try:
        value = YAML(typ="safe").load(text)
        marked = YAML(typ="safe").load(text.replace("#", STAND_IN))
    except (YAMLError, ValueError, RecursionError) as error:
        reason = getattr(error, "problem", None) or str(error)
        raise ParamError(f"{key}={text}: this is not YAML: {reason}. {_how(key)}") from None
    if repr(marked).replace(repr(STAND_IN)[1:-1], "#") != repr(value):
        raise ParamError(f"{key}={text}: from # on it would be taken for a comment. {_how(key)}")
    return value


def _how(key: str) -> str:
    return (
        f"Expected a number, true, false, null, a list [a, b] or a mapping {{a: 1}}. Texts in it that have one of "
        f"# : , [ ] {{ }} * & ! | > @ % or ` go into double quotes, and the whole into single ones for the shell: "
        f"'{key}=[\"a: #1\", b]'."
    )


def _kinds(key: str) -> tuple[Any, ...]:
    """The types that a key's value may have; none for a key that is unknown, which is said later with the nearest."""
    kind: Any = Params
    for part in key.split("."):
        fitting = [one for one in _alternatives(kind) if get_origin(one) is dict or _is_section(one)]
        if not fitting:
            return ()
        if get_origin(fitting[0]) is dict:
            kind = get_args(fitting[0])[1]
        elif part in fitting[0].model_fields:
            kind = fitting[0].model_fields[part].annotation
        else:
            return ()
    return _alternatives(kind)


def _alternatives(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Section)
