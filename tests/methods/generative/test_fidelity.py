"""Distances of samples, copies of training images, and classes, planted."""

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

from optogram.data.scenes import Scenes
from optogram.errors import DataError, ShapeError
from optogram.methods.generative.fidelity import class_accuracy, copies, distances, draw_real, headline, look
from optogram.metrics.visualisations import frechet_distance
from optogram.models.loading.classifiers import Classifier
from optogram.models.loading.clip_folders import Preprocess


@pytest.fixture(scope="module")
def trained():
    return Scenes("single", 600, 0, size=32).read(0, 600)


@pytest.fixture(scope="module")
def fresh():
    """Images of the same kind, none of which the model was trained on."""
    return Scenes("single", 200, 9, size=32).read(0, 200).pixels.values


def test_a_model_that_copies_is_found_and_one_that_does_not_is_not(trained, fresh):
    control = np.arange(0, 600, 3)
    copied = copies(trained.pixels.values[50:150], trained, control)
    assert copied.copied == 1
    assert copied.nearest.values.tolist() == trained.image.values[50:150].tolist()
    assert (copied.distance == 0).all()
    found = copies(fresh, trained, control)
    assert found.copied_low < 0.01 < 0.06
    assert found.copied < 0.06
    mixed = copies(np.concatenate([fresh[:50], trained.pixels.values[:50]]), trained, control)
    assert 0.5 <= mixed.copied < 0.56


def test_training_images_that_occur_twice_hide_no_copy(trained):
    twice = trained.isel(image=np.concatenate([np.arange(600), np.arange(10)]))
    found = copies(trained.pixels.values[50:150], twice, np.arange(610))
    assert found.copied == 1
    assert found.copied_real == pytest.approx(20 / 610)


def test_samples_of_another_size_are_named_before_anything_is_compared(trained):
    with pytest.raises(ShapeError, match="samples are 16 x 16 pixels, the training images 32 x 32"):
        copies(np.zeros((3, 16, 16, 3), np.uint8), trained, np.arange(9))


def test_noise_and_a_change_of_brightness_do_not_hide_a_copy(trained):
    draw = np.random.default_rng(0)
    pixels = trained.pixels.values[:100].astype(float) + draw.normal(0, 8, (100, 32, 32, 3)) + 3
    found = copies(np.clip(pixels, 0, 255).astype(np.uint8), trained, np.arange(200))
    assert (found.nearest.values == trained.image.values[:100]).mean() > 0.98
    assert found.copied > 0.9


def test_what_real_images_are_is_told_beside():
    draw = np.random.default_rng(1)
    real, other = draw.standard_normal((60, 4)), draw.standard_normal((60, 4))
    ours = draw.standard_normal((90, 4)) + 2
    found = distances({"clip": ours}, {"clip": real}, {"clip": other})
    assert found.fid.item() == frechet_distance(ours[:60], real), "as many as there are real ones"
    assert found.fid_real < found.fid
    assert found.kid_real < found.kid
    told = headline(found.assign(real_distance=("control", np.zeros(60))))
    assert (told.value, told.versus_value, told.of) == (found.fid.item(), found.fid_real.item(), 60)


def test_real_images_are_drawn_once_and_reproducibly():
    rows = draw_real(100, 150, seed=0)
    assert len(rows.real) == len(rows.other) == 75
    assert len(rows.control) == 150
    assert all((np.diff(each) > 0).all() for each in rows)
    assert len({*rows.real, *rows.other}) == 150
    assert (draw_real(100, 150, seed=0).real == rows.real).all()
    assert (draw_real(100, 150, seed=1).real != rows.real).any()
    with pytest.raises(DataError, match="1 samples and 9 training images"):
        draw_real(1, 9, seed=0)


def classifier(classes=("b", "a"), attribute="kind"):
    """Tells how red an image is."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, len(classes)))
    half = (0.5, 0.5, 0.5)
    return Classifier(model.eval(), Preprocess(32, half, half), half, half, (32, 32), classes, attribute)


def asked(labels, attribute="kind"):
    variables = {
        "label": (("image", "attribute"), np.array(labels)[:, None]),
        "value_name": (("attribute", "value"), [["a", "b", "c"]]),
    }
    return xr.Dataset(variables, {"attribute": [attribute]})


def test_classes_are_matched_by_name_and_what_was_not_asked_for_is_left_out():
    logits = np.array([[0, 1], [0, 1], [1, 0], [1, 0]], np.float32)  # a, a, b, b
    found = class_accuracy(logits, asked([0, 1, 1, -1]), classifier())
    assert found.class_accuracy == pytest.approx(2 / 3)
    assert found.class_asked == 3
    assert found.class_chance == pytest.approx(1 / 3 * 2 / 3 + 2 / 3 * 1 / 3)
    assert class_accuracy(logits, asked([2, 2, 2, 0]), classifier()).class_asked == 1, "no class of this model"
    for nothing in (asked([-1] * 4), asked([0] * 4, "colour"), xr.Dataset({"seed": ("image", np.zeros(4))})):
        found = class_accuracy(logits, nothing, classifier())
        assert found.class_asked == 0
        assert found.class_accuracy.isnull()


def test_logits_and_features_do_not_depend_on_the_batch(fresh):
    model = classifier()
    logits, features = look(model, fresh[:20])
    again = look(model, fresh[:20], batch=7)
    np.testing.assert_allclose(logits, again[0], atol=1e-6)
    assert features.shape == (20, 3)
    with torch.no_grad():
        np.testing.assert_allclose(model.model[2](torch.from_numpy(features)).numpy(), logits, atol=1e-6)
