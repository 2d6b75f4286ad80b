"""Room models: the features from which a classifier's logits are a linear map, and the logits that it makes of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from optogram.errors import ModelError


def penultimate(model: nn.Module, images: Float[Tensor, "image rgb y x"]) -> Float[Tensor, "image channel"]:
    """Features from which the logits are a linear map: the input of the last nn.Linear; gradients pass.

    Raises ModelError if the logits are no nn.Linear's output, as with a convolution for a head, or not linear in its
    input, as with cosines.

    >>> from optogram.models import penultimate
    >>> features = penultimate(classifier.model, inputs)
    >>> head = classifier.model[4]
    >>> torch.allclose(head(features), classifier.model(inputs), atol=1e-6)
    True
    """
    with catching_head(model) as head:
        model(images)
    return head.features


class Head:
    """What a pass left: features (image, channel), and the logits (image, class) that a Linear made of them."""

    features: Tensor
    logits: Tensor


@contextmanager
def catching_head(model: nn.Module) -> Iterator[Head]:
    """Each pass of the model inside leaves its `features` and `logits` in the yielded Head; gradients pass.

    The pass raises ModelError as `penultimate`. Hooks always go.
    """
    head, last = Head(), []

    def linear(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        last[:] = [args[0], output, module]

    def whole(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        # a linear layer can have another forward, a hook, or its output changed in place
        if not last or last[1] is not output or output.ndim != 2 or not _is_linear(*last):
            raise ModelError(
                f"the logits of {type(model).__name__} are not what an nn.Linear returns, so that there are no "
                "features before it. Take a model with a linear layer at its end."
            )
        head.features, head.logits, _ = last
        last.clear()

    handles = [each.register_forward_hook(linear) for each in model.modules() if isinstance(each, nn.Linear)]
    handles.append(model.register_forward_hook(whole))
    try:
        yield head
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def _is_linear(features: Tensor, logits: Tensor, layer: nn.Module) -> bool:
    """Whether the logits are the layer's linear map of the features, by the first image; where one is NaN, yes."""
    weight, bias = getattr(layer, "weight", None), getattr(layer, "bias", None)
    if not isinstance(weight, Tensor) or weight.shape != (logits.shape[1], features.shape[-1]):
        return False
    off = (F.linear(features[:1], weight, bias) - logits[:1]).abs().max()
    return not off > torch.finfo(logits.dtype).eps ** 0.5 * logits[:1].abs().max()
