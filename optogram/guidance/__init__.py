"""Room guidance: pictures by a diffusion model: drawn, inverted, and led by whatever says how good they are."""

from importlib import import_module
from typing import Any

_EXPORTS = {
    "Guidance": "guidance.options",
    "NullText": "guidance.inversion",
    "Start": "guidance.trajectory",
    "class_names": "guidance.captions",
    "cleaned": "guidance.masks",
    "guide": "guidance.engine",
    "image_captions": "guidance.captions",
    "invert": "guidance.inversion",
    "label_captions": "guidance.captions",
    "latent_mask": "guidance.masks",
    "record": "guidance.attention",
    "rough_mask": "guidance.masks",
    "sample": "models.generative.sampling",
    "sampled_points": "guidance.masks",
    "with_class": "guidance.captions",
    "word_maps": "guidance.attention",
}
__all__ = list(_EXPORTS)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"optogram.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return __all__
