"""Room report: all sections in their order, family after family, and the artifacts that they need."""

from functools import cache
from importlib import import_module
from importlib.util import find_spec

from optogram.params.families import FAMILIES
from optogram.report.section import Section

FOLDER = "sections/"
"""The closure of what imports this module takes this folder of modules whole: they are imported by name."""


@cache
def sections() -> tuple[Section, ...]:
    """The sections of all families that have some: `SECTIONS` of the module named like the family."""
    names = [f"{__package__}.{FOLDER.rstrip('/')}.{family}" for family in FAMILIES]
    return tuple(section for name in names if find_spec(name) for section in import_module(name).SECTIONS)


def needs() -> tuple[str, ...]:
    """The templates of the artifacts that any section reads, sorted: "textspan/{model}", "images/{split}"."""
    return tuple(sorted({template for section in sections() for template in section.needs}))
