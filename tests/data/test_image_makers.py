"""Image-makers: what a description says is read and drawn, the rest is free, the truth is known, bytes come again."""

import hashlib

import numpy as np
import pytest

from optogram.data.captions import prompts
from optogram.data.image_makers import SceneMaker, mentions, stated_values, value_words
from optogram.data.pools import pool
from optogram.data.scenes import ATTRIBUTES
from optogram.errors import DataError, ParamError

COLUMN = {name: k for k, name in enumerate(ATTRIBUTES)}


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        ("a circle", {"shape": ("circle",)}),
        ("discs", {"shape": ("circle",), "count": ("two", "three")}),
        ("two crosses", {"shape": ("cross",), "count": ("two",)}),
        ("a trio of plus signs", {"shape": ("cross",), "count": ("three",)}),
        ("a single thing", {"count": ("one",)}),
        ("an object on grass", {"background": ("grass",)}),
        ("Rings at night, on bricks", {"shape": ("ring",), "background": ("night",), "count": ("two", "three")}),
        ("a little spotted object in the upper part", {"size": ("small",), "texture": ("dotted",), "position": ("top",)}),  # noqa: E501
        ("objects in the middle", {"position": ("centre",), "count": ("two", "three")}),
        ("a photo of a circle with a blue object on sand and red objects on a brick wall",
         {"shape": ("circle",), "colour": ("blue",), "background": ("sand",), "count": ("two", "three")}),
        ("A photo dominated by red", {"colour": ("red",)}),
        ("Texture of fine sand", {"background": ("sand",)}),
        ("A three-dimensional rendering", {}),
        ("A starring role, scrossed", {}),
        ("Something sharp", {}),
    ],
)  # fmt: skip
def test_reads_what_a_text_states(text, stated):
    assert stated_values(text) == stated


def test_reads_all_that_prompts_and_the_pool_say_of_scenes():
    for attribute, values in ATTRIBUTES.items():
        for value in values:
            for text in prompts(attribute, value):
                assert stated_values(text)[attribute] == (value,), text
    table = pool("descriptions")
    for text, attribute, value in zip(table.text.values, table.attribute.values, table.value.values, strict=True):
        if "+" in attribute or (attribute and text[0].islower()):
            found = stated_values(str(text))
            expected = dict(zip(attribute.split("+"), value.split("+"), strict=True))
            assert {name: found[name] for name in expected} == {name: (of,) for name, of in expected.items()}, text
            assert found.keys() - expected.keys() <= {"count"}


def test_mentions_whole_words_in_any_number_and_case():
    assert mentions("Two Discs", ["circle", "disc"])
    assert mentions("PLUS SIGNS", ["plus sign"])
    assert mentions("puppies", ["puppy"])
    assert not mentions("a discotheque", ["disc"])
    assert not mentions("a cross-section", ["cross"])
    assert value_words("shape")["cross"] == ("cross", "plus sign")
    with pytest.raises(ParamError, match="Did you mean 'colour'"):
        value_words("color")


def test_images_are_what_was_asked_and_the_truth_is_known():
    descriptions = [
        "a photo of a star with a red striped object on snow",
        "an image of a star with two small squares at the top",
        "a star with plain objects in the centre",
        "a star",
    ]
    made = SceneMaker("shape", "star")(descriptions, 80, 3)
    label = made["label"].values
    assert made["description"].values.tolist() == [k for k in range(4) for _ in range(80)]
    assert (label[:, COLUMN["shape"]] == ATTRIBUTES["shape"].index("star")).all(), "squares are not drawn"
    asked = [
        {"colour": "red", "texture": "striped", "background": "snow"},
        {"size": "small", "count": "two", "position": "top"},
        {"texture": "plain", "position": "centre"},
        {},
    ]
    for at, values in enumerate(asked):
        here = label[80 * at : 80 * at + 80]
        for name, of in ATTRIBUTES.items():
            drawn = set(here[:, COLUMN[name]].tolist())
            if name in values:
                assert drawn == {of.index(values[name])}
            elif name == "count" and at == 2:
                assert drawn == {1, 2}
            elif name != "shape":
                assert drawn == set(range(len(of)))
    # the pixels agree: as many objects as the label says, where it says
    mask = made["mask"].values
    assert np.array_equal(mask.max((1, 2)), label[:, COLUMN["count"]] + 1)
    seen = mask > 0
    y = (seen * np.arange(64)[:, None]).sum((1, 2)) / seen.sum((1, 2))
    assert (y[80:160] < 22).all()


def test_free_attributes_are_uniform_and_do_not_depend_on_what_is_stated():
    plain, stated = (SceneMaker("shape", "ring")([text], 3000, 1)["label"].values for text in ("a ring", "a red ring"))
    for name, values in ATTRIBUTES.items():
        if name != "shape":
            share = np.bincount(plain[:, COLUMN[name]], minlength=len(values)) / len(plain)
            assert abs(share * len(values) - 1).max() < 0.2
        if name != "colour":
            assert np.array_equal(plain[:, COLUMN[name]], stated[:, COLUMN[name]])
    corner = np.corrcoef(np.delete(plain, COLUMN["shape"], 1).T) - np.eye(6)
    assert abs(corner).max() < 0.06


def test_bytes_come_again_and_seeds_differ():
    maker = SceneMaker("shape", "circle", size=48)
    once, again, other = (maker(["a blue circle", "circles at night"], 150, seed) for seed in (5, 5, 6))
    assert once.identical(again)
    assert once["pixels"].shape == (300, 48, 48, 3)
    assert not np.array_equal(once["pixels"], other["pixels"])
    assert hashlib.sha256(once["pixels"].values.tobytes()).hexdigest() == DIGEST


@pytest.mark.parametrize("attribute", list(ATTRIBUTES))
def test_any_attribute_can_be_the_class(attribute):
    value = ATTRIBUTES[attribute][-1]
    maker = SceneMaker(attribute, value)
    assert stated_values(maker.noun)[attribute] == (value,)
    assert value in maker.words
    made = maker([f"a photo of {maker.noun}"], 8, 0)
    assert (made["label"].sel(attribute=attribute) == len(ATTRIBUTES[attribute]) - 1).all()
    assert made.attrs["class_attribute"] == attribute


def test_bad_arguments_are_named():
    with pytest.raises(ParamError, match="Did you mean 'circle'"):
        SceneMaker("shape", "circel")
    with pytest.raises(ParamError, match="attribute 'form'"):
        SceneMaker("form", "circle")
    with pytest.raises(DataError, match="0 descriptions"):
        SceneMaker("shape", "circle")([], 10, 0)
    with pytest.raises(DataError, match="0 images"):
        SceneMaker("shape", "circle")(["a circle"], 0, 0)
    with pytest.raises(ParamError, match="seed -1"):
        SceneMaker("shape", "circle")(["a circle"], 1, -1)


DIGEST = "8713681f9c852f02386d8da107f3db0611885d17e34f64fd08b4a96026b7f43e"
"""Taken on an x86-64 machine, like that of the scenes."""
