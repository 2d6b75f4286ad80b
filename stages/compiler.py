"""torch.compile's machinery, put off until something compiles: no stage does, and importing it takes five seconds."""

import sys
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

_NAMES = ("torch._dynamo", "torch._dynamo.utils")


class _Later(ModuleType):
    """In the place of a module of `_NAMES`; whatever is asked of it beyond what it has loads the module itself."""

    def __getattr__(self, name: str) -> Any:
        # who searches sys.modules for such names (inspect, warnings) needs nothing; who imports from the package does
        if name.startswith("__") and (self.__name__, name) != (_NAMES[0], "__path__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(_real(self.__name__), name)


def put_off() -> None:
    """Let `import torch._dynamo` load nothing yet: torchvision, timm and optimizers want three functions of it.

    They are here, and do what they do where nothing is compiled. What asks for more, such as torch.compile, gets the
    module itself, imported as ever; only functions decorated before that are then compiled where they would have
    been left alone. Does nothing in a process that has torch already.
    """
    if "torch" in sys.modules:
        return
    dynamo, utils = (_Later(name) for name in _NAMES)
    vars(dynamo).update(disable=_disable, graph_break=_graph_break, utils=utils)
    vars(utils).update(is_compile_supported=_is_compile_supported)
    sys.modules |= {dynamo.__name__: dynamo, utils.__name__: utils}


def _disable(fn: Callable[..., Any] | None = None, *_: Any, **__: Any) -> Any:
    """torch._dynamo.disable: timm decorates with it, and so does torch when an optimizer is made."""
    return (lambda function: function) if fn is None else fn


def _graph_break(*_: Any, **__: Any) -> None:
    """torch._dynamo.graph_break: an optimizer calls it at each step."""


def _is_compile_supported(device: Any) -> Any:
    """torch._dynamo.utils.is_compile_supported, which torchvision's roi_align asks on a GPU."""
    return _real(_NAMES[1]).is_compile_supported(device)


def _real(name: str) -> ModuleType:
    for each in _NAMES:
        if isinstance(sys.modules.get(each), _Later):
            del sys.modules[each]
    return import_module(name)
