"""Room data: image sources (scenes, photographs) and text pools."""

from importlib import import_module
from typing import Any

_EXPORTS = {
    "ATTRIBUTES": "scenes",
    "ImageMaker": "image_makers",
    "Photos": "photos",
    "SceneMaker": "image_makers",
    "Scenes": "scenes",
    "class_prompts": "photos",
    "class_requests": "requests",
    "describer": "describing",
    "grammar": "describing",
    "held_out_combinations": "scenes",
    "is_random": "pools",
    "parsed_descriptions": "describing",
    "pool": "pools",
    "prompts": "captions",
    "random_vectors": "pools",
    "read_descriptions": "pools",
    "scene_requests": "requests",
    "stated_values": "image_makers",
    "transformers_describer": "describing",
    "value_names": "scenes",
    "without_captions": "requests",
    "zeroshot_prompts": "pools",
}
__all__ = list(_EXPORTS)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return __all__
