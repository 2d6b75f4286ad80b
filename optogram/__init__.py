"""Optogram: what vision models see, layer by layer, head by head, neuron by neuron."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optogram import decompose, methods
    from optogram.models.spec import load_model
    from optogram.store.catalog import catalog, open, pull

__version__ = "0.1.0"
__all__ = ["catalog", "decompose", "load_model", "methods", "open", "pull"]

# Lazy (PEP 562): `import optogram` costs nothing, and a stage depends only on the modules it imports.
_EXPORTS = {
    "catalog": "optogram.store.catalog",
    "load_model": "optogram.models.spec",
    "open": "optogram.store.catalog",
    "pull": "optogram.store.catalog",
}


def __getattr__(name: str) -> Any:
    if name in ("decompose", "methods"):
        return import_module(f"optogram.{name}")
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'optogram' has no attribute {name!r}")
