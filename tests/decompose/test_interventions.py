"""First-order effects against eq. 3.1 term by term, indirect effects against the model run with a hook."""

import numpy as np
import pytest
import torch
from random_models import demo_clip, pictures
from second_order_literal import first_order as literal_first_order
from second_order_literal import run, without_neuron

from optogram.decompose import activation_means, contributions, first_order, indirect_effects, intervened
from optogram.decompose.interventions import AT_ONCE_BYTES
from optogram.errors import DataError, ModelError, ParamError, ShapeError

TOLERANCE = 1e-5


def relative(found, expected):
    return np.linalg.norm(np.asarray(found) - np.asarray(expected)) / np.linalg.norm(np.asarray(expected))


def small(**options):
    shape = {"layers": 3, "width": 32, "head_width": 8, "patch_size": 16, "image_size": 48, "mlp_ratio": 1.5}
    return demo_clip(**(shape | options))


@pytest.fixture(scope="module")
def model():
    return small(ls_init_value=0.7)


@pytest.fixture(scope="module")
def few():
    return pictures(3, 48)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_first_order_is_the_equation(model, few, layer):
    neurons = [40, 0, 3]
    ds = first_order(model, few, layer, neurons=neurons, batch=2)
    assert ds.c.dims == ("image", "neuron")
    assert ds.D.dims == ("neuron", "embed")
    assert ds.neuron.values.tolist() == neurons
    found = ds.c * ds.D + ds.constant
    expected = literal_first_order(model, few, layer, neurons)
    assert relative(found.transpose("image", "neuron", "embed"), expected) < TOLERANCE


def test_first_order_effects_sum_to_the_mlp(model, few):
    """But for the MLP's output bias and the shift, which `contributions` gives to the heads."""
    ds, whole = first_order(model, few, 1), contributions(model, few)
    block = model.visual.transformer.resblocks[1]
    with torch.no_grad():
        bias = block.ls_2(block.mlp.c_proj.bias) * model.visual.ln_post.weight @ model.visual.proj
    expected = whole.mlp[:, 2] - whole.scale.values[:, None] * bias.numpy()
    assert relative((ds.c * ds.D).sum("neuron"), expected) < TOLERANCE
    shift = whole.offset.values - (whole["mean"] * whole.scale).values[:, None] * whole.gain.values
    assert relative(ds.constant * 48 * 3, shift) < TOLERANCE


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_indirect_effects_are_those_of_running_the_model(model, few, layer, monkeypatch):
    mean = activation_means(model, pictures(4, 48, seed=5), layer, batch=3)
    activations = run(model, pictures(4, 48, seed=5))[3][layer].mean(0)
    tokens = 1 if layer == 2 else 10
    assert dict(mean.sizes) == {"token": tokens, "neuron": 48}
    assert relative(mean, activations[:tokens]) < TOLERANCE
    whole = without_neuron(model, few, layer, [], torch.zeros(()))
    neurons = [7, 0, 33]
    # other tokens of the last layer reach nothing
    means = [torch.cat([torch.as_tensor(mean.values)[:, n], torch.zeros(10 - tokens)]) for n in neurons]
    expected = [whole - without_neuron(model, few, layer, n, m) for n, m in zip(neurons, means, strict=True)]
    for _ in range(2):
        found = indirect_effects(model, few, layer, mean, neurons=neurons, batch=2)
        assert found.dims == ("image", "neuron", "embed")
        # a difference of embeddings in float32: as exact as these
        assert np.linalg.norm(found - np.stack(expected, 1), axis=2).max() < 1e-6 * np.linalg.norm(whole, axis=1).min()
        assert relative(found, np.stack(expected, 1)) < 2e-3
        monkeypatch.setitem(AT_ONCE_BYTES, "cpu", 1)


def test_intervening_on_all_at_once(model, few):
    mean = activation_means(model, few, 1)
    one = intervened(model, few, 1, mean, neurons=[5])
    expected = without_neuron(model, few, 1, 5, torch.as_tensor(mean.values)[:, 5])
    assert relative(one, expected) < TOLERANCE
    every = intervened(model, few, 1, mean.T, batch=1)
    assert relative(every, without_neuron(model, few, 1, slice(None), torch.as_tensor(mean.values))) < TOLERANCE


def test_an_image_that_is_the_mean_has_no_indirect_effect(model, few):
    mean = activation_means(model, few[:1], 0)
    effect = indirect_effects(model, few[:1], 0, mean, neurons=[1, 2])
    assert np.abs(effect).max() < 1e-5
    assert np.abs(indirect_effects(model, few[1:], 0, mean, neurons=[1, 2])).max() > 1e-4


def test_refuses_what_does_not_fit(model, few):
    mean = activation_means(model, few, 1)
    with pytest.raises(ShapeError, match=r"have sizes {'token': 1, 'neuron': 48}, but layer 1 has {'token': 10"):
        indirect_effects(model, few, 1, mean[:1])
    for call in (first_order, activation_means):
        with pytest.raises(ParamError, match="layer = 3, but this model has MLPs 0 to 2"):
            call(model, few, 3)
        with pytest.raises(DataError, match="image 1 has a NaN"):
            call(model, torch.stack([few[0], few[1] * float("nan")]), 0)
    broken = small()
    with torch.no_grad():
        broken.visual.transformer.resblocks[1].mlp.c_fc.bias[7] = float("nan")
    for call in (first_order, activation_means):
        with pytest.raises(ModelError, match="neuron 7 of layer 1 has activation nan"):
            call(broken, few, 1)
    with pytest.raises(ModelError, match="NaN or infinite c for image 0"):
        first_order(broken, few, 0)
    with pytest.raises(ModelError, match="NaN or infinite embedding for image 0"):
        intervened(broken, few, 0, activation_means(broken, few, 0))
