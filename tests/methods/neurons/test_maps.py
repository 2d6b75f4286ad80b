"""Heatmaps of neurons: the thesis's recipe one image and one neuron at a time."""

import numpy as np
import pytest
import torch
from open_clip.transformer import VisionTransformer
from random_models import sharp_tower

from optogram.decompose import token_activations
from optogram.errors import DataError, ModelError, ParamError, ShapeError
from optogram.methods.neurons.maps import neuron_heatmaps

GRID, EMBED, NEURONS = (4, 3), 20, 48


@pytest.fixture(scope="module")
def model():
    return sharp_tower(4, 4, 1.5, EMBED)


@pytest.fixture(scope="module")
def images():
    return torch.randn(7, 3, 32, 24, generator=torch.Generator().manual_seed(4))


@pytest.fixture(scope="module")
def directions():
    rng = np.random.default_rng(0)
    r = rng.standard_normal((3, NEURONS, EMBED)).astype(np.float32)
    return dict(enumerate(r / np.linalg.norm(r, axis=2, keepdims=True)))


@pytest.fixture(scope="module")
def targets():
    """Three class texts, over seven images."""
    texts = np.random.default_rng(1).standard_normal((3, EMBED)).astype(np.float32)
    return texts[[2, 0, 0, 1, 2, 1, 0]]


def literal(model, image, target, directions, count):
    """Section 3.5 for one image."""
    along = [
        (abs(float(r @ target)), layer, n) for layer in sorted(directions) for n, r in enumerate(directions[layer])
    ]
    chosen = sorted(along, key=lambda one: -one[0])[:count]
    maps = [token_activations(model, image[None], layer).values[0, neuron] for _, layer, neuron in chosen]
    mean = np.mean(np.array(maps, np.float64), 0)
    return (mean - mean.min()) / (mean.max() - mean.min())


@pytest.mark.parametrize("layers", [[0, 1, 2], [2, 1], [1]])
@pytest.mark.parametrize(("count", "batch"), [(1, 64), (10, 3), (30, None)])
def test_matches_the_thesis_one_image_and_one_neuron_at_a_time(
    model, images, targets, directions, layers, count, batch
):
    few = {layer: directions[layer] for layer in layers}
    found = neuron_heatmaps(model, images, targets, few, count=count, batch=batch)
    assert found.shape == (7, *GRID)
    assert found.dtype == np.float32
    assert (found.min((1, 2)) == 0).all()
    assert (found.max((1, 2)) == 1).all()
    for image, target, heatmap in zip(images, targets, found, strict=True):
        np.testing.assert_allclose(heatmap, literal(model, image, target, few, count), atol=1e-5)


def test_more_neurons_than_there_are_means_all(model, images, targets, directions):
    few = {1: directions[1]}
    every = neuron_heatmaps(model, images, targets, few)
    assert np.array_equal(every, neuron_heatmaps(model, images, targets, few, count=NEURONS))
    np.testing.assert_allclose(every[0], literal(model, images[0], targets[0], few, NEURONS), atol=1e-5)


def test_the_sign_of_a_direction_does_not_matter(model, images, targets, directions):
    turned = {layer: torch.from_numpy(-r) for layer, r in directions.items()}
    expected = neuron_heatmaps(model, images, targets, directions, count=10)
    assert np.array_equal(neuron_heatmaps(model, images, torch.from_numpy(targets), turned, count=10), expected)


def test_one_pass_a_batch_and_the_last_layer_never_runs(model, images, targets, directions):
    runs = []
    handles = [
        block.mlp.gelu.register_forward_hook(lambda *_, index=index: runs.append(index))
        for index, block in enumerate(model.transformer.resblocks)
    ]
    try:
        model.train()
        neuron_heatmaps(model, images, targets, directions, batch=4)
        assert all(module.training for module in model.modules())
    finally:
        model.eval()
        for handle in handles:
            handle.remove()
    assert runs == [0, 1, 2, 0, 1, 2]


def test_a_map_without_a_patch_that_stands_out_is_zero(images, targets, directions):
    blind = VisionTransformer((32, 24), 8, 32, 2, 4, 1.5, output_dim=EMBED).eval()
    with torch.no_grad():
        for parameter in blind.parameters():
            parameter.zero_()
    assert (neuron_heatmaps(blind, images, targets, {0: directions[0]}) == 0).all()


@pytest.mark.misfits
def test_refusals(model, images, targets, directions):
    with pytest.raises(ParamError, match=r"count = 0, layers = \[0, 1, 2\]"):
        neuron_heatmaps(model, images, targets, directions, count=0)
    with pytest.raises(ParamError, match=r"layers = \[\]"):
        neuron_heatmaps(model, images, targets, {})
    with pytest.raises(ParamError, match="layer = 3 is the last one"):
        neuron_heatmaps(model, images, targets, {3: directions[0]})
    with pytest.raises(ShapeError, match=r"targets have shape \(4, 20\), expected \(7, embed\)"):
        neuron_heatmaps(model, images, targets[:4], directions)
    with pytest.raises(ShapeError, match=r"layer 0 have shape \(48, 20\), but .* \(48, 19\)"):
        neuron_heatmaps(model, images, targets[:, :19], directions)
    with pytest.raises(ShapeError, match=r"layer 1 have shape \(5, 20\)"):
        neuron_heatmaps(model, images, targets, {1: directions[1][:5]})
    with pytest.raises(DataError, match="image 6 has a NaN"):
        neuron_heatmaps(model, torch.cat([images[:6], images[6:] * float("nan")]), targets, directions, batch=4)
    with pytest.raises(ModelError, match="not supported"):
        neuron_heatmaps(torch.nn.Linear(3, 3), images, targets, directions)
