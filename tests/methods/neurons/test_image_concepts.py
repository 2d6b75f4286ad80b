"""Concepts of images: appendix B's sum term by term, truth looked up one by one, precision beside all orders."""

import itertools
import math

import numpy as np
import pytest
import xarray as xr

from optogram.errors import DataError, ParamError, ShapeError
from optogram.methods.neurons.image_concepts import concept_precision, image_concepts, true_concepts
from optogram.metrics.intervals import share_of

NAMES = xr.DataArray(
    [["red", "green", "blue"], ["circle", "star", ""]], {"attribute": ["colour", "shape"]}, ("attribute", "value")
)
POOL = xr.Dataset(
    {
        "attribute": ("text", ["colour", "colour", "shape", "colour+shape", "size", "", "colour"]),
        "value": ("text", ["red", "blue", "star", "red+circle", "large", "", "mauve"]),
    },
    {"text": ["red", "blue", "a star", "a red circle", "large", "the", "mauve"]},
)


def labelled(rows):
    return xr.DataArray(np.array(rows, np.int16), {"attribute": ["colour", "shape"]}, ("image", "attribute"))


def concepts(rows):
    return xr.DataArray(rows, dims=("image", "k"))


def codes(index, coefficient):
    return xr.Dataset({"index": (("neuron", "pick"), index), "coefficient": (("neuron", "pick"), coefficient)})


def literal(norms, threshold, index, coefficient, texts, count):
    """w_j of every image and text, a neuron at a time."""
    found = []
    for row in norms:
        active = [n for n in range(len(row)) if row[n] > threshold[n]]
        w = [0.0] * len(texts)
        for n in active:
            for j, gamma in zip(index[n], coefficient[n], strict=True):
                if j >= 0:
                    w[j] += float(gamma) * float(row[n])
        best = [j for j in sorted(range(len(texts)), key=lambda j: -w[j]) if w[j] > 0][:count]
        pad = count - len(best)
        found.append(([texts[j] for j in best] + [""] * pad, [w[j] for j in best] + [math.nan] * pad, len(active)))
    return found


@pytest.mark.parametrize("seed", range(4))
def test_scores_are_the_sum_over_active_neurons(seed):
    rng = np.random.default_rng(seed)
    texts = [f"text {j}" for j in range(30)]
    norms = rng.exponential(size=(12, 40)).astype(np.float32)
    threshold = np.quantile(norms, rng.uniform(0.5, 1), axis=0).astype(np.float32)
    norms[3] = 0
    index = np.stack([rng.choice(30, 5, replace=False) for _ in range(40)])
    index[rng.random((40, 5)) < 0.2] = -1
    coefficient = rng.standard_normal((40, 5)).astype(np.float32)
    images = [f"eval/{i}" for i in range(12)]
    given = xr.DataArray(norms, {"image": images}, ("image", "neuron"))
    found = image_concepts(given.T, xr.DataArray(threshold), codes(index, coefficient), texts, 8)
    assert found.image.values.tolist() == images
    assert found.score.dtype == np.float32
    assert found.active.dtype == np.int32
    for image, (names, scores, active) in enumerate(literal(norms, threshold, index, coefficient, texts, 8)):
        assert found.text[image].values.tolist() == names
        np.testing.assert_allclose(found.score[image], scores, rtol=1e-6)
        assert found.active[image] == active
    assert found.text[3].values.tolist() == [""] * 8


def test_equal_scores_come_in_the_order_of_the_pool():
    norms = xr.DataArray(np.ones((1, 2), np.float32), dims=("image", "neuron"))
    made = codes([[3, 1], [2, 0]], np.array([[0.5, 0.5], [0.5, -0.5]], np.float32))
    found = image_concepts(norms, [0, 0], made, list("abcd"), 2)
    assert found.text.values.tolist() == [["b", "c"]]
    # at the threshold a neuron is not active
    assert image_concepts(norms, [1, 0], made, list("abcd"), 2).active.item() == 1


def test_parts_must_go_together():
    norms = xr.DataArray(np.ones((1, 2), np.float32), dims=("image", "neuron"))
    made = codes([[3, 1], [2, -1]], np.ones((2, 2), np.float32))
    with pytest.raises(ParamError, match="count = 0"):
        image_concepts(norms, [0, 0], made, list("abcd"), 0)
    with pytest.raises(ShapeError, match=r"picks run from -1 to 3, but the pool has 3 texts"):
        image_concepts(norms, [0, 0], made, list("abc"), 1)
    with pytest.raises(ShapeError, match=r"norms are of 2 neurons, thresholds of \(3,\)"):
        image_concepts(norms, [0, 0, 0], made, list("abcd"), 1)
    with pytest.raises(ShapeError, match="coefficients of 1"):
        image_concepts(norms, [0, 0], made.isel(neuron=[0]), list("abcd"), 1)


def test_truth_is_looked_up_one_by_one():
    labels = labelled([[0, 0], [2, 1], [0, -1], [-1, -1], [2, -1]])
    rows = [["red", "a red circle", "a star", "large", "the", "", "mauve"]] * 5
    found = true_concepts(concepts(rows), POOL, labels, NAMES)
    assert found.dtype == np.int8
    assert found.values.tolist() == [
        [1, 1, 0, -1, -1, -1, 0],
        [0, 0, 1, -1, -1, -1, 0],
        [1, -1, -1, -1, -1, -1, 0],  # red, and nobody knows of what shape
        [-1] * 7,
        [0, 0, -1, -1, -1, -1, 0],  # blue: no red circle, whatever its shape
    ]


def literal_precision(rows, labels, order):
    """The truth of all concepts with the images' labels in another order."""
    found = true_concepts(concepts(rows), POOL, labels.isel(image=list(order)), NAMES).values
    return (found == 1).sum() / max(1, (found >= 0).sum())


def test_precision_beside_all_orders():
    labels = labelled([[0, 0], [0, 1], [2, 1], [1, -1], [-1, 0]])
    rows = [["red", "a red circle"], ["red", "blue"], ["blue", "a star"], ["a star", ""], ["the", "red"]]
    ours = concept_precision(concepts(rows), POOL, labels, NAMES, seed=0, permutations=20_000)
    true = true_concepts(concepts(rows), POOL, labels, NAMES).values
    assert ours.concepts == (true >= 0).sum() == 6
    assert ours.precision == (true == 1).sum() / 6 == 5 / 6
    assert ours.precision == literal_precision(rows, labels, range(5))
    orders = list(itertools.permutations(range(5)))
    every = np.array([literal_precision(rows, labels, order) for order in orders])
    assert ours.p_value == pytest.approx((every >= ours.precision - 1e-12).mean(), abs=0.01)
    # of each concept with each image, among those that can be judged
    judged = np.concatenate(
        [true_concepts(concepts(rows), POOL, labels.isel(image=[j] * 5), NAMES).values for j in range(5)]
    )
    assert ours.chance == pytest.approx((judged == 1).sum() / (judged >= 0).sum())
    assert ours == concept_precision(concepts(rows), POOL, labels, NAMES, seed=0, permutations=20_000)


def test_concepts_of_other_images_are_no_better_than_chance():
    rng = np.random.default_rng(0)
    labels = labelled(np.stack([rng.integers(0, 3, 300), rng.integers(0, 2, 300)], 1))
    own = np.array([["red", "the", "blue"][i] for i in labels.values[:, 0]])[:, None]
    right = concept_precision(concepts(own), POOL, labels, NAMES, seed=0, permutations=500)
    assert right.precision == 1
    assert right.p_value == pytest.approx(1 / 501)
    wrong = concept_precision(concepts(rng.permutation(own)), POOL, labels, NAMES, seed=0, permutations=500)
    assert wrong.precision == pytest.approx(wrong.chance, abs=0.1)
    assert wrong.p_value > 0.01
    # one concept an image: as wide as a share of so many images
    ends = share_of(wrong.precision, wrong.concepts)
    np.testing.assert_allclose((wrong.precision_low, wrong.precision_high), ends, atol=0.02)


def test_truth_refuses_what_does_not_fit():
    labels = labelled([[0, 0]])
    with pytest.raises(DataError, match="the pool has no text 'grey'"):
        true_concepts(concepts([["grey"]]), POOL, labels, NAMES)
    with pytest.raises(ShapeError, match="concepts are of 2 images, labels of 1"):
        true_concepts(concepts([["red"], ["red"]]), POOL, labels, NAMES)
    with pytest.raises(DataError, match="no concept names a value"):
        concept_precision(concepts([["large", "the", ""]]), POOL, labels, NAMES, seed=0, permutations=10)
