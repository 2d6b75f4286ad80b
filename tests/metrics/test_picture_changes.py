"""Distances of edited pictures, everywhere and off the object, on changes worked out by hand and against loops."""

import numpy as np
import pytest
import torch
import xarray as xr

from optogram.errors import DataError, ShapeError
from optogram.metrics.picture_changes import distances, outside
from optogram.metrics.pictures import perceptual, psnr, ssim


def pictures(count=3, side=16, seed=0):
    return torch.rand(2, count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def features(images):
    """Two layers of a model: random convolutions."""
    weights = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    return [torch.nn.functional.conv2d(images, weights, stride=stride) for stride in (2, 4)]


def left(count=1, side=16):
    mask = torch.zeros(count, side, side)
    mask[..., : side // 2] = 1
    return mask


def test_distances_of_a_change_by_hand():
    """Half of the pixels change by .2 in one of three colours."""
    original = torch.full((1, 3, 16, 16), 0.5, dtype=torch.float64)
    edited = original.clone()
    edited[0, 1] += 0.2 * left()[0]
    found = distances(original, edited)
    assert found.l1.item() == pytest.approx(0.2 / 6)
    assert found.l2.item() == pytest.approx(np.sqrt(0.04 / 6))
    assert found.psnr.item() == pytest.approx(-10 * np.log10(0.04 / 6))
    assert found.ssim.item() == pytest.approx(ssim(edited, original).item())
    assert 0 < found.ssim.item() < 1


def test_pictures_that_are_the_same():
    original, _ = pictures()
    found = distances(original, original, maps=(features(original), features(original)))
    nothing = {"l1": 0, "l2": 0, "psnr": 100, "ssim": 1, "perceptual": 0}
    for name, value in nothing.items():
        np.testing.assert_allclose(found[name], value, atol=1e-12)
    assert set(found) == set(nothing)


def test_the_perceptual_distance_is_that_of_the_maps():
    original, edited = pictures()
    maps = features(original), features(edited)
    np.testing.assert_array_equal(distances(original, edited, maps=maps).perceptual, perceptual(maps[1], maps[0]))


def test_changes_on_and_off_the_object_by_hand():
    """On the left half, the object, colours change by .4, on the right one by .1."""
    original = torch.full((1, 3, 16, 16), 0.3, dtype=torch.float64)
    mask = left().double()
    found = outside(original, original + 0.4 * mask + 0.1 * (1 - mask), left())
    assert found.inside_l1.item() == pytest.approx(0.4)
    assert found.background_l1.item() == pytest.approx(0.1)
    assert found.background_psnr.item() == pytest.approx(20)


def test_soft_masks_against_loops():
    original, edited = pictures(2)
    mask = torch.rand(2, 16, 16, generator=torch.Generator().manual_seed(2))
    found = outside(original, edited, mask)
    for at in range(2):
        weight, total, square, on, off = mask[at].double().numpy(), 0.0, 0.0, 0.0, 0.0
        for y, x in np.ndindex(16, 16):
            step = (edited[at, :, y, x].double() - original[at, :, y, x].double()).numpy()
            total += (1 - weight[y, x]) * np.abs(step).mean()
            square += (1 - weight[y, x]) * (step**2).mean()
            on += weight[y, x] * np.abs(step).mean()
            off += 1 - weight[y, x]
        assert found.background_l1[at].item() == pytest.approx(total / off)
        assert found.background_psnr[at].item() == pytest.approx(-10 * np.log10(square / off))
        assert found.inside_l1[at].item() == pytest.approx(on / weight.sum())


def test_under_an_even_mask_the_background_is_the_picture():
    original, edited = pictures()
    maps = features(original), features(edited)
    whole = distances(original, edited, maps=maps)
    found = outside(original, edited, torch.full((3, 16, 16), 0.5), maps=maps)
    for name in ("l1", "psnr", "ssim", "perceptual"):
        np.testing.assert_allclose(found[f"background_{name}"], whole[name], rtol=1e-6)
    np.testing.assert_allclose(found.inside_l1, whole.l1)


def test_what_changes_on_the_object_alone_is_not_seen_off_it():
    """SSIM's window reaches five pixels out of the mask, so that its mean falls a little."""
    original, other = pictures()
    mask = left(3)
    edited = torch.where(mask[:, None] > 0, other, original)
    found = outside(original, edited, mask)
    assert (found.background_l1 == 0).all()
    assert (found.background_psnr == 100).all()
    assert (found.background_ssim < 1).all()
    assert (found.background_ssim > distances(original, edited).ssim + 0.2).all()
    narrow = mask.clone()
    narrow[..., 3:] = 0  # changed up to column 2, and counted from column 8 on
    far = outside(original, torch.where(narrow[:, None] > 0, other, original), mask)
    np.testing.assert_allclose(far.background_ssim, 1, atol=1e-6)


def test_places_of_maps_count_by_the_background_over_them():
    """Two places: what is seen in the left one is at right angles (distance 2), in the right one the same."""
    first = torch.tensor([[1.0, 1.0], [0.0, 0.0]]).view(1, 2, 1, 2)
    later = torch.tensor([[0.0, 3.0], [5.0, 0.0]]).view(1, 2, 1, 2)
    original = torch.zeros(1, 3, 16, 16)
    found = [
        outside(original, original, mask, maps=([first], [later])).background_perceptual.item()
        for mask in (left(), 1 - left(), 0.5 * left() + 0.25)
    ]
    assert found == [0, 2, pytest.approx(2 * 0.25 / (0.25 + 0.75))]


def test_a_mask_that_is_everywhere_leaves_no_background():
    original, edited = pictures(2)
    mask = torch.ones(2, 16, 16)
    mask[1, 0, 0] = 0
    maps = features(original), features(edited)
    found = outside(original, edited, mask, maps=maps)
    for name in ("l1", "psnr", "ssim", "perceptual"):
        assert np.isnan(found[f"background_{name}"]).values.tolist() == [True, False]
        assert found[f"background_{name}"].attrs["missing"]
    assert np.isfinite(found.inside_l1).all()


def test_an_image_has_the_same_numbers_whatever_is_beside_it():
    original, edited = pictures(7, side=32)
    mask = torch.rand(7, 32, 32, generator=torch.Generator().manual_seed(3))

    def every(rows):
        first, later = original[rows], edited[rows]
        maps = tuple([layer[rows] for layer in features(images)] for images in (original, edited))
        return xr.merge([distances(first, later, maps=maps), outside(first, later, mask[rows], maps=maps)])

    together = every(slice(None))
    for at in range(7):
        xr.testing.assert_identical(every(slice(at, at + 1)), together.isel(image=[at]))


@pytest.mark.misfits
def test_pictures_masks_and_maps_that_do_not_go_together():
    original, edited = pictures()
    with pytest.raises(
        ShapeError, match=r"original pictures have shape \(3, 3, 16, 16\), edited ones \(2, 3, 16, 16\)"
    ):
        distances(original, edited[:2])
    with pytest.raises(ShapeError, match="at least one"):
        distances(original[:0], edited[:0])
    with pytest.raises(ShapeError, match="4 x 16 pixels; expected 6 or more"):
        distances(original[:, :, :4], edited[:, :, :4])
    with pytest.raises(ShapeError, match=r"masks have shape \(1, 16, 16\); expected \(3, 16, 16\)"):
        outside(original, edited, left())
    maps = features(original)
    for wrong in (maps[:1], [each[:2] for each in maps], [maps[0], maps[0]]):
        with pytest.raises(ShapeError, match="the same layers of both"):
            distances(original, edited, maps=(maps, wrong))
    with pytest.raises(ShapeError, match="maps have shapes"):
        outside(original, edited, left(3), maps=([], []))


def test_numbers_that_are_none():
    original, edited = pictures()
    for value, said in ((float("nan"), "not finite"), (float("inf"), "not finite"), (1.01, r"outside of \[0, 1\]")):
        wrong = edited.clone()
        wrong[2, 0, 3, 3] = value
        with pytest.raises(DataError, match=f"edited pictures have values {said}, first in image 2"):
            distances(original, wrong)
        with pytest.raises(DataError, match=f"original pictures have values {said}"):
            outside(wrong, edited, left(3))
        with pytest.raises(DataError, match=f"masks have values {said}, first in image 2"):
            outside(original, edited, wrong[:, 0])
    maps = features(original)
    with pytest.raises(DataError, match="maps of edited pictures in layer 1 are not finite"):
        distances(original, edited, maps=(maps, [maps[0], maps[1] / 0]))
    empty = left(3)
    empty[1] = 0
    with pytest.raises(DataError, match="the mask of image 1 is empty"):
        outside(original, edited, empty)


def test_the_peak_signal_to_noise_ratio_is_the_usual_one_where_all_is_background():
    """A mask of one pixel that did not change: the rest's error is the picture's, over one pixel less."""
    original, edited = pictures(1)
    edited[..., 0, 0] = original[..., 0, 0]
    mask = torch.zeros(1, 16, 16)
    mask[0, 0, 0] = 1
    found = outside(original, edited, mask).background_psnr.item()
    assert found == pytest.approx(psnr(edited, original).item() - 10 * np.log10(256 / 255), abs=1e-5)
