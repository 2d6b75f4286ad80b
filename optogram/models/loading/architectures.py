"""Room models: architectures without their weights, built from a spec and keyword arguments; no network is asked."""

import importlib
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from optogram.errors import ModelError, nearest

AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
"""Prefixes of torchvision's heads that are for training only."""

_SET_BY_WEIGHTS = ("transform_input", "aux_logits", "image_size")
"""Arguments that torchvision's builders choose when weights are given, kept as attributes of the model."""


def build_architecture(spec: str, arguments: dict[str, Any], *, seed: int = 0) -> nn.Module:
    """The classifier that `spec` names, with random weights drawn from `seed`, in training mode.

    spec: timm:NAME, torchvision:NAME (without the published weights that a tag names) or callable:MODULE:FACTORY, whose
    factory is called with the arguments. arguments: of the architecture, such as num_classes or img_size; a ViT of
    timm also takes conv_stem, widths of early convolutions in place of its one projection of patches (Xiao et al.
    2021): [24, 48] gives tokens of 8 x 8 pixels, and learns from far fewer images.

    Raises ModelError for an unknown name, with the nearest ones, and for arguments that the architecture does not take.
    """
    kind, _, name = spec.partition(":")
    builders = {"timm": _timm, "torchvision": _torchvision, "callable": _callable}
    if kind not in builders or not name:
        raise ModelError(
            f"{spec!r} is no architecture of a classifier. Expected timm:NAME, torchvision:NAME or "
            f"callable:MODULE:FACTORY.{nearest(kind, list(builders))}"
        )
    build = builders[kind](spec, name)
    # architectures draw from the global generator: lend it a seeded one, and give the old state back
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torchvision, on how it draws random weights
        torch.default_generator.manual_seed(seed)
        try:
            made: Any = build(**arguments)
        except Exception as error:  # each architecture has its own way to refuse an argument
            raise ModelError(
                f"{spec} does not take the arguments {arguments}: {type(error).__name__}: {error}. Change `arguments`."
            ) from error
    model = made[0] if isinstance(made, tuple) else made  # a factory may return its preprocessing too
    if not isinstance(model, nn.Module):
        raise ModelError(f"{spec}: the factory returned {type(made).__name__}; expected a torch module.")
    return model.train()


def for_classes(spec: str, arguments: dict[str, Any], count: int) -> dict[str, Any]:
    """The arguments with the number of classes, as timm and torchvision call it, unless they name it already."""
    return arguments if spec.startswith("callable:") else {"num_classes": count, **arguments}


def told_by_model(spec: str, arguments: dict[str, Any], model: nn.Module) -> dict[str, Any]:
    """The arguments, and what torchvision's builder set because of the weights, where it is not its default."""
    if not spec.startswith("torchvision:"):
        return arguments
    with torch.device("meta"):
        plain = build_architecture(spec, arguments)
    names = [name for name in _SET_BY_WEIGHTS if hasattr(model, name) and name not in arguments]
    return arguments | {name: getattr(model, name) for name in names if getattr(model, name) != getattr(plain, name)}


def timm_name(spec: str, name: str) -> tuple[str, list[str]]:
    """The architecture in timm's NAME.TAG, and the tags of its weights. Raises ModelError if timm lacks either."""
    import timm

    base, _, tag = name.partition(".")
    if not timm.is_model(base):
        raise ModelError(f"{spec}: timm has no model {base!r}.{nearest(base, timm.list_models())}")
    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{base}.*")]
    if tag and tag not in tags:
        raise ModelError(f"{spec}: {base} has no weights {tag!r}.{nearest(tag, tags)} It has: {', '.join(tags)}.")
    return base, tags


def torchvision_name(spec: str, name: str) -> str:
    """The architecture in torchvision's NAME/TAG. Raises ModelError if torchvision has no such classifier."""
    import torchvision

    base = name.partition("/")[0]
    known = torchvision.models.list_models(module=torchvision.models)
    if base not in known and base in torchvision.models.list_models():
        what = "quantised: its numbers have no gradients" if base.startswith("quantized_") else "no image classifier"
        like = nearest(base.removeprefix("quantized_"), known, 1)
        raise ModelError(f"{spec}: torchvision's {base} is {what}. Expected a classifier of floating point.{like}")
    if base not in known:
        raise ModelError(f"{spec}: torchvision has no classifier {base!r}.{nearest(base, known)}")
    return base


def factory(spec: str, name: str) -> Callable[..., Any]:
    """The function that MODULE:FACTORY names. Raises ModelError if there is none."""
    module_name, _, factory_name = name.partition(":")
    if not factory_name or not all(part.isidentifier() for part in module_name.split(".")):
        raise ModelError(
            f"{spec}: expected callable:package.module:factory, the module as Python imports it, not the path of its "
            "file."
        )
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ModelError(
            f"{spec}: {module_name} cannot be imported ({error}). Run from the folder that holds it, or install it, or "
            "put its folder on PYTHONPATH."
        ) from error
    except Exception as error:  # the module's own code runs, and may raise anything
        raise ModelError(
            f"{spec}: {module_name} cannot be imported ({type(error).__name__}: {error}). Mend it, so that "
            f"`import {module_name}` works in Python."
        ) from error
    found = getattr(module, factory_name, None)
    if not callable(found):
        known = [known for known, value in vars(module).items() if callable(value) and not known.startswith("_")]
        raise ModelError(f"{spec}: {module_name} has no function {factory_name!r}.{nearest(factory_name, known)}")
    return found


def _timm(spec: str, name: str) -> Callable[..., Any]:
    import timm

    timm_name(spec, name)

    def build(conv_stem: Sequence[int] = (), **arguments: Any) -> nn.Module:
        stem = _conv_stem([*conv_stem, arguments["embed_dim"]]) if conv_stem else {}
        return timm.create_model(name, pretrained=False, **stem, **arguments)

    return build


def _conv_stem(widths: Sequence[int]) -> dict[str, Any]:
    """Arguments of a ViT of timm whose tokens are made by convolutions of these widths, each halving the image."""
    from timm.layers.hybrid_embed import HybridEmbed
    from timm.models.vision_transformer_hybrid import ConvStem

    stem = ConvStem(channels=tuple(widths), depth=len(widths), stride=(2,) * len(widths), padding=1)
    return {"embed_layer": partial(HybridEmbed, backbone=stem, proj=False), "patch_size": 1}


def _torchvision(spec: str, name: str) -> Callable[..., Any]:
    import torchvision

    base = torchvision_name(spec, name)
    return lambda **arguments: torchvision.models.get_model(base, weights=None, **arguments)


def _callable(spec: str, name: str) -> Callable[..., Any]:
    return factory(spec, name)
