"""Fréchet distance, AUC, MAD, top-k and cues against literal forms, and what they must be of planted numbers."""

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from scipy.stats import ortho_group
from sklearn.metrics import roc_auc_score
from torchmetrics.image.fid import FrechetInceptionDistance

from optogram.errors import DataError, ParamError, ShapeError
from optogram.metrics.visualisations import (
    confidence,
    cues,
    frechet_distance,
    mean_activation_difference,
    roc_auc,
    top_k_accuracy,
)

SEEDS = st.integers(0, 10**6)


def literal_frechet(a, b):
    """Heusel et al. (2017), eq. 6, with covariances of n - 1 as the published code has them."""
    difference = a.mean(0) - b.mean(0)
    s, t = (np.atleast_2d(np.cov(each.astype(float), rowvar=False)) for each in (a, b))
    root = sqrtm(s @ t)
    return float(difference @ difference + np.trace(s) + np.trace(t) - 2 * np.trace(root).real)


class Through(torch.nn.Module):
    num_features = 8

    def forward(self, features):
        return features


@settings(deadline=None, max_examples=30)
@given(SEEDS, st.integers(1, 6), st.integers(10, 40), st.integers(10, 40))
def test_the_frechet_distance_is_the_literal_one(seed, channels, ours, theirs):
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((ours, channels)) @ rng.standard_normal((channels, channels))
    b = 2 * rng.standard_normal((theirs, channels)) + rng.standard_normal(channels)
    assert frechet_distance(a, b) == pytest.approx(literal_frechet(a, b), rel=1e-9, abs=1e-9)


def test_the_frechet_distance_is_torchmetrics_s():
    rng = np.random.default_rng(0)
    a, b = np.maximum(rng.standard_normal((40, 8)), 0), np.maximum(rng.standard_normal((70, 8)) + 0.3, 0)
    reference = FrechetInceptionDistance(feature=Through())
    reference.set_dtype(torch.float64)
    for real, features in ((True, a), (False, b)):
        reference.update(torch.from_numpy(features), real=real)
    assert frechet_distance(a, b) == pytest.approx(float(reference.compute()), rel=1e-10)


def test_with_few_images_of_many_channels_it_is_exact():
    """Two covariances with 17 directions in common planted: tr (S S')^1/2 is known to be the product of deviations."""
    rng = np.random.default_rng(0)
    draw = rng.standard_normal((18, 17))
    axes = np.linalg.qr(rng.standard_normal((64, 17)))[0]
    white = np.linalg.qr(draw - draw.mean(0))[0] * np.sqrt(17)
    deviations = np.exp(-np.arange(17.0))
    a, b = white @ axes.T, (white * deviations) @ axes.T + 0.5
    assert frechet_distance(a, b) == pytest.approx(64 * 0.25 + np.square(1 - deviations).sum(), rel=1e-13)


@settings(deadline=None, max_examples=30)
@given(SEEDS, st.integers(1, 40), st.integers(2, 30), st.integers(2, 30))
def test_frechet_properties(seed, channels, ours, theirs):
    """Also where there are fewer images than channels."""
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((ours, channels)), 3 * rng.standard_normal((theirs, channels)) + 1
    distance, shift = frechet_distance(a, b), rng.standard_normal(channels)
    scale = np.square(a).sum() + np.square(b).sum()
    assert frechet_distance(a, a) <= 1e-12 * scale
    assert frechet_distance(a, a[::-1] + shift) == pytest.approx(shift @ shift, abs=1e-12 * scale)
    assert frechet_distance(b, a) == pytest.approx(distance, abs=1e-12 * scale)
    assert frechet_distance(10 * a, 10 * b) == pytest.approx(100 * distance, abs=1e-9 * scale)
    if channels > 1:
        turn = ortho_group.rvs(channels, random_state=rng)
        assert frechet_distance(a @ turn + shift, b @ turn + shift) == pytest.approx(distance, abs=1e-10 * scale)


def test_half_precision_features_are_summed_in_double():
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((30, 5)).astype(np.float16) for _ in range(2))
    assert frechet_distance(a, b) == frechet_distance(a.astype(float), b.astype(float))


@pytest.mark.misfits
def test_features_that_have_no_distance():
    good = np.zeros((3, 4))
    with pytest.raises(DataError, match="needs two images or more on each side, found 1"):
        frechet_distance(good, good[:1])
    with pytest.raises(ShapeError, match=r"shapes \(3, 4\) and \(3, 3\)"):
        frechet_distance(good, good[:, 1:])
    for bad in (np.nan, np.inf):
        wrong = good.copy()
        wrong[2, 1] = bad
        with pytest.raises(DataError, match="features are not finite, first in image 2"):
            frechet_distance(good, wrong)


@settings(deadline=None, max_examples=40)
@given(SEEDS, st.integers(1, 8), st.integers(1, 20), st.booleans())
def test_the_auc_is_that_of_all_pairs(seed, synthetic, control, ties):
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal(synthetic).astype(np.float32), rng.standard_normal(control).astype(np.float32)
    if ties:
        a, b = a.round(), b.round()
    pairs = [1.0 if one > other else 0.5 if one == other else 0.0 for one in a for other in b]
    assert roc_auc(a, b) == pytest.approx(np.mean(pairs), abs=1e-12)
    of_sklearn = roc_auc_score(np.repeat([1, 0], [synthetic, control]), np.concatenate([a, b]))
    assert roc_auc(a, b) == pytest.approx(of_sklearn, abs=1e-12)


def test_planted_activations():
    control = np.arange(50.0)
    assert roc_auc(control[:3] + 100, control) == 1
    assert roc_auc(control[:3] - 100, control) == 0
    assert roc_auc(control, control) == 0.5
    assert roc_auc(np.zeros(3), np.zeros(50)) == 0.5
    assert mean_activation_difference(control, control) == 0
    assert mean_activation_difference(control + 2 * control.std(), control) == pytest.approx(2)
    # the deviation is 1, not 2^1/2
    assert mean_activation_difference(np.array([3.0, 5.0]), np.array([1.0, 3.0])) == pytest.approx(2)
    # 0.1 + 0.1 + 0.1 is not 0.3: a neuron that answers all alike has no deviation all the same
    assert np.isnan(mean_activation_difference(np.array([0.5]), np.full(50, 0.1)))


@pytest.mark.parametrize("score", [roc_auc, mean_activation_difference])
def test_activations_that_cannot_be_compared(score):
    good = np.array([1.0, 2.0])
    with pytest.raises(DataError, match="no synthetic image"):
        score(good[:0], good)
    with pytest.raises(DataError, match="no control image"):
        score(good, good[:0])
    with pytest.raises(DataError, match="activations on control images are not finite, first in image 1"):
        score(good, np.array([1.0, np.nan]))


@settings(deadline=None, max_examples=40)
@given(SEEDS, st.integers(1, 12), st.integers(1, 8), st.integers(1, 9))
def test_top_k_and_confidence_are_those_of_a_loop(seed, images, classes, k):
    rng = np.random.default_rng(seed)
    scores = rng.standard_normal((images, classes)).round()  # ties
    truth = rng.integers(0, classes, images)
    hits = [
        sum((s > row[t]) or (s == row[t] and c < t) for c, s in enumerate(row)) < k
        for row, t in zip(scores, truth, strict=True)
    ]
    assert top_k_accuracy(scores, truth, k) == pytest.approx(np.mean(hits))
    of_torch = torch.softmax(torch.from_numpy(scores), 1).numpy()[np.arange(images), truth]
    np.testing.assert_allclose(confidence(scores, truth), of_torch)


def test_confidence_of_logits_beyond_what_exp_holds():
    np.testing.assert_array_equal(confidence(np.array([[1e4, 0.0], [1e4, 0.0]]), np.array([0, 1])), [1, 0])


@pytest.mark.misfits
def test_scores_that_do_not_fit():
    scores = np.zeros((2, 3))
    for truth in ([0], [0, 3], [0, -1]):
        with pytest.raises(ShapeError, match=r"scores have shape \(2, 3\)"):
            top_k_accuracy(scores, np.array(truth))
    with pytest.raises(DataError, match="no image to score"):
        confidence(scores[:0], np.zeros(0, int))
    with pytest.raises(DataError, match="scores are not finite, first in image 1"):
        top_k_accuracy(np.array([[0.0], [np.nan]]), np.array([0, 0]))


VALUES = {"size": ["small", "large", ""], "shape": ["circle", "star", "ring"], "background": ["snow", "water", ""]}


def labelled(rows):
    """Images as (size, shape, background) indices."""
    labels = xr.DataArray(np.array(rows, np.int16), dims=("image", "attribute"), coords={"attribute": [*VALUES]})
    return labels, xr.DataArray(list(VALUES.values()), dims=("attribute", "value"))


def literal_cue(labels, names, shape, least):
    """The definition, by counting: the largest P(value | class) - P(value) of any other attribute."""
    rows, best = labels.values.tolist(), ("", least)
    for at, attribute in enumerate(VALUES):
        for index, value in enumerate(names.values[at].tolist()):
            both = [row for row in rows if row[at] >= 0 and row[1] >= 0]
            own = [row for row in both if row[1] == VALUES["shape"].index(shape)]
            if attribute != "shape" and own:
                excess = sum(r[at] == index for r in own) / len(own) - sum(r[at] == index for r in both) / len(both)
                if excess > best[1] + 1e-9 or (not best[0] and excess > best[1] - 1e-9):
                    best = (f"{attribute}: {value}", excess)
    return best[0]


@settings(deadline=None, max_examples=30)
@given(SEEDS, st.integers(1, 25), st.sampled_from([0.05, 0.25, 0.5]))
def test_cues_are_those_of_counting(seed, images, least):
    rng = np.random.default_rng(seed)
    labels, names = labelled(np.stack([rng.integers(-1, high, images) for high in (2, 3, 2)], 1))
    found = cues(labels, names, "shape", least=least)
    assert list(found) == VALUES["shape"]
    assert {shape: str(cue or "") for shape, cue in found.items()} == {
        shape: literal_cue(labels, names, shape, least) for shape in VALUES["shape"]
    }


def test_a_planted_cue_is_found_and_none_where_there_is_none():
    even = [(size, shape, background) for size in (0, 1) for shape in (0, 1, 2) for background in (0, 1)] * 5
    assert set(cues(*labelled(even), "shape").values()) == {None}
    # circles on water nine times of ten, stars and rings at random
    biased = [(size, shape, 1 if shape == 0 and i % 10 else back) for i, (size, shape, back) in enumerate(even)]
    found = cues(*labelled(biased), "shape")
    assert str(found["circle"]) == "background: water"
    assert found["star"] is found["ring"] is None
    share = np.mean([row[2] for row in biased if row[1] == 0]) - np.mean([row[2] for row in biased])
    assert found["circle"].excess == pytest.approx(share)
    # exactly at the limit counts: 3/4 of circles against 1/2 of all
    limit = [(0, 0, 1)] * 3 + [(0, 0, 0)] + [(0, 1, 0)] * 3 + [(0, 1, 1)]
    assert str(cues(*labelled(limit), "shape")["circle"]) == "background: water"
    assert str(cues(*labelled(limit), "shape")["star"]) == "background: snow"


def test_a_class_attribute_that_images_lack():
    with pytest.raises(ParamError, match="class_attribute = 'shapes', but images are labelled by size, shape"):
        cues(*labelled([(0, 0, 0)]), "shapes")
