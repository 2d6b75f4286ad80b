"""Activations at the patches against the model run in float64, and that no later layer runs."""

import numpy as np
import pytest
import torch
from open_clip.transformer import VisionTransformer
from random_models import demo_clip, pictures, scramble
from second_order_literal import run

from optogram.decompose import token_activations
from optogram.decompose.activations import passing
from optogram.decompose.second_order import class_token_tower
from optogram.errors import DataError, ModelError, ParamError

GRID = (4, 3)


class Clip(torch.nn.Module):
    """Only what the literal form looks at: `visual`."""

    def __init__(self, visual):
        super().__init__()
        self.visual = visual


def wide(**options):
    """Three layers on a grid that is not square."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return scramble(Clip(VisionTransformer((32, 24), 8, 32, 3, 4, 1.5, output_dim=20, **options)))


@pytest.fixture(scope="module")
def model():
    return wide(ls_init_value=0.7)


@pytest.fixture(scope="module")
def images():
    return torch.randn(5, 3, 32, 24, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("batch", [None, 2])
def test_are_those_of_the_model_patch_by_patch(model, images, layer, batch):
    neurons = [40, 0, 3]
    found = token_activations(model, images, layer, neurons=neurons, batch=batch)
    assert found.dims == ("image", "neuron", "gy", "gx")
    assert found.dtype == np.float32
    assert found.neuron.values.tolist() == neurons
    assert found.attrs == {"mlp_layer": layer}
    literal = run(model, images)[3][layer].numpy()
    for image in range(5):
        for at, neuron in enumerate(neurons):
            expected = literal[image, 1:, neuron].reshape(GRID)
            np.testing.assert_allclose(found[image, at], expected, rtol=1e-4, atol=1e-5)
    assert token_activations(model, images, layer).sel(neuron=neurons).equals(found)


def test_layers_are_passed_once_in_order_and_no_further(model, images):
    tower = class_token_tower(model)
    runs = []
    handles = [
        block.mlp.gelu.register_forward_hook(lambda *_, index=index: runs.append(index))
        for index, block in enumerate(tower.blocks)
    ]
    try:
        with torch.no_grad():
            found = [(index, p) for index, _, p in passing(tower, images, slice(0, 5), [1, 0])]
            token_activations(model, images, 0)
    finally:
        for handle in handles:
            handle.remove()
    assert runs == [0, 1, 0]
    literal = run(model, images)[3]
    for index, p in found:
        np.testing.assert_allclose(p, literal[index], rtol=1e-4, atol=1e-5)


def test_leaves_the_model_as_it_was(model, images):
    model.train()
    token_activations(model, images[:1], 1)
    assert all(module.training for module in model.modules())
    assert not any(module._forward_pre_hooks for module in model.modules())
    model.eval()


def test_refuses_what_it_cannot_do(images):
    model = wide()
    with pytest.raises(ParamError, match="layer = 2 is the last one of this model"):
        token_activations(model, images, 2)
    with pytest.raises(ParamError, match="neuron 48 was asked for"):
        token_activations(model, images, 0, neurons=[48])
    with pytest.raises(DataError, match="image 4 has a NaN"):
        token_activations(model, torch.cat([images[:4], images[4:] * float("nan")]), 0, batch=2)
    with torch.no_grad():
        model.visual.transformer.resblocks[1].mlp.c_fc.bias[7] = float("nan")
    token_activations(model, images, 0)
    with pytest.raises(ModelError, match="neuron 7 of layer 1 has activation nan"):
        token_activations(model, images, 1)


def test_half_precision_gives_float32():
    model = demo_clip(layers=2).half()
    found = token_activations(model, pictures(1), 0, neurons=[0])
    assert found.dtype == np.float32
    exact = token_activations(demo_clip(layers=2), pictures(1), 0, neurons=[0])
    np.testing.assert_allclose(found, exact, atol=0.02)
