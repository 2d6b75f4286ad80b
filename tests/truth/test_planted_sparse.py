"""Planted answers for sparse decomposition: neurons that write signed sums of a few texts of a pool with themes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optogram.methods.neurons.sparse import omp, omp_sizes, recompose
from optogram.methods.neurons.text_dictionary import prepare_texts

THEMES, A_THEME, EMBED = 40, 25, 128


def themed_pool(seed):
    """Embeddings as an encoder gives them: a large part that all share, themes, and a text's own part; theme by text.

    Texts of a theme have cosines of about 0.5 after centring; before it, all cosines are over 0.8.
    """
    rng = np.random.default_rng(seed)
    themes = np.repeat(np.arange(THEMES), A_THEME)
    texts = rng.standard_normal((THEMES, EMBED))[themes] + rng.standard_normal((THEMES * A_THEME, EMBED)) + 3
    return texts.astype(np.float32), themes


def planted_neurons(pool, themes, rng, neurons, texts, noise):
    """Sums of `texts` texts of different themes with signs and falling sizes, and noise of that share of their norm."""
    wanted = rng.permuted(np.tile(np.arange(THEMES), (neurons, 1)), axis=1)[:, :texts]
    picks = wanted * A_THEME + rng.integers(0, A_THEME, wanted.shape)
    assert (themes[picks] == wanted).all()
    coefficients = rng.choice([-1, 1], picks.shape) * rng.uniform(0.6, 1.4, picks.shape)
    directions = np.einsum("nt,nte->ne", coefficients, pool[picks])
    scatter = rng.standard_normal(directions.shape)
    scatter *= (
        noise * np.linalg.norm(directions, axis=1, keepdims=True) / np.linalg.norm(scatter, axis=1, keepdims=True)
    )
    return picks, coefficients, directions + scatter


@given(seed=st.integers(0, 10_000), texts=st.integers(1, 4), noise=st.sampled_from([0.0, 0.05, 0.1]))
@settings(max_examples=25, deadline=None)
def test_neurons_that_write_few_texts_are_read_with_their_signs(seed, texts, noise):
    raw, themes = themed_pool(seed)
    pool = prepare_texts(raw)
    picks, coefficients, directions = planted_neurons(pool, themes, np.random.default_rng(seed), 30, texts, noise)
    codes = omp(pool, directions, texts)
    order, planted = np.argsort(codes.indices, axis=1), np.argsort(picks, axis=1)
    same = (np.take_along_axis(codes.indices, order, 1) == np.take_along_axis(picks, planted, 1)).all(1)
    assert same.mean() >= 0.9
    found = np.take_along_axis(codes.coefficients, order, 1)[same]
    expected = np.take_along_axis(coefficients, planted, 1)[same]
    assert (np.sign(found) == np.sign(expected)).all()
    np.testing.assert_allclose(found, expected, atol=1e-5 + 15 * noise / np.sqrt(EMBED))


@pytest.mark.parametrize("seed", range(3))
def test_more_texts_than_planted_explain_only_noise(seed):
    raw, themes = themed_pool(seed)
    pool = prepare_texts(raw)
    _, _, directions = planted_neurons(pool, themes, np.random.default_rng(seed), 40, 3, 0.1)
    sizes = [1, 2, 3, 4, 8]
    indices, coefficients = omp_sizes(pool, directions, sizes)
    left = np.linalg.norm(directions - recompose(pool, indices, coefficients), axis=2) ** 2
    share = np.median(left / np.linalg.norm(directions, axis=1) ** 2, axis=1)
    assert (share[:2] > 0.1).all(), "two texts do not make three"
    assert (share[2:] < 0.011).all()
    gains = -np.diff(share)
    assert gains[1] > 20 * gains[2], "the elbow is at the planted number"


@pytest.mark.parametrize("seed", range(3))
def test_uncentred_texts_hide_some_of_what_centred_ones_show(seed):
    """Why the pool is centred: neurons write along what sets texts apart, and all texts share a large part."""
    raw, themes = themed_pool(seed)
    rng = np.random.default_rng(seed)
    picks, _, directions = planted_neurons(prepare_texts(raw), themes, rng, 60, 3, 0.1)
    unit = raw / np.linalg.norm(raw, axis=1, keepdims=True)

    def recovered(pool):
        return np.mean([set(a) == set(b) for a, b in zip(omp(pool, directions, 3).indices, picks, strict=True)])

    assert recovered(prepare_texts(raw)) > 0.95
    assert recovered(unit) < 0.8
