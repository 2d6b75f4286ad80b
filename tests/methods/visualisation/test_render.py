"""Prototypes and pictures of all targets, as the artifacts hold them: from planted targets, whatever the shards."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr
from planted_classifiers import classifier, colour_net, coloured

from optogram.decompose.relevance import Attributor
from optogram.errors import DataError, ModelError, ParamError
from optogram.methods.visualisation.parameterisations import magnitude_spectrum
from optogram.methods.visualisation.prototypes import find_prototypes, match_of, matched_layers, references
from optogram.methods.visualisation.render import Album, vital_album, with_losses
from optogram.methods.visualisation.render_references import other_references, reference_album, too_few_for_sets
from optogram.methods.visualisation.render_rivals import RivalOptions, baseline_album
from optogram.methods.visualisation.sort_matching import sort_match_prototype
from optogram.methods.visualisation.targets import TargetOptions, find_targets
from optogram.methods.visualisation.vital import VitalOptions
from optogram.models.layers import activations
from optogram.store.write import Provenance, write_dataset

NAMES = ["red", "green", "blue"]
MIX = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]]
HEAD = [[3, 0, 0, 0], [0, 3, 0, 0], [0, 0, 3, 0]]
SIZE = (8, 8)
LAYERS = ["act", "layer"]
DRAWN = VitalOptions(seeds=2, steps=3, batch=4)


def images_of(names, split="reference"):
    pixels, _ = coloured(names, size=8, square=4)
    return xr.Dataset(
        {
            "pixels": (("image", "y", "x", "rgb"), pixels),
            "label": (("image", "attribute"), np.array([[NAMES.index(name)] for name in names], np.int16)),
            "value_name": (("attribute", "value"), [NAMES]),
        },
        {"image": [f"{split}/{k:04d}" for k in range(len(names))], "attribute": ["colour"]},
        {"class_attribute": "colour"},
    )


@pytest.fixture(scope="module")
def studied():
    return classifier(colour_net(HEAD, MIX), NAMES, attribute="colour", size=SIZE)


@pytest.fixture(scope="module")
def images():
    return images_of(NAMES * 8)


@pytest.fixture(scope="module")
def targets(studied, images):
    relevance = Attributor(studied.model)
    own = {"circuits": 1, "concept_classes": 1, "concepts": 1, "concept_rank": 2}
    options = TargetOptions(patch=0.5, stride=0.5, layer="layer", references=5, shown=2, **own)
    return find_targets(studied, images, options, relevance=relevance)


@pytest.fixture(scope="module")
def prototypes(studied, images, targets):
    return find_prototypes(studied, targets, references(targets, images, SIZE), layers=LAYERS, size=SIZE)


@pytest.fixture(scope="module")
def drawn(studied, targets, prototypes):
    return vital_album(studied, targets, prototypes, DRAWN, seed=0)


def test_a_class_is_matched_everywhere_a_channel_before_its_layer(targets, prototypes):
    assert targets.kind.values.tolist() == ["class"] * 3 + ["neuron"] * 3 + ["concept"]
    assert prototypes.matched.values.tolist() == [[True, True]] * 3 + [[True, False]] * 4
    assert not prototypes.prototype_1.values[3:].any()


def test_a_class_s_prototype_is_that_of_its_references(studied, images, targets, prototypes):
    rows = [images.image.values.tolist().index(name) for name in targets.reference.values[1] if name]
    assert {NAMES[images.label.values[row, 0]] for row in rows} == {"green"}
    inputs = torch.from_numpy(images.pixels.values[rows]).permute(0, 3, 1, 2) / 255
    for k, layer in enumerate(LAYERS):
        expected = sort_match_prototype(activations(studied.model, inputs, [layer])[layer])
        np.testing.assert_allclose(prototypes[f"prototype_{k}"].values[1, 0], expected.numpy(), atol=1e-6)


def test_a_channel_s_prototype_counts_only_what_is_relevant_to_it(targets, prototypes):
    # the channel reads one of the three colours that `act` tells apart: the others are irrelevant, although active
    for row, name in enumerate(targets.target.values[3:6].tolist(), start=3):
        own = int(name.split(":")[1])
        assert prototypes.prototype_0.values[row, 0, own].max() > 0
        others = [k for k in range(3) if k != own]
        assert not prototypes.prototype_0.values[row, 0, others].any()


def test_pictures_do_not_depend_on_the_shards(studied, targets, prototypes, drawn):
    for rows in (slice(0, 2), slice(3, 5)):
        part = vital_album(studied, targets.isel(target=rows), prototypes.isel(target=rows), DRAWN, seed=0)
        off = part.pixels.values.astype(int) - drawn.pixels.values[rows].astype(int)
        assert np.abs(off).max() <= 1
        np.testing.assert_allclose(part.loss.values, drawn.loss.values[rows], rtol=1e-3, atol=1e-6)


def test_the_same_seed_gives_the_same_bytes(studied, targets, prototypes, drawn):
    xr.testing.assert_identical(drawn, vital_album(studied, targets, prototypes, DRAWN, seed=0))
    other = vital_album(studied, targets, prototypes, DRAWN, seed=1)
    assert (other.pixels.values != drawn.pixels.values).mean() > 0.5


def test_the_sample_is_laid_out_as_the_rows_are(targets, drawn):
    sample = with_losses(Album(targets.isel(target=[0]), ["vital"], 2, 3), LAYERS)
    assert {name: (v.dims, v.dtype, v.shape[1:]) for name, v in sample.data_vars.items()} == {
        name: (v.dims, v.dtype, v.shape[1:]) for name, v in drawn.data_vars.items()
    }
    assert {name: v.values.tolist() for name, v in sample.coords.items() if name != "target"} == {
        name: v.values.tolist() for name, v in drawn.coords.items() if name != "target"
    }


def test_losses_of_layers_that_are_not_matched_are_missing(drawn, prototypes):
    matched = prototypes.matched.values
    assert (drawn.layer_loss.values[matched] > 0).all()
    assert np.isnan(drawn.layer_loss.values[~matched]).all()
    assert set(drawn.status.values.ravel().tolist()) == {"done"}


def test_a_planted_unit_is_drawn_in_its_colour(studied, targets, prototypes):
    rows = [k for k, name in enumerate(targets.target.values.tolist()) if name.startswith("layer:")]
    options = replace(DRAWN, steps=120)
    found = vital_album(studied, targets.isel(target=rows), prototypes.isel(target=rows), options, seed=0)
    for name, pictures in zip(found.target.values.tolist(), found.pixels.values[:, 0], strict=True):
        colour = pictures.astype(float).mean((0, 1, 2))
        assert colour.argmax() == int(name.split(":")[1])
        assert colour.max() - np.sort(colour)[1] > 10


def test_each_seed_draws_the_next_facet(studied):
    """Blue squares, and red ones that are called blue: each of three seeds has the colour of its facet."""
    images = images_of(NAMES * 8)
    blue = np.flatnonzero(images.label.values[:, 0] == 2)
    images.pixels.values[blue[::2]] = images.pixels.values[0]
    options = TargetOptions(patch=0.5, stride=0.5, layer="layer", references=4, circuits=0, facets=2)
    targets = find_targets(studied, images, options, relevance=Attributor(studied.model))
    prototypes = find_prototypes(studied, targets, references(targets, images, SIZE), layers=LAYERS, size=SIZE)
    assert prototypes.prototype_0.sizes["facet"] == 2
    found = vital_album(studied, targets, prototypes, replace(DRAWN, seeds=3, steps=120), seed=0)
    seen = found.pixels.values[2, 0].astype(float).mean((1, 2)).argmax(1).tolist()
    assert seen in ([0, 2, 0], [2, 0, 2])


def test_a_target_that_diverges_harms_no_other_in_the_artifact(studied, targets, prototypes, tmp_path):
    broken = prototypes.copy(deep=True)
    broken.prototype_0.values[1] = np.inf
    found = vital_album(studied, targets, broken, DRAWN, seed=0)
    assert found.status.values[1].tolist() == [["diverged at step 0"] * 2]
    assert np.isnan(found.layer_loss.values[1, 0]).all()
    others = [0, *range(2, 7)]
    assert set(found.status.values[others].ravel().tolist()) == {"done"}
    assert np.isfinite(found.loss.values).all()
    write_dataset(tmp_path / "out", found, Provenance("vital", "pictures", {}, {}, ""), scratch=tmp_path / "scratch")


def test_weights_and_seeds_that_do_not_fit_are_named(studied, targets, prototypes):
    with pytest.raises(ParamError, match=r"weights name layer 'lair', which is not matched. Did you mean 'layer'"):
        vital_album(studied, targets, prototypes, replace(DRAWN, inner_weights={"lair": 2.0}), seed=0)
    faceted = targets.copy(deep=True)
    faceted.facet.values[0] = np.arange(5) % 3
    with pytest.raises(ParamError, match=r"seeds = 2, but classes have 3 facets"):
        vital_album(studied, faceted, prototypes, DRAWN, seed=0)


def test_a_reference_that_is_no_image_is_named(targets, images):
    with pytest.raises(DataError, match=r"references of red include reference/.* which is not among the images"):
        references(targets, images.isel(image=[1]), SIZE)(0)


def test_rivals_say_where_they_are_not_defined(studied, images, targets):
    spectrum = magnitude_spectrum(images.pixels.values)
    methods = ["fourier", "maco", "deepinversion", "pii"]
    options = RivalOptions(methods, seeds=2, steps=3, batch=4, views={"pii": 2}, learning_rates={"pii": 0.1})
    found = baseline_album(studied, targets, options, spectrum=spectrum, seed=0)
    status = found.status.values[:, :, 0]
    assert (status[:, [0, 1, 3]] == "done").all()
    assert "no batch norm" in status[0, 2]
    assert status[3, 2] == "not defined: it draws classes only"
    assert not found.pixels.values[:, 2].any()
    assert all(found.pixels.values[:, k].any() for k in (0, 1, 3))


def test_reference_sets_have_a_picture_a_class_and_condition(studied, images):
    options = {"options": replace(DRAWN, steps=2), "sizes": [2, 4, 100], "strangers": [3], "references": 4, "seed": 0}
    others = images_of(NAMES * 4, "eval")
    beside = other_references(studied, others, 4, seed=0)
    found = reference_album(studied, images, others, beside, **options)
    assert list(found) == ["2", "4", "strangers 3", "other split"]  # no class has 100 images
    assert {each.shape for each in found.values()} == {(3, 1, *SIZE, 3)}
    assert (found["4"] != found["strangers 3"]).any()
    again = reference_album(studied, images, others, beside, **options)
    assert all((found[name] == again[name]).all() for name in found)


def test_too_few_images_for_reference_sets_are_told_before_any_is_drawn(studied, images):
    enough, few = images_of(NAMES * 4), images_of(NAMES * 2)
    assert too_few_for_sets(studied, few, enough) == ""
    assert too_few_for_sets(studied, enough, few).startswith("class 'red' has 2 of the 6 images of a split")
    options = {"options": replace(DRAWN, steps=1), "sizes": [], "references": 2, "seed": 0}
    beside = other_references(studied, enough, 2, seed=0)
    assert list(reference_album(studied, few, enough, beside, strangers=[4, 5], **options)) == [
        "strangers 4",
        "other split",
    ]


def test_another_split_leaves_half_of_its_images_to_be_compared_with(studied):
    rows = other_references(studied, images_of(NAMES * 5), 4, seed=0)
    assert [len(each) for each in rows] == [2, 2, 2]
    with pytest.raises(DataError, match=r"class 'blue' has 0 of the 8 images of a split, by their label of 'colour'"):
        other_references(studied, images_of(["red", "green"] * 4), 4, seed=0)


def test_layers_that_do_not_fit_are_named(studied, targets):
    with pytest.raises(ModelError, match=r"layer 'lair' of Sequential is not in it. Did you mean 'layer'"):
        matched_layers(studied, ["lair"], SIZE)
    with pytest.raises(ParamError, match=r"layer:\d is in layer layer, and none of the matched layers \(layer\) comes"):
        match_of(targets.isel(target=3), studied, ["layer"], SIZE, class_relevance=False)
