"""Objects found on a map, against the renderer's own numbers of them and cases drawn by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from optogram.data.scenes import Scenes
from optogram.errors import ParamError, ShapeError
from optogram.models.judging.objects import MOST, find_objects

LEAST = 24


def drawn(*rows):
    """A map from rows of text: # inside."""
    return np.array([[point == "#" for point in row] for row in rows])


def literal(mask):
    """(top, left, bottom, right, area) of each of the renderer's numbers, one pixel after the other."""
    found = []
    for number in range(1, int(mask.max()) + 1):
        points = [(y, x) for y in range(mask.shape[0]) for x in range(mask.shape[1]) if mask[y, x] == number]
        rows, columns = [y for y, _ in points], [x for _, x in points]
        found.append((min(rows), min(columns), max(rows) + 1, max(columns) + 1, len(points)))
    return sorted(found)


def measured(found):
    return sorted((*box, area) for box, area in zip(found.box.tolist(), found.area.tolist(), strict=True))


@pytest.fixture(scope="module")
def masks():
    """Two hundred scenes, without the few in which a star's tip is a pixel of its own."""
    masks = Scenes("eval", 256, 0).read(0, 256)["mask"].values
    return [mask for mask in masks if ndimage.label(mask, np.ones((3, 3)))[1] == mask.max()][:200]


def test_objects_of_the_renderer_are_counted_and_measured_as_it_drew_them(masks):
    assert len(masks) == 200
    for mask in masks:
        found = find_objects(mask > 0, least=LEAST)
        assert measured(found) == literal(mask)
        for number, (top, left, bottom, right) in enumerate(found.box, 1):
            y, x = np.nonzero(found.mask == number)
            assert (y.min(), x.min(), y.max() + 1, x.max() + 1) == (top, left, bottom, right)


def test_objects_that_touch_are_told_apart_by_their_middles(masks):
    """Two of a scene's objects are moved together until they touch; the middles of both are known."""
    tried = 0
    for mask in masks:
        if mask.max() != 2:
            continue
        parts = [mask == number for number in (1, 2)]
        (top, left), (down, right) = (np.array(ndimage.center_of_mass(part)) for part in parts)
        if abs(top - down) < abs(left - right):
            continue
        while not (ndimage.binary_dilation(parts[0], np.ones((3, 3))) & parts[1]).any():
            parts[1] = np.roll(parts[1], -1 if down > top else 1, 0)
        centre = np.zeros(mask.shape)
        for part in parts:
            y, x = np.rint(ndimage.center_of_mass(part)).astype(int)
            centre[y, x] = 0.9
        assert len(find_objects(parts[0] | parts[1]).area) == 1
        found = find_objects(parts[0] | parts[1], centre, least=LEAST)
        expected = literal(parts[0] + 2 * parts[1])
        apart = np.abs(np.array(measured(found)) - expected).max(0)
        assert (apart <= [3, 3, 3, 3, 12]).all(), "where they touch, some pixels go to the other one"
        tried += 1
    assert tried > 10


def test_by_hand():
    found = find_objects(
        drawn(
            "......##",
            ".##...##",
            "..##....",  # the corner belongs to it
            "....#...",
            "#.......",
        )
    )
    assert found.box.tolist() == [[0, 6, 2, 8], [1, 1, 4, 5], [4, 0, 5, 1]]
    assert found.area.tolist() == [4, 5, 1]
    assert found.mask[0].tolist() == [0, 0, 0, 0, 0, 0, 1, 1]
    assert found.mask[4].tolist() == [3, 0, 0, 0, 0, 0, 0, 0]
    assert found.mask.dtype == np.uint8


def test_what_is_too_small_is_no_object_and_of_many_the_largest_are_kept():
    inside = drawn("##.#.##", "##...##")
    assert find_objects(inside, least=2).box.tolist() == [[0, 0, 2, 2], [0, 5, 2, 7]]
    assert find_objects(inside, least=5).area.tolist() == []
    assert find_objects(inside, least=5).mask.max() == 0
    many = np.zeros((40, 40), bool)
    for k in range(12):
        many[3 * k, : k + 1] = True
    found = find_objects(many)
    assert found.area.tolist() == [*range(12 - MOST + 1, 13)]
    assert found.mask.max() == MOST


def test_a_part_with_one_middle_is_not_cut_up_nor_one_with_two_that_are_near():
    inside = np.ones((6, 20), bool)
    centre = np.zeros((6, 20))
    centre[3, 4] = centre[3, 6] = 0.9
    assert len(find_objects(inside, centre).area) == 1
    centre[3, 16] = 0.4
    assert len(find_objects(inside, centre).area) == 1
    centre[3, 16] = 0.6
    assert find_objects(inside, centre).box.tolist() == [[0, 0, 6, 11], [0, 11, 6, 20]]


def test_the_middle_of_a_ring_is_of_the_ring():
    y, x = np.mgrid[:40, :24]
    rings = [np.abs(np.hypot(y - at, x - 11) - 7) < 2.6 for at in (10, 29)]
    centre = np.zeros((40, 24))
    centre[10, 11] = centre[29, 11] = 0.8
    assert not (rings[0] & rings[1]).any()
    joined = rings[0] | rings[1]
    joined[19:21, 9:14] = True
    assert len(find_objects(joined).area) == 1
    found = find_objects(joined, centre)
    assert found.box.tolist() == [[1, 2, 20, 21], [20, 2, 39, 21]]


def test_a_middle_that_is_far_from_all_parts_cuts_up_none():
    inside = np.zeros((30, 30), bool)
    inside[2:10, 2:10] = True
    centre = np.zeros((30, 30))
    centre[5, 5] = centre[24, 8] = 0.9
    assert find_objects(inside, centre).box.tolist() == [[2, 2, 10, 10]]
    centre[5, 5] = 0
    assert find_objects(inside, centre).area.tolist() == [64]


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.05, 0.9), st.integers(1, 6))
def test_every_pixel_of_a_map_is_of_one_object_of_enough_pixels_or_of_none(seed, share, least):
    rng = np.random.default_rng(seed)
    inside, centre = rng.random((12, 15)) < share, rng.random((12, 15))
    for middles in (None, centre):
        found = find_objects(inside, middles, least=least, near=1)
        assert not found.mask[~inside].any()
        assert np.bincount(found.mask.ravel(), minlength=len(found.area) + 1)[1:].tolist() == found.area.tolist()
        assert (found.area >= least).all()
        first = [np.flatnonzero(found.mask == number)[0] for number in range(1, len(found.area) + 1)]
        assert first == sorted(first)


@pytest.mark.misfits
def test_maps_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError, match=r"shape \(4, 4\), of their middles \(4, 5\)"):
        find_objects(np.ones((4, 4), bool), np.ones((4, 5)))
    with pytest.raises(ShapeError, match=r"shape \(4,\), of their middles none"):
        find_objects(np.ones(4, bool))
    with pytest.raises(ParamError, match="least = 0"):
        find_objects(np.ones((4, 4), bool), least=0)
