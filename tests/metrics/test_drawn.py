"""What is seen in drawn pictures, against cases worked out by hand."""

import numpy as np
import pytest
import xarray as xr

from optogram.errors import DataError, ShapeError
from optogram.metrics.drawn import combination_recall, drawn, value_shares
from optogram.metrics.intervals import share

NAMES = xr.DataArray([["circle", "square", ""], ["red", "green", "blue"]], dims=("attribute", "value"))
CIRCLE, SQUARE, RED, GREEN, BLUE, FREE, NONE = 0, 1, 0, 1, 2, -1, -1


def labels(*rows):
    return xr.DataArray(list(rows), dims=("image", "attribute"), coords={"attribute": ["shape", "colour"]})


ASKED = labels((CIRCLE, RED), (CIRCLE, GREEN), (SQUARE, RED), (SQUARE, FREE), (FREE, BLUE))
SEEN = labels((CIRCLE, RED), (SQUARE, GREEN), (SQUARE, BLUE), (NONE, RED), (CIRCLE, BLUE))
HELD_OUT = np.array([False, True, True, False, False])


def at(found, name, combination):
    return found[name].sel(combination=combination).values


def test_shares_are_of_the_samples_that_were_asked():
    found = drawn(ASKED, SEEN, NAMES, HELD_OUT)
    assert at(found, "asked", "all").tolist() == [4, 4]
    assert at(found, "share", "all").tolist() == [2 / 4, 3 / 4]  # shape: right, wrong, right, none seen
    assert at(found, "share", "known").tolist() == [1 / 2, 2 / 2]
    assert at(found, "share", "held_out").tolist() == [1 / 2, 1 / 2]
    low, high = share([2, 3], 4)
    assert (at(found, "share_low", "all") == low).all()
    assert (at(found, "share_high", "all") == high).all()


def test_a_whole_request_is_met_when_all_that_it_names_is_seen():
    found = drawn(ASKED, SEEN, NAMES, HELD_OUT)
    assert found.wholes.values.tolist() == [5, 3, 2]
    assert found.whole.values.tolist() == [2 / 5, 2 / 3, 0 / 2]  # the first, and the last, whose shape was free
    nothing = drawn(labels((FREE, FREE), (CIRCLE, FREE)), labels((CIRCLE, RED), (CIRCLE, RED)), NAMES)
    assert nothing.wholes.values.tolist() == [1, 0, 0], "a sample that was asked for nothing meets no request"


def test_chance_is_what_shuffled_samples_would_have():
    """Of shape, circle is asked in 2 of 4 and seen in 1 of these 4, square in 2 of 4 and seen in 2 of 4. Of colour, red
    is asked in 2 of 4 and seen in 1, green in 1 and seen in 1, blue in 1 and seen in 2."""
    found = drawn(ASKED, SEEN, NAMES, HELD_OUT)
    assert at(found, "chance", "all").tolist() == [(2 * 1 + 2 * 2) / 16, (2 * 1 + 1 * 1 + 1 * 2) / 16]


def test_chance_is_the_mean_over_all_shuffles():
    rng = np.random.default_rng(0)
    asked, seen = (labels(*np.stack([rng.integers(0, k, 60) for k in (2, 3)], 1)) for _ in range(2))
    shuffled = [drawn(asked, seen[rng.permutation(60)].values + 0 * seen, NAMES).share[0].values for _ in range(400)]
    np.testing.assert_allclose(np.mean(shuffled, 0), at(drawn(asked, seen, NAMES), "chance", "all"), atol=0.01)


def test_a_model_that_always_draws_the_same_is_at_chance():
    same = drawn(ASKED, labels(*[(CIRCLE, RED)] * 5), NAMES)
    assert np.array_equal(at(same, "share", "all"), at(same, "chance", "all"))


def test_shares_of_each_value_and_what_is_seen_whatever_was_asked():
    found = drawn(ASKED, SEEN, NAMES)
    assert found.value_asked.values.tolist() == [[2, 2, 0], [2, 1, 1]]
    assert found.value_share.values[0, :2].tolist() == [1 / 2, 1 / 2]
    assert np.isnan(found.value_share.values[0, 2]), "shapes have two values"
    assert found.value_share.values[1].tolist() == [1 / 2, 1, 1]
    assert found.free.values.tolist() == [[2 / 5, 2 / 5, 0], [2 / 5, 1 / 5, 2 / 5]]
    alone = value_shares(SEEN, NAMES)
    assert np.array_equal(alone.share, found.free)
    assert alone.high.values[1, 1] == share(1, 5).high


def test_where_nothing_is_known_shares_are_missing_and_say_so():
    found = drawn(ASKED, SEEN, NAMES)
    assert np.isnan(at(found, "share", "held_out")).all()
    assert np.isnan(at(found, "chance", "known")).all()
    for name, variable in found.items():
        assert "missing" in variable.attrs or np.isfinite(variable).all(), name


def test_the_order_of_dimensions_does_not_matter():
    assert drawn(ASKED.T, SEEN.T, NAMES.T, HELD_OUT).identical(drawn(ASKED, SEEN, NAMES, HELD_OUT))


DATA = labels((CIRCLE, RED), (CIRCLE, RED), (SQUARE, RED), (SQUARE, BLUE))
DRAWN = labels((CIRCLE, RED), (CIRCLE, RED), (SQUARE, GREEN), (SQUARE, NONE), (SQUARE, BLUE))


def test_recall_of_combinations():
    """The data have three; two of them are drawn, which are of three of four images. Of five samples three are known
    combinations, one is a new one, and one has none."""
    found = combination_recall(DRAWN, DATA, ("shape", "colour"))
    assert (found.combinations.item(), found.drawn.item(), found.samples.item()) == (3, 3, 5)
    assert found.recall.item() == 2 / 3
    assert (found.covered.item(), found.known.item()) == (3 / 4, 3 / 5)
    assert (found.known_low.item(), found.covered_high.item()) == (share(3, 5).low, share(3, 4).high)
    by_hand = (1 - (1 / 2) ** 5 + 2 * (1 - (3 / 4) ** 5)) / 3
    assert found.expected.item() == pytest.approx(by_hand, abs=1e-12)
    alone = combination_recall(DRAWN, DATA, ["colour"])
    assert (alone.combinations.item(), alone.recall.item(), alone.known.item()) == (2, 1, 3 / 5)


def test_expected_recall_is_that_of_samples_of_the_data():
    rng = np.random.default_rng(1)
    data = labels(*np.stack([rng.integers(0, k, 30) for k in (2, 3)], 1))
    found = [combination_recall(data[rng.integers(0, 30, 8)], data, ("shape", "colour")) for _ in range(500)]
    assert np.mean([one.recall for one in found]) == pytest.approx(found[0].expected.item(), abs=0.02)


def test_what_does_not_go_together_is_refused():
    with pytest.raises(ShapeError, match=r"asked has shape \(5, 2\) .* seen \(4, 2\)"):
        drawn(ASKED, SEEN[:4], NAMES)
    with pytest.raises(ShapeError, match=r"asked has shape .* of shape, colour; seen .* of colour, shape"):
        drawn(ASKED, SEEN[:, ::-1], NAMES)
    with pytest.raises(ShapeError, match=r"held_out has shape \(3,\), but there are 5 samples"):
        drawn(ASKED, SEEN, NAMES, HELD_OUT[:3])
    with pytest.raises(ShapeError, match="2 attributes, value_name has 1"):
        drawn(ASKED, SEEN, NAMES[:1])
    with pytest.raises(DataError, match=r"shape: the value 2 is none of its 2 \(circle, square\)"):
        drawn(ASKED, labels(*[(2, 0)] * 5), NAMES)
    with pytest.raises(DataError, match="colour: the value -2"):
        value_shares(labels((0, -2)), NAMES)
    with pytest.raises(DataError, match=r"no attribute 'color'; .* Did you mean 'colour'"):
        combination_recall(DRAWN, DATA, ("shape", "color"))
    with pytest.raises(DataError, match=r"no image of the data has a value of each of colour"):
        combination_recall(DRAWN, labels((0, NONE)), ("colour",))
