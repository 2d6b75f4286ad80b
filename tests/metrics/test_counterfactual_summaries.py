"""Means, shares and differences of counterfactuals' rows, with intervals known from the books."""

import numpy as np
import pytest
import xarray as xr

from optogram.errors import DataError, ShapeError
from optogram.metrics.counterfactual_summaries import against, summary


def rows(**variables):
    return xr.Dataset({name: ("image", np.array(values)) for name, values in variables.items()})


def test_shares_have_wilson_s_interval_and_means_student_s():
    """8 of 10: .490 to .943 (Wilson 1927). 1, 2, 3 have the mean 2 and t(.975, 2) = 4.3027 times 1 / sqrt(3)."""
    flip = rows(flip=[True] * 8 + [False] * 2)
    told = summary(flip)
    assert (told.flip.item(), told.flip_of.item()) == (0.8, 10)
    np.testing.assert_allclose([told.flip_low, told.flip_high], [0.490, 0.943], atol=5e-4)
    told = summary(rows(l1=[1.0, 2.0, 3.0]))
    assert (told.l1.item(), told.l1_of.item()) == (2, 3)
    np.testing.assert_allclose([told.l1_low, told.l1_high], [2 - 4.3027 / 3**0.5, 2 + 4.3027 / 3**0.5], atol=1e-4)


def test_what_is_not_known_of_an_image_is_not_counted():
    told = summary(rows(agreement=[1.0, np.nan, 0, 1, 1], kept=[np.nan, 0.5, np.nan, 1.0, np.nan]))
    assert (told.agreement.item(), told.agreement_of.item()) == (0.75, 4)
    np.testing.assert_allclose([told.agreement_low, told.agreement_high], [0.301, 0.954], atol=5e-4)  # 3 of 4
    assert (told.kept.item(), told.kept_of.item()) == (0.75, 2)


def test_of_no_image_nothing_is_said_and_of_one_no_interval():
    told = summary(rows(agreement=[np.nan, np.nan], kept=[np.nan, np.nan], s3=[0.5, np.nan]))
    for name in ("agreement", "kept"):
        assert told[f"{name}_of"].item() == 0
        assert np.isnan([told[name], told[f"{name}_low"], told[f"{name}_high"]]).all()
        assert told[name].attrs["missing"]
    assert (told.s3.item(), told.s3_low.item(), told.s3_high.item()) == (0.5, -np.inf, np.inf)


def test_other_dimensions_stay():
    found = rows(flip=[True, False]).assign(
        agreement=(("image", "model"), [[1.0, 0.0], [1.0, np.nan]]),
        target_curve=(("image", "point"), [[0.0, 0.2, 0.9], [0.2, 0.4, 0.5]]),
    )
    told = summary(found.assign_coords(model=["vit", "clip"], point=[0.0, 0.5, 1.0], image=["a", "b"]))
    assert told.agreement.dims == ("model",)
    assert told.agreement.values.tolist() == [1, 0]
    assert told.agreement_of.values.tolist() == [2, 1]
    np.testing.assert_allclose(told.target_curve, [0.1, 0.3, 0.7])
    assert set(told.coords) == {"model", "point"}


def test_shares_of_the_same_images_are_compared_by_those_that_changed():
    """Of 100 images one is flipped by the result alone, five by the control alone: -.093 to .015 (Bonett and Price)."""
    control = np.arange(100) < 50
    result = control.copy()
    result[:5], result[99] = False, True
    told = against(rows(flip=result), rows(flip=control))
    assert told.flip.item() == pytest.approx(-0.04)
    np.testing.assert_allclose([told.flip_low, told.flip_high], [-0.093, 0.015], atol=5e-4)
    assert told.flip_of.item() == 100


def test_means_are_compared_image_by_image():
    """Images differ by a thousand, the result from the control by 1, 2 and 3: what is common cancels."""
    base = np.array([1000.0, 0.0, 3000.0])
    told = against(rows(l1=base + np.arange(1, 4), s3=base), rows(l1=base, cout=base))
    assert set(told.data_vars) == {"l1", "l1_low", "l1_high", "l1_of"}
    assert told.l1.item() == 2
    np.testing.assert_allclose([told.l1_low, told.l1_high], [2 - 4.3027 / 3**0.5, 2 + 4.3027 / 3**0.5], atol=1e-4)


def test_images_that_one_of_the_two_lacks_are_left_out():
    nan = np.nan
    told = against(
        rows(agreement=[1.0, 1, nan, 0], kept=[1.0, 0.5, 1, nan]), rows(agreement=[0.0, nan, 1, 0], kept=[0.5] * 4)
    )
    assert (told.agreement.item(), told.agreement_of.item()) == (0.5, 2)
    assert (told.kept.item(), told.kept_of.item()) == (pytest.approx(1 / 3), 3)


def test_a_condition_does_not_differ_from_itself():
    found = rows(flip=[True, False, True], l1=[0.1, 0.2, 0.4])
    told = against(found, found)
    assert told.flip.item() == 0
    assert told.flip_low < 0 < told.flip_high
    assert (told.l1.item(), told.l1_low.item(), told.l1_high.item()) == (0, 0, 0)


def test_intervals_hold_the_truth_as_often_as_they_say():
    """Planted: results differ from the control by .3 on average."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(300):
        base = rng.standard_normal(20)
        told = against(rows(l1=base + 0.3 + 0.5 * rng.standard_normal(20)), rows(l1=base))
        held += bool(told.l1_low < 0.3 < told.l1_high)
    assert 0.91 < held / 300 < 0.985


def test_conditions_of_other_images_are_refused():
    found = rows(l1=[0.1, 0.2])
    with pytest.raises(ShapeError, match=r"the result has \{'image': 2\}, the control \{'image': 3\}"):
        against(found, rows(l1=[0.1, 0.2, 0.3]))
    with pytest.raises(ShapeError, match="or they differ in coordinates"):
        against(found.assign_coords(image=["a", "b"]), found.assign_coords(image=["b", "a"]))
    with pytest.raises(DataError, match="no variable is over images"):
        against(found, rows(l2=[0.1, 0.2]))
    with pytest.raises(DataError, match="no variable is over images"):
        summary(xr.Dataset({"cd": ((), 1.0)}))
