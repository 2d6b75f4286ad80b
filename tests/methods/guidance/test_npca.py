"""Neural PCA of a class, against the definition, and planted."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from planted_grounds import biased, grounded
from torch import nn

from optogram.errors import DataError, ModelError, ParamError, ShapeError
from optogram.methods.class_labels import class_labels
from optogram.methods.guidance.npca import class_components, headline, npca
from optogram.methods.guidance.readout import features_of, readout
from optogram.models.loading.classifiers import Classifier
from optogram.models.loading.specs import Preprocess


def drawn(images=40, embed=7, seed=0):
    draw = torch.Generator().manual_seed(seed)
    mixed = torch.randn(images, embed, generator=draw) @ torch.randn(embed, embed, generator=draw)
    return mixed + 1, torch.randn(embed, generator=draw)


def test_the_parts_add_up_to_the_logit_of_any_image():
    features, weight = drawn()
    other, _ = drawn(9, seed=5)
    found, bias = npca(features, weight), 0.3
    for some in (features.double(), other.double()):
        parts = found.alpha(some).sum(1) + found.mean.sum() + bias
        torch.testing.assert_close(parts, some @ weight.double() + bias, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("images", [40, 5])
def test_alpha_is_that_of_section_g(images):
    features, weight = drawn(images)
    found = npca(features, weight, count=3)
    psi = (features.double() * weight.double()).numpy()
    mean = psi.mean(0)
    _, vectors = np.linalg.eigh(np.cov(psi.T))
    parts = []
    for v in vectors.T:
        parts.append([np.dot(np.ones_like(v), v) * np.dot(row - mean, v) for row in psi])
    parts = np.array(parts).T
    first = np.argsort(-parts.var(0))[:3]
    np.testing.assert_allclose(found.alpha(features.double()).numpy(), parts[:, first], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(found.variance.numpy(), parts[:, first].var(0, ddof=1), rtol=1e-6)
    np.testing.assert_allclose(np.abs((found.vectors.numpy() * vectors.T[first]).sum(1)), 1, rtol=1e-6)


def test_variances_add_up_to_the_logit_s_and_signs_are_settled():
    features, weight = drawn()
    found = npca(features, weight)
    assert float(found.variance.sum()) == pytest.approx(found.logit_variance)
    assert found.logit_variance == pytest.approx(float((features @ weight).var()), rel=1e-5)
    assert (found.variance.diff() <= 1e-12).all()
    assert (found.vectors.sum(1) >= 0).all()
    torch.testing.assert_close(found.vectors @ found.vectors.T, torch.eye(7).double(), rtol=0, atol=1e-9)
    largest = ((features * weight).var(0) / (features @ weight).var()).max()
    assert found.unit_share == pytest.approx(float(largest), rel=1e-4)


def test_components_whose_entries_cancel_come_last_however_much_they_vary():
    draw = torch.Generator().manual_seed(1)
    apart, together = (torch.randn(200, generator=draw) for _ in range(2))
    features = torch.stack([5 * apart + together, -5 * apart + together], 1)
    found = npca(features, torch.ones(2))
    assert float(found.vectors[0].prod()) > 0.4
    assert float(found.variance[0] / found.logit_variance) > 0.95


def test_an_objective_can_climb_a_component():
    features, weight = drawn()
    found = npca(features, weight, count=2)
    moved = features.clone().requires_grad_()
    found.alpha(moved)[:, 1].sum().backward()
    torch.testing.assert_close(moved.grad, found.directions[1].float().expand(len(features), -1))


@pytest.mark.misfits
@pytest.mark.parametrize(
    ("features", "weight", "count", "error", "says"),
    [
        (torch.ones(5, 3), torch.ones(2), 1, ShapeError, "one weight an entry"),
        (torch.ones(2, 3), torch.ones(3), 1, DataError, "2 images of the class, expected 3 or more"),
        (torch.ones(5, 3), torch.ones(3), 1, DataError, "the logit is the same on all images"),
        (torch.full((5, 3), torch.nan), torch.ones(3), 1, DataError, "not finite"),
        (drawn()[0], drawn()[1], 0, ParamError, "count = 0"),
    ],
)
def test_what_has_no_components_is_refused(features, weight, count, error, says):
    with pytest.raises(error, match=says):
        npca(features, weight, count=count)
    with pytest.raises(ShapeError, match="the components 7"):
        npca(*drawn()).alpha(torch.ones(2, 3))


def test_the_components_of_a_biased_classifier_are_its_classes_and_their_ground():
    images = grounded()
    found = class_components(biased(), images, count=2, shown=3, batch=32)
    assert found["class"].values.tolist() == ["red", "blue"]
    assert found.attrs["attribute"] == "shape"
    first = found["direction"].sel({"class": "red"}).isel(component=0).values
    assert np.abs(first).argmax() == 1, "within a class the green ground moves the logit most"
    most, least = (found["image"].sel({"class": "red", "sign": sign}).isel(component=0).values for sign in found.sign)
    green = set(images.image.values[images.label.values[:, 1] == 1])
    assert set(most) <= green
    assert not set(least) & green
    alpha = found["alpha"].sel({"class": "red"}).isel(component=0)
    assert (alpha.sel(sign="most") > 0).all()
    assert (alpha.sel(sign="least") < 0).all()
    features, last = features_of(biased(), images, batch=32), readout(biased(), side=16)
    red = features[images.label.values[:, 0] == 0]
    assert float(found["mean_logit"][0]) == pytest.approx(float((red @ last.weight[0].numpy()).mean()), rel=1e-5)
    told = headline(found)
    assert told.value == pytest.approx(float(found["share"].isel(component=0).mean()))
    assert (told.versus_value, told.of) == (float(found.unit_share.mean()), 80)


def test_classes_with_too_few_images_are_left_out_and_named():
    images = grounded()
    few = images.isel(image=np.flatnonzero((images.label.values[:, 0] == 0) | (np.arange(80) < 4)))
    found = class_components(biased(), few, count=9, shown=60, batch=32)
    assert found["class"].values.tolist() == ["red"]
    assert json.loads(found.attrs["left_out"]) == ["blue"]
    assert found.sizes["component"] == 3
    assert (found["image"].values == "").sum() == np.isnan(found["alpha"].values).sum() == 3 * 2 * 20
    with pytest.raises(DataError, match="no class has 3 images"):
        class_components(biased(), images.isel(image=slice(4)), count=1, shown=1)
    with pytest.raises(ParamError, match="shown = 0"):
        class_components(biased(), images, count=1, shown=0)


def test_features_do_not_depend_on_what_is_beside_an_image():
    images = grounded(20)
    every = features_of(biased(), images, batch=8)
    some = features_of(biased(), images.isel(image=[3, 11]), batch=8)
    assert (every[[3, 11]] == some).all()
    assert every.shape == (20, 3)


def test_the_head_is_found_among_layers_of_its_shape():
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(12, 4), nn.Linear(4, 4), nn.Linear(4, 4, bias=False)]
    model = nn.Sequential(*layers).eval().requires_grad_(False)
    found = readout(Classifier(model, Preprocess(2), (0, 0, 0), (1, 1, 1), (2, 2)), side=2)
    assert found.weight is layers[3].weight or torch.equal(found.weight, layers[3].weight)
    assert (found.bias == 0).all()


def test_labels_that_tell_no_class_are_named():
    images = grounded(8)
    with pytest.raises(ModelError, match="have no names"):
        class_labels(replace(biased(), classes=()), images)
    with pytest.raises(DataError, match="values of 'colour', but images are labelled by shape, background"):
        class_labels(replace(biased(), attribute="colour"), images)
    images["label"][0, 0] = -1
    attribute, labels = class_labels(replace(biased(), classes=("blue", "other")), images)
    assert (attribute, labels[:4].tolist()) == ("shape", [-1, 0, -1, 0])
