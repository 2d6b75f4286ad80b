from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optogram.errors import DataError, ParamError
from optogram.methods.visualisation.reference_sets import (
    class_references,
    corrupted_references,
    facet_references,
    strangers,
)

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


def test_planted_facets_are_found_however_unlike_their_numbers_of_odd_images():
    """Three kinds of 30 images, and two that are like nothing else: plain k-means would give these a facet."""
    rng = np.random.default_rng(0)
    kinds = np.repeat([0, 1, 2], 30)
    features = 5 * np.eye(3)[kinds] + rng.normal(scale=0.3, size=(90, 3))
    features[[3, 7]] += 60
    order = rng.permutation(90)
    found = facet_references(features[order], 3, 20, seed=0)
    assert found.shape == (3, 20)
    assert len(set(found.ravel().tolist())) == 60
    assert [len(set(kinds[order][rows].tolist())) for rows in found] == [1, 1, 1]
    assert sorted(kinds[order][rows[0]] for rows in found) == [0, 1, 2]
    assert facet_references(features[order], 3, 20, seed=0).tolist() == found.tolist()


@pytest.mark.parametrize("seed", range(5))
def test_facets_of_two_are_the_best_halves(seed):
    """Literally: of all ways to halve ten images, that with the least squared distance to the halves' means."""
    features = np.random.default_rng(seed).normal(size=(10, 2)) * [4, 1]

    def cost(rows):
        parts = features[list(rows)], np.delete(features, list(rows), 0)
        return sum(np.square(part - part.mean(0)).sum() for part in parts)

    best = min(cost(rows) for rows in combinations(range(10), 5))
    first, second = facet_references(features, 2, 9, seed=0)
    assert sorted([*first, *second]) == list(range(10))
    assert 0 in first
    assert cost(first) <= 1.05 * best
    away = [np.linalg.norm(features[row] - features[first].mean(0)) for row in first]
    assert away == sorted(away)


def test_no_facets_of_too_few_images():
    with pytest.raises(DataError, match=r"5 images, but 3 facets need two each"):
        facet_references(np.eye(5), 3, 2, seed=0)
    with pytest.raises(ParamError, match=r"facets = 1, count = 2"):
        facet_references(np.eye(5), 1, 2, seed=0)
