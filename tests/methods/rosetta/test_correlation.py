"""Correlations of units, against the equations written out, and where the answer is known."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from optogram.errors import DataError, ShapeError
from optogram.methods.rosetta.correlation import Block, Correlation, centres_of, layers_of, pearson


def literal(a, b):
    """Eq. 4.1 and 4.2 in float64, each pair of layers at the larger of its two sizes, in two passes.

    The equation leaves out the number of summands, without which it is no correlation.
    """
    return np.block([[pair(one.double(), other.double()) for other in b] for one in a])


def pair(a, b):
    size = tuple(max(sides) for sides in zip(a.shape[2:], b.shape[2:], strict=True))
    a, b = (F.interpolate(maps, size=size, mode="bilinear", align_corners=False) for maps in (a, b))
    a, b = (maps.movedim(1, 0).flatten(1) for maps in (a, b))
    count = a.shape[1]
    mean_a, mean_b = a.sum(1) / count, b.sum(1) / count
    var_a = ((a - mean_a[:, None]) ** 2).sum(1) / (count - 1)
    var_b = ((b - mean_b[:, None]) ** 2).sum(1) / (count - 1)
    covariance = torch.stack([((row - at) * (b - mean_b[:, None])).sum(1) for row, at in zip(a, mean_a, strict=True)])
    return (covariance / (count - 1) / torch.sqrt(var_a[:, None] * var_b)).numpy()


def draw(seed, *shapes, images=70):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(images, *shape, generator=generator) for shape in shapes]


def batches(a, b, size):
    for start in range(0, len(a[0]), size):
        yield [maps[start : start + size] for maps in a], [maps[start : start + size] for maps in b]


def mixed():
    """Maps of sizes from 2 to 64 that have something in common."""
    base = draw(0, (3, 64, 64))[0]
    a = [F.adaptive_avg_pool2d(base, side) + 0.1 * draw(side, (3, side, side))[0] for side in (2, 7, 16, 64)]
    b = [F.adaptive_avg_pool2d(base, side).relu() for side in (64, 4, 7, 8)] + draw(9, (2, 5, 12), (2, 12, 5))
    return a, b


def test_is_the_equation_at_every_pair_of_sizes():
    a, b = mixed()
    np.testing.assert_allclose(pearson(batches(a, b, 16)), literal(a, b), atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [1, 7, 32, 33, 70])
def test_batches_change_no_byte(size):
    a, b = mixed()
    assert pearson(batches(a, b, size)).tobytes() == pearson(batches(a, b, 64)).tobytes()


def test_the_order_of_images_changes_nothing():
    a, b = mixed()
    order = torch.randperm(70, generator=torch.Generator().manual_seed(1))
    mixed_up = pearson(batches([maps[order] for maps in a], [maps[order] for maps in b], 16))
    np.testing.assert_allclose(mixed_up, pearson(batches(a, b, 16)), atol=1e-6, rtol=0)


def test_shuffled_channels_are_found_again():
    (maps,) = draw(2, (12, 8, 8))
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    found = pearson([([maps], [maps[:, order]])])
    assert found.argmax(1).tolist() == order.argsort().tolist()
    np.testing.assert_allclose(found.max(1), 1, atol=1e-6)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_noise_lowers_a_correlation_as_it_must(sigma):
    maps, noise = draw(3, (6, 16, 16), (6, 16, 16), images=200)
    found = np.diag(pearson([([maps], [maps + sigma * noise])]))
    np.testing.assert_allclose(found, 1 / np.sqrt(1 + sigma**2), atol=0.01)


def test_a_unit_with_its_sign_flipped_is_at_minus_one():
    (maps,) = draw(4, (3, 8, 8))
    np.testing.assert_allclose(np.diag(pearson([([maps], [-maps])])), -1, atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 3.0, 1e5, 0.1])
def test_a_constant_unit_has_no_correlation(value):
    a, b = draw(5, (3, 8, 8), (3, 4, 4))
    a[:, 1] = value
    found = pearson(batches([a], [b, a], 16))
    assert not found[1].any()
    assert not found[:, 4].any()
    assert np.isfinite(found).all()


def test_a_unit_that_fires_once_is_no_constant_one():
    a, b = draw(6, (2, 16, 16), (1, 8, 8))
    a[:, 1] = 0
    a[3, 1, 4, 5] = 1e-6
    np.testing.assert_allclose(pearson([([a], [b, a])]), literal([a], [b, a]), atol=1e-6, rtol=0)


def test_a_large_mean_does_not_hurt():
    a, b = draw(7, (4, 16, 16), (4, 8, 8))
    b = b + F.avg_pool2d(a, 2)
    moved = pearson([([(a + 1e4).float()], [(b - 1e4).float()])])
    np.testing.assert_allclose(moved, literal([(a + 1e4).float()], [(b - 1e4).float()]), atol=1e-6, rtol=0)


def test_halves_add_up_to_the_whole():
    a, b = mixed()
    centres = [centres_of(maps) for maps in (a, b)]
    parts = [Correlation(layers_of(a), layers_of(b)) for _ in range(2)]
    for part, rows in zip(parts, (slice(0, 40), slice(40, 70)), strict=True):
        part.add(*(Block([m[rows] for m in maps], at) for maps, at in zip((a, b), centres, strict=True)))
    np.testing.assert_allclose((parts[0] + parts[1]).table(), literal(a, b), atol=1e-6, rtol=0)


def test_shuffling_a_block_shuffles_its_images():
    a, b = mixed()
    order = torch.roll(torch.arange(70), 3)
    centres = [centres_of(maps) for maps in (a, b)]
    found = Correlation(layers_of(a), layers_of(b))
    found.add(Block(a, centres[0]), Block(b, centres[1]).shuffled(order))
    np.testing.assert_allclose(found.table(), literal(a, [maps[order] for maps in b]), atol=1e-6, rtol=0)


def test_what_is_not_finite_is_named():
    a, b = draw(8, (3, 8, 8), (2, 4, 4))
    b[5, 1, 0, 0] = float("nan")
    with pytest.raises(DataError, match="unit 1 of the second model"):
        pearson([([a], [b])])


def test_other_images_or_layers_are_refused():
    a, b = draw(9, (3, 8, 8), (2, 4, 4))
    with pytest.raises(ShapeError, match="images in one batch"):
        pearson([([a], [b[:60]])])
    with pytest.raises(ShapeError, match="in the batch before"):
        pearson([([a[:10]], [b[:10]]), ([a[10:20, :2]], [b[10:20]])])
    with pytest.raises(DataError, match="no images"):
        pearson([])
