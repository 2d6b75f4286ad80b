"""Planted values, counted by hand, and where there is nothing to find."""

import numpy as np
import pytest

from optogram.errors import DataError, ShapeError
from optogram.metrics.intervals import mcnemar, paired_change, share
from optogram.metrics.planted_values import TIED, UNTIED, planted_values

TIES = {"circle": "water", "square": "sand"}
CLASSES = ["star"] * 4 + ["circle"] * 4 + ["square"] * 2
BEFORE = ["water", "sand", "snow", "", "sand", "water", "snow", "snow", "sand", "sand"]
AFTER = ["water", "brick", "snow", "snow", "water", "snow", "water", "water", "sand", "snow"]


def test_shares_are_those_counted_by_hand():
    found = planted_values(BEFORE, AFTER, CLASSES, TIES)
    assert found["group"].values.tolist() == ["star", "circle", "square", TIED, UNTIED]
    assert found["pictures"].values.tolist() == [4, 4, 2, 6, 4]
    # a star has no value of its own: two of four show one of two values
    assert found["planted"].sel(condition="start").values.tolist() == [0.25, 0.25, 1, 0.5, 0.25]
    np.testing.assert_allclose(found["planted"].sel(condition="found"), [0.125, 0.75, 0.5, 4 / 6, 0.125])
    np.testing.assert_allclose(found["gain"], [-0.125, 0.5, -0.5, 1 / 6, -0.125])
    assert found["twice"].values.tolist() == [False, True, False, False, False]


def test_intervals_are_those_of_the_counts():
    found = planted_values(BEFORE, AFTER, CLASSES, TIES)
    circle, star = (found.sel(group=name) for name in ("circle", "star"))
    for at, hits in enumerate((1, 3)):
        np.testing.assert_allclose([circle["planted_low"][at], circle["planted_high"][at]], share(hits, 4))
    np.testing.assert_allclose([circle["gain_low"], circle["gain_high"]], paired_change(1, 3, 4))
    np.testing.assert_allclose(circle["gain_p"], mcnemar(np.array([1]), np.array([3]))[0])
    np.testing.assert_allclose([star["gain_low"], star["gain_high"]], np.array(paired_change(1, 0, 4)) / 2)


def test_twice_nothing_is_nothing():
    found = planted_values(["snow"] * 3, ["snow"] * 3, ["circle"] * 3, TIES)
    assert not found["twice"].any()
    assert (found["gain_p"] == 1).all()
    assert UNTIED not in found["group"]
    grown = planted_values(["snow"] * 3, ["water", "snow", "snow"], ["circle"] * 3, TIES)
    assert grown["twice"].all()


def test_what_cannot_be_counted_is_said():
    with pytest.raises(ShapeError, match="2 classes, but 1 values before and 2 after"):
        planted_values(["sand"], ["sand"] * 2, ["circle"] * 2, TIES)
    with pytest.raises(DataError, match="no pictures, or no ties"):
        planted_values(["sand"], ["sand"], ["circle"], {})
