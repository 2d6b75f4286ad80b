"""Decompose: a model and its images in, named arrays out. Lazy exports (PEP 562)."""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optogram.decompose.activations import token_activations
    from optogram.decompose.contributions import contributions, token_scores
    from optogram.decompose.effects import effect_norms, effect_projections, effects
    from optogram.decompose.expand import augmented, heads
    from optogram.decompose.interventions import activation_means, first_order, indirect_effects, intervened
    from optogram.decompose.layer_maps import layer_maps
    from optogram.decompose.second_order import directions, second_order

__all__ = [
    "activation_means",
    "augmented",
    "contributions",
    "directions",
    "effect_norms",
    "effect_projections",
    "effects",
    "first_order",
    "heads",
    "indirect_effects",
    "intervened",
    "layer_maps",
    "second_order",
    "token_activations",
    "token_scores",
]

_EXPORTS = {
    "activation_means": "optogram.decompose.interventions",
    "augmented": "optogram.decompose.expand",
    "contributions": "optogram.decompose.contributions",
    "directions": "optogram.decompose.second_order",
    "effect_norms": "optogram.decompose.effects",
    "effect_projections": "optogram.decompose.effects",
    "effects": "optogram.decompose.effects",
    "first_order": "optogram.decompose.interventions",
    "heads": "optogram.decompose.expand",
    "indirect_effects": "optogram.decompose.interventions",
    "intervened": "optogram.decompose.interventions",
    "layer_maps": "optogram.decompose.layer_maps",
    "second_order": "optogram.decompose.second_order",
    "token_activations": "optogram.decompose.activations",
    "token_scores": "optogram.decompose.contributions",
}


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'optogram.decompose' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__


class _Package(ModuleType):
    def __setattr__(self, name: str, value: object) -> None:
        # importing the submodule `contributions` would otherwise hide the function of that name
        if name not in _EXPORTS or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
