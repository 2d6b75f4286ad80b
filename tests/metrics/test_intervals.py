"""Intervals against scipy, tables of their papers, and simulated truths that they should cover."""

import numpy as np
import pytest
from scipy import stats

from optogram.errors import DataError, ShapeError
from optogram.metrics import intervals
from optogram.metrics.intervals import Interval


@pytest.mark.parametrize(("hits", "total"), [(0, 4), (1, 4), (4, 4), (13, 100), (1899, 2000)])
def test_a_share_has_wilsons_interval(hits, total):
    theirs = stats.binomtest(hits, total).proportion_ci(method="wilson")
    np.testing.assert_allclose(intervals.share(hits, total), (theirs.low, theirs.high), atol=1e-12)
    np.testing.assert_allclose(intervals.share_of(hits / total, total), (theirs.low, theirs.high), atol=1e-12)


def test_of_nothing_a_share_may_be_anything():
    assert intervals.share(0, 0) == (0, 1)
    with pytest.raises(DataError, match="more hits than trials"):
        intervals.share([1, 5], 4)


def test_mcnemar_is_the_binomial_test_of_what_changed():
    lost, gained = np.array([0, 7, 3, 15, 2]), np.array([0, 0, 3, 4, 9])
    theirs = [stats.binomtest(a, a + b).pvalue if a + b else 1.0 for a, b in zip(lost, gained, strict=True)]
    np.testing.assert_allclose(intervals.mcnemar(lost, gained), theirs)


def test_a_paired_change_is_bonett_and_prices():
    # (1 + 1, 10 + 1) / 52: their adjusted proportions, by hand
    expected = 9 / 52 + np.array([-1, 1]) * 1.959964 * np.sqrt((13 / 52 - (9 / 52) ** 2) / 52)
    np.testing.assert_allclose(intervals.paired_change(1, 10, 50), expected, atol=1e-6)
    assert not intervals.paired_change(0, 0, 2000).excludes_zero
    assert intervals.paired_change(0, 0, 2000).half > 0


@pytest.mark.parametrize(("fell", "rose"), [(0.01, 0.01), (0.02, 0.004), (0.2, 0.1)])
def test_a_paired_change_covers_the_truth(fell, rose):
    drawn = np.random.default_rng(0).multinomial(500, [fell, rose, 1 - fell - rose], 4000)
    found = intervals.paired_change(drawn[:, 0], drawn[:, 1], 500)
    assert ((found.low <= rose - fell) & (rose - fell <= found.high)).mean() > 0.93


def test_a_mean_of_repeats_has_students_interval():
    values = np.array([[9.0, 14.0, 5.0], [4.0, 9.0, 4.0]])
    theirs = stats.ttest_1samp(values, 0, axis=1)
    expected = theirs.confidence_interval()
    np.testing.assert_allclose(intervals.mean_interval(values), (expected.low, expected.high))
    error = values.std(1, ddof=1) / np.sqrt(3)
    np.testing.assert_allclose(intervals.mean_p(values.mean(1), error, 3), theirs.pvalue)
    assert intervals.mean_interval(values[:, :1]) == (Interval(*[pytest.approx([e, e]) for e in (-np.inf, np.inf)]))
    assert intervals.mean_p([0.0, 1.0, 1.0], [0.0, 0.0, 0.5], [9, 9, 1]).tolist() == [1, 0, 1]


def test_many_questions_are_answered_at_once():
    p = np.array([[0.001, 0.2], [0.04, 0.03]])
    np.testing.assert_allclose(intervals.adjusted(p), [[0.004, 0.2], [0.16 / 3, 0.16 / 3]])
    assert intervals.adjusted(np.zeros((0, 2))).shape == (0, 2)


def test_bootstrap_samples_give_the_interval_of_a_mean():
    values = np.random.default_rng(2).normal(3, 1, 200)
    weights = intervals.resampled(200, seed=0)
    assert (weights.sum(1) == 200).all()
    found = intervals.percentiles(weights @ values / 200)
    np.testing.assert_allclose(found, intervals.mean_interval(values), atol=0.02)


def test_what_is_level_with_the_best():
    values = np.array([[0.9, 0.2], [0.8, 0.5], [0.5, 0.45]])
    apart = values[:, None] - values[None]
    found = intervals.level_with_best(values, Interval(apart - 0.15, apart + 0.15))
    assert found.tolist() == [[True, False], [True, True], [False, True]]
    fewest = intervals.level_with_best(values, Interval(apart - 0.15, apart + 0.15), more=False)
    assert fewest.tolist() == [[False, True], [False, False], [True, False]]
    with pytest.raises(ShapeError, match="rows by rows"):
        intervals.level_with_best(values, Interval(values, values))


def test_a_difference_of_two_shares_is_newcombes():
    # his Table II, contrast (a): 56/70 - 48/80, method 10
    sides = [value for hits, total in ((56, 70), (48, 80)) for value in (hits / total, intervals.share(hits, total))]
    np.testing.assert_allclose(intervals.difference(*sides), (0.0524, 0.3339), atol=5e-5)
