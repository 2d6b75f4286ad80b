"""A unit planted to detect one attribute value of scenes: its visualisation shows that value.

Judged by a classifier that never saw the unit: colours of whole scenes, learnt from the renderer's labels.
"""

from collections import OrderedDict

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier
from torch import nn

from optogram.data.scenes import ATTRIBUTES, Scenes
from optogram.decompose.relevance import Attributor
from optogram.methods.visualisation.prototypes import find_prototypes, references
from optogram.methods.visualisation.render import vital_album
from optogram.methods.visualisation.targets import TargetOptions, find_targets
from optogram.methods.visualisation.vital import VitalOptions
from optogram.models.loading.classifiers import Classifier
from optogram.models.loading.clip_folders import Preprocess

BACKGROUNDS = list(ATTRIBUTES["background"])
SIZE = (32, 32)


def planted(images):
    """A net with a unit for each background, which tells its pixels from those of the others by their colour, as the
    renderer's masks and labels have them; the logits are the units' means over space."""
    label = images.label.sel(attribute="background").values
    pixels, mask = torch.from_numpy(images.pixels.values / 255).float(), images.mask.values == 0
    ground = [pixels[torch.from_numpy((label == k)[:, None, None] & mask)][::97] for k in range(len(BACKGROUNDS))]
    x = torch.cat(ground)[:, :, None, None]
    truth = torch.cat([torch.full((len(each),), k) for k, each in enumerate(ground)])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parts = {"mixed": nn.Conv2d(3, 24, 1), "act": nn.ReLU(), "told": nn.Conv2d(24, 6, 1)}
        head = nn.Linear(6, 6, bias=False)
    tells = nn.Sequential(OrderedDict(parts))
    adam = torch.optim.Adam(tells.parameters(), 0.03)
    for _ in range(300):
        adam.zero_grad()
        nn.functional.cross_entropy(tells(x)[:, :, 0, 0], truth).backward()
        adam.step()
    with torch.no_grad():
        head.weight.copy_(torch.eye(6))
    parts |= {"seen": nn.ReLU(), "pool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten(), "head": head}
    model = nn.Sequential(OrderedDict(parts)).eval().requires_grad_(False)
    preprocess = Preprocess(SIZE[0], (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return Classifier(model, preprocess, preprocess.mean, preprocess.std, SIZE, tuple(BACKGROUNDS), "background")


def histogram(pixels):
    """Shares of 4 x 4 x 4 colours."""
    coarse = (pixels // 64).reshape(len(pixels), -1, 3) @ np.array([16, 4, 1])
    return np.stack([np.bincount(one, minlength=64) / len(one) for one in coarse])


@pytest.fixture(scope="module")
def independent():
    """A forest on colours, learnt from other scenes; it is right on nearly all scenes that it has not seen."""
    learnt, tried = Scenes("train", 600, 5).read(0, 600), Scenes("eval", 200, 6).read(0, 200)
    x, y = (histogram(of.pixels.values) for of in (learnt, tried)), "background"
    forest = RandomForestClassifier(200, random_state=0).fit(next(x), learnt.label.sel(attribute=y).values)
    assert forest.score(next(x), tried.label.sel(attribute=y).values) > 0.95
    return forest


def test_the_visualisation_of_a_planted_unit_shows_its_value(independent):
    images = Scenes("reference", 180, 0).read(0, 180)
    classifier = planted(images)
    sought = TargetOptions(patch=0.5, stride=0.5, references=12, circuits=1, shown=1, layer="seen")
    targets = find_targets(classifier, images, sought, relevance=Attributor(classifier.model))
    rows = np.flatnonzero(targets.kind.values == "neuron")
    assert targets.target.values[rows].tolist() == [f"seen:{k}" for k in range(6)]  # each class from its own unit
    targets = targets.isel(target=rows)
    prototypes = find_prototypes(classifier, targets, references(targets, images, SIZE), layers=["act"], size=SIZE)
    drawn = vital_album(classifier, targets, prototypes, VitalOptions(steps=80, batch=12, seeds=2), seed=0)
    seen = independent.predict(histogram(drawn.pixels.values[:, 0].reshape(-1, *SIZE, 3)))
    assert (seen.reshape(6, 2) == np.arange(6)[:, None]).mean() > 0.8
