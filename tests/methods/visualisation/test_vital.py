"""VITAL against its equations written out, and what it must come to."""

import numpy as np
import pytest
import torch
from torch import nn

from optogram.decompose.relevance import Attributor, Start
from optogram.errors import ParamError
from optogram.methods.visualisation.optimise import Pixels, draws, image_seed, jitter
from optogram.methods.visualisation.sort_matching import matching_loss, reference_prototype
from optogram.methods.visualisation.vital import Drawing, vital
from optogram.models.layers import activations
from optogram.models.loading.classifiers import Classifier
from optogram.models.loading.clip_folders import Preprocess

SIZE = (8, 8)
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


class Net(nn.Module):
    """Two convolutions, means over space, classes."""

    def __init__(self, classes=3):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(4, 5, 3, stride=2, padding=1), nn.ReLU())
        self.head = nn.Linear(5, classes)

    def forward(self, x):
        return self.head(self.second(self.first(x)).mean((2, 3)))


@pytest.fixture(scope="module")
def classifier():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Net().eval().requires_grad_(False)
    return Classifier(model, Preprocess(8, MEAN, STD), MEAN, STD, SIZE)


def literal_l_sm(ours, references):
    """Algorithm 1, as printed, for one image."""
    index = torch.sort(ours, dim=2).indices
    ordered = torch.sort(references, dim=2).values.mean(0, keepdim=True)
    matched = ordered.gather(-1, index.argsort(-1))
    return torch.mean((ours - matched) ** 2)


def literal_tv(x):
    edges = [x[:, :, 1:] - x[:, :, :-1], x[:, 1:] - x[:, :-1]]
    edges += [x[:, 1:, 1:] - x[:, :-1, :-1], x[:, 1:, :-1] - x[:, :-1, 1:]]
    return sum(edge.norm() for edge in edges)


def stacked(*prototypes):
    return {name: torch.stack([each[name] for each in prototypes]) for name in prototypes[0]}


@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_is_that_of_the_paper(classifier, weighted):
    references = draws([1, 2, 3, 4], (3, *SIZE), "normal")
    layers, weights = ["first", "second"], {"first": 0.1, "second": 2.0}
    attributor = Attributor(classifier.model, "gradient_x_input")
    start = Start(torch.eye(3)[[1]])

    def share(images):
        return attributor(images, layers, Start(torch.eye(3)[[1]].expand(len(images), -1)))

    prototype = reference_prototype(classifier.model, references, layers, relevance=share if weighted else None)
    drawn, final = vital(
        classifier,
        stacked(prototype),
        Drawing(steps=1, learning_rate=1e-9, jitter=0.25, tv=0.3, l2=0.7),
        seeds=[5],
        size=SIZE,
        weights=weights,
        relevance=attributor if weighted else None,
        start=start if weighted else None,
    )
    rolled = Pixels([5], SIZE, MEAN, STD).rgb().detach()
    down, right = jitter([5], 1, SIZE, 0.25)[0, 0].tolist()
    seen = classifier.normalise(torch.roll(rolled, (down, right), (2, 3)))
    expected = 0.3 * literal_tv(seen[0]) + 0.7 * seen.norm()
    for name in layers:
        ours, theirs = (activations(classifier.model, part, [name])[name] for part in (seen, references))
        if weighted:
            ours, theirs = ours * share(seen)[name], theirs * share(references)[name]
        loss = literal_l_sm(ours.flatten(2), theirs.flatten(2))
        if weighted:  # a share of what there is to match
            loss = loss / theirs.flatten(2).sort(2).values.mean(0).square().mean()
        expected = expected + weights[name] * loss
    assert float(drawn.loss[0, 0]) == pytest.approx(float(expected), rel=1e-5)
    assert final.shape == (1, 2)


def test_one_reference_gives_an_image_of_its_histogram():
    # a model whose only layer is the picture: the features of an image are its colours
    model = nn.Sequential(nn.Identity()).eval()
    classifier = Classifier(model, Preprocess(8, MEAN, STD), MEAN, STD, SIZE)
    reference = classifier.normalise(draws([7], (3, *SIZE), "uniform"))
    prototype = reference_prototype(model, reference, ["0"])
    drawn, final = vital(classifier, stacked(prototype), Drawing(tv=0, l2=0), seeds=[1], size=SIZE)
    found = classifier.normalise(drawn.rgb).flatten(2).sort().values
    np.testing.assert_allclose(found.numpy(), reference.flatten(2).sort().values.numpy(), atol=0.02)
    assert float(final) < 1e-4
    assert not torch.allclose(drawn.rgb, reference, atol=0.1)  # places are free


def test_targets_of_a_batch_are_drawn_as_alone(classifier):
    layers = ["first", "second"]
    prototypes = [
        reference_prototype(classifier.model, draws([10 * k, 10 * k + 1], (3, *SIZE), "normal"), layers)
        for k in range(3)
    ]
    seeds = [image_seed(0, name, 0) for name in "abc"]
    options = Drawing(steps=12)
    together, losses = vital(classifier, stacked(*prototypes), options, seeds=seeds, size=SIZE)
    for k in range(3):
        alone, loss = vital(classifier, stacked(prototypes[k]), options, seeds=seeds[k : k + 1], size=SIZE)
        torch.testing.assert_close(alone.rgb[0], together.rgb[k], atol=1e-4, rtol=0)
        torch.testing.assert_close(loss[0], losses[k], atol=1e-4, rtol=1e-3)


def test_it_comes_closer_to_its_references_than_to_those_of_another_target(classifier):
    layers = ["first", "second"]
    dark = classifier.normalise(draws([1, 2, 3], (3, *SIZE), "uniform") * 0.3)
    light = classifier.normalise(0.7 + draws([4, 5, 6], (3, *SIZE), "uniform") * 0.3)
    prototypes = stacked(*(reference_prototype(classifier.model, images, layers) for images in (dark, light)))
    drawn, _ = vital(classifier, prototypes, Drawing(steps=150), seeds=[1, 1], size=SIZE)
    assert float(drawn.rgb[0].mean()) < 0.4 < 0.5 < float(drawn.rgb[1].mean())
    with torch.no_grad():
        found = activations(classifier.model, classifier.normalise(drawn.rgb), layers)
    crossed = {name: each.flip(0) for name, each in prototypes.items()}
    own, other = (matching_loss(found, each) for each in (prototypes, crossed))
    assert (own < 0.05 * other).all()


def test_a_target_whose_prototype_is_broken_is_stopped_alone(classifier):
    layers = ["first", "second"]
    good = reference_prototype(classifier.model, draws([1, 2], (3, *SIZE), "normal"), layers)
    broken = {name: each * float("inf") for name, each in good.items()}
    drawn, _ = vital(classifier, stacked(good, broken), Drawing(steps=6), seeds=[3, 4], size=SIZE)
    alone, _ = vital(classifier, stacked(good), Drawing(steps=6), seeds=[3], size=SIZE)
    assert drawn.diverged.tolist() == [-1, 0]
    torch.testing.assert_close(drawn.rgb[0], alone.rgb[0], atol=1e-5, rtol=0)
    assert drawn.rgb.isfinite().all()


def test_relevance_without_a_start_is_refused(classifier):
    prototype = reference_prototype(classifier.model, draws([1, 2], (3, *SIZE), "normal"), ["first"])
    with pytest.raises(ParamError, match="relevance needs a start"):
        vital(classifier, stacked(prototype), Drawing(), seeds=[1], size=SIZE, relevance=Attributor(classifier.model))


def test_a_weight_of_no_layer_is_named(classifier):
    prototype = reference_prototype(classifier.model, draws([1, 2], (3, *SIZE), "normal"), ["first"])
    with pytest.raises(ParamError, match=r"layer 'fyrst' has a weight but no features. Did you mean 'first'"):
        vital(classifier, stacked(prototype), Drawing(), seeds=[1], size=SIZE, weights={"fyrst": 2.0})
