import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optogram.errors import DataError, OptogramError, ParamError, ShapeError
from optogram.methods.visualisation.craft import class_concepts, split_patches


def planted(seed=0, patches=200):
    """Patches that are sums of some of three directions (concept, channel), two of which share a channel."""
    rng = np.random.default_rng(seed)
    directions = np.zeros((3, 12))
    for direction, first in zip(directions, (0, 4, 7), strict=True):
        direction[first : first + 4] = rng.uniform(0.5, 1, 4)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    coefficients = rng.exponential(1, (patches, 3)) * (rng.random((patches, 3)) < 0.4)
    return directions, coefficients, (coefficients @ directions).astype(np.float32)


def matched(found, directions):
    """Of each planted direction, the concept closest to it, and the cosine."""
    cosine = directions @ found.direction.T
    return cosine.argmax(1), cosine.max(1)


@pytest.mark.parametrize("seed", range(3))
def test_planted_directions_and_coefficients_are_found(seed):
    directions, coefficients, features = planted(seed)
    found = class_concepts(features, np.ones(12), 3, rank=3, seed=0)
    which, cosine = matched(found, directions)
    assert sorted(which) == [0, 1, 2]
    assert (cosine > 0.95).all()
    np.testing.assert_allclose(np.linalg.norm(found.direction, axis=1), 1, rtol=1e-5)
    assert found.direction.min() >= 0
    for own, concept in zip(coefficients.T, which, strict=True):
        assert np.corrcoef(own, found.coefficient[:, concept])[0, 1] > 0.95


def test_importance_is_what_a_concept_adds_to_a_linear_logit():
    """And concepts come in its order, those against the class last."""
    directions, coefficients, features = planted(1)
    head = np.random.default_rng(5).standard_normal(12)
    head[-1] = 3  # a channel that no patch has
    relevance = head * features.mean(0)  # input times gradient of the mean patch
    found = class_concepts(features, relevance, 3, rank=3, seed=0)
    which, _ = matched(found, directions)
    adds = coefficients.mean(0) * (directions @ head) / np.abs(relevance).sum()
    np.testing.assert_allclose(found.importance[which], adds, atol=0.03)
    assert (np.diff(found.importance) <= 0).all()
    assert found.importance[0] > 0 > found.importance[-1]
    np.testing.assert_allclose(found.importance.sum(), relevance.sum() / np.abs(relevance).sum(), atol=1e-5)
    one = class_concepts(features, relevance, 1, rank=3, seed=0)
    assert one.direction.tolist() == found.direction[:1].tolist()
    assert one.coefficient.tolist() == found.coefficient[:, :1].tolist()


def test_negative_features_count_as_nothing():
    _, _, features = planted()
    negative = np.where(features > 0, features, -np.random.default_rng(0).random(features.shape)).astype(np.float32)
    ours, theirs = (class_concepts(each, np.ones(12), 3, rank=3, seed=0) for each in (negative, features))
    assert ours.direction.tolist() == theirs.direction.tolist()
    assert (negative < 0).any()


def test_factors_that_do_not_settle_are_no_warning_and_repeat():
    features = np.random.default_rng(0).random((60, 30)).astype(np.float32)
    first, again = (class_concepts(features, np.ones(30), 4, rank=20, seed=3) for _ in range(2))
    assert first.direction.shape == (4, 30)
    for one, other in zip(first, again, strict=True):
        assert one.dtype == np.float32
        assert one.tolist() == other.tolist()


def test_empty_concepts_are_dropped():
    features = np.zeros((6, 4), np.float32)
    features[:, 1] = np.arange(6)
    found = class_concepts(features, np.ones(4), 3, rank=3, seed=0)
    assert 1 <= len(found.importance) <= 3
    assert found.coefficient.any(0).all()
    assert found.direction[0].tolist() == pytest.approx([0, 1, 0, 0], abs=1e-3)


@pytest.mark.misfits
def test_concepts_that_cannot_be_found():
    _, _, features = planted()
    cases: list[tuple[type[OptogramError], str, dict]] = [
        (ShapeError, r"\(200, 12\), relevance \(3,\)", {"relevance": np.ones(3)}),
        (ParamError, r"4 of 3 concepts", {"count": 4}),
        (ParamError, r"of 200 patches with 12 channels. Expected 1 <= concepts <= rank <= 12", {"rank": 13}),
        (ParamError, r"0 of 3 concepts", {"count": 0}),
        (DataError, r"none of 200 patches has a positive feature", {"features": -features}),
    ]
    for error, message, options in cases:
        with pytest.raises(error, match=message):
            class_concepts(
                **{"features": features, "relevance": np.ones(12), "count": 2, "rank": 3, "seed": 0} | options
            )


def two_patterns(seed=0, count=80):
    """Channel 0 is active on patches of two patterns, which other channels tell apart; and which pattern each is."""
    rng = np.random.default_rng(seed)
    pattern = (rng.random(count) < 0.35).astype(int)
    features = 0.05 * rng.random((count, 6))
    features[:, 0] = rng.uniform(1, 3, count)
    features[np.arange(count), 1 + pattern] += features[:, 0] * rng.uniform(0.8, 1.2, count)
    return features.astype(np.float32), pattern


@pytest.mark.parametrize("seed", range(3))
def test_the_two_patterns_of_a_neuron_are_parted(seed):
    """Each image has three patches, of which the third is not active."""
    features, pattern = two_patterns(seed)
    images = np.repeat(np.arange(40), 2)
    features, images = np.vstack([features, -features[:40]]), np.hstack([images, np.arange(40)])
    found = split_patches(features, images, np.eye(6)[0], patches=30, splits=2, references=9, seed=0)
    assert found is not None
    assert found.silhouette > 0.7
    # literally: the best patch of each image, the best 30 of these, the mean of each pattern, the nearest to it
    best = [max(np.flatnonzero(images == image), key=lambda row: features[row, 0]) for image in range(40)]
    best = np.array(sorted(best, key=lambda row: -features[row, 0])[:30])
    unit = features[best] / np.linalg.norm(features[best], axis=1, keepdims=True)
    sizes = np.bincount(pattern[best])
    for line, share, group in zip(found.patch, found.share, np.argsort(-sizes), strict=True):
        own = pattern[best] == group
        away = np.linalg.norm(unit[own] - unit[own].mean(0), axis=1)
        expected = best[own][np.argsort(away)][:9].tolist()
        assert line.tolist() == expected + [-1] * (9 - len(expected))
        assert share == pytest.approx(sizes[group] / 30)
        assert len(set(images[line[line >= 0]])) == len(line[line >= 0])


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.integers(2, 3), st.integers(4, 30))
def test_splits_are_of_distinct_images_repeat_and_share_the_patches(seed, splits, patches):
    rng = np.random.default_rng(seed)
    features, images = rng.standard_normal((60, 5)).astype(np.float32), rng.integers(0, 20, 60)
    options = {"patches": patches, "splits": splits, "references": 30, "seed": 1}
    first, again = (split_patches(features, images, np.eye(5)[2], **options) for _ in range(2))
    if first is None:
        assert again is None
        return
    assert again is not None
    assert first.patch.tolist() == again.patch.tolist()
    chosen = first.patch[first.patch >= 0]
    assert len(set(images[chosen].tolist())) == len(chosen) <= patches
    assert (features[chosen, 2] > 0).all()
    assert first.share.sum() == pytest.approx(1)
    assert (np.diff(first.share) <= 0).all()


def test_neurons_that_are_not_parted():
    features, _ = two_patterns()
    images, first = np.arange(80), np.eye(6)[0]
    same = np.tile(features[:1], (80, 1))
    lone = np.vstack([same[:20], np.eye(6, dtype=np.float32)[3:4] + first])
    assert split_patches(same, images, first, seed=0) is None  # all alike
    assert split_patches(features[:3], images[:3], first, seed=0) is None  # too few
    assert split_patches(features, np.zeros(80, int), first, seed=0) is None  # one image
    assert split_patches(-features, images, first, seed=0) is None  # never active
    assert split_patches(lone.astype(np.float32), images[:21], first, seed=0) is None  # one against the rest
    with pytest.raises(ParamError, match="splits = 1, references = 50"):
        split_patches(features, images, first, splits=1, seed=0)
