"""Method room, circuits: which channels of a layer a class's logit comes from (VITAL, Figure 5)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64, UInt8
from torch import Tensor

from optogram.decompose.patches import as_input
from optogram.decompose.relevance import Start
from optogram.errors import ModelError
from optogram.models.batches import in_batches
from optogram.models.layers import blocks
from optogram.models.loading.classifiers import Classifier

Relevance = Callable[[Tensor, Sequence[str], Start], Mapping[str, Tensor]]
"""Such as an `Attributor`: model inputs, layers and a start to the relevance of each layer, (image, channel, y, x)."""


class ClassRelevance(NamedTuple):
    """A class's logit on images of it, and the relevance of each channel for it, summed over space, mean over images:
    as it is, and its positive part on every image."""

    logit: Float32[np.ndarray, " image"]
    signed: Float64[np.ndarray, " channel"]
    positive: Float64[np.ndarray, " channel"]


class Circuits(NamedTuple):
    """The channels most relevant to each class, most first (-1 where there are fewer), and their share of the class's
    positive relevance (0)."""

    channel: Int64[np.ndarray, "class k"]
    share: Float32[np.ndarray, "class k"]


def class_relevance(
    classifier: Classifier,
    pixels: UInt8[np.ndarray, "image y x rgb"],
    index: int,
    layer: str,
    relevance: Relevance | None,
    *,
    batch: int,
) -> ClassRelevance:
    """Relevance of a layer's channels for logit `index`, over images that already have the model's size.

    Without `relevance` it is only the logit, of no channels.

    Raises ModelError if the model's logits are not as many as its classes.
    """

    def work(rows: slice) -> tuple[Tensor, Tensor]:
        inputs = as_input(classifier, pixels[rows]).to(_device(classifier))
        with torch.no_grad():
            logits = classifier.model(inputs)
        direction = _one_hot(classifier, logits, index)
        if relevance is None:
            return logits[:, index].float().cpu(), torch.zeros((len(logits), 0), dtype=torch.float64)
        found = relevance(inputs, [layer], Start(direction))[layer]
        return logits[:, index].float().cpu(), found.detach().sum((2, 3), dtype=torch.float64).cpu()

    parts = [found for _, found in in_batches(len(pixels), batch, work)]
    logit, each = (torch.cat(column).numpy() for column in zip(*parts, strict=True))
    return ClassRelevance(logit, each.mean(0), np.maximum(each, 0).mean(0))


def circuit_channels(
    positive: Float[np.ndarray, "class channel"], count: int, *, alive: Bool[np.ndarray, " channel"]
) -> Circuits:
    """The `count` channels with the most positive relevance for each class, of those alive and above 0.

    Of equal ones the lower channel goes first. Shares are of the relevance of all channels.
    """
    eligible = np.where(alive, positive, 0)
    order = np.argsort(-eligible, 1, kind="stable")[:, :count]
    found = np.take_along_axis(eligible, order, 1)
    share = found / np.maximum(positive.sum(1, keepdims=True), 1e-30)
    channel, shares = np.full((len(positive), count), -1), np.zeros((len(positive), count), np.float32)
    channel[:, : order.shape[1]], shares[:, : order.shape[1]] = np.where(found > 0, order, -1), share
    return Circuits(channel, shares)


def reached_layer(
    classifier: Classifier, pixels: UInt8[np.ndarray, "image y x rgb"], index: int, relevance: Relevance
) -> str:
    """The last block of the model that relevance of logit `index` arrives at, on these few images.

    That is the last one of a CNN. In a ViT that reads its class token, the patch tokens of the last block lead nowhere.

    Raises ModelError if it arrives nowhere, and as `blocks`.
    """
    names = blocks(classifier.model, size=pixels.shape[1])
    inputs = as_input(classifier, pixels).to(_device(classifier))
    with torch.no_grad():
        start = Start(_one_hot(classifier, classifier.model(inputs), index))
    for name, found in reversed([*relevance(inputs, names, start).items()]):
        if bool(found.any()):
            return name
    raise ModelError(
        f"no relevance of the logit {classifier.classes[index]!r} arrives at any of {', '.join(names)}.\n"
        "  Name a layer, or use another rule of relevance."
    )


def _one_hot(classifier: Classifier, logits: Any, index: int) -> Tensor:
    shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[1] != len(classifier.classes):
        raise ModelError(
            f"{type(classifier.model).__name__} gives {shape}, but has {len(classifier.classes)} classes: "
            f"{', '.join(classifier.classes)}.\n  Name its logits, all of them and in their order."
        )
    found = torch.zeros_like(logits)
    found[:, index] = 1
    return found


def _device(classifier: Classifier) -> torch.device:
    return next((parameter.device for parameter in classifier.model.parameters()), torch.device("cpu"))
