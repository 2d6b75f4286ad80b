"""Guidance: models of transformers, read from a folder: no network, no pickles, no code that comes with a model."""

import json
from pathlib import Path
from typing import Any

import torch

from optogram.errors import ExtraError, ModelError
from optogram.models.loading.clip_folders import pick_device
from optogram.models.loading.model_files import CONFIG


def folder_type(path: Path, expected: str) -> str:
    """The kind of model that a folder's config.json names: "sam", "blip" and so on.

    expected: what the folder should hold, in words, for the errors. Raises ModelError if there is no such folder, or it
    is of no model of transformers.
    """
    try:
        return str(json.loads((path / CONFIG).read_text())["model_type"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        what = f"{CONFIG} cannot be read ({error!r})" if path.is_dir() else "no such folder"
        raise ModelError(
            f"{path}: {what}. Expected a folder of {expected}, as transformers' save_pretrained writes it: download it "
            "once, and give its path."
        ) from error


def load_folder(path: Path, model: str, processor: str, expected: str, *, device: str) -> tuple[Any, Any]:
    """The model of a folder, in eval mode, float32 and without gradients, and its processor.

    model, processor: names of transformers' classes. expected, errors: as `folder_type`; also ModelError for weights
    that are no safetensors, damaged or incomplete, and for a device that cannot be used. Raises ExtraError where
    transformers is not installed.
    """
    where = pick_device(device)
    try:
        import transformers
    except ImportError:
        raise ExtraError(f"{path}", "transformers") from None
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        read, info = getattr(transformers, model).from_pretrained(
            str(path), use_safetensors=True, dtype=torch.float32, output_loading_info=True, **options
        )
        reader = getattr(transformers, processor).from_pretrained(str(path), **options)
    except Exception as error:  # the library has many ways to refuse a file
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelError(
            f"{path} cannot be read: {reason} Expected a folder of {expected} with its processor, and its weights as "
            "model.safetensors: convert them, or download the folder again."
        ) from error
    if lacking := sorted(info["missing_keys"]):
        raise ModelError(
            f"{path}: {len(lacking)} tensors are missing in its weights, the first is {lacking[0]}. Expected a folder "
            f"of {expected}: download it again."
        )
    return read.to(where).eval().requires_grad_(False), reader
