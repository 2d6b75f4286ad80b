import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optogram.errors import DataError, ParamError
from optogram.methods.reference_sets import class_references, corrupted_references, strangers

labels_of = st.lists(st.integers(-1, 4), min_size=1, max_size=60).map(lambda each: np.array(each, np.int16))


@given(labels_of, st.integers(0, 4), st.integers(0, 9))
def test_sets_are_nested_distinct_and_of_the_right_class(labels, wanted, seed):
    for draw, rows in (
        (class_references, np.flatnonzero(labels == wanted)),
        (strangers, np.flatnonzero((labels != wanted) & (labels >= 0))),
    ):
        if not len(rows):
            continue
        everything = draw(labels, wanted, len(rows), seed=seed)
        assert sorted(everything) == rows.tolist()
        for count in range(1, len(rows)):
            assert draw(labels, wanted, count, seed=seed).tolist() == everything[:count].tolist()


def test_corrupted_sets_add_strangers_and_share_them():
    labels = np.repeat(np.arange(6), 60)
    own = class_references(labels, 2, 50, seed=1)
    sets = {m: corrupted_references(labels, 2, 50, m, seed=1) for m in (5, 10, 20)}
    for m, found in sets.items():
        assert found[:50].tolist() == own.tolist()
        assert found[50:].tolist() == sets[20][50 : 50 + m].tolist()
        assert not (labels[found[50:]] == 2).any()
        assert len(set(found.tolist())) == 50 + m


def test_seeds_and_classes_give_draws_of_their_own():
    labels = np.repeat([0, 1], 100)
    zero = class_references(labels, 0, 100, seed=0)
    assert zero.tolist() != class_references(labels, 0, 100, seed=1).tolist()
    assert zero.tolist() != (class_references(labels, 1, 100, seed=0) - 100).tolist()
    # what others are labelled changes nothing
    assert zero.tolist() == class_references(np.where(labels == 1, 7, labels), 0, 100, seed=0).tolist()
    # every image is drawn now and then, about as often
    often = np.bincount(np.concatenate([class_references(labels, 0, 20, seed=seed) for seed in range(500)]))
    assert len(often) == 100
    assert 60 < often.min() <= often.max() < 145


def test_too_few_images():
    labels = np.array([0, 0, 1, -1])
    with pytest.raises(DataError, match=r"2 images of class 0, but 3 are asked for"):
        class_references(labels, 0, 3, seed=0)
    with pytest.raises(DataError, match=r"1 images of other classes than 0, but 2"):
        corrupted_references(labels, 0, 2, 2, seed=0)
    with pytest.raises(ParamError, match=r"count = 0 images of class 0"):
        class_references(labels, 0, 0, seed=0)
