"""Room models: classifiers of timm and torchvision with their weights, loaded as these libraries load them."""

import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from optogram.errors import ModelError, nearest
from optogram.models.loading.architectures import AUXILIARY, timm_name, torchvision_name
from optogram.models.loading.checkpoints import check_fit, check_values, fit_weights, read_checkpoint, select_weights
from optogram.models.loading.clip_folders import check_pixels
from optogram.models.loading.download import download
from optogram.progress import say

_HEADS = ("head.weight", "fc.weight", "classifier.weight", "head.fc.weight")
"""What heads are called in files of other projects that timm can rename."""

_SIZED = ("pos_embed", "rel_pos", "relative_position", "patch_embed")
"""Tensors that timm would stretch to another size of image."""


@dataclass(frozen=True)
class EachImage:
    """A transform of one PIL image (timm's, torchvision's), applied to each of many."""

    transform: Callable[[Image.Image], Tensor]

    def __call__(self, images: np.ndarray | Sequence[Image.Image]) -> Tensor:
        """Float32 (image, rgb, y, x). Raises ShapeError unless given uint8 (image, y, x, rgb) or PIL images."""
        return torch.stack([self.transform(image.convert("RGB")) for image in as_pil(images)])


def as_pil(images: np.ndarray | Sequence[Image.Image]) -> Sequence[Image.Image]:
    """The images as PIL images. Raises ShapeError for an array that is not uint8 (image, y, x, rgb)."""
    if not isinstance(images, np.ndarray):
        return images
    check_pixels(images)
    return [Image.fromarray(pixels) for pixels in images]


def torchvision_model(spec: str, name: str, checkpoint: Path | None) -> tuple[nn.Module, EachImage]:
    """A classifier of torchvision, made by its own builder as with published weights, and its preprocessing.

    The builder renames layers of old files, drops or keeps auxiliary heads, and sets what the weights were trained
    with (transform_input, image_size). A checkpoint goes the same way, whatever its number of classes.
    """
    import torchvision

    base, tag = torchvision_name(spec, name), name.partition("/")[2]
    published = torchvision.models.get_model_weights(base)
    tags = [weights.name for weights in published]
    if tag and tag not in tags:
        raise ModelError(f"{spec}: {base} has no weights {tag!r}.{nearest(tag, tags)} It has: {', '.join(tags)}.")
    chosen = published[tag] if tag else published["DEFAULT"]
    if checkpoint is None:
        with download(spec, chosen.url):
            weights = chosen.get_state_dict(progress=False, check_hash=True, weights_only=True)
            model = _torchvision_built(base, chosen, weights)
    else:
        model = _torchvision_fitted(spec, base, chosen, checkpoint)
        if not tag and getattr(model, "transform_input", False) and _classes(model) != len(chosen.meta["categories"]):
            say(
                f"{spec}: taken for fine-tuned from published weights, so that the model itself scales its inputs to "
                f"(-1, 1) (transform_input). Say {spec}/{chosen.name} if so; give a model that was trained from random "
                "weights as callable:MODULE:FACTORY."
            )
    return model, EachImage(chosen.transforms())


def _torchvision_fitted(spec: str, base: str, chosen: Any, checkpoint: Path) -> nn.Module:
    found = read_checkpoint(checkpoint)
    plain = _shapes_only(base)
    required = [name for name in plain.state_dict() if not name.startswith(AUXILIARY)]
    weights = select_weights(found, required, checkpoint)
    head = weights.get(f"{_head(plain)}.weight")
    if head is not None and head.shape[1:] == plain.get_parameter(f"{_head(plain)}.weight").shape[1:]:
        chosen = _with_classes(chosen, len(head))
        plain = _shapes_only(base, num_classes=len(head))
    expected = plain.state_dict()
    auxiliary = {name: w for name, w in expected.items() if name.startswith(AUXILIARY)}
    # fine-tuned models often lack these heads, or keep 1000 classes there: they are for training only
    without = any(name not in weights or weights[name].shape != w.shape for name, w in auxiliary.items())
    if without:
        weights |= {name: torch.zeros(w.shape, dtype=w.dtype) for name, w in auxiliary.items()}
    counters = [name for name in expected if name.endswith("num_batches_tracked") and name not in weights]
    weights |= {name: torch.tensor(0) for name in counters}
    try:
        model = _torchvision_built(base, chosen, weights)
    except RuntimeError as error:  # torchvision's own refusal is a list of all tensors
        check_fit(plain, weights, checkpoint, spec)
        check_values(plain, weights, checkpoint, spec)
        reason = str(error).splitlines()[-1].strip().removesuffix(".")
        raise ModelError(
            f"checkpoint {checkpoint} does not fit {spec}: {reason}. Give the spec of the model that the checkpoint "
            "was saved from, or another checkpoint."
        ) from error
    check_values(model, weights, checkpoint, spec)
    if without and getattr(model, "AuxLogits", None) is not None:
        model.aux_logits, model.AuxLogits = False, None  # type: ignore[assignment]
    return model


def _torchvision_built(base: str, chosen: Any, weights: dict[str, Tensor]) -> nn.Module:
    """What torchvision makes of these weights, given in place of those that it would download."""
    import torchvision

    # a member of its enum of weights that is not listed in it: builders ask for nothing else
    given = object.__new__(type(chosen))
    given._name_, given._value_ = chosen.name, chosen.value
    state = OrderedDict(weights)
    # MNASNet asks for the version of its layers, which files without torch.save's notes lack
    state._metadata = {"": {"version": 2}}  # type: ignore[attr-defined]
    given.get_state_dict = lambda **_: state
    return torchvision.models.get_model(base, weights=given)


def _with_classes(chosen: Any, count: int) -> Any:
    """The published weights' description, with as many classes as the checkpoint has."""
    other = object.__new__(type(chosen))
    other._name_ = chosen.name
    other._value_ = replace(chosen.value, meta=chosen.meta | {"categories": [""] * count})
    return other


def _shapes_only(base: str, **arguments: Any) -> nn.Module:
    import torchvision

    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # on how random weights are drawn
        return torchvision.models.get_model(base, weights=None, **arguments)


def _head(model: nn.Module) -> str:
    """The name of the last layer, which makes the logits."""
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1]


def _classes(model: nn.Module) -> int:
    return len(model.get_parameter(f"{_head(model)}.weight"))


def timm_model(spec: str, name: str, checkpoint: Path | None) -> tuple[nn.Module, EachImage]:
    """A model of timm, and its preprocessing. A checkpoint may have the names of the project that published it."""
    import timm
    from timm.data.config import resolve_model_data_config
    from timm.data.transforms_factory import create_transform

    base, tags = timm_name(spec, name)
    if checkpoint is None:
        published = timm.get_pretrained_cfg(name)
        if not tags or published is None:
            raise ModelError(f"{spec}: timm publishes no weights for {base}. Give a local `checkpoint`.")
        with download(spec, "" if published.hf_hub_id else str(published.url or "")):
            model = timm.create_model(name, pretrained=True)
    else:
        model = _timm_fitted(spec, name, checkpoint)
    config = resolve_model_data_config(model)
    return model, EachImage(create_transform(**config, is_training=False))  # type: ignore[arg-type]


def _timm_fitted(spec: str, name: str, checkpoint: Path) -> nn.Module:
    """The model with the checkpoint's weights, its head as wide as the checkpoint's."""
    import timm

    found = read_checkpoint(checkpoint)
    model = timm.create_model(name)
    expected = model.state_dict()
    weights = select_weights(found, expected, checkpoint)
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    head = f"{linear[-1]}.weight" if linear else ""
    width = expected[head].shape[1] if head else 0
    wide = [len(weights[n]) for n in (head, *_HEADS) if n in weights and weights[n].shape[1:] == (width,)]
    classes: dict[str, Any] = {"num_classes": wide[0]} if wide and wide[0] != len(expected[head]) else {}
    if any(tensor not in expected for tensor in weights):
        renamed = _timm_renamed(name, weights, classes)
        if renamed is not None:
            check_values(renamed, weights, checkpoint, spec)
            return renamed
    if classes:
        model = timm.create_model(name, **classes)
    fit_weights(model, weights, checkpoint, spec)
    return model


def _timm_renamed(name: str, weights: dict[str, Tensor], classes: dict[str, Any]) -> nn.Module | None:
    """The model as timm itself loads weights under a publisher's names, or None if it cannot or only in part."""
    import timm

    overlay = {"state_dict": weights, **classes}
    models = []
    for seed in (0, 1):
        torch.default_generator.manual_seed(seed)
        try:
            models.append(timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **classes))
        except Exception:  # each family's renaming has its own way to fail; the caller says what does not fit
            return None
    model, other = (each.state_dict() for each in models)
    # some families load what they find: a tensor that was not in the file is random, and differs
    if any(not torch.equal(w, other[n]) for n, w in model.items()):
        return None
    sizes = {w.numel() for w in weights.values()}
    for tensor, w in model.items():
        if any(part in tensor for part in _SIZED) and not sizes & {w.numel() + k * w.shape[-1] for k in range(3)}:
            return None
    models[0].pretrained_cfg.pop("state_dict", None)
    return models[0]
