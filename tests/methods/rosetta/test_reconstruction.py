"""Real images back into a generator: the conditions of Table 4.1 beside permuted pairs."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_generator import tiny_generator

from optogram.errors import DataError, ShapeError
from optogram.methods.rosetta.groups import Drawn, rosetta
from optogram.methods.rosetta.inversion import Inversion
from optogram.methods.rosetta.mining import Member
from optogram.methods.rosetta.reconstruction import (
    at_its_size,
    headline,
    moments_of,
    pairs_of,
    permuted,
    reconstructions,
)
from optogram.metrics.pictures import psnr, ssim
from optogram.models.generative.sampling import to_pixels


@pytest.fixture(scope="module")
def generator():
    return tiny_generator(6, (12, 8, 6))


def looks(pixels):
    """A model whose units are the colours of each place, which the generator's last units decide."""
    rgb = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    return [F.avg_pool2d(rgb, 2), torch.cat([F.avg_pool2d(rgb, 4), 1 - F.avg_pool2d(rgb, 4)], 1)]


@pytest.fixture(scope="module")
def found(generator):
    member = Member("colours", ("half", "quarter"), looks, looks)
    source = Drawn("gan", generator, range(96))
    settings = {"k": 4, "rate": 0.3, "shuffles": 2, "alike": 0.9, "seed": 0, "shown": 0}
    return rosetta(source, [*source.own, member], **settings), member


def test_pairs_and_moments_are_those_that_were_mined(generator, found):
    dataset, _ = found
    pairs = pairs_of(dataset, "colours")
    assert len(pairs) == int(dataset.found.sum()) > 3
    (layer, channel), (other, unit) = pairs[0]
    row = int(np.flatnonzero(dataset.found)[0])
    assert dataset.unit.values[int(dataset.a[row])] == f"gan:{generator.layers[layer]}:{channel}"
    assert dataset.unit.values[int(dataset.b[row])] == f"colours:{('half', 'quarter')[other]}:{unit}"
    own = moments_of(dataset, "gan")
    with torch.no_grad():
        _, maps = generator.maps(generator.latents(range(96)))
    for mean, layer_maps in zip(own.mean, maps.values(), strict=True):
        torch.testing.assert_close(mean, layer_maps.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    assert sorted(own for own, _ in permuted(pairs, 0)) == sorted(own for own, _ in pairs)
    assert sorted(other for _, other in permuted(pairs, 0)) == sorted(other for _, other in pairs)
    for count in (2, 4, 8, len(pairs)):
        for seed in range(5):
            single = [((0, k), (1, k)) for k in range(count)]
            assert all(own[1] != other[1] for own, other in permuted(single, seed)), "none keeps its partner"


def test_conditions_stand_side_by_side(generator, found):
    dataset, member = found
    with torch.no_grad():
        pixels = to_pixels(generator.images(generator.latents([500, 501, 502])), "gan")
    done = []
    result = reconstructions(
        generator,
        dataset,
        [member],
        pixels,
        [1, 2, 3],
        Inversion(steps=30, learning_rate=0.1),
        permutation=0,
        eyes=hue,
        progress=lambda at, total: done.append((at, total)),
    )
    names = ["without units", "colours", "all models", "permuted pairs"]
    assert result.condition.values.tolist() == names
    assert result.pairs.values.tolist() == [0, *[int(dataset.found.sum())] * 3]
    assert not result.similarity.sel(condition="without units").any()
    last = result.similarity.sel(condition=["colours", "permuted pairs"]).isel(step=-1).mean("image").values
    assert last[0] > last[1]
    assert (result.psnr.sel(condition="without units") > 10).all()
    assert np.array_equal(result.psnr.sel(condition="colours"), result.psnr.sel(condition="all models"))
    for condition in names:
        one, other = (
            each / np.linalg.norm(each, axis=-1, keepdims=True)
            for each in (result.pixels.sel(condition=condition) + 1.0, result.original + 1.0)
        )
        literal = ((one - other) ** 2).sum("rgb").mean(["y", "x"])
        np.testing.assert_allclose(result.perceptual.sel(condition=condition), literal, rtol=1e-4)
    assert headline(result).versus == "permuted pairs"
    assert done[0] == (0, 120)
    assert done[-1] == (120, 120)


def test_a_perceptual_loss_is_what_eyes_see(generator, found):
    """Of colours that it cannot draw, a generator comes nearest in what it is led by."""
    dataset, member = found
    side = generator.images(generator.latents([0])).shape[2]
    pixels = np.full((4, side, side, 3), 255, np.uint8) * np.array([1, 0, 1], np.uint8)
    given = (generator, dataset, [member], pixels, [1, 2, 3, 4], Inversion(60, 0.1, matched=0.0, regular=0.0))
    by_pixels = reconstructions(*given, permutation=0, eyes=hue)
    by_eyes = reconstructions(*given, permutation=0, eyes=hue, watch=lambda images: [255 * images + 1])
    one, other = (each.sel(condition="without units") for each in (by_eyes, by_pixels))
    assert one.perceptual.mean() < other.perceptual.mean()
    assert one.psnr.mean() < other.psnr.mean()
    np.testing.assert_allclose(one.distance.isel(step=-1), one.perceptual, rtol=0.05)


def hue(seen):
    return [torch.from_numpy(seen).permute(0, 3, 1, 2).float() + 1]


def test_images_of_another_size_are_resized(generator):
    side = generator.images(generator.latents([0])).shape[2]
    own = np.random.default_rng(0).integers(0, 256, (2, side, side, 3), np.uint8)
    assert at_its_size(own, generator) is own
    twice = own.repeat(2, 1).repeat(2, 2)
    found = at_its_size(twice, generator)
    assert found.shape == own.shape
    weights = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8  # a triangle two large pixels wide, at the middle of two
    planes = torch.from_numpy(twice).permute(0, 3, 1, 2).float().flatten(0, 1)[:, None]
    literal = F.conv2d(planes, (weights[:, None] * weights)[None, None], stride=2, padding=1)[:, 0]
    inner = torch.from_numpy(found).permute(0, 3, 1, 2).flatten(0, 1)[:, 1:-1, 1:-1]
    assert (inner - literal[:, 1:-1, 1:-1]).abs().max() <= 1


def test_bad_input_is_named(generator, found):
    dataset, member = found
    images = np.zeros((1, 32, 32, 3), np.uint8)
    with pytest.raises(ShapeError, match="draws"):
        reconstructions(generator, dataset, [member], images, [0], Inversion(2), permutation=0)
    none = dataset.assign(found=dataset.found & False)
    with pytest.raises(DataError, match="no unit of the generator"):
        reconstructions(generator, none, [member], images[:, :16, :16], [0], Inversion(2), permutation=0)


def test_scores_of_pictures():
    truth = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    noisy = truth + 0.1 * torch.tensor([1.0, -1.0]).repeat(8)
    np.testing.assert_allclose(psnr(noisy, truth), 20, atol=1e-4)
    assert psnr(truth, truth).tolist() == [100, 100]
    assert (ssim(noisy, truth) < ssim(truth, truth)).all()
