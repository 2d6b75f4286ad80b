"""Zero-shot accuracy against a plain loop, and what unknown labels, groups and mistakes do."""

import numpy as np
import pytest
import xarray as xr

from optogram.errors import DataError, ShapeError
from optogram.metrics.classification import ZeroShotTask, accuracy, group_accuracy, score

VALUES = {"shape": ["circle", "square", "star"], "colour": ["red", "blue"], "count": ["one", "two"]}


def case(seed=0, images=40, embed=8):
    rng = np.random.default_rng(seed)
    named = [(a, v) for a in ("colour", "shape") for v in VALUES[a]]
    named = [named[i] for i in rng.permutation(len(named))]
    classifier = xr.Dataset(
        {
            "classifier": (("class", "embed"), rng.standard_normal((len(named), embed))),
            "attribute": ("class", [a for a, _ in named]),
            "value": ("class", [v for _, v in named]),
        },
        {"class": [f"{a}:{v}" for a, v in named]},
    )
    label = np.stack([rng.integers(-1, len(v), images) for v in VALUES.values()], 1).astype(np.int16)
    labels = xr.DataArray(label, dims=("image", "attribute"), coords={"attribute": list(VALUES)})
    names = xr.DataArray([v + [""] * (3 - len(v)) for v in VALUES.values()], dims=("attribute", "value"))
    return rng.standard_normal((images, embed)), classifier, labels, names


@pytest.mark.parametrize("seed", range(5))
def test_score_matches_a_loop_over_images(seed):
    embeddings, classifier, labels, names = case(seed)
    ours = score(embeddings, classifier, labels, names)
    assert ours.attribute.values.tolist() == ["shape", "colour"]
    logits = {str(c): embeddings @ classifier.classifier.sel({"class": c}).values for c in classifier["class"].values}
    for attribute in ("shape", "colour"):
        right, margins, seen = [], [], []
        for image in range(len(embeddings)):
            label = int(labels.sel(attribute=attribute)[image])
            if label < 0:
                continue
            own = {v: logits[f"{attribute}:{v}"][image] for v in VALUES[attribute]}
            true = VALUES[attribute][label]
            right.append(max(own, key=own.get) == true)
            margins.append(own[true] - max(x for v, x in own.items() if v != true))
            seen.append(label)
        here = ours.sel(attribute=attribute)
        assert float(here.accuracy) == pytest.approx(np.mean(right))
        assert float(here.margin) == pytest.approx(np.mean(margins), rel=1e-5)
        assert float(here.chance) == pytest.approx(1 / len(VALUES[attribute]))
        assert float(here.majority) == pytest.approx(np.bincount(seen).max() / len(seen))
        assert int(here["count"]) == len(seen)


def test_accuracy_carries_its_baselines():
    ours = accuracy(*case())
    assert set(ours.coords) == {"attribute", "chance", "majority", "count"}
    assert ours.dims == ("attribute",)


def test_embeddings_on_the_right_texts_are_all_correct():
    _, classifier, labels, names = case()
    labels = labels.where(labels >= 0, 0)
    eye = classifier.assign(classifier=(("class", "embed"), np.eye(5, 8)))
    both = [
        eye.classifier.sel({"class": [f"{a}:{VALUES[a][i]}" for i in labels.sel(attribute=a).values]}).values
        for a in ("shape", "colour")
    ]
    assert (accuracy(both[0] + both[1], eye, labels, names) == 1).all()


def test_an_attribute_without_labels_scores_nan_without_a_warning():
    embeddings, classifier, labels, names = case()
    labels.loc[{"attribute": "shape"}] = -1
    ours = score(embeddings, classifier, labels, names).sel(attribute="shape")
    assert np.isnan([ours.accuracy, ours.margin, ours.majority]).all()
    assert int(ours["count"]) == 0


def test_a_block_of_images_scores_as_it_does_within_all():
    embeddings, classifier, labels, names = case()
    task = ZeroShotTask.prepare(classifier, labels, names)
    logits = embeddings @ classifier.classifier.values.T
    whole, part = task.outcome(logits), task.outcome(logits[7:19], slice(7, 19))
    for a, b in zip(whole, part, strict=True):
        np.testing.assert_array_equal(a[7:19], b)


def test_groups():
    ours = group_accuracy(np.array([1, 0, 1, 1, np.nan, 0.0]), ["a", "a", "b", "b", "b", "c"])
    assert ours.group.values.tolist() == ["a", "b", "c"]
    assert ours.accuracy.values.tolist() == [0.5, 1, 0]
    assert ours["count"].values.tolist() == [2, 2, 1]
    assert (float(ours.worst), float(ours.overall)) == (0, 0.6)


def test_errors_name_what_is_wrong():
    embeddings, classifier, labels, names = case()
    with pytest.raises(DataError, match="shape: images are labelled 'star', but the classifier has only"):
        score(embeddings, classifier.isel({"class": classifier.value.values != "star"}), labels, names)
    with pytest.raises(DataError, match="the classifier names mood"):
        score(embeddings, classifier.assign(attribute=("class", ["mood"] * 5)), labels, names)
    with pytest.raises(ShapeError, match=r"embeddings have shape \(40, 7\)"):
        score(embeddings[:, 1:], classifier, labels, names)
    with pytest.raises(ShapeError, match="logits are of 39 images"):
        score(embeddings[1:], classifier, labels, names)
    with pytest.raises(ShapeError, match="labels have 2 attributes, value_name has 3"):
        score(embeddings, classifier, labels[:, 1:], names)
    with pytest.raises(ShapeError, match="one group for each image"):
        group_accuracy(np.ones(3), ["a"])
    with pytest.raises(DataError, match="no image has a known label"):
        group_accuracy(np.full(2, np.nan), ["a", "b"])
