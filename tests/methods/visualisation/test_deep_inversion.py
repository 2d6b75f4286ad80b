"""DeepInversion against its loss written out; its statistics, its batch, and images that diverge in it."""

import numpy as np
import pytest
import timm
import torch
from colour_classifiers import MEAN, STD, Fragile, classifier, hooks, with_norms
from torch import nn

from optogram.errors import ModelError, ParamError
from optogram.methods.objectives import ClassAim, DirectionAim
from optogram.methods.visualisation.deep_inversion import JITTER, deep_inversion, feature_distances
from optogram.methods.visualisation.optimise import Pixels, draws, image_seed, jitter, jittered

SIZE = (12, 12)


def literal_distances(model, images):
    """|mean - running mean| + |variance - running variance| at each batch norm, channel by channel."""
    found, x = [], images
    for layer in model:
        if isinstance(layer, nn.BatchNorm2d):
            means, variances = [], []
            for c in range(x.shape[1]):
                values = [float(v) for v in x[:, c].flatten()]
                mean = sum(values) / len(values)
                means.append(mean - float(layer.running_mean[c]))
                variances.append(sum((v - mean) ** 2 for v in values) / len(values) - float(layer.running_var[c]))
            found.append(sum(m**2 for m in means) ** 0.5 + sum(v**2 for v in variances) ** 0.5)
        x = layer(x)
    return found


def test_distances_are_those_of_the_batch_s_own_statistics():
    model, images = with_norms().model, draws([1, 2], (3, *SIZE), "normal")
    said, found = feature_distances(model, images)
    assert torch.equal(said, model(images))
    assert [float(each) for each in found] == pytest.approx(literal_distances(model, images), rel=1e-4)
    assert hooks(model) == 0


def test_images_that_are_not_finite_are_left_out_of_the_statistics():
    model, images = with_norms().model, draws([1, 2, 3], (3, *SIZE), "normal")
    images[1, 0, 0, 0] = float("nan")
    images.requires_grad_()
    _, found = feature_distances(model, images)
    rest = images.detach()[[0, 2]].requires_grad_()
    _, expected = feature_distances(model, rest)
    torch.testing.assert_close(found, expected)
    (gradient,) = torch.autograd.grad(torch.stack(found).sum(), images)
    (wanted,) = torch.autograd.grad(torch.stack(expected).sum(), rest)
    torch.testing.assert_close(gradient[[0, 2]], wanted)
    assert feature_distances(model, torch.full((1, 3, *SIZE), float("nan")))[1] == []


def test_the_loss_is_the_published_one():
    model = with_norms()
    found = deep_inversion(
        model, ClassAim(torch.tensor([2, 0])), seeds=[5, 6], size=SIZE, steps=1, batch=1, tv=0.1, l2=0.2, statistics=0.3
    )
    moves = jitter([5, 6], 1, SIZE, JITTER)[:, 0]
    x = jittered(Pixels([5, 6], SIZE, MEAN, STD).rgb(), moves).detach()
    x = (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    first, second = literal_distances(model.model, x)
    said = model.model(x)
    for n, c in enumerate((2, 0)):
        image = x[n].double().numpy()
        steps = [image[:, :, 1:] - image[:, :, :-1], image[:, 1:] - image[:, :-1]]
        steps += [image[:, 1:, 1:] - image[:, :-1, :-1], image[:, 1:, :-1] - image[:, :-1, 1:]]
        expected = float(said[n].exp().sum().log() - said[n, c]) + 0.1 * sum(np.linalg.norm(step) for step in steps)
        expected += 0.2 * np.linalg.norm(image) + 0.3 * (10 * first + second)
        assert float(found.loss[n, 0]) == pytest.approx(expected, rel=1e-4)


def test_images_of_all_classes_come_to_the_running_statistics_and_to_their_classes():
    model, aim = with_norms(), ClassAim(torch.arange(3)).repeat(2)
    seeds = list(range(6))
    before = Pixels(seeds, SIZE, MEAN, STD).rgb().detach()
    found = deep_inversion(model, aim, seeds=seeds, size=SIZE, steps=60, batch=1, learning_rate=0.1)
    distances = [
        sum(float(each) for each in feature_distances(model.model, model.normalise(rgb))[1])
        for rgb in (before, found.rgb)
    ]
    assert distances[1] < 0.4 * distances[0]
    assert torch.equal(model.model(model.normalise(found.rgb)).argmax(1), aim.classes)


def test_others_are_drawn_beside_few_images_and_dropped():
    model, told = with_norms(), []
    few = deep_inversion(
        model, ClassAim(torch.tensor([2, 0])), seeds=[5, 6], size=SIZE, steps=3, batch=5, tell=told.append
    )
    every = [5, 6, *(image_seed(seed, "beside", k) for seed, k in ((5, 1), (6, 1), (5, 2)))]
    many = deep_inversion(
        model, ClassAim(torch.tensor([2, 0, 2, 0, 2])), seeds=every, size=SIZE, steps=3, batch=1, record=[0, 2]
    )
    assert few.rgb.shape == (2, 3, *SIZE)
    assert torch.equal(few.rgb, many.rgb[:2])
    assert torch.equal(few.transparency, many.transparency[:2])
    assert torch.equal(few.loss[:, [0, 2]], many.loss[:2])
    assert told == [2, 2, 2]
    alone = deep_inversion(model, ClassAim(torch.tensor([2])), seeds=[5], size=SIZE, steps=3, batch=1)
    assert not torch.allclose(few.rgb[0], alone.rgb[0], atol=1e-3)


def test_an_image_that_diverges_does_not_spoil_the_others():
    model = classifier(Fragile(with_norms().model, lost_at=2))
    options = {"size": SIZE, "batch": 1, "learning_rate": 0.1}
    found = deep_inversion(model, ClassAim(torch.arange(3)), seeds=[0, 1, 2], steps=40, **options)
    assert found.diverged.tolist() == [-1, 2, -1]
    assert found.rgb.isfinite().all()
    assert (found.loss[[0, 2], -1] < 0.5 * found.loss[[0, 2], 0]).all()
    assert with_norms().model(model.normalise(found.rgb[[0, 2]])).argmax(1).tolist() == [0, 2]


def test_hooks_go_when_the_model_fails():
    model = with_norms().model
    with pytest.raises(RuntimeError):
        feature_distances(model, torch.zeros(1, 4, *SIZE))
    model[6] = nn.Linear(7, 3)
    with pytest.raises(RuntimeError):
        feature_distances(model, torch.zeros(1, 3, *SIZE))
    assert hooks(model) == 0


def test_models_and_aims_that_it_is_not_for():
    vit = classifier(timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, num_classes=3))
    aim = ClassAim(torch.arange(3))
    for error, message, model, options in (
        (ModelError, r"VisionTransformer has no batch norm: use vital, fourier, maco or pii", vit, {}),
        (ParamError, r"not neurons of '3': use vital", with_norms(), {"aim": DirectionAim("3", torch.eye(4)[:3])}),
        (ParamError, r"batch = 0", with_norms(), {"batch": 0}),
        (ParamError, r"classes \[0, 4\]: Sequential has 4", with_norms(), {"aim": ClassAim(torch.tensor([0, 4, 4]))}),
    ):
        with pytest.raises(error, match=message):
            deep_inversion(model, **{"aim": aim, "seeds": [1, 2, 3], "size": (32, 32), "steps": 2, **options})
