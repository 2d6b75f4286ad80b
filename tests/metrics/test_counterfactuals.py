"""Counterfactuals' measures on cases worked out by hand, against literal forms, and on planted edits."""

from itertools import combinations

import numpy as np
import pytest
import torch
import xarray as xr

from optogram.errors import DataError, ParamError, ShapeError
from optogram.metrics.attribute_changes import attributes_changed
from optogram.metrics.counterfactuals import (
    Seen,
    agreement,
    counterfactuals,
    cout,
    outcomes,
    similarity,
    split_frechet_distance,
)
from optogram.metrics.edits import kept
from optogram.metrics.picture_changes import distances, outside
from optogram.metrics.visualisations import frechet_distance

ZERO, ONE = np.array([0]), np.array([1])


def light(pictures):
    """The probability of class 1 is the mean of the first colour."""
    red = pictures[:, 0].mean((1, 2))
    return torch.stack([1 - red, red], 1)


def network(classes=4):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten()
        return torch.nn.Sequential(*layers, torch.nn.Linear(32, classes), torch.nn.Softmax(1)).eval()


def pictures(count=3, side=8):
    return torch.rand(2, count, 3, side, side, generator=torch.Generator().manual_seed(0))


def judged(value, count):
    names = {"attribute": ["shape", "colour", "background"]}
    return xr.Dataset({"value": (("image", "attribute"), np.array(value)), "count": ("image", np.array(count))}, names)


def literal_cout(original, edited, classifier, source, target, steps):
    """One image: pixels one after another, the largest change first, and the area by trapezoids."""
    change = (edited.double() - original.double()).abs().sum(0).flatten().tolist()
    order = sorted(range(len(change)), key=lambda pixel: (-change[pixel], pixel))
    mixed, ours, theirs, at, moved = original.clone(), [], [], [], 0
    for step in range(steps + 1):
        until = step * len(order) // steps
        for pixel in order[moved:until]:
            y, x = divmod(pixel, original.shape[2])
            mixed[:, y, x] = edited[:, y, x]
        moved = until
        said = classifier(mixed[None])[0].double()
        ours.append(said[source].item())
        theirs.append(said[target].item())
        at.append(moved / len(order))
    areas = [sum((at[k + 1] - at[k]) * (curve[k] + curve[k + 1]) / 2 for k in range(steps)) for curve in (theirs, ours)]
    return areas[0] - areas[1], ours, theirs


def test_what_the_classifier_says_before_and_after():
    before = np.array([[0.8, 0.1, 0.1], [0.5, 0.5, 0.0], [0.2, 0.7, 0.1], [0.1, 0.1, 0.8]])
    after = np.array([[0.1, 0.85, 0.05], [0.4, 0.3, 0.3], [0.3, 0.4, 0.3], [0.5, 0.0, 0.5]])
    source, target = np.array([0, 0, 0, 2]), np.array([1, 1, 1, 0])
    found = outcomes(before, after, source, target)
    assert found.flip.values.tolist() == [True, False, True, True]
    assert found.flip_before.values.tolist() == [False, False, True, False]
    assert found.confident.values.tolist() == [True, False, False, False]
    assert found.target_before.values.tolist() == [0.1, 0.5, 0.7, 0.1]
    assert found.target_after.values.tolist() == [0.85, 0.3, 0.4, 0.5]
    assert found.source_before.values.tolist() == [0.8, 0.5, 0.2, 0.8]
    assert found.source_after.values.tolist() == [0.1, 0.4, 0.3, 0.5]
    assert outcomes(before, after, source, target, threshold=0.4).confident.values.tolist() == [
        True,
        False,
        False,
        True,
    ]


@pytest.mark.misfits
def test_probabilities_that_are_none():
    good = np.array([[0.8, 0.2], [0.6, 0.4]])
    source, target = np.array([0, 0]), np.array([1, 1])
    for value, said in ((np.nan, "not finite"), (1.5, "outside of 0 to 1"), (-0.1, "outside of 0 to 1")):
        wrong = good.copy()
        wrong[1, 1] = value
        with pytest.raises(DataError, match=f"probabilities after are {said}, first of image 1. .*softmax"):
            outcomes(good, wrong, source, target)
    with pytest.raises(ShapeError, match=r"shapes \(2, 2\) before and \(1, 2\) after"):
        outcomes(good, good[:1], source, target)
    with pytest.raises(ShapeError, match=r"target has shape \(1,\) for 2 images"):
        outcomes(good, good, source, target[:1])
    with pytest.raises(ShapeError, match=r"source .*index of one of 2 classes"):
        outcomes(good, good, source + 2, target)
    with pytest.raises(DataError, match="source and target are one class, 1, in image 0"):
        outcomes(good, good, np.array([1, 0]), target)
    with pytest.raises(ParamError, match=r"threshold = 80; expected a probability"):
        outcomes(good, good, source, target, threshold=80)
    with pytest.raises(ShapeError, match=r"probabilities before have shape \(0, 2\)"):
        outcomes(good[:0], good[:0], source[:0], target[:0])


@pytest.mark.misfits
def test_agreement_is_asked_of_flipped_images_alone():
    flip, target = np.array([True, True, False, True]), np.array([1, 2, 1, 0])
    found = agreement(np.array([1, 1, 1, 0]), flip, target)
    np.testing.assert_array_equal(found, [1, 0, np.nan, 1])
    with pytest.raises(ShapeError, match=r"another model gives \(2,\) labels for \(4,\) images"):
        agreement(np.array([1, 1]), flip, target)


@pytest.mark.misfits
def test_similarity_is_the_cosine():
    first, later = np.array([[1.0, 0], [3, 4], [1, 2], [0, 0]]), np.array([[0.0, 2], [4, 3], [-2, -4], [1, 1]])
    np.testing.assert_allclose(similarity(first, later), [0, 24 / 25, -1, np.nan], atol=1e-12)
    with pytest.raises(ShapeError, match=r"shapes \(4, 2\) and \(3, 2\)"):
        similarity(first, later[:3])
    with pytest.raises(DataError, match="embeddings of edited images are not finite, first of image 2"):
        similarity(first, np.where(later == -4, np.inf, later))


def test_cout_by_hand():
    """Of 36 pixels nine change by 1 and nine by .5: of the red that decides, 1/4, then 3/8, then no more comes in.

    Over four parts, target: (0 / 2 + .25 + .375 + .375 + .375 / 2) / 4 = .296875; the source has the rest of 1.
    """
    original, edited = torch.zeros(2, 1, 3, 6, 6).unbind()
    edited[0, 0].view(-1)[:9] = 0.5
    edited[0, 0].view(-1)[20:29] = 1
    found = cout(original, edited, light, source=ZERO, target=ONE, steps=4)
    np.testing.assert_allclose(found.target, [[0, 0.25, 0.375, 0.375, 0.375]], atol=1e-7)
    np.testing.assert_allclose(found.source, 1 - found.target, atol=1e-7)
    assert found.cout.item() == pytest.approx(0.296875 - 0.703125)


def test_pixels_that_get_darker_move_as_early():
    """The other way round, to class 0: the same areas, as the order is by the absolute change."""
    original, edited = torch.ones(2, 1, 3, 6, 6).unbind()
    edited[0, 0].view(-1)[:9] = 0.5
    edited[0, 0].view(-1)[20:29] = 0
    found = cout(original, edited, light, source=ONE, target=ZERO, steps=4)
    assert found.cout.item() == pytest.approx(0.296875 - 0.703125)


@pytest.mark.parametrize("steps", [1, 7, 50, 100])
def test_cout_is_the_literal_one(steps):
    """Also where the steps do not divide the 64 pixels, and where they are more."""
    original, edited = pictures()
    edited[1, :, 2:, 3:] = original[1, :, 2:, 3:]
    classifier, source, target = network(), np.array([0, 1, 3]), np.array([2, 0, 1])
    found = cout(original, edited, classifier, source=source, target=target, steps=steps)
    with torch.no_grad():
        for at in range(3):
            area, ours, theirs = literal_cout(original[at], edited[at], classifier, source[at], target[at], steps)
            assert found.cout[at] == pytest.approx(area, abs=1e-6)
            np.testing.assert_allclose(found.source[at], ours, atol=1e-6)
            np.testing.assert_allclose(found.target[at], theirs, atol=1e-6)


def test_an_edit_of_what_decides_is_told_from_one_that_hides_it():
    """One pixel decides. Alone it turns the class at the first step; behind larger changes of all others at the last.

    The areas lie half a step short of 1 and -1. Where nothing is edited, nothing ever turns.
    """

    def corner(images):
        probability = (images[:, 0, 0, 0] > 0.4).float()
        return torch.stack([1 - probability, probability], 1)

    original = torch.zeros(3, 3, 10, 10)
    alone, hidden, none = edited = torch.zeros(3, 3, 10, 10)
    alone[:, 0, 0] = 0.5
    hidden += 0.9
    hidden[:, 0, 0] = 0.5
    assert not none.any()
    found = cout(original, edited, corner, source=np.zeros(3, int), target=np.ones(3, int))
    np.testing.assert_allclose(found.cout, [0.98, -0.98, -1])


def test_cout_of_an_image_is_the_same_whatever_is_beside_it():
    original, edited = pictures(7, side=16)
    classifier, source, target = network(), np.arange(7) % 4, (np.arange(7) + 1) % 4
    together = cout(original, edited, classifier, source=source, target=target, batch=32)
    for at in range(7):
        one = slice(at, at + 1)
        alone = cout(original[one], edited[one], classifier, source=source[one], target=target[one], batch=32)
        for name in ("cout", "source", "target"):
            np.testing.assert_array_equal(getattr(alone, name), getattr(together, name)[one])


def test_a_classifier_always_gets_as_many_images_and_keeps_no_graph():
    batches = []

    def classifier(images):
        batches.append((len(images), torch.is_grad_enabled()))
        return light(images)

    original, edited = pictures()
    cout(original, edited, classifier, source=np.zeros(3, int), target=np.ones(3, int), steps=10, batch=16)
    assert batches == [(16, False)] * 3  # of 33


@pytest.mark.misfits
def test_classifiers_and_images_that_do_not_fit():
    original, edited = pictures()
    asked = {"source": np.zeros(3, int), "target": np.ones(3, int)}
    with pytest.raises(ShapeError, match=r"edited ones \(2, 3, 8, 8\)"):
        cout(original, edited[:2], light, **asked)
    with pytest.raises(ShapeError, match=r"the classifier gave \(64,\) for 64 images"):
        cout(original, edited, lambda images: light(images)[:, 0], **asked)
    with pytest.raises(DataError, match="the classifier's probabilities are outside of 0 to 1, first of image 0"):
        cout(original, edited, lambda images: 5 * light(images), **asked)
    with pytest.raises(ShapeError, match="target has shape"):
        cout(original, edited, light, source=asked["source"], target=np.full(3, 2))
    with pytest.raises(ParamError, match="steps = 0, batch = 64"):
        cout(original, edited, light, **asked, steps=0)

    def broken(images):
        """Of the third image, which is all black to begin with."""
        return torch.where(images.flatten(1).amax(1)[:, None] > 0, light(images), torch.nan)

    original[2] = 0
    with pytest.raises(DataError, match="the classifier's probabilities are not finite, first of image 2"):
        cout(original, edited, broken, **asked)


def test_the_split_distance_is_a_mean_over_halves():
    """Of four images there are three ways to halve them; by hand |m - m'|^2 + (s - s')^2 in one channel."""
    original, edited = np.array([[0.0], [1.0], [4.0], [9.0]]), np.array([[1.0], [8.0], [3.0], [0.0]])

    def apart(a, b):
        return (a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2

    possible = []
    for half in combinations(range(4), 2):
        rest = [row for row in range(4) if row not in half]
        possible.append((apart(original[[*half]], edited[rest]) + apart(original[rest], edited[[*half]])) / 2)
    found = [split_frechet_distance(original, edited, seed=seed) for seed in range(30)]
    np.testing.assert_allclose(sorted(possible), [4.5, 4.5, 7.5, 7.5, 19.5, 19.5])
    assert {round(value, 6) for value in found} == {4.5, 7.5, 19.5}
    assert found[0] == split_frechet_distance(original, edited, seed=0)


@pytest.mark.misfits
def test_an_edit_that_does_nothing_has_a_split_distance():
    features = np.random.default_rng(0).standard_normal((41, 4))
    assert frechet_distance(features, features) < 1e-9
    assert split_frechet_distance(features, features, seed=0) > 0.1
    with pytest.raises(DataError, match="needs four images or more, found 3"):
        split_frechet_distance(features[:3], features[:3], seed=0)
    with pytest.raises(ShapeError, match=r"shapes \(41, 4\) and \(40, 4\)"):
        split_frechet_distance(features, features[1:], seed=0)
    with pytest.raises(DataError, match="not finite"):
        split_frechet_distance(features, np.where(features > 1, np.nan, features), seed=0)


def everything(original, edited):
    """Every input that `counterfactuals` can take, of three images."""
    mask = torch.zeros(3, 8, 8)
    mask[:, 2:6, 2:6] = 1
    rng = np.random.default_rng(0)
    before, after = (
        judged([[0, 1, 2], [1, 1, 1], [2, 2, -1]], [1, 2, 1]),
        judged([[1, 1, 2], [0, 1, 1], [2, 0, 1]], [1, 1, 1]),
    )
    return mask, {
        "maps": ([original], [edited]),
        "embeddings": (rng.standard_normal((3, 5)), rng.standard_normal((3, 5))),
        "seen": Seen(before, after, "shape"),
        "others": {"vit": np.array([1, 0, 1]), "clip": np.array([0, 0, 0])},
    }


def test_all_of_it_is_that_of_the_parts():
    original, edited = pictures()
    edited[1] = 0  # is no flip
    mask, given = everything(original, edited)
    source, target = np.zeros(3, int), np.ones(3, int)
    found = counterfactuals(
        original, edited, mask, light, source=source, target=target, steps=10, threshold=0.45, **given
    )
    before, after = (light(images).double().numpy() for images in (original, edited))
    moving = cout(original, edited, light, source=source, target=target, steps=10)
    seen = given["seen"]
    parts = {
        **outcomes(before, after, source, target, threshold=0.45),
        **distances(original, edited, maps=given["maps"]),
        **outside(original, edited, mask, maps=given["maps"]),
        **{"cout": moving.cout, "source_curve": moving.source, "target_curve": moving.target},
        "s3": similarity(*given["embeddings"]),
        "attributes_changed": attributes_changed(seen.before["value"], seen.after["value"]),
        "kept": kept(seen.before, seen.after, ["colour", "background"]),
        "agreement": np.stack([agreement(labels, found.flip.values, target) for labels in given["others"].values()], 1),
    }
    assert set(found.data_vars) == set(parts)
    for name, values in parts.items():
        np.testing.assert_allclose(found[name], values, atol=1e-6, err_msg=name)
    np.testing.assert_array_equal(found.attributes_changed, [1, 1, 1])
    np.testing.assert_array_equal(found.kept, [1, np.nan, 0])
    assert found.agreement.dims == ("image", "model")
    assert found.model.values.tolist() == ["vit", "clip"]
    assert not found.flip[1].item()
    assert np.isnan(found.agreement[1]).all()
    np.testing.assert_allclose(found.point, np.arange(11) * 64 // 10 / 64)


def test_without_what_may_be_left_out():
    original, edited = pictures()
    found = counterfactuals(original, edited, None, light, source=np.zeros(3, int), target=np.ones(3, int))
    expected = {"flip", "flip_before", "confident", "target_before", "target_after", "source_before", "source_after"}
    expected |= {"l1", "l2", "psnr", "ssim", "cout", "source_curve", "target_curve"}
    assert set(found.data_vars) == expected
    assert found.sizes == {"image": 3, "point": 51}


@pytest.mark.misfits
def test_inputs_of_other_images_are_refused():
    original, edited = pictures()
    mask, given = everything(original, edited)
    asked = {"source": np.zeros(3, int), "target": np.ones(3, int), "steps": 2}

    def refused(**changed):
        return counterfactuals(original, edited, mask, light, **asked, **changed)

    with pytest.raises(ShapeError, match="there are 2 embeddings for 3 images"):
        refused(embeddings=tuple(each[:2] for each in given["embeddings"]))
    fewer = [each.isel(image=[0, 1]) for each in given["seen"][:2]]
    with pytest.raises(ShapeError, match="there are 2 pictures that were judged for 3 images"):
        refused(seen=Seen(*fewer, "shape"))
    with pytest.raises(ShapeError, match=r"before there are 3 images .* after 2"):
        refused(seen=Seen(given["seen"].before, fewer[1], "shape"))
    with pytest.raises(ParamError, match=r"asked = 'shapes' is no attribute; .* Did you mean 'shape'\?"):
        refused(seen=given["seen"]._replace(asked="shapes"))
    assert refused(seen=given["seen"]._replace(asked=None)).kept.values[0] == pytest.approx(2 / 3)
