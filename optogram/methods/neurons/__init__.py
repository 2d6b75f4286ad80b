"""Findings on neurons; the names of `effects` are found here too."""

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("optogram.methods.neurons.effects"), name)
