"""Spurious scores of units that are planted to read the object or the ground, their nulls, and Table 2."""

import numpy as np
import pytest
import xarray as xr
from planted_grounds import SIDE, SQUARE, biased, grounded

from optogram.errors import DataError, ParamError, ShapeError
from optogram.methods.guidance.followed import explained
from optogram.methods.guidance.npca import class_components
from optogram.methods.guidance.separation import headline, main_layer, separation
from optogram.methods.guidance.spurious_scores import SpuriousOptions, spurious_scores

OPTIONS = SpuriousOptions(units=3, images=8, layers=["layer"], shown=2, batch=32)
AREA = 1 - SQUARE**2 / SIDE**2


@pytest.fixture(scope="module")
def found():
    images = grounded()
    components = class_components(biased(), images, count=2, shown=2, batch=32)
    return spurious_scores(biased(), images, components, OPTIONS)


def test_a_unit_of_the_object_lies_inside_and_one_of_the_ground_outside(found):
    score = found["score"].sel(layer="layer")
    assert float(score.sel(target="red: unit 0")) == 0
    assert float(score.sel(target="red: unit 1")) == 1
    assert float(score.sel(target="blue: unit 2")) == 0
    assert found["truth"].sel(target=["red: unit 0", "red: unit 1"]).values.tolist() == ["shape", "background"]
    assert found["value"].sel(target=["red: unit 0", "red: unit 1"]).values.tolist() == ["red", "green"]
    assert float(found["weight"].sel(target="red: unit 1")) == 0.5
    assert float(found["follows_in_class"].sel(target="red: unit 1", attribute="background")) > 0.9


def test_with_the_masks_of_others_both_lie_between(found):
    here = found.sel(layer="layer")
    np.testing.assert_allclose(here["area"].sel(target=["red: unit 0", "red: unit 1"]), AREA)
    inside, ground = (float(here["shuffled"].sel(target=f"red: unit {k}")) for k in (0, 1))
    assert 0.2 < inside < 1
    assert AREA - 0.1 < ground < 1
    assert (here["lowest"].dropna("target") == 0).all(), "a cell lies within the object"


def test_shuffled_is_the_mean_over_the_masks_of_all_others():
    images = grounded(12)
    components = class_components(biased(), images, count=1, shown=1, batch=32)
    found = spurious_scores(biased(), images, components, OPTIONS)
    red = np.flatnonzero(images.label.values[:, 0] == 0)
    object_of = images.mask.values[red] > 0
    everyone = [
        (object_of[a] & ~object_of[b]).sum() / object_of[a].sum()
        for a in range(len(red))
        for b in range(len(red))
        if a != b
    ]
    assert float(found["shuffled"].sel(target="red: unit 0", layer="layer")) == pytest.approx(np.mean(everyone))


def test_images_are_those_of_the_class_that_activate_a_target_most(found):
    images = grounded()
    features = np.maximum(images.pixels.values / 255 @ (2 * np.eye(3) - 1), 0).mean((1, 2))
    red = np.flatnonzero(images.label.values[:, 0] == 0)
    best = red[np.argsort(-features[red, 0], kind="stable")[:2]]
    assert found["image"].sel(target="red: unit 0").values.tolist() == images.image.values[best].tolist()
    heat = found["map"].sel(target="red: unit 0", layer="layer").values
    np.testing.assert_allclose(heat.sum((1, 2)), 1, rtol=1e-5)
    assert ((heat > 0) == (images.mask.values[best] > 0)).all()


def test_table_2_is_told_from_the_truth(found):
    here = found.sel(layer="layer", group="unit")
    assert int(here["spurious"]) == 2
    assert int(here["core"]) == 2
    assert (int(here["spurious_above"]), int(here["core_below"])) == (2, 2)
    assert (here["above"] == 1).all()
    least, most = (here[name].sel(metric="outside") for name in ("least", "most"))
    assert (float(least), float(most)) == (1, 0)
    told = headline(found)
    every = found.sel(layer="layer", group="all")
    assert told.value == float(every["above"].sel(metric="outside"))
    assert told.of == int(every["spurious"]) * int(every["core"])
    assert told.versus_value == float(every["shuffled_above"])


def test_targets_without_a_truth_separate_nothing(found):
    same = found.drop_dims(["group", "metric"])
    neither = same.assign(truth=("target", np.full(same.sizes["target"], "")))
    table = separation(neither)
    assert (table["spurious"] == 0).all()
    assert table["above"].isnull().all()
    assert headline(neither.merge(table).assign_attrs(same.attrs)) is None
    mixed = same.assign(truth=("target", np.resize(["background", "shape"], same.sizes["target"])))
    assert float(separation(mixed)["above"].sel(layer="layer", group="all", metric="outside")) < 0.9


def test_images_without_an_object_are_dropped_and_counted():
    images = grounded()
    components = class_components(biased(), images, count=1, shown=1, batch=32)
    empty = images.copy(deep=True)
    red = np.flatnonzero(images.label.values[:, 0] == 0)
    empty["mask"][red[:37]] = 0
    empty["mask"][red[37]] = 1
    found = spurious_scores(biased(), empty, components, OPTIONS)
    assert found.attrs["unseen"] == 38
    here = found.sel(target="red: unit 0", layer="layer")
    assert int(here["count"]) == 2
    assert float(here["score"]) == 0
    lone = spurious_scores(biased(), empty, components, SpuriousOptions(images=1, layers=["layer"]))
    one = lone.sel(target="red: unit 0", layer="layer")
    assert np.isnan(one["low"])
    assert np.isnan(one["shuffled"])
    empty["mask"][red] = 0
    with pytest.raises(DataError, match="class 'red' has no image with an object"):
        spurious_scores(biased(), empty, components, OPTIONS)


def test_maps_that_add_up_to_nothing_are_counted(found):
    """The unit of blue is silent where there is nothing blue."""
    images = grounded()
    components = class_components(biased(), images, count=1, shown=1, batch=32)
    silent = found.sel(target="blue: unit 0", layer="layer")
    assert (int(silent["count"]), int(silent["unsummed"])) == (0, 8)
    assert all(np.isnan(silent[name]) for name in ("score", "low", "high", "area", "shuffled", "lowest"))
    assert main_layer(found) == found.attrs["layer"] == "layer"
    grey = images.isel(image=images.label.values[:, 1] == 0)
    mostly = spurious_scores(biased(), grey, components, OPTIONS)
    assert int(mostly["unsummed"].sum()) > int(mostly["count"].sum()) > 0
    assert mostly.attrs["layer"] == ""
    assert headline(mostly) is None


def test_scores_do_not_depend_on_images_that_are_not_chosen(found):
    images = grounded()
    components = class_components(biased(), images, count=2, shown=2, batch=32)
    chosen = SpuriousOptions(units=1, images=8, layers=["layer"], shown=2, batch=32, least=0)
    some = spurious_scores(biased(), images, components, chosen)
    both = [name for name in found.target.values if name in some.target.values]
    assert len(both) >= 4
    for name in ("score", "low", "shuffled", "map"):
        xr.testing.assert_equal(found[name].sel(target=both), some[name].sel(target=both))


def test_components_that_hardly_move_the_logit_are_left_out():
    images = grounded()
    components = class_components(biased(), images, count=3, shown=1, batch=32)
    chosen = SpuriousOptions(units=1, images=2, layers=["layer"], least=0.5)
    found = spurious_scores(biased(), images, components, chosen)
    assert (found["kind"] == "component").sum() == (components["share"] >= 0.5).sum() == 2


@pytest.mark.parametrize("seed", range(3))
def test_labels_explain_what_was_planted_and_nothing_of_noise(seed):
    rng = np.random.default_rng(seed)
    labels, noise = rng.integers(0, 8, 400), rng.normal(size=400)
    assert explained(noise, labels) < 0.04
    means = np.array([noise[labels == k].mean() for k in range(8)])
    eta = 1 - np.square(noise - means[labels]).sum() / np.square(noise - noise.mean()).sum()
    assert explained(noise, labels) == pytest.approx(max(0, 1 - (1 - eta) * 399 / 392))
    assert explained(labels + 0.1 * noise, labels) > 0.99
    unknown = np.concatenate([labels, np.full(9, -1)])
    assert explained(np.concatenate([labels + 0.1 * noise, 99 * np.ones(9)]), unknown) > 0.99
    assert explained(noise, np.zeros(400, int)) == explained(np.ones(400), labels) == 0


def test_what_cannot_be_scored_is_named():
    images = grounded(16)
    components = class_components(biased(), images, count=1, shown=1, batch=32)
    with pytest.raises(DataError, match="have no masks"):
        spurious_scores(biased(), images.drop_vars("mask"), components, OPTIONS)
    with pytest.raises(ParamError, match=r"no label is called 'backgrond'.*Did you mean 'background'"):
        spurious_scores(biased(), images, components, SpuriousOptions(attribute="backgrond"))
    with pytest.raises(ShapeError, match="components have 2 entries, the classifier's features 3"):
        spurious_scores(biased(), images, components.isel(embed=slice(2)), OPTIONS)
    with pytest.raises(ParamError, match="units = 0"):
        SpuriousOptions(units=0)
