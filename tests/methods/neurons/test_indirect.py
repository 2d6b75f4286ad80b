"""Indirect effects' components against a singular value decomposition; layers' ablations against the model itself."""

import numpy as np
import pytest
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

from optogram.decompose import activation_means, first_order, indirect_effects, intervened
from optogram.methods.neurons import indirect
from optogram.methods.neurons.indirect import indirect_components, mean_activations, without_neurons

IMAGES, LAYER, LARGEST = 12, 1, 7


@pytest.fixture(scope="module")
def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vision = CLIPVisionCfg(layers=3, width=32, head_width=8, patch_size=8, image_size=24, mlp_ratio=1)
        text = CLIPTextCfg(context_length=8, vocab_size=50, width=32, heads=2, layers=1)
        return CLIP(24, vision, text).eval()


@pytest.fixture(scope="module")
def images():
    return torch.randn(IMAGES, 3, 24, 24, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=["at once", "in blocks"])
def blocks(request, monkeypatch):
    if request.param == "in blocks":
        monkeypatch.setattr(indirect, "BLOCK", 5)
        monkeypatch.setattr(indirect, "NEURONS", 3)


@pytest.mark.usefixtures("blocks")
def test_components_are_those_of_a_singular_value_decomposition(model, images):
    mean = mean_activations(model, lambda rows: images[rows], IMAGES, LAYER, batch=4)
    np.testing.assert_allclose(mean, activation_means(model, images, LAYER), atol=1e-6)
    neurons = [4, 0, 9, 31]
    found = indirect_components(model, images, LAYER, mean, largest=LARGEST, neurons=neurons, batch=4)
    assert found.neuron.values.tolist() == neurons
    phi = indirect_effects(model, images, LAYER, mean, neurons=neurons).values.astype(np.float64)
    for at in range(len(neurons)):
        effects, b = phi[:, at], phi[:, at].mean(0)
        top = effects[np.argsort(-np.linalg.norm(effects, axis=1), kind="stable")[:LARGEST]]
        _, lengths, rows = np.linalg.svd(top - b, full_matrices=False)
        r = rows[0] * np.sign((top @ rows[0]).mean())
        np.testing.assert_allclose(found.r[at], r, atol=2e-4)
        assert float(found.explained[at]) == pytest.approx(lengths[0] ** 2 / (lengths**2).sum(), abs=1e-4)


def test_a_neuron_without_effect_has_no_direction(model, images):
    mean = activation_means(model, images, LAYER)
    with torch.no_grad():
        model.visual.transformer.resblocks[LAYER].mlp.c_proj.weight[:, 5] = 0
    found = indirect_components(model, images, LAYER, mean, largest=LARGEST, neurons=[5, 6], batch=4)
    assert (found.r[0] == 0).all()
    assert np.linalg.norm(found.r[1]) == pytest.approx(1, abs=1e-5)


@pytest.mark.usefixtures("blocks")
def test_whole_layers_are_ablated(model, images):
    few = images[:7]
    mean = activation_means(model, images, LAYER)
    found = without_neurons(
        model, LAYER, mean, (lambda rows: images[rows], IMAGES), (lambda rows: few[rows], len(few)), batch=3
    )
    np.testing.assert_allclose(found["indirect"], intervened(model, few, LAYER, mean), atol=1e-5)
    reference, ours = first_order(model, images, LAYER), first_order(model, few, LAYER)
    written, mean_written = (
        (one.c * one.D + one.constant).transpose("image", "neuron", "embed").values for one in (ours, reference)
    )
    expected = ours.embedding.values - written.sum(1) + mean_written.mean(0).sum(0)
    np.testing.assert_allclose(found["first_order"], expected, atol=1e-4)
    np.testing.assert_allclose(found["none"], ours.embedding.values, atol=1e-5)
