import json

import numpy as np
import pytest
import xarray as xr
from planted_classifiers import InputTimesGradient, classifier, colour_net, coloured

from optogram.decompose.patches import cut
from optogram.errors import DataError, ModelError, OptogramError, ParamError
from optogram.methods.visualisation.reference_sets import class_references
from optogram.methods.visualisation.targets import TargetOptions, find_targets
from optogram.store.read import read
from optogram.store.write import Provenance, write_dataset

NAMES = ["red", "green", "blue"]
# channel 0 red, 1 green or blue (polysemantic), 2 green, 3 blue, 4 nothing, 5 little of everything
MIX = [[1, 0, 0], [0, 1, 1], [0, 1, 0], [0, 0, 1], [0, 0, 0], [0.1, 0.1, 0.1]]
HEAD = [[3, -1, 0, 0, 9, 0.5], [0, 2, 1, 0, 0, 0], [0, 2, 0, 1, 0, 0.1]]
OPTIONS = {"patch": 0.5, "stride": 0.5, "references": 6, "shown": 3, "concept_rank": 2, "split_patches": 16}


def images_of(names, values=("blue", "", "green", "red")):
    """An artifact images/<split>: colours at another attribute than the first, in another order than the classes."""
    pixels, _ = coloured(names)
    label = [[0, values.index(name)] for name in names]
    value_name = [["big", "small", *[""] * (len(values) - 2)], list(values)]
    return xr.Dataset(
        {
            "pixels": (("image", "y", "x", "rgb"), pixels),
            "label": (("image", "attribute"), np.array(label, np.int16)),
            "value_name": (("attribute", "value"), value_name),
        },
        {"image": [f"train/{k:04d}" for k in range(len(names))], "attribute": ["size", "colour"]},
        {"class_attribute": "colour"},
    )


def net(classes=NAMES, **options):
    return classifier(colour_net(HEAD, MIX), classes, size=(8, 8), **options)


def found(images, limit=None, **options):
    own, seed = options.pop("classifier", None) or net(), options.pop("seed", 0)
    sought = TargetOptions(**{"layer": "layer", **OPTIONS, **options}, images=limit)
    return find_targets(own, images, sought, relevance=InputTimesGradient(own.model), seed=seed)


@pytest.fixture(scope="module")
def colours():
    return ["red", "green", "blue", "green", "blue"] * 6


@pytest.fixture(scope="module")
def planted(colours):
    return found(images_of(colours), concept_classes=["blue"], concepts=2, split_neurons=1)


def test_named_neurons_join_those_of_circuits(colours):
    images = images_of(colours)
    targets = found(images, circuits=1, circuit_classes=1, neurons=[5, 0])
    assert targets.target.values[3:].tolist() == ["layer:0", "layer:5"]
    with pytest.raises(ParamError, match=r"neurons name channel 6, but layer 'layer' has 6: 0 to 5"):
        found(images, neurons=[6])
    with pytest.raises(ParamError, match=r"channel 4 of layer 'layer', which fewer than two of the images"):
        found(images, neurons=[4])


def test_classes_alone_ask_no_relevance(colours):
    def refused(*_):
        raise AssertionError("asked")

    images, own = images_of(colours), net()
    targets = find_targets(own, images, TargetOptions(**OPTIONS, circuit_classes=0), relevance=refused)
    assert targets.kind.values.tolist() == ["class"] * 3
    np.testing.assert_allclose(targets.strength.values, found(images).strength.values[:3], rtol=1e-6)


def test_the_artifact_is_as_the_protocol_has_it(planted, tmp_path):
    variables = {
        "kind": ("U", "target"),
        "parent": ("U", "target"),
        "class_index": ("int32", "target"),
        "layer": ("U", "target"),
        "direction": ("float32", "target", "channel"),
        "reference": ("U", "target", "reference"),
        "facet": ("int32", "target", "reference"),
        "box": ("int32", "target", "reference", "corner"),
        "score": ("float32", "target", "reference"),
        "pixels": ("uint8", "target", "shown", "y", "x", "rgb"),
        "strength": ("float32", "target"),
        "circuit": ("U", "class", "k"),
        "circuit_relevance": ("float32", "class", "k"),
    }
    assert set(planted.variables) == {*variables, "target", "class", "corner"}
    for name, (dtype, *dims) in variables.items():
        assert planted[name].dims == tuple(dims)
        assert planted[name].dtype.kind == "U" if dtype == "U" else planted[name].dtype == dtype
    sizes = {"channel": 6, "reference": 6, "corner": 3, "shown": 3, "y": 8, "x": 8, "rgb": 3, "class": 3, "k": 3}
    assert dict(planted.sizes) == {"target": 12, **sizes}
    assert planted.attrs == {"classes": json.dumps(NAMES), "class_attribute": "colour", "layer": "layer", "facets": 1}
    assert (planted["facet"].values == np.where(planted["reference"].values != "", 0, -1)).all()
    write_dataset(tmp_path / "targets", planted, Provenance("targets", "Targets", {}, {}, "0" * 64))
    again = read(tmp_path / "targets")
    for name in planted.variables:
        assert (again[name].values == planted[name].values).all(), name


def test_targets_have_their_names_kinds_and_parents(planted):
    of = {kind: planted["target"].values[planted["kind"].values == kind].tolist() for kind in planted["kind"].values}
    assert of["class"] == NAMES
    assert of["neuron"] == ["layer:0", "layer:5", "layer:1", "layer:2", "layer:3"]
    assert of["concept"] == ["blue concept 0", "blue concept 1"]
    assert of["split"] == ["layer:1 split 0", "layer:1 split 1"]
    parents = dict(zip(planted["target"].values, planted["parent"].values, strict=True))
    assert {parents[name] for name in of["class"] + of["neuron"]} == {""}
    assert {parents[name] for name in of["concept"]} == {"blue"}
    assert {parents[name] for name in of["split"]} == {"layer:1"}
    assert planted["class_index"].values.tolist() == [0, 1, 2] + [-1] * 9
    assert planted["layer"].values.tolist() == [""] * 3 + ["layer"] * 9


def test_circuits_are_the_channels_that_logits_read(planted):
    """Channel 4, which red reads most, is dead; green reads 1 more than 2."""
    assert planted["circuit"].values.tolist() == [
        ["layer:0", "layer:5", ""], ["layer:1", "layer:2", ""], ["layer:1", "layer:3", "layer:5"],
    ]  # fmt: skip
    share = planted["circuit_relevance"].values
    np.testing.assert_allclose(share[1], [2 / 3, 1 / 3, 0], rtol=1e-5)
    np.testing.assert_allclose(share[2].sum(), 1, rtol=1e-5)


def test_classes_have_random_images_of_their_own(planted, colours):
    for k, name in enumerate(NAMES):
        rows = [int(each[6:]) for each in planted["reference"].values[k]]
        assert {colours[row] for row in rows} == {name}
        labels = np.where(np.array(colours) == name, k, -1)
        assert rows == class_references(labels, k, 6, seed=0).tolist()
    assert (planted["box"].values[:3] == [0, 0, 16]).all()
    assert not planted["direction"].values[:3].any()
    # the logit, literally, from the average of each channel
    image = coloured(colours)[0][int(planted["reference"].values[0][0][6:])][None]
    colour = cut(image, np.array([[0, 0, 0, 16]]), (8, 8))[0].reshape(-1, 3) / 255
    stem = np.maximum(2 * colour - colour.sum(1, keepdims=True), 0)
    expected = (np.maximum(stem @ np.array(MIX).T, 0)).mean(0) @ np.array(HEAD)[0]
    assert planted["score"].values[0, 0] == pytest.approx(expected, rel=1e-4)
    np.testing.assert_allclose(planted["strength"].values[:3], planted["score"].values[:3].mean(1), rtol=1e-5)


def test_inner_targets_have_patches_and_scores_along_their_direction(planted, colours):
    pixels, corner = coloured(colours)
    at = planted["target"].values.tolist().index
    for name, seen in (
        ("layer:0", {"red"}),
        ("layer:1", {"green", "blue"}),
        ("layer:2", {"green"}),
        ("layer:3", {"blue"}),
    ):
        target = planted.isel(target=at(name))
        rows = [int(each[6:]) for each in target["reference"].values]
        assert {colours[row] for row in rows} == seen
        assert target["box"].values.tolist() == [[*corner[row].tolist(), 8] for row in rows]
        assert target["direction"].values.tolist() == np.eye(6)[int(name[6:])].tolist()
        assert target["strength"] == pytest.approx(float(target["score"].mean()))
        assert (np.diff(target["score"].values) <= 0).all()
        # all that this colour has are weaker
        least = sorted(pixels[row].max() for row, own in enumerate(colours) if own in seen)[-6:]
        assert sorted(pixels[row].max() for row in rows) == least
    for k in range(3, planted.sizes["target"]):
        target = planted.isel(target=k)
        there = target["reference"].values != ""
        assert np.linalg.norm(target["direction"]) == pytest.approx(1, rel=1e-5)
        assert len(set(target["reference"].values[there].tolist())) == there.sum() >= 2
        assert np.isnan(target["score"].values[~there]).all()
        for row, box, own in zip(
            target["reference"].values[:3], target["box"].values, target["pixels"].values, strict=False
        ):
            assert (cut(pixels, np.array([[int(row[6:]), *box]]), (8, 8))[0] == own).all()


def test_the_polysemantic_neuron_is_parted_into_its_two_colours(planted, colours):
    of = [
        {colours[int(each[6:])] for each in planted["reference"].values[k] if each}
        for k in np.flatnonzero(planted["kind"].values == "split")
    ]
    assert sorted(map(sorted, of)) == [["blue"], ["green"]]
    share = planted["strength"].values[planted["kind"].values == "split"]
    assert share.sum() == pytest.approx(1)
    assert share[0] >= share[1]


def test_the_first_concept_of_blue_is_what_blue_squares_have(planted, colours):
    k = planted["target"].values.tolist().index("blue concept 0")
    blue = np.array(MIX)[:, 2] / np.linalg.norm(np.array(MIX)[:, 2])
    assert planted["direction"].values[k] @ blue > 0.99
    assert {colours[int(each[6:])] for each in planted["reference"].values[k] if each} == {"blue"}
    assert planted["strength"].values[k] > 0.9


def test_the_same_again_and_another_draw_with_another_seed(planted, colours):
    options = {"concept_classes": ["blue"], "concepts": 2, "split_neurons": 1}
    assert planted.identical(found(images_of(colours), **options))
    assert (found(images_of(colours), seed=1)["reference"].values[:3] != planted["reference"].values[:3]).any()


def test_fewer_images_than_references_and_fewer_than_all_give_patches(colours):
    few = found(images_of(colours[:10]), references=9, limit=5, circuits=1)
    assert (few["reference"].values[:3] != "").sum(1).tolist() == [2, 4, 4]
    inner = few["reference"].values[3:]
    assert 2 <= len(set(inner[inner != ""].tolist())) <= 5
    assert not few["box"].values[few["reference"].values == ""].any()
    assert not few["pixels"].values[0, 2:].any()
    assert few["pixels"].values[0, :2].any()


def test_facets_of_a_class_are_its_kinds_of_images(colours):
    """Half of the images called red are green squares."""
    kinds = [("red", "green")[k % 2] if name == "red" else name for k, name in enumerate(colours)]
    images = images_of(colours).assign(pixels=images_of(kinds).pixels)
    planted = found(images, facets=2, references=3, shown=2)
    assert planted.attrs["facets"] == 2
    assert planted.sizes["reference"] == 6
    assert planted["facet"].values[:3].tolist() == [[0, 1, 0, 1, 0, 1]] * 3
    assert set(planted["facet"].values[3:].ravel().tolist()) <= {0, -1}
    of_red = [{kinds[int(each[6:])] for each in planted["reference"].values[0, facet::2]} for facet in (0, 1)]
    assert sorted(of_red, key=str) == [{"green"}, {"red"}]


def test_the_default_layer_and_attribute(colours):
    images = images_of(colours)
    images.attrs["class_attribute"] = "size"
    defaults = found(images, layer=None, classifier=net(attribute="colour"))
    assert defaults.attrs["layer"] == "layer"
    assert defaults.attrs["class_attribute"] == "colour"
    # as many neurons as asked for where none is relevant
    assert found(images_of(colours), circuits=0).sizes["target"] == 3


def test_what_cannot_be_visualised(colours):
    two = {"images": images_of(["blue", "green"] * 12)}
    color = {"classifier": net(attribute="color")}
    deaf = {"classifier": classifier(colour_net(np.zeros((3, 6)), MIX), NAMES)}
    lone = {"limit": 1, "circuits": 0, "concept_classes": 3}
    cases: list[tuple[type[OptogramError], str, dict]] = [
        (DataError, r"'red' has 0 of the 24 images, .* 'colour'; .*two or more", two),
        (DataError, r"'red' has 1 of the 5 images", {"images": images_of(colours[:5])}),
        (DataError, r"values of 'color', .* by size, colour. Did you mean 'colour'", color),
        (DataError, r"no image that gives patches is labelled", lone),
        (ModelError, r"classes of Sequential have no names", {"classifier": net(())}),
        (ModelError, r"gives \(6, 3\), but has 2 classes: red, green", {"classifier": net(NAMES[:2])}),
        (ModelError, r"no layer 'layer4'. Did you mean 'layer'", {"layer": "layer4"}),
        (ModelError, r"no positive relevance of any logit arrives at layer 'layer'", deaf),
        (ParamError, r"concept_classes names 'gren', .*'green'", {"concept_classes": ["gren"]}),
        (ParamError, r"references = 1, expected 2 or more", {"references": 1}),
        (ParamError, r"facets = 0, expected 1 or more", {"facets": 0}),
        (DataError, r"class 'red': there are \d+ images, but 30 facets need two each", {"facets": 30}),
        (ParamError, r"images = 0", {"limit": 0}),
        (ParamError, r"concept_classes = -1", {"concept_classes": -1}),
        (ParamError, r"patch = 17, but images have 16 x 16", {"patch": 17 / 16}),
        (ParamError, r"splits = 1", {"splits": 1, "split_neurons": 1}),
        (ParamError, r"2 of 7 concepts", {"concepts": 2, "concept_rank": 7, "concept_classes": 1}),
    ]
    for error, message, options in cases:
        with pytest.raises(error, match=message):
            found(**({"images": images_of(colours)} | options))
