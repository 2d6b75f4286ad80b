"""Tiny classifiers that look for red, green, blue and a grating, with and without batch norms."""

import math

import torch
from torch import nn

from optogram.methods.visualisation.optimise import draws
from optogram.models.loading.classifiers import Classifier
from optogram.models.loading.clip_folders import Preprocess

MEAN, STD = (0.5, 0.5, 0.5), (0.2, 0.25, 0.3)  # grey is no colour


class Planted(nn.Module):
    """Channels of `seen`: red, green, blue and an upright grating of period 4, where they are; the classes likewise."""

    def __init__(self):
        super().__init__()
        self.look = look()
        self.seen = nn.ReLU()

    def forward(self, x):
        return 4 * self.seen(self.look(x)).mean((2, 3))


def look():
    convolution = nn.Conv2d(3, 4, 5, padding=2, bias=False)
    weight = torch.full((4, 3, 5, 5), -0.5)
    for colour in range(3):
        weight[colour, colour] = 1
    wave = torch.tensor([math.cos(math.pi * x / 2) for x in range(-2, 3)])
    weight[3] = wave - wave.mean()
    with torch.no_grad():
        convolution.weight.copy_(weight / 25)
    return convolution


def classifier(model, size=None):
    return Classifier(model.eval().requires_grad_(False), Preprocess(8, MEAN, STD), MEAN, STD, size)


def planted():
    return classifier(Planted())


def with_norms():
    """The same classes with two batch norms, whose running statistics are of smooth coloured pictures."""
    model = nn.Sequential(
        nn.BatchNorm2d(3, momentum=None), look(), nn.BatchNorm2d(4, momentum=None), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4),
    )  # fmt: skip
    model.train()
    with torch.no_grad():
        model[6].weight.copy_(4 * torch.eye(4))
        model[6].bias.zero_()
        pictures = draws([1], (64, 3, 3, 3), "normal")[0]
        model(nn.functional.interpolate(pictures, (12, 12), mode="bilinear"))
    return classifier(model)


class Fragile(nn.Module):
    """A model whose second third of the batch is lost in one of its passes; the first pass looks at the aim."""

    def __init__(self, model, lost_at):
        super().__init__()
        self.model, self.lost_at, self.passes = model, lost_at, -2

    def forward(self, x):
        self.passes += 1
        if self.passes == self.lost_at:
            x = x.clone()
            x[len(x) // 3 : 2 * len(x) // 3] *= math.nan
        return self.model(x)


def hooks(model):
    return sum(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in model.modules())
