"""Room models: the units of a model: the channels of its layers after their nonlinearity, and their maps of images."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from optogram.errors import ModelError
from optogram.models.layers import activations, blocks
from optogram.models.loading.architectures import build_architecture
from optogram.models.loading.clip_folders import build_clip, pick_device
from optogram.models.loading.model_files import CONFIG, classifier_config, folder_kind
from optogram.models.loading.specs import Preprocessing, load_model
from optogram.models.places import Layout, Places

NONLINEAR = {
    *("CELU", "ELU", "GELU", "GELUTanh", "HardSwish", "Hardswish", "LeakyReLU", "Mish", "PReLU", "QuickGELU", "ReLU"),
    *("ReLU6", "SELU", "SiLU", "Softplus", "Swish"),
}
"""Class names of nonlinearities whose outputs are units; those that make gates and weights (sigmoid) are none."""


@dataclass(frozen=True, eq=False)
class Units:
    """A model that gives the maps of its units. model: takes what `preprocess` makes of pixels; in eval mode."""

    model: nn.Module
    preprocess: Preprocessing
    layers: tuple[str, ...]

    @torch.no_grad()
    def maps(self, pixels: UInt8[np.ndarray, "image y x rgb"]) -> list[Float[Tensor, "image _channel _y _x"]]:
        """Of each layer the maps of its units, float32 on the model's device. Raises as `activations`."""
        where = next(self.model.parameters()).device
        found = activations(self.model, self.preprocess(pixels).to(where), self.layers)
        return [maps.float() for maps in found.values()]

    def watch(self, images: Float[Tensor, "image rgb y x"]) -> list[Float[Tensor, "image _channel _y _x"]]:
        """As `maps`, of images in [0, 1] on the model's device; gradients pass.

        Colours are scaled as `preprocess` scales black and white. Images of another size than the model's are resized
        bilinearly with antialiasing. Raises as `activations`.
        """
        plain = np.array([0, 255], np.uint8)[:, None, None, None].repeat(3, 3)
        shown = self.preprocess(np.broadcast_to(plain, (2, *images.shape[2:], 3)).copy())
        black, white = shown[:, :, :1, :1].to(images)
        if shown.shape[2:] != images.shape[2:]:
            images = functional.interpolate(images, shown.shape[2:], mode="bilinear", antialias=True)
        found = activations(self.model, black + images * (white - black), self.layers)
        return [maps.float() for maps in found.values()]


def unit_layers(model: nn.Module, *, size: int) -> list[str]:
    """Names of the layers whose channels are units, in the order of a pass: the nonlinearities.

    Those of which the values lie on a grid of places, the tokens of a transformer included. One that runs several times
    in its block, as the ReLU of torchvision's residual blocks, stands for the block, which ends with it. A model in
    which none is a module, because it calls functions, has its `blocks`.

    size: side of the image that it takes. Raises ModelError as `blocks`.

    >>> from optogram.models.units import unit_layers
    >>> unit_layers(classifier.model, size=32)
    ['1']
    """
    modules = dict(model.named_modules())
    nonlinear = [name for name, module in modules.items() if type(module).__name__ in NONLINEAR]
    watched = {*nonlinear, *(_parent(name) for name in nonlinear)} - {""}
    runs = _runs(model, {name: modules[name] for name in watched}, size)
    found: dict[str, int] = {}
    for name in nonlinear:
        times = runs.get(name, [])
        taken = name if len(times) == 1 else _parent(name)
        if times and len(runs.get(taken, [])) == 1:
            at, layout = runs[taken][0]
            if layout is not None and layout.grid != (1, 1):
                found[taken] = at
    return sorted(found, key=lambda name: found[name]) or blocks(model, size=size)


def load_units(folder: Path, layers: Sequence[str] | None = None, *, side: int, device: str = "auto") -> Units:
    """The units of a model folder, a classifier's or the image tower of a CLIP's.

    layers: their names; None for all of `unit_layers`. side: of the images, for a model that takes them as they come.
    Raises ModelError as `load_model` and `unit_layers`.
    """
    model, preprocess = load_model(str(folder), device=device)
    return _units(_tower(model), preprocess, layers, side)


def untrained(
    folder: Path, trained: Units, pixels: UInt8[np.ndarray, "image y x rgb"], *, seed: int, device: str = "auto"
) -> Units:
    """The same model as it was before its training: its architecture with random weights from `seed`.

    pixels: images whose statistics its batch normalisations take, as those of a model in training would.
    """
    if folder_kind(folder) == "clip":
        model: nn.Module = build_clip(json.loads((folder / CONFIG).read_text())["architecture"], seed=seed).model
    else:
        config = classifier_config(folder)
        model = build_architecture(config["spec"], config["arguments"], seed=seed)
    found = Units(
        _tower(model).to(pick_device(device)).eval().requires_grad_(False), trained.preprocess, trained.layers
    )
    norms = [part for part in found.model.modules() if isinstance(part, _BatchNorm)]
    for norm in norms:
        norm.momentum, norm.training = None, True
        norm.reset_running_stats()
    if norms:
        with torch.no_grad():
            found.model(found.preprocess(pixels).to(next(found.model.parameters()).device))
    for norm in norms:
        norm.training = False
    return found


def _units(model: nn.Module, preprocess: Preprocessing, layers: Sequence[str] | None, side: int) -> Units:
    size = preprocess(np.zeros((1, side, side, 3), np.uint8)).shape[-1]
    found = tuple(unit_layers(model, size=size) if layers is None else layers)
    if not found:
        raise ModelError("no layers of units are named. Name one or more, or leave it to `unit_layers`.")
    return Units(model, preprocess, found)


def _tower(model: Any) -> nn.Module:
    """What takes images: of a CLIP its image tower."""
    return model.visual if hasattr(model, "visual") else model


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def _runs(model: nn.Module, modules: dict[str, nn.Module], size: int) -> dict[str, list[tuple[int, Layout | None]]]:
    """When each of the modules was done in a pass of grey images, and how its output is a map, each time it ran."""
    first = next(iter(model.parameters()), torch.zeros(()))
    grey = torch.zeros(2, 3, size, size, dtype=first.dtype, device=first.device)
    places, found = Places(grey), {}
    order = iter(range(1 << 62))

    def see(name: str, _: nn.Module, __: Any, output: Any) -> None:
        layout = places.layout(output) if isinstance(output, Tensor) else None
        found.setdefault(name, []).append((next(order), layout))

    handles = [module.register_forward_hook(partial(see, name)) for name, module in modules.items()]
    try:
        with torch.no_grad(), places:
            model(grey)
    finally:
        for handle in handles:
            handle.remove()
    return found
