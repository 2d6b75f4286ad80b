"""Room models: where models come from, CLIP folders, their training, and what they make of texts."""

from importlib import import_module
from typing import Any

_EXPORTS = {
    "Classifier": "loading.classifiers",
    "Clip": "loading.clip_folders",
    "Judge": "judging.judge",
    "Preprocess": "loading.clip_folders",
    "activations": "layers",
    "blocks": "layers",
    "build_clip": "loading.clip_folders",
    "embed_pool": "text_embeddings",
    "embed_zeroshot": "text_embeddings",
    "encode_images": "loading.clip_folders",
    "encode_texts": "loading.clip_folders",
    "find_objects": "judging.objects",
    "in_order": "layers",
    "load_classifier": "loading.classifiers",
    "load_classifier_folder": "loading.classifier_folders",
    "load_clip": "loading.clip_folders",
    "load_clip_spec": "loading.specs",
    "load_judge": "judging.judge",
    "load_model": "loading.specs",
    "outputs": "layers",
    "penultimate": "linear_head",
    "save_classifier": "loading.classifier_folders",
    "save_clip": "loading.clip_folders",
    "save_judge": "judging.judge",
    "train_clip": "training.clip",
    "train_judge": "training.judge",
}
__all__ = list(_EXPORTS)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return __all__
