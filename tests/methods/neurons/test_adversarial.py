"""Phrases and images of an attack: eq. 3.4 beside its literal sum, filters, counts and their table."""

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from optogram.errors import DataError, ParamError, ShapeError
from optogram.methods import distinct_texts, omp, prepare_texts
from optogram.methods.neurons.adversarial import (
    METHODS,
    attack,
    binary_accuracy,
    candidates,
    fooled,
    mined_phrases,
    phrase_scores,
    strongest_neurons,
    synonyms,
)
from optogram.metrics.adversarial import leads, table

TASKS, NEURONS, TEXTS, EMBED, PICKS = 3, 40, 30, 12, 5


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    v, r, texts = (rng.standard_normal((n, EMBED)).astype(np.float32) for n in (TASKS, NEURONS, TEXTS))
    r = unit(r)
    r[7] = 0  # a neuron that writes nothing has no picks
    return v, r, prepare_texts(texts)


def literal_scores(v, r, codes, k, texts):
    """Eq. 3.4 as it stands: N = top-k |<v, r_n>|, w_j = sum over n in N of gamma_j^n <v, r_n>."""
    w = [0.0] * texts
    products = [float(np.dot(v.astype(np.float64), r_n.astype(np.float64))) for r_n in r]
    for n in sorted(range(len(r)), key=lambda n: (-abs(products[n]), n))[:k]:
        for j, gamma in zip(codes.indices[n], codes.coefficients[n], strict=True):
            if j >= 0:
                w[j] += float(gamma) * products[n]
    return w


@pytest.mark.parametrize("count", [1, 10, NEURONS, NEURONS + 5])
def test_scores_are_equation_3_4(arrays, count):
    v, r, texts = arrays
    codes = omp(texts, r, PICKS)
    assert (codes.indices[7] == -1).all()
    found = phrase_scores(v, r, codes, strongest_neurons(v, r, count), TEXTS)
    assert found.shape == (TASKS, TEXTS)
    for task in range(TASKS):
        np.testing.assert_allclose(found[task], literal_scores(v[task], r, codes, count, TEXTS), atol=1e-12)


def test_equal_neurons_come_in_their_order():
    r = np.array([[1.0, 0], [0, 1], [-1, 0], [1, 0]])
    assert strongest_neurons(np.array([[2.0, 0.0]]), r, 3).tolist() == [[0, 2, 3]]


@pytest.mark.misfits
def test_what_does_not_go_together_is_refused(arrays):
    v, r, texts = arrays
    codes = omp(texts, r, PICKS)
    with pytest.raises(ShapeError, match="embed"):
        strongest_neurons(v[:, 1:], r, 3)
    with pytest.raises(ParamError, match="count = 0"):
        strongest_neurons(v, r, 0)
    with pytest.raises(ShapeError, match="do not go together"):
        phrase_scores(v, r, codes, strongest_neurons(v, r, 3), TEXTS - 10)
    with pytest.raises(ShapeError, match="do not go together"):
        synonyms(texts, v, np.zeros((TASKS, TEXTS - 1), bool))
    with pytest.raises(ParamError, match="count = 0"):
        candidates(np.zeros((1, 2)), np.zeros((1, 2), bool), 0)


def test_synonyms_are_named_or_near(arrays):
    v, _, texts = arrays
    named = np.zeros((TASKS, TEXTS), bool)
    named[0, 4] = True
    found = synonyms(texts, v, named, near=0.3)
    for task in range(TASKS):
        for j in range(TEXTS):
            a, b = texts[j] - texts.mean(0), v[task] - texts.mean(0)
            cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
            assert found[task, j] == (named[task, j] or cosine > 0.3)
    assert 1 < found.sum() < found.size


def test_candidates_are_the_best_that_are_left_and_none_without_a_positive_score():
    scores = np.array([[0.5, 2, -1, 0.5, 0, 3], [-1, -1, -1, -1, 1, -1]])
    refused = np.zeros_like(scores, bool)
    refused[0, 5] = True
    assert candidates(scores, refused, 4).tolist() == [[1, 0, 3, -1], [4, -1, -1, -1]]
    assert candidates(scores, refused, 8).shape == (2, 8)


def test_an_image_is_fooled_when_it_is_nearer_to_the_other_text():
    own, other = np.eye(3)[:2]
    found = fooled(np.array([[0.9, 0.1, 0], [0.2, 0.5, 0], [0.4, 0.4, 0]]), own, other)
    assert found.taken.tolist() == [False, True, False]
    assert found.margin == pytest.approx([-0.8, 0.3, 0.0])
    assert found.margin.dtype == np.float32


def test_binary_accuracy_looks_at_the_two_classes_only():
    own, other = np.eye(2)[:1], np.eye(2)[1:]
    images = np.array([[1.0, 0], [0, 1], [0, 1], [0, 1], [1, 0]])
    values = ["circle", "circle", "square", "square", "ring"]
    assert binary_accuracy(images, values, [("circle", "square")], own, other) == pytest.approx([3 / 4])
    with pytest.raises(DataError, match="cross or star"):
        binary_accuracy(images, values, [("cross", "star")], own, other)


def test_of_texts_that_are_one_to_the_encoder_the_first_is_kept():
    rows = np.random.default_rng(0).standard_normal((9, 6)).astype(np.float32)
    rows[[5, 8]], rows[7] = rows[2], rows[0] * (1 + 1e-7)
    assert distinct_texts(rows).tolist() == [0, 1, 2, 3, 4, 6]
    prepare_texts(rows[distinct_texts(rows)])
    with pytest.raises(DataError, match="more than once"):
        prepare_texts(rows)


@pytest.fixture
def mined(arrays):
    v, r, texts = arrays
    pool = xr.Dataset({"embedding": (("text", "embed"), texts)}, {"text": [f"phrase {j}" for j in range(TEXTS)]})
    own = unit(np.random.default_rng(1).standard_normal((TASKS, EMBED)))
    refused = np.zeros((TASKS, TEXTS), bool)
    refused[:, ::3] = True
    options = {"neurons": 10, "sparsity": PICKS, "phrases": 4, "repeats": 3, "seed": 0}
    return mined_phrases(own, unit(v), pool, r, r[::-1].copy(), refused, **options), own, unit(v)


def test_mined_phrases_are_allowed_and_only_random_ones_change_between_repeats(mined):
    found, _, _ = mined
    assert found["method"].values.tolist() == list(METHODS)
    assert found["phrase"].dims == found["score"].dims == ("task", "method", "repeat", "phrase")
    assert not {f"phrase {j}" for j in range(0, TEXTS, 3)} & set(found["phrase"].values.ravel())
    there = found["phrase"] != ""
    assert (found["score"].where(there, 0) >= 0).all()
    np.testing.assert_array_equal(np.isnan(found["score"]), ~there)
    assert (found.sel({"method": "plain"})["phrase"] == "").all()
    # the indirect directions given are the same neurons in another order
    np.testing.assert_array_equal(
        found.sel({"method": "indirect"})["phrase"], found.sel({"method": "second_order"})["phrase"]
    )
    for method in METHODS:
        words = found.sel({"method": method})["phrase"].values
        alike = (words[:, :1] == words).all()
        assert alike == (method != "random")


def test_an_attack_counts_what_the_encoder_takes_for_the_other_class(mined):
    """The maker writes the description's phrases into pixels; the encoder reads how many there are."""
    found, own, other = mined
    seeds = []

    def describe(task, phrases, count, seed):
        return [f"{task}: {', '.join(phrases[:k])}" for k in range(1, min(count, len(phrases)) + 1)] or ["nothing"]

    def make(task, descriptions, count, seed):
        seeds.append((task, seed))
        which = np.repeat(np.arange(len(descriptions)), count)
        number = np.array([text.count("phrase") for text in descriptions], np.uint8)[which]
        pixels = np.broadcast_to(number[:, None, None, None], (len(which), 2, 2, 3)).copy()
        pixels[:, 0, 0, 0] = task
        return xr.Dataset({"pixels": (("image", "y", "x", "rgb"), pixels), "description": ("image", which)})

    def encode(pixels):
        task, number = pixels[0, 0, 0, 0], pixels[:, 1, 1, 1]
        return np.where((number > 2)[:, None], other[task] * number[:, None], own[task])

    budget = {"descriptions": 4, "chosen": 3, "images": 5, "seed": 0, "shown": 2}
    result = attack(found, own, other, describe, make, encode, **budget)
    assert (result["images"] == 15).all()
    assert (result["fooled"] % 5 == 0).all()
    assert (result["fooled"].sel({"method": "plain"}) == 0).all()
    assert (result["fooled"].sel({"method": "second_order"}) > 0).all()
    np.testing.assert_array_equal(result["phrase"], found["phrase"].isel(repeat=0))
    for task in range(TASKS):
        best = result.isel(task=task).sel({"method": "second_order"})
        assert best["description"].values[0].count("phrase") == best["pixels"].values[0, 1, 1, 1] == 4
        assert best["margin"].values[0] > best["margin"].values[1] >= 0
    assert set(result["description"].sel({"method": "plain"}).values.ravel()) == {""}
    assert not result["pixels"].sel({"method": "plain"}).any()
    # seeds differ between tasks and repeats, but not between methods
    assert len(set(seeds)) == TASKS * 3
    assert len(seeds) == TASKS * 3 * len(METHODS)
    assert attack(found, own, other, describe, make, encode, **budget).identical(result)
    with pytest.raises(DataError, match="wrote nothing"):
        attack(found, own, other, lambda *_: [], make, encode, **budget)


def test_the_table_has_means_and_deviations_as_the_thesis():
    """Bird and frog, second order, in Table 3.3: 0.3 (0.5) from counts 0, 0, 1: the deviation has the divisor n."""
    counts = np.array([[[0, 0, 1]], [[3, 0, 0]]])
    found = xr.Dataset({"fooled": (("task", "method", "repeat"), counts)}, {"task": ["a", "b"], "method": ["random"]})
    got = table(found)["random"]
    assert [round(got["a"][k], 1) for k in ("mean", "std")] == [0.3, 0.5]
    assert [round(got["b"][k], 1) for k in ("mean", "std")] == [1.0, 1.4]
    assert got["mean over tasks"]["mean"] == pytest.approx(2 / 3)
    assert got["mean over tasks"]["std"] == pytest.approx(np.std([1.5, 0, 0.5]))


def test_a_lead_is_told_beside_how_far_repeats_vary():
    counts = np.array([[[14, 9, 5], [6, 8, 3]], [[30, 31, 29], [10, 11, 9]], [[1, 1, 1], [0, 0, 0]]])
    dims = ("task", "method", "repeat")
    found = xr.Dataset(
        {"fooled": (dims, counts), "images": (dims, np.full(counts.shape, 100))},
        {"task": ["a", "b", "c"], "method": ["second_order", "random"]},
    )
    ours = leads(found).sel({"method": "random"})
    assert ours.task.values.tolist() == ["a", "b", "c", "mean over tasks"]
    expected = stats.ttest_rel(counts[0, 0] / 100, counts[0, 1] / 100).confidence_interval()
    np.testing.assert_allclose([ours.low[0], ours.high[0]], [expected.low, expected.high])
    # 9.3 against 5.7 of 100 is no lead where three repeats vary by five; 30 against 10 is one
    assert float(ours.low[0]) < 0 < float(ours.low[1])
    assert float(ours.lead[1]) == pytest.approx(0.2)
    # and that three images beat none by one in each repeat is no sign that they always will
    assert float(ours.low[2]) < 0 < float(ours.lead[2])
