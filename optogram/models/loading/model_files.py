"""Room models: the files of a model folder: written whole or not at all, read with errors that name them."""

import json
import os
import shutil
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from optogram.errors import ModelError

CONFIG, WEIGHTS = "config.json", "model.safetensors"


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to write into that becomes `path` when all went well. Raises ModelError if `path` exists."""
    if path.exists():
        raise ModelError(f"{path} exists already; a model folder is never overwritten. Remove it, or save elsewhere.")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        yield part
        part.rename(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_model(folder: Path, config: dict[str, Any], model: nn.Module, dtype: torch.dtype) -> None:
    """Write config.json and model.safetensors, floating-point weights as `dtype`."""
    (folder / CONFIG).write_text(json.dumps(config, sort_keys=True, indent=2) + "\n")
    weights: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, w in model.state_dict().items():
        kept = w.detach().to("cpu", dtype if w.is_floating_point() else w.dtype).contiguous()
        # safetensors refuses tensors that share memory, as tied layers do: each gets a copy
        weights[name] = kept.clone() if kept.data_ptr() in seen else kept
        seen.add(kept.data_ptr())
    save_file(weights, folder / WEIGHTS)


def check_files(path: Path, names: Sequence[str]) -> None:
    """Raises ModelError that names the first file that the model folder lacks."""
    for name in names:
        if not (path / name).is_file():
            raise ModelError(
                f"{path} is no model folder: {name} is missing. Expected {', '.join(names[:-1])} and {names[-1]}; pull"
                " or train the model again."
            )


def unreadable(path: Path, error: Exception) -> ModelError:
    """What to raise for a damaged file of a model folder."""
    return ModelError(f"{path} cannot be read: {error!r}. Pull or train the model again.")


def folder_kind(path: Path) -> str:
    """What a model folder holds: "clip" or "classifier". Raises ModelError if its config.json cannot be read."""
    check_files(path, [CONFIG, WEIGHTS])
    try:
        return str(json.loads((path / CONFIG).read_text()).get("kind", "clip"))
    except (ValueError, AttributeError, OSError) as error:
        raise unreadable(path, error) from error


def classifier_config(path: Path) -> dict[str, Any]:
    """What a classifier's config.json says; its keys are those that `save_classifier` writes.

    Raises ModelError if it cannot be read, or is not of a classifier.
    """
    check_files(path, [CONFIG, WEIGHTS])
    try:
        config = json.loads((path / CONFIG).read_text())
        kinds = {"spec": str, "arguments": dict, "classes": list, "attribute": str, "preprocess": dict}
        if config["kind"] != "classifier" or not all(isinstance(config[key], kind) for key, kind in kinds.items()):
            raise ValueError("not a classifier's config.json")
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise unreadable(path, error) from error
    return config


def misfit(model: nn.Module, weights: dict[str, Tensor]) -> str:
    """The first tensor whose shape is not the model's, with both shapes; "" if all fit."""
    expected = {name: tuple(w.shape) for name, w in model.state_dict().items()}
    found = {name: tuple(w.shape) for name, w in weights.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            here, there = (str(shapes.get(name, "absent")) for shapes in (expected, found))
            return f"tensor {name} does not fit config.json: expected shape {here}, found {there}"
    return ""


def fill(model: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Load a folder's weights into the model, as float32. Raises ModelError that names the first one that misfits."""
    if problem := misfit(model, weights):
        raise ModelError(f"{path}: {problem}. The two files are of different models; pull or train the model again.")
    state = OrderedDict((name, w.float() if w.is_floating_point() else w) for name, w in weights.items())
    # safetensors do not keep the versions of layers, which MNASNet asks for; those of the model are the right ones
    state._metadata = model.state_dict()._metadata  # type: ignore[attr-defined]
    model.load_state_dict(state)
