"""Damage done to pictures, each kind against its definition written out."""

import math

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from optogram.data.scenes import Scenes
from optogram.errors import ParamError
from optogram.models.training.damage import TAPS, Damage, Damager, Patches, blur, shade

NOTHING = {"blur": 0.0, "noise": 0.0, "shade": 0.0, "components": 48}


@pytest.fixture(scope="module")
def pictures():
    pixels = Scenes("train", 96, 0, size=32).read(0, 96)["pixels"].values
    return torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255


def damaged(pictures, seed=0, **changed):
    damager = Damager(Damage(**({"share": 1.0} | NOTHING | changed)), pictures)
    return damager(pictures, torch.Generator().manual_seed(seed))


def distance(first, second):
    return (first - second).abs().amax((1, 2, 3))


def test_the_same_draw_gives_the_same_bytes_and_each_picture_its_own_damage(pictures):
    first, second = (damaged(pictures, blur=1.0, noise=0.05, shade=0.1, components=8) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, damaged(pictures, seed=1, blur=1.0, noise=0.05, shade=0.1, components=8))
    assert first.min() >= 0
    assert first.max() <= 1
    assert len(set(distance(first, pictures).tolist())) > 80


def test_without_strength_or_share_nothing_happens(pictures):
    assert torch.allclose(damaged(pictures), pictures, atol=1e-5)
    assert torch.equal(damaged(pictures, share=0.0, blur=1.0, noise=0.5), pictures)


@pytest.mark.parametrize("kind", [{"blur": 2.0}, {"noise": 0.2}, {"shade": 0.2}, {"components": 2}])
def test_each_kind_befalls_half_of_those_that_are_damaged(pictures, kind):
    touched = distance(damaged(pictures, **kind), pictures) > 1e-4
    assert touched.float().mean() == pytest.approx(0.5, abs=0.15)
    few = distance(damaged(pictures, **(kind | {"share": 0.3})), pictures) > 1e-4
    assert few.float().mean() == pytest.approx(0.15, abs=0.12)


def test_a_blur_is_a_mean_weighed_by_a_gaussian(pictures):
    """The literal: each pixel from its neighbours, edges mirrored."""
    deviations = [0.3, 1.0, 2.5]
    found = blur(pictures[:3], torch.tensor(deviations))
    for picture, soft, deviation in zip(pictures.numpy(), found.numpy(), deviations, strict=False):
        padded = np.pad(picture, ((0, 0), (TAPS, TAPS), (TAPS, TAPS)), mode="reflect")
        weight = [math.exp(-(step**2) / (2 * deviation**2)) for step in range(-TAPS, TAPS + 1)]
        outer = np.outer(weight, weight) / sum(weight) ** 2
        for y in range(0, 32, 3):
            for x in range(0, 32, 3):
                literal = (padded[:, y : y + 2 * TAPS + 1, x : x + 2 * TAPS + 1] * outer).sum((1, 2))
                np.testing.assert_allclose(soft[:, y, x], literal, atol=1e-5)


def test_a_round_trip_keeps_the_principal_components_of_patches(pictures):
    """The literal: scikit-learn's PCA of the examples' patches."""
    cut = pictures.numpy().reshape(-1, 3, 8, 4, 8, 4).transpose(0, 2, 4, 1, 3, 5)
    fitted = PCA(16).fit(cut.reshape(-1, 48).astype(np.float64))
    kept = fitted.inverse_transform(fitted.transform(cut.reshape(-1, 48))).reshape(-1, 8, 8, 3, 4, 4)
    literal = kept.transpose(0, 3, 1, 4, 2, 5).reshape(-1, 3, 32, 32)
    np.testing.assert_allclose(Patches(pictures, 4, 16)(pictures).numpy(), literal, atol=1e-5)


def test_noise_and_shade_are_as_strong_as_said(pictures):
    grey = torch.full((400, 3, 16, 16), 0.5)
    spread = damaged(grey, noise=0.1).std((1, 2, 3))
    assert 0.09 < spread.max() < 0.11
    shaded = damaged(grey, shade=0.1)
    assert shaded.amax((2, 3)).equal(shaded.amin((2, 3))), "grey stays even"
    assert 0.09 < (shaded - 0.5).abs().max() <= 0.1 + 1e-6
    by_hand = shade(torch.tensor([[[[0.7]], [[0.5]], [[0.1]]]]), torch.tensor([0.5]), torch.tensor([[0.0, 0.1, -0.2]]))
    assert torch.allclose(by_hand.flatten(), torch.tensor([0.8, 0.6, -0.3]))


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"share": 1.5}, r"share = 1.5, expected 0 to 1"),
        ({"noise": -0.1}, r"noise = -0.1"),
        ({"components": 49}, r"components = 49, expected 1 to 48"),
        ({"components": 0}, r"components = 0"),
    ],
)
def test_bad_strengths_are_named(changed, named):
    with pytest.raises(ParamError, match=named):
        Damage(**changed)


def test_a_patch_that_does_not_divide_the_picture_is_refused(pictures):
    with pytest.raises(ParamError, match=r"patch = 5, but images are 32 x 32"):
        Damager(Damage(patch=5), pictures)
