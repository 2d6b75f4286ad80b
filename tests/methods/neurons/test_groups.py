"""Groups: planted ones come back, each set beside scikit-learn's clusters and silhouettes, noise is one group."""

import time

import numpy as np
import pytest
from sklearn.cluster import AgglomerativeClustering
from sklearn.metrics import silhouette_score
from sklearn.metrics.pairwise import cosine_distances

from optogram.errors import DataError, ParamError, ShapeError
from optogram.methods.neurons.groups import separated


def planted(labels, spread=0.3, embed=64, seed=0):
    """Vectors about orthogonal centres, of any lengths."""
    rng = np.random.default_rng(seed)
    centres = np.linalg.qr(rng.standard_normal((embed, max(labels) + 1)))[0].T
    rows = centres[labels] + spread * rng.standard_normal((len(labels), embed)) / embed**0.5
    return rows * rng.uniform(0.1, 10, (len(labels), 1))


def literal(rows, separation, most):
    """The docstring, by scikit-learn."""
    distance = cosine_distances(rows)
    found = []
    for count in range(2, min(most, len(rows) // 2) + 1):
        model = AgglomerativeClustering(n_clusters=count, metric="precomputed", linkage="average")
        labels = model.fit_predict(distance)
        if np.bincount(labels).min() >= 2:
            found.append((silhouette_score(distance, labels, metric="precomputed"), -count, labels))
    best = max(found, default=(-1, 0, None), key=lambda one: one[:2])
    labels = np.zeros(len(rows), int) if best[0] < separation else best[2]
    groups = sorted(set(labels), key=lambda g: (-(labels == g).sum(), list(labels).index(g)))
    return [groups.index(label) for label in labels]


@pytest.mark.parametrize("order", [0, 1])
def test_planted_groups_come_back(order):
    sets = [[0] * 16, [0] * 9 + [1] * 7, [2] * 4 + [0] * 6 + [1] * 6, [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4]
    rng = np.random.default_rng(order)
    sets = [list(rng.permutation(labels)) if order else labels for labels in sets]
    vectors = np.stack([planted(labels, seed=at) for at, labels in enumerate(sets)]).astype(np.float32)
    found = separated(vectors, separation=0.3)
    assert found.counts.tolist() == [1, 2, 3, 4]
    assert found.groups.dtype == found.counts.dtype == np.int16
    for labels, groups in zip(sets, found.groups, strict=True):
        assert len(set(zip(labels, groups.tolist(), strict=True))) == len(set(labels))
        sizes = np.bincount(groups)
        assert (np.diff(sizes) <= 0).all()
        first = [groups.tolist().index(g) for g in range(len(sizes))]
        assert all(sizes[a] > sizes[a + 1] or first[a] < first[a + 1] for a in range(len(sizes) - 1))


def test_noise_is_one_group():
    noise = np.random.default_rng(0).standard_normal((200, 16, 64))
    assert (separated(noise, separation=0.3).counts == 1).all()
    # a mean that all share hides nothing once it is taken out
    assert (separated(noise + 100 - 100, separation=0.3).counts == 1).all()


def test_a_shared_mean_hides_groups_from_the_cosine_s_scale_only():
    """Silhouettes are ratios of distances: a shared mean shrinks them all."""
    rows = planted([0] * 8 + [1] * 8)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    assert separated(rows[None], separation=0.3).counts == 2
    assert separated((rows - rows.mean(0))[None], separation=0.3).groups.tolist() == [[0] * 8 + [1] * 8]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("items", "embed", "most"), [(16, 3, 4), (9, 5, 4), (30, 2, 6), (4, 3, 4), (5, 4, 2), (3, 3, 4)]
)
def test_is_scikit_learn_s_best_cut(seed, items, embed, most):
    vectors = np.random.default_rng(seed).standard_normal((20, items, embed))
    for separation in (0.2, 0.5):
        found = separated(vectors, separation=separation, most=most)
        expected = [literal(rows, separation, most) for rows in vectors]
        assert found.groups.tolist() == expected
        assert found.counts.tolist() == [max(one) + 1 for one in expected]


def test_an_outlier_is_no_group_and_hides_none():
    rows = planted([0] * 8 + [1])
    assert separated(rows[None], separation=0.3).counts == 1
    rows = planted([0] * 8 + [1] * 6 + [2])
    found = separated(rows[None], separation=0.3)
    assert found.counts == 2
    assert found.groups[0, :14].tolist() == [0] * 8 + [1] * 6


def test_items_that_are_not_valid_are_not_looked_at():
    rows = planted([1, 0, 0, 0, 1, 1, 1, 0])
    rows[3] = np.nan
    valid = np.array([[1, 1, 1, 0, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0, 0, 0], [0] * 8], bool)
    found = separated(np.stack([rows] * 3), valid=valid, separation=0.3)
    assert found.groups.tolist() == [[0, 1, 1, -1, 0, 0, 0, 1], [0, 0, 0] + [-1] * 5, [-1] * 8]
    assert found.counts.tolist() == [2, 1, 0]


def test_equal_items_and_empty_vectors_are_one_group():
    rows = np.ones((1, 6, 3))
    assert separated(rows, separation=0.1).counts == 1
    assert separated(0 * rows, separation=0.1).counts == 1
    twice = np.stack([[1.0, 0], [0, 1.0], [1.0, 0], [0, 1.0]])[None]
    assert separated(twice, separation=0.99).groups.tolist() == [[0, 1, 0, 1]]
    assert separated(np.zeros((0, 4, 3)), separation=0.3).groups.shape == (0, 4)


def test_takes_seconds_for_all_neurons_of_some_layers():
    vectors = np.random.default_rng(0).standard_normal((3 * 512, 16, 128)).astype(np.float32)
    start = time.perf_counter()
    separated(vectors, separation=0.3)
    assert time.perf_counter() - start < 20


@pytest.mark.misfits
def test_refusals():
    rows = np.ones((2, 5, 3))
    with pytest.raises(ShapeError, match=r"vectors have shape \(5, 3\), expected \(set, item, embed\)\."):
        separated(rows[0], separation=0.3)
    with pytest.raises(ShapeError, match=r"and valid \(2, 4\)"):
        separated(rows, valid=np.ones((2, 4), bool), separation=0.3)
    with pytest.raises(ParamError, match=r"separation = 1, most = 4"):
        separated(rows, separation=1)
    with pytest.raises(ParamError, match=r"most = 0"):
        separated(rows, separation=0.3, most=0)
    rows[1, 2] = np.inf
    with pytest.raises(DataError, match="item 2 of set 1"):
        separated(rows, separation=0.3)
