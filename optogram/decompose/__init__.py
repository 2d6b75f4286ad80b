"""Decompose: a model and its images in, named arrays out. Lazy exports (PEP 562)."""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optogram.decompose.contributions import contributions, token_scores
    from optogram.decompose.expand import augmented, heads

__all__ = ["augmented", "contributions", "heads", "token_scores"]

_EXPORTS = {
    "augmented": "optogram.decompose.expand",
    "contributions": "optogram.decompose.contributions",
    "heads": "optogram.decompose.expand",
    "token_scores": "optogram.decompose.contributions",
}


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'optogram.decompose' has no attribute {name!r}")


class _Package(ModuleType):
    def __setattr__(self, name: str, value: object) -> None:
        # importing the submodule `contributions` would otherwise hide the function of that name
        if name not in _EXPORTS or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
