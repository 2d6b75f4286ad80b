"""Objects that are found against those that are there, on masks drawn by hand."""

import numpy as np
import pytest

from optogram.errors import DataError, ShapeError
from optogram.metrics.localisation import box_overlap, boxes, localisation


def mask(*rows):
    return np.array([[int(point) for point in row] for row in rows])


TRUTH = mask("110000", "110000", "000220", "000220")


def test_what_is_met_exactly():
    found = localisation(TRUTH[None], TRUTH[None])
    assert (found.counted.item(), found.mask_iou.item(), found.box_iou.item()) == (True, 1.0, 1.0)


def test_numbers_may_be_in_another_order():
    swapped = np.array([0, 2, 1])[TRUTH]
    assert localisation(swapped[None], TRUTH[None]).box_iou.item() == 1


def test_half_of_one_object_and_nothing_of_the_other():
    """Two of eight pixels; the boxes meet with 2 / 4 and not at all."""
    guess = mask("110000", "000000", "000000", "000000")
    found = localisation(guess[None], TRUTH[None])
    assert (found.counted.item(), found.mask_iou.item(), found.box_iou.item()) == (False, 2 / 8, (2 / 4 + 0) / 2)


def test_both_in_one():
    """Eight of ten pixels; the box is 4 x 5, and each object's 2 x 2."""
    guess = mask("110000", "111000", "001110", "000110")
    assert guess.sum() == 10
    found = localisation(guess[None], TRUTH[None])
    assert (found.counted.item(), found.mask_iou.item(), found.box_iou.item()) == (False, 8 / 10, 4 / 20)


def test_where_nothing_is():
    nothing = np.zeros_like(TRUTH)
    found = localisation(np.stack([nothing, TRUTH, nothing]), np.stack([nothing, nothing, TRUTH]))
    assert found.counted.tolist() == [True, False, False]
    assert np.array_equal(found.mask_iou, [np.nan, 0, 0], equal_nan=True)
    assert np.array_equal(found.box_iou, [np.nan, np.nan, 0], equal_nan=True)


def test_overlap_against_counting_pixels():
    rng = np.random.default_rng(0)
    corners = np.sort(rng.integers(0, 9, (2, 12, 2, 2)), 2)
    first, second = (each.reshape(12, 4) for each in corners)  # top, left, bottom, right: each pair is in order
    found = box_overlap(first, second)
    for row, one in enumerate(first):
        for column, other in enumerate(second):
            drawn = np.zeros((2, 9, 9), bool)
            for canvas, (top, left, bottom, right) in zip(drawn, (one, other), strict=True):
                canvas[top:bottom, left:right] = True
            union = (drawn[0] | drawn[1]).sum()
            assert found[row, column] == ((drawn[0] & drawn[1]).sum() / union if union else 0)


def test_boxes_of_a_mask():
    assert boxes(TRUTH).tolist() == [[0, 0, 2, 2], [2, 3, 4, 5]]
    assert boxes(np.zeros((3, 3), int)).shape == (0, 4)
    assert boxes(mask("30", "03")).tolist() == [[0, 0, 2, 2]]


@pytest.mark.misfits
def test_masks_that_do_not_go_together_are_refused():
    with pytest.raises(ShapeError, match=r"\(1, 4, 6\) and \(4, 6\)"):
        localisation(TRUTH[None], TRUTH)
    with pytest.raises(DataError, match="numbers below 0"):
        localisation(TRUTH[None] - 1, TRUTH[None])
