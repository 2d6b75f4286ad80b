"""Small networks whose channels are known, and input times gradient by hooks, the simplest relevance there is."""

from collections import OrderedDict

import numpy as np
import torch
from torch import nn

from optogram.models.loading.classifiers import Classifier
from optogram.models.loading.specs import Preprocess

COLOURS = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1)}


def classifier(model, classes=(), *, attribute="", size=None):
    """Of a model that takes colours in [0, 1] as they are."""
    model = model.eval().requires_grad_(False)
    return Classifier(model, Preprocess(64), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), size, tuple(classes), attribute)


def colour_net(head, mix):
    """`stem` tells three colours apart at every pixel, `layer` mixes them by `mix` (channel, 3), and a class reads the
    averages of the channels by `head` (class, channel)."""
    head, mix = (torch.tensor(each, dtype=torch.float32) for each in (head, mix))
    stem, into, out = nn.Conv2d(3, 3, 1), nn.Conv2d(3, len(mix), 1), nn.Linear(len(mix), len(head))
    with torch.no_grad():
        stem.weight.copy_((2 * torch.eye(3) - 1)[:, :, None, None])
        stem.bias.zero_()
        into.weight.copy_(mix[:, :, None, None])
        into.bias.zero_()
        out.weight.copy_(head)
        out.bias.zero_()
    parts = {"stem": stem, "act": nn.ReLU(), "mix": into, "layer": nn.ReLU(), "pool": nn.AdaptiveAvgPool2d(1)}
    return nn.Sequential(OrderedDict(parts | {"flat": nn.Flatten(), "head": out}))


def coloured(names, *, size=16, square=8, seed=0):
    """Grey images (image, y, x, rgb) with a square of the colour named on a grid; and the squares' (top, left)."""
    rng = np.random.default_rng(seed)
    pixels = np.full((len(names), size, size, 3), 128, np.uint8)
    corner = square * rng.integers(0, size // square, (len(names), 2))
    strength = rng.integers(150, 256, len(names))
    for image, name, (top, left), of in zip(pixels, names, corner, strength, strict=True):
        image[top : top + square, left : left + square] = np.multiply(COLOURS[name], of)
    return pixels, corner


class InputTimesGradient:
    """As `Attributor`, for layers whose output is a map, or tokens after one class token."""

    def __init__(self, model):
        self.model = model

    def __call__(self, images, layers, start):
        kept = {}
        modules = dict(self.model.named_modules())
        hooks = [
            modules[name].register_forward_hook(lambda _, __, out, name=name: kept.update({name: out}))
            for name in layers
        ]
        try:
            logits = self.model(images.clone().requires_grad_())
        finally:
            for hook in hooks:
                hook.remove()
        slopes = torch.autograd.grad((logits * start.direction).sum(), [kept[name] for name in layers])
        return {name: _map(kept[name] * slope).detach() for name, slope in zip(layers, slopes, strict=True)}


def _map(found):
    if found.ndim == 4:
        return found
    side = int((found.shape[1] - 1) ** 0.5)
    return found[:, 1:].transpose(1, 2).unflatten(2, (side, side))
