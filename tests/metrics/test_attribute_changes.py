"""How many attributes change, and CD, on tables worked out by hand and against the published code's form."""

import numpy as np
import pytest
import xarray as xr

from optogram.errors import DataError, ParamError, ShapeError
from optogram.metrics.attribute_changes import attributes_changed, correlation_difference, presence
from optogram.metrics.edits import kept

NAMES = ["shape", "colour", "background"]


def table(rows, names=NAMES):
    return xr.DataArray(np.array(rows), {"attribute": list(names)}, ("image", "attribute"))


def literal_cd(data, before, after, target):
    """Jeanneret et al.'s published form: correlations of predictions' changes, NaN as 0, summed over attributes."""
    deltas, found = after.astype(float) - before, 0.0
    for i in range(data.shape[1]):
        with np.errstate(invalid="ignore", divide="ignore"):
            ours = np.corrcoef(deltas[:, i], deltas[:, target])
        ours = 0 if np.isnan(ours).any() else ours[0, 1]
        found += abs(ours - np.corrcoef(data[:, target], data[:, i])[0, 1])
    return found


def test_changes_are_counted():
    before = table([[0, 1, 2], [0, 1, 2], [0, 1, -1], [-1, -1, -1]])
    after = table([[1, 1, 2], [1, 2, 0], [0, -1, 2], [0, 0, 0]])
    np.testing.assert_array_equal(attributes_changed(before, after), [1, 3, 1, np.nan])
    np.testing.assert_array_equal(attributes_changed(before, after, ["colour", "background"]), [0, 2, 1, np.nan])
    np.testing.assert_array_equal(attributes_changed(before.T, after.T), [1, 3, 1, np.nan])


def test_what_has_changed_is_what_was_not_kept():
    rng = np.random.default_rng(0)
    first, later = (
        xr.Dataset({"value": table(rng.integers(-1, 3, (50, 3))), "count": ("image", np.ones(50, int))}) for _ in "ab"
    )
    known = (first["value"] >= 0).sum("attribute").values
    shares = kept(first, later, NAMES)
    np.testing.assert_allclose(attributes_changed(first["value"], later["value"]), (1 - shares) * known)


def test_presence_of_values():
    values = xr.DataArray([["circle", "star", ""], ["red", "green", "blue"]], dims=("attribute", "value"))
    found = presence(table([[1, 2], [0, -1]], ["shape", "colour"]), values)
    kinds = ["shape: circle", "shape: star", "colour: red", "colour: green", "colour: blue"]
    assert found["attribute"].values.tolist() == kinds
    nan = np.nan
    np.testing.assert_array_equal(found, [[0, 1, 0, 0, 1], [1, 0, nan, nan, nan]])
    with pytest.raises(DataError, match="shape: labels reach from 0 to 2; expected -1, for none, to 1"):
        presence(table([[2, 2], [0, -1]], ["shape", "colour"]), values)
    with pytest.raises(ShapeError, match="labels have 3 attributes, value_name has 2"):
        presence(table([[0, 0, 0]]), values)


def test_the_correlation_difference_by_hand():
    """Smiles change by (1, -1, 0, 0), hats by (1, 0, 0, 0), beards not at all.

    The first two have means 0 and 1 / 4, covariance 1 / 4, variances 2 / 4 and 3 / 16: r' = .25 / sqrt(3 / 32), the
    root of 2 / 3. In the data hats go with nothing, beards (1, 0, 0, 0) with smiles (1, 1, 0, 0) by 1 / sqrt(3).
    """
    names = ["smile", "hat", "beard"]
    data = table([[1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 0]], names)
    before = table([[0, 0, 1], [1, 0, 1], [0, 1, 0], [1, 1, 0]], names)
    after = table([[1, 1, 1], [0, 0, 1], [0, 1, 0], [1, 1, 0]], names)
    found = correlation_difference(data, before, after, "smile")
    np.testing.assert_allclose(found.in_data, [1, 0, 1 / np.sqrt(3)], atol=1e-12)
    np.testing.assert_allclose(found.in_changes, [1, np.sqrt(2 / 3), 0], atol=1e-12)
    np.testing.assert_allclose(found.difference, [0, np.sqrt(2 / 3), 1 / np.sqrt(3)], atol=1e-12)
    assert found.cd.item() == pytest.approx(np.sqrt(2 / 3) + 1 / np.sqrt(3))
    assert found.counted.item() == 3
    assert found.changed.values.tolist() == [2, 1, 0]


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_published_one(seed):
    rng = np.random.default_rng(seed)
    data, before, after = (rng.integers(0, 2, (rows, 6)) for rows in (80, 30, 30))
    after[:, 4] = before[:, 4]
    names = list("abcdef")
    found = correlation_difference(table(data, names), table(before, names), table(after, names), "c")
    assert found.cd.item() == pytest.approx(literal_cd(data, before, after, 2))


def test_changes_that_go_together_as_in_the_data_differ_little():
    """Planted: a correlation of .5 in both, against one that is changed always with the target, and one never."""
    rng = np.random.default_rng(0)
    names = ["target", "follows", "always", "never"]

    def drawn(count):
        target = rng.integers(0, 2, count)
        follows, always, never = (np.where(rng.random(count) < 0.75, target, 1 - target) for _ in range(3))
        return np.stack([target, follows, always, never], 1)

    data, before = drawn(20000), drawn(20000)
    after = before.copy()
    after[:, 0] = 1 - before[:, 0]
    after[:, 1] = drawn(20000)[:, 1]  # anew, with a target of its own
    after[:, 2] = np.where(before[:, 0] == 1, 0, 1)
    before[:, 2] = 1 - after[:, 2]
    difference = correlation_difference(table(data, names), table(before, names), table(after, names), "target")
    assert difference.difference.sel(attribute="target").item() < 1e-12
    np.testing.assert_allclose(difference.difference.sel(attribute=["always", "never"]), 0.5, atol=0.02)


def test_unknown_values_leave_out_their_pair():
    nan = np.nan
    data = table([[1, 1.0], [0, 0], [1, nan], [0, 1]], ["a", "b"])
    before = table([[0, 0.0], [1, 1], [0, nan], [1, 0]], ["a", "b"])
    after = table([[1, 1.0], [0, 1], [1, 1], [nan, 1]], ["a", "b"])
    found = correlation_difference(data, before, after, "a")
    assert found.in_data.sel(attribute="b").item() == pytest.approx(0.5)  # of (1, 1), (0, 0), (0, 1)
    assert found.in_changes.sel(attribute="b").item() == pytest.approx(1)  # of (1, 1), (-1, 0)
    assert found.changed.values.tolist() == [3, 2]


def test_where_nothing_can_be_said():
    """The target changes alike in all pairs: nothing goes with it or against it. Or an attribute is always there."""
    names = ["a", "b"]
    data, before = table([[0, 1], [1, 0], [1, 1]], names), table([[0, 0], [0, 1], [0, 1]], names)
    found = correlation_difference(data, before, table([[1, 0], [1, 0], [1, 1]], names), "a")
    assert np.isnan(found.cd.item())
    assert found.counted.item() == 0
    found = correlation_difference(table([[0, 1], [1, 1]], names), before, table([[1, 0], [0, 0], [0, 1]], names), "a")
    np.testing.assert_array_equal(np.isnan(found.difference), [False, True])
    assert found.counted.item() == 1
    assert found.cd.item() == pytest.approx(0, abs=1e-12)


def test_tables_that_do_not_go_together():
    good = table([[0, 1, 1], [1, 0, 0]])
    with pytest.raises(ShapeError, match="before there are 2 images with shape, colour, background, after 1"):
        attributes_changed(good, good[:1])
    with pytest.raises(ShapeError, match="with shape, colour, background, after 2 with shape, colour"):
        attributes_changed(good, good[:, :2])
    with pytest.raises(ShapeError, match="data have the attributes shape, colour, pictures shape, colour, background"):
        correlation_difference(good[:, :2], good, good, "shape")
    with pytest.raises(ParamError, match=r"attribute 'color' is unknown; there are .*Did you mean 'colour'"):
        attributes_changed(good, good, ["color"])
    with pytest.raises(ParamError, match="attribute 'Shape' is unknown"):
        correlation_difference(good, good, good, "Shape")
    for wrong in (0.5, np.inf, -1):
        with pytest.raises(DataError, match="attributes in after have values other than 0, 1 and NaN"):
            correlation_difference(good, good, good.astype(float).where(good == 1, wrong), "shape")
