"""Room models: names of models. A spec says where a model comes from; loading one gives a module and its preprocessing.

open_clip:ViT-L-14/laion2b_s32b_b82k   an architecture of open_clip, and a pretrained tag or a checkpoint
timm:resnet18.a1_in1k                  a model of timm, its published weights or a checkpoint
torchvision:resnet50/IMAGENET1K_V2     a classifier of torchvision, its published weights or a checkpoint
callable:package.module:factory        a function without arguments that returns a module; a checkpoint
artifacts/models/clip                  a model folder, of a CLIP or of a classifier
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from optogram.errors import ModelError, nearest
from optogram.models.loading.architectures import build_architecture, factory
from optogram.models.loading.checkpoints import fit_weights, read_checkpoint, select_weights
from optogram.models.loading.clip_folders import (
    BYTES_AND_MARKS,
    Clip,
    Preprocess,
    Tokenizer,
    load_clip,
    other_tokenizer,
    pick_device,
    with_tuples,
)
from optogram.models.loading.libraries import as_pil, timm_model, torchvision_model
from optogram.models.loading.model_files import WEIGHTS, classifier_config, fill, folder_kind, unreadable
from optogram.models.loading.open_clips import (
    architecture_and_tag,
    has_clips_vocabulary,
    open_clip_config,
    open_clip_model,
    open_clip_tokenizer,
)

Preprocessing = Callable[[np.ndarray | Sequence[Image.Image]], Tensor]

_KINDS = ("open_clip", "timm", "torchvision", "callable")


@dataclass(frozen=True)
class UnitRange:
    """(RGB in [0, 1] - mean) / std at the size the images have: by default that of a model that says nothing of it."""

    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)

    def __call__(self, images: np.ndarray | Sequence[Image.Image]) -> Tensor:
        """Float32 (image, rgb, y, x). Raises ShapeError unless given uint8 (image, y, x, rgb) or PIL images."""
        pixels = np.stack([np.asarray(image.convert("RGB")) for image in as_pil(images)])
        scaled = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(255)
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        return scaled.sub_(mean).div_(std)


def load_model(
    spec: str, *, checkpoint: str | Path | None = None, device: str = "auto"
) -> tuple[nn.Module, Preprocessing]:
    """The model that `spec` names (see the module), in eval mode, without gradients, and its preprocessing.

    checkpoint: a .safetensors file, or a .pt file of tensors; then nothing is downloaded. A tag given with it still
    says how the weights were trained (open_clip:ViT-B-32/openai: activation, colour normalisation); a timm or
    torchvision classifier takes its number of classes from it. The preprocessing takes uint8 pixels
    (image, y, x, rgb) or PIL images to float32 (image, rgb, y, x); a `callable` factory may return it as
    `module, preprocessing`, else it only scales to [0, 1]. device: `auto` is CUDA where there is one.

    Raises ModelError for an unknown kind or name, weights that are neither in the cache nor reachable (at once, and
    saying how to use a local checkpoint), and a checkpoint that is unsafe, damaged or does not fit.
    """
    kind, name = _parse(spec)
    where = pick_device(device)
    path = None if checkpoint is None else Path(checkpoint)
    if kind == "folder" and folder_kind(Path(name)) == "clip":
        clip = _folder(name, path, device)
        return clip.model, clip.preprocess
    if kind == "open_clip":
        model, preprocess, _ = _open_clip(spec, name, path, where)
        return model, preprocess
    loaders = {"timm": timm_model, "torchvision": torchvision_model, "callable": _callable}
    load = {**loaders, "folder": _classifier_folder}[kind]
    with torch.random.fork_rng(devices=[]):  # what is initialised here is overwritten: leave no trace of it
        model, preprocess = load(spec, name, path)
    return _frozen(model, where), preprocess


def load_clip_spec(spec: str, *, checkpoint: str | Path | None = None, device: str = "auto") -> Clip:
    """The CLIP that `spec` names, with its tokenizer. Raises ModelError as `load_model`, and if it is no CLIP."""
    kind, name = _parse(spec)
    if kind == "folder":
        return _folder(name, None if checkpoint is None else Path(checkpoint), device)
    if kind != "open_clip":
        raise ModelError(f"{spec}: a {kind} model has no text encoder. Expected open_clip:NAME/TAG or a model folder.")
    base, _ = architecture_and_tag(spec, name)
    tokenize = open_clip_tokenizer(spec, base, open_clip_config(base, {}))  # before the weights: it may be refused
    where, path = pick_device(device), None if checkpoint is None else Path(checkpoint)
    model, preprocess, architecture = _open_clip(spec, name, path, where)
    context = architecture["text_cfg"].get("context_length", 77)
    config = {"spec": spec, "architecture": architecture, "preprocess": vars(preprocess)}
    config["tokenizer"] = {"context_length": context}
    if isinstance(tokenize, Tokenizer):
        config["tokenizer"] |= {"kind": "clip-bpe", "merges": tokenize.vocab_size - BYTES_AND_MARKS}
    return Clip(model, preprocess, tokenize, config)  # type: ignore[arg-type]


def check_folder_can_hold(spec: str) -> None:
    """Raises ModelError, before anything is loaded, if `save_clip` would refuse the CLIP that `spec` names."""
    kind, name = _parse(spec)
    if kind != "open_clip":
        return
    base, _ = architecture_and_tag(spec, name)
    if not has_clips_vocabulary(open_clip_config(base, {})):
        raise other_tokenizer(spec)


def _open_clip(
    spec: str, name: str, checkpoint: Path | None, where: torch.device
) -> tuple[nn.Module, Preprocess, dict[str, Any]]:
    with torch.random.fork_rng(devices=[]):
        model, preprocess, architecture = open_clip_model(spec, name, checkpoint)
    return _frozen(model, where), preprocess, architecture


def _frozen(model: nn.Module, where: torch.device) -> nn.Module:
    return model.to(where).eval().requires_grad_(False)


def _parse(spec: str) -> tuple[str, str]:
    kind, colon, name = spec.partition(":")
    try:
        if spec and Path(spec).is_dir():
            return "folder", spec
    except OSError as error:
        raise ModelError(
            f"model {spec!r}: cannot be reached ({error.strerror}). Expected {_grammar()}: check its name and the "
            "permissions of the folders above it."
        ) from error
    if not colon:
        parent = Path(spec).parent
        siblings = [str(path) for path in sorted(parent.iterdir()) if path.is_dir()] if parent.is_dir() else []
        near = nearest(spec, siblings + [f"{known}:{spec}" for known in _KINDS])
        raise ModelError(f"model {spec!r}: no such folder, and no kind before a ':'. Expected {_grammar()}.{near}")
    if kind not in _KINDS:
        raise ModelError(f"model {spec!r}: unknown kind {kind!r}. Expected {_grammar()}.{nearest(kind, list(_KINDS))}")
    if not name:
        raise ModelError(f"model {spec!r} names no model. Expected {_grammar()}.")
    return kind, name


def _grammar() -> str:
    return "open_clip:NAME/TAG, timm:NAME, torchvision:NAME, callable:MODULE:FACTORY, or the path of a model folder"


def _folder(name: str, checkpoint: Path | None, device: str) -> Clip:
    _no_checkpoint(name, checkpoint)
    if folder_kind(Path(name)) != "clip":
        raise ModelError(f"{name} is the folder of a classifier, which has no text encoder. Give the folder of a CLIP.")
    pick_device(device)
    return load_clip(Path(name), device)


def _classifier_folder(spec: str, name: str, checkpoint: Path | None) -> tuple[nn.Module, Preprocessing]:
    _no_checkpoint(name, checkpoint)
    path = Path(name)
    config = classifier_config(path)
    try:
        said = with_tuples(**config["preprocess"])
        preprocess = Preprocess(**said) if "image_size" in said else UnitRange(**said)
        weights = load_file(path / WEIGHTS)
    except (TypeError, OSError, SafetensorError) as error:
        raise unreadable(path, error) from error
    model = build_architecture(config["spec"], config["arguments"])
    fill(model, weights, path)
    return model, preprocess


def _no_checkpoint(name: str, checkpoint: Path | None) -> None:
    if checkpoint is not None:
        raise ModelError(f"{name} is a model folder with weights of its own. Leave the checkpoint {checkpoint} out.")


def _callable(spec: str, name: str, checkpoint: Path | None) -> tuple[nn.Module, Any]:
    make = factory(spec, name)
    try:
        made: Any = make()
    except Exception as error:
        raise ModelError(f"{spec}: the factory failed: {type(error).__name__}: {error}.") from error
    parts: Any = made if isinstance(made, tuple) and len(made) == 2 else (made, UnitRange())
    model, preprocess = parts
    if not isinstance(model, nn.Module) or not callable(preprocess):
        raise ModelError(
            f"{spec}: the factory returned {type(made).__name__}; expected a torch module, or a pair of a module and "
            "its preprocessing."
        )
    if checkpoint is not None:
        weights = select_weights(read_checkpoint(checkpoint), model.state_dict(), checkpoint)
        fit_weights(model, weights, checkpoint, spec)
    return model, preprocess
