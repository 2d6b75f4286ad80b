"""Room models: where models come from, CLIP folders, their training, and what they make of texts."""

from importlib import import_module
from typing import Any

_EXPORTS = {
    "Classifier": "classifiers",
    "Clip": "folder",
    "Preprocess": "folder",
    "activations": "classifiers",
    "blocks": "classifiers",
    "build_clip": "folder",
    "embed_pool": "text_embeddings",
    "embed_zeroshot": "text_embeddings",
    "encode_images": "folder",
    "encode_texts": "folder",
    "load_classifier": "classifiers",
    "load_classifier_folder": "classifier_folder",
    "load_clip": "folder",
    "load_clip_spec": "spec",
    "load_model": "spec",
    "penultimate": "classifiers",
    "save_classifier": "classifier_folder",
    "save_clip": "folder",
    "train_clip": "train",
}
__all__ = list(_EXPORTS)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)
