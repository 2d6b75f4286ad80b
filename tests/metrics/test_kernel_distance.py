"""Kernel distance and nearest images, against their definitions."""

import numpy as np
import pytest

from optogram.errors import DataError, ShapeError
from optogram.metrics import fidelity
from optogram.metrics.fidelity import kernel_distance, nearest_rows

pytestmark = pytest.mark.misfits


def literal(ours, theirs):
    """Binkowski et al. 2018, eq. 4, term by term."""
    channels = ours.shape[1]

    def kernel(x, y):
        return (float(x @ y) / channels + 1) ** 3

    m, n = len(ours), len(theirs)
    first = sum(kernel(ours[i], ours[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    second = sum(kernel(theirs[i], theirs[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    third = sum(kernel(x, y) for x in ours for y in theirs) * 2 / (m * n)
    return first + second - third


def test_the_kernel_distance_is_its_definition():
    draw = np.random.default_rng(0)
    ours, theirs = draw.standard_normal((9, 5)), draw.standard_normal((7, 5)) + 0.3
    assert kernel_distance(ours, theirs) == pytest.approx(literal(ours, theirs), rel=1e-12)
    assert kernel_distance(ours, theirs) == pytest.approx(kernel_distance(theirs, ours), rel=1e-12)


def test_it_is_nothing_on_average_for_two_draws_of_one_kind_and_grows_with_a_shift():
    draw = np.random.default_rng(1)
    same = [kernel_distance(draw.standard_normal((40, 4)), draw.standard_normal((40, 4))) for _ in range(60)]
    assert abs(np.mean(same)) < 3 * np.std(same) / np.sqrt(60)
    apart = [kernel_distance(draw.standard_normal((40, 4)), draw.standard_normal((40, 4)) + s) for s in (0.5, 1.0, 2.0)]
    assert 3 * np.std(same) < apart[0] < apart[1] < apart[2]


def test_the_nearest_row_is_the_nearest(monkeypatch):
    draw = np.random.default_rng(2)
    ours, theirs = draw.standard_normal((11, 6)), draw.standard_normal((9, 6))
    apart = np.sqrt(((ours[:, None] - theirs) ** 2).mean(2))
    for rows in (512, 4):
        monkeypatch.setattr(fidelity, "ROWS", rows)
        found = nearest_rows(ours, theirs)
        assert found.index.tolist() == apart.argmin(1).tolist()
        np.testing.assert_allclose(found.distance, apart.min(1), rtol=1e-12)


def test_a_copy_is_at_no_distance_and_a_row_is_not_its_own_neighbour():
    theirs = np.random.default_rng(3).standard_normal((9, 6)) * 100
    assert nearest_rows(theirs[[4, 2]], theirs).distance.tolist() == [0, 0]
    found = nearest_rows(theirs[[4, 2]], theirs, np.array([4, 2]))
    assert found.index[0] != 4
    assert found.index[1] != 2
    assert (found.distance > 0).all()


def test_what_does_not_fit_is_named():
    two = np.zeros((2, 3))
    with pytest.raises(ShapeError, match=r"\(2, 3\) and \(2, 4\)"):
        kernel_distance(two, np.zeros((2, 4)))
    with pytest.raises(ShapeError, match="channels alike"):
        nearest_rows(two, np.zeros((2, 4)))
    with pytest.raises(DataError, match="two images or more"):
        kernel_distance(two, two[:1])
    with pytest.raises(DataError, match="not finite"):
        kernel_distance(two, two * np.nan)
    with pytest.raises(DataError, match="too few"):
        nearest_rows(two, two[:1], np.zeros(2, int))
