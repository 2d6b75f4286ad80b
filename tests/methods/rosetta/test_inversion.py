"""Inversion by matched units, against eq. 4.6 written out pair by pair, and where the answer is known."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_generator import tiny_generator

from optogram.errors import DataError, ParamError
from optogram.methods.rosetta.inversion import Inversion, Moments, invert, similarity, targets_of

PAIRS = [((0, 1), (0, 2)), ((1, 3), (0, 0)), ((2, 0), (1, 1)), ((2, 0), (0, 1)), ((1, 3), (1, 0))]


@pytest.fixture(scope="module")
def generator():
    return tiny_generator(4, (8, 6, 5))


def moments(maps):
    columns = [layer.movedim(1, 0).flatten(1) for layer in maps]
    return Moments([each.mean(1) for each in columns], [each.std(1) for each in columns])


@pytest.fixture(scope="module")
def mined(generator):
    """The generator's moments, another model's maps of three images, and its moments."""
    _, maps = generator.maps(generator.latents(range(40)))
    draw = torch.Generator().manual_seed(1)
    other = [torch.randn(40, 3, 6, 6, generator=draw), torch.randn(40, 2, 20, 20, generator=draw)]
    return moments(list(maps.values())), [layer[:3] for layer in other], moments(other)


def literal(generator, maps, own, others, theirs):
    """Eq. 4.6, a pair at a time: both maps upsampled to the larger, and their mean product over places."""
    total = torch.zeros(len(others[0]))
    for (layer, channel), (other, unit) in PAIRS:
        g = (maps[generator.layers[layer]][:, channel] - own.mean[layer][channel])[:, None]
        d = (others[other][:, unit] - theirs.mean[other][unit])[:, None]
        size = [max(a, b) for a, b in zip(g.shape[2:], d.shape[2:], strict=True)]
        g, d = (F.interpolate(each, size=size, mode="bilinear", align_corners=False) for each in (g, d))
        scale = torch.sqrt(own.deviation[layer][channel] ** 2 * theirs.deviation[other][unit] ** 2)
        total += (g * d).mean((1, 2, 3)) / scale / len(PAIRS)
    return total


def test_similarity_is_that_of_the_equation_and_so_is_its_gradient(generator, mined):
    own, others, theirs = mined
    targets = targets_of(others, theirs, generator, own, PAIRS)
    assert set(targets) == {generator.layers[k] for k in (0, 1, 2)}
    gradients = []
    for way in ("ours", "literal"):
        latents = generator.latents([7, 8, 9]).requires_grad_(True)
        _, maps = generator.maps(latents)
        value = (
            similarity(maps, generator.layers, own, targets)
            if way == "ours"
            else literal(generator, maps, own, others, theirs)
        )
        gradients.append((value.detach(), *torch.autograd.grad(value.sum(), latents)))
    torch.testing.assert_close(*[each[0] for each in gradients], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(*[each[1] for each in gradients], rtol=1e-4, atol=1e-5)


def own_targets(generator, own, latents):
    """The generator matched with itself: what it is to show is what it showed for these latents."""
    with torch.no_grad():
        _, maps = generator.maps(latents)
    layers = list(maps.values())
    pairs = [((k, unit), (k, unit)) for k, layer in enumerate(layers) for unit in range(layer.shape[1])]
    pairs = [pair for pair in pairs if own.deviation[pair[0][0]][pair[0][1]] > 0]
    return targets_of(layers, own, generator, own, pairs)


def test_units_take_a_latent_towards_the_image_they_come_from(generator, mined):
    own, wanted = mined[0], generator.latents([100, 101, 102])
    targets = own_targets(generator, own, wanted)
    start = generator.latents([3, 4, 5])
    options = Inversion(60, 0.1)
    found = invert(generator, start, own, targets, options)
    permuted = {name: target.roll(1, 0) for name, target in targets.items()}
    control = invert(generator, start, own, permuted, options)

    def angle(latents):
        return F.cosine_similarity(latents, wanted)

    assert (found.similarity[-1] > found.similarity[0]).all()
    assert angle(found.latents).min() > 0.8
    assert (angle(found.latents) > angle(control.latents)).all(), "not any latents with large activations"
    assert found.similarity.shape == (60, 3)
    assert not found.failed


def test_a_reconstruction_is_nearer_with_matched_units(generator, mined):
    own, wanted = mined[0], generator.latents([200, 201])
    with torch.no_grad():
        images = generator.images(wanted)

    def distance(drawn):
        return (drawn - images).square().mean((1, 2, 3))

    options = Inversion(40, 0.05, matched=0.0, regular=0.0)
    plain = invert(generator, generator.latents([1, 2]), own, {}, options, reconstruct=distance)
    assert (plain.distance[-1] < plain.distance[0]).all()
    np.testing.assert_allclose(distance(plain.images).numpy(), plain.distance[-1], rtol=0.2)


def test_images_do_not_know_of_each_other(generator, mined):
    own, wanted = mined[0], generator.latents([100, 101, 102])
    targets, start, options = own_targets(generator, own, wanted), generator.latents([3, 4, 5]), Inversion(10)
    together = invert(generator, start, own, targets, options)
    for k in range(3):
        alone = invert(generator, start[k : k + 1], own, {n: t[k : k + 1] for n, t in targets.items()}, options)
        torch.testing.assert_close(alone.latents[0], together.latents[k], rtol=1e-3, atol=1e-4)


def test_one_that_diverges_harms_no_other(generator, mined):
    own, wanted = mined[0], generator.latents([100, 101])
    targets, start, options = own_targets(generator, own, wanted), generator.latents([3, 4]), Inversion(8)
    broken = {name: target.clone() for name, target in targets.items()}
    broken[generator.layers[0]][1] = float("nan")
    found, whole = (invert(generator, start, own, each, options) for each in (broken, targets))
    assert found.failed == [1]
    assert torch.equal(found.latents[0], whole.latents[0])
    assert torch.equal(found.latents[1], start[1])
    assert found.images.isfinite().all()


def test_the_rate_rises_and_falls():
    shares = [Inversion(100).share(step) for step in range(100)]
    assert shares[0] == 0.2
    assert shares[5:74] == [1.0] * 69
    assert shares[75:] == sorted(shares[75:], reverse=True)
    assert shares[-1] < 0.01


def test_bad_input_is_named(generator, mined):
    own, others, theirs = mined
    with pytest.raises(DataError, match="no pairs"):
        targets_of(others, theirs, generator, own, [])
    dead = Moments(theirs.mean, [torch.zeros_like(each) for each in theirs.deviation])
    with pytest.raises(DataError, match="is constant"):
        targets_of(others, dead, generator, own, PAIRS)
    with pytest.raises(ParamError, match="steps = 0"):
        Inversion(0)
    with pytest.raises(ParamError, match="learning_rate = 0"):
        Inversion(learning_rate=0)
