"""Classifier disagreement: two classifiers that look at the two halves of a picture, and a judge that knows which."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr
from planted_classifiers import classifier
from tiny_diffusion import ARCHITECTURE, tiny_diffusion

from optogram.data.scenes import ATTRIBUTES
from optogram.errors import DataError, ParamError
from optogram.guidance.options import Guidance
from optogram.methods.guidance.disagreement import Hunt, Lookers, disagreement, headline, similar_images
from optogram.methods.image_objectives import zero_shot
from optogram.metrics.planted_values import TIED, UNTIED
from optogram.models.judging.judge import Judge
from optogram.models.judging.network import JudgeNetwork
from optogram.models.loading.clip_folders import build_clip, encode_texts
from optogram.models.loading.specs import UnitRange

CLASSES = ("red", "blue", "green")
OPTIONS = Guidance(steps=3, iterations=6, latents_rate=0.2, states_rate=0.1)


class Half(torch.nn.Module):
    """Which colour one half of a picture is above the mean in: the other half does not count."""

    def __init__(self, left, order):
        super().__init__()
        self.left, self.order = left, order
        self.gain = torch.nn.Parameter(torch.tensor(60.0))

    def forward(self, images):
        half = images[..., :16] if self.left else images[..., 16:]
        means = half.mean((2, 3))
        return self.gain * (means - means.mean(1, keepdim=True))[:, self.order]


def half(left, names=CLASSES):
    places = {"red": 0, "green": 1, "blue": 2}
    made = classifier(Half(left, [places[name] for name in names]), names, attribute="shape", size=(32, 32))
    return replace(made, preprocess=UnitRange())


class Sees(Judge):
    """A judge by definition: the ground is the strongest colour of the left half."""

    def parse(self, pixels):
        value = pixels[:, :, :16].mean((1, 2)).argmax(1).astype(np.int16)
        return xr.Dataset({"value": (("image", "attribute"), value[:, None])}, {"attribute": ["ground"]})


COUNTS = {name: len(values) for name, values in ATTRIBUTES.items()}
JUDGE = Sees(
    JudgeNetwork(32, COUNTS, far=[8, 8, 8], near=[8, 8, 8], hidden=8), {"ground": ("reddish", "greenish", "bluish")}, 32
)
HUNT = Hunt(OPTIONS, samples=3, cue="ground", ties={"red": "reddish", "blue": "bluish"})


def lookers(**changed):
    # the same classes in another order, and one that lacks a class
    given = {"one": ("left", half(True)), "other": ("right", half(False, ("green", "blue", "red")))}
    given |= {"others": {"whole": half(True, ("blue", "red"))}, "judge": JUDGE}
    return Lookers(**(given | changed))


@pytest.fixture(scope="module")
def diffusion():
    return tiny_diffusion()


@pytest.fixture(scope="module")
def found(diffusion):
    return disagreement(diffusion, lookers(), HUNT, seed=0)


def test_what_the_one_looks_at_comes_up_and_the_other_half_does_not(found):
    assert found["image"].values.tolist()[2:4] == ["red 2", "blue 0"]
    apart = found["disagree"].mean("image")
    assert float(apart.sel(condition="found")) > float(apart.sel(condition="start")) + 0.3
    sure = found["confidence"].sel(model=["left", "right"]).mean("image").sel(condition=["start", "found"])
    (start_left, start_right), (left, right) = sure.values
    assert left > start_left + 0.2
    assert right < start_right
    assert found["pixels"].dtype == np.uint8
    assert set(found["status"].values.tolist()) == {"done"}


def test_the_judge_sees_the_planted_ground_of_tied_classes_more_often(found):
    start, after = found["planted"].sel(group=TIED).sel(condition=["start", "found"]).values
    assert after >= 2 * start
    assert after > 0.6
    assert bool(found["twice"].sel(group=TIED))
    assert not bool(found["twice"].sel(group=UNTIED))
    told = headline(found)
    assert (told.value, told.versus_value, told.of) == (after, start, 6)
    assert "planted ground" in told.measure
    # counted once more, from what the judge said
    judged, wanted = found["judged"].sel(condition="found", attribute="ground").values, found["wanted"].values
    ties = {"red": "reddish", "blue": "bluish"}
    again = np.mean([value == ties[name] for value, name in zip(judged, wanted, strict=True) if name in ties])
    assert again == after


def test_numbers_are_those_that_the_models_give_of_the_stored_pictures(found):
    for condition in ("start", "found"):
        here = found.sel(condition=condition)
        pixels = torch.from_numpy(here["pixels"].values).permute(0, 3, 1, 2) / 255
        for name, model in lookers().every.items():
            p = model.model(pixels).softmax(1).detach().numpy()
            assert here["says"].sel(model=name).values.tolist() == [model.classes[k] for k in p.argmax(1)]
            for at, wanted in enumerate(here["wanted"].values):
                value = float(here["confidence"].sel(model=name)[at])
                expected = p[at, model.classes.index(wanted)] if wanted in model.classes else np.nan
                np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-6)
    said = found["says"].sel(model=["left", "right"]).transpose("condition", "image", "model").values
    wanted = found["wanted"].values
    assert (found["disagree"].values == ((said[..., 0] == wanted) & (said[..., 1] != wanted))).all()
    assert "confidence" in [name for name in found.data_vars if found[name].isnull().any()]


def test_a_picture_follows_from_its_class_and_number_alone(diffusion, found):
    less = disagreement(diffusion, lookers(), replace(HUNT, classes=("green", "red"), samples=2), seed=0)
    assert less["image"].values.tolist() == ["red 0", "red 1", "green 0", "green 1"]
    same = found.sel(image=less["image"])
    for name in ("pixels", "loss", "seed", "best"):
        np.testing.assert_array_equal(less[name].values, same[name].values)
    assert headline(less.drop_dims("group")).measure == "pictures of which left sees the class and right does not"


def test_the_other_way_round_starts_from_the_same_pictures_and_finds_the_opposite(diffusion, found):
    turned = lookers(one=lookers().other, other=lookers().one)
    back = disagreement(diffusion, turned, replace(HUNT, classes=("red",)), seed=0)
    forth = found.sel(image=back["image"])
    starts = [each["pixels"].sel(condition="start").values for each in (back, forth)]
    np.testing.assert_array_equal(*starts)
    after = [float(each["confidence"].sel(condition="found", model="left").mean()) for each in (back, forth)]
    assert after[0] < after[1]


def test_without_a_search_nothing_changes(diffusion):
    still = disagreement(diffusion, lookers(), replace(HUNT, guidance=replace(OPTIONS, iterations=0)), seed=1)
    start, after = still["pixels"].sel(condition=["start", "found"]).transpose("condition", ...).values
    np.testing.assert_array_equal(start, after)
    assert not still["gain"].any()
    assert not still["twice"].any()


def test_real_images_are_the_nearest_by_cosine_and_each_is_looked_at(found):
    rng = np.random.default_rng(0)
    clip = build_clip(ARCHITECTURE, seed=1)
    clip.model.eval().requires_grad_(False)
    pixels = rng.integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)
    pixels[4] = found["pixels"].sel(condition="found").isel(image=1).values
    pixels[5, :, :16], pixels[5, :, 16:] = (200, 20, 20), (20, 20, 200)
    real = xr.Dataset({"pixels": (("image", "y", "x", "rgb"), pixels)}, {"image": [f"eval/{k}" for k in range(9)]})
    more = similar_images(found, lookers(), clip, real, near=2)
    assert more["near_image"].values[1, 0] == "eval/4"
    assert float(more["near_similarity"][1, 0]) == pytest.approx(1, abs=1e-5)
    assert (more["near_similarity"][:, 0] >= more["near_similarity"][:, 1]).all()
    # the picture itself, as the real image that it is
    here = found.sel(condition="found", image="red 1")
    np.testing.assert_allclose(more["near_confidence"][1, 0].values, here["confidence"].values, rtol=1e-5, atol=1e-6)
    assert bool(more["near_disagree"][1, 0]) is bool(here["disagree"])
    p = [
        model.model(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255).argmax(1).numpy()
        for _, model in (lookers().one, lookers().other)
    ]
    apart = (p[0] == CLASSES.index("red")) & (p[1] != 2)
    assert apart[5]
    assert int(more["real_apart"].sel({"class": "red"})) == apart.sum()
    rows = {int(name.split("/")[1]) for name in more["near_image"].values[:3].ravel()}
    assert int(more["near_images"].sel({"class": "red"})) == len(rows)
    assert int(more["near_apart"].sel({"class": "red"})) == sum(apart[row] for row in rows)
    assert "real_planted" not in more
    label = np.array([[k % 3 - 1] for k in range(9)], np.int16)
    told = {"label": (("image", "attribute"), label), "value_name": (("attribute", "value"), [["bluish", "reddish"]])}
    labelled = similar_images(found, lookers(), clip, real.assign(told).assign_coords(attribute=["ground"]), near=2)
    of_red = int((apart & (label[:, 0] == 1)).sum())
    assert of_red > 0
    assert int(labelled["real_planted"].sel({"class": "red"})) == of_red
    tied = labelled.sel({"class": ["red", "blue"]})
    assert headline(labelled).yardstick == tied["real_planted"].sum() / tied["real_apart"].sum()
    with pytest.raises(DataError, match="9 real images, but near = 10"):
        similar_images(found, lookers(), clip, real, near=10)


def test_a_clip_may_be_the_one_that_is_to_see_the_class(diffusion):
    clip = build_clip(ARCHITECTURE, seed=0)
    clip.model.eval().requires_grad_(False)
    seer = zero_shot(clip, encode_texts(clip, ["red", "blue"]), ["red", "blue"], scale=20.0)
    made = disagreement(diffusion, lookers(one=("clip", seer), judge=None), replace(HUNT, cue=None, ties={}), seed=0)
    assert made["class"].values.tolist() == ["red", "blue"]
    best = made["loss"].values[made["best"].values, np.arange(6)]
    assert (best <= made["loss"].values[0]).all()
    assert (best < made["loss"].values[0] - 1e-3).any()
    assert "judged" not in made


def test_classes_that_only_one_has_are_said_and_left_out(diffusion, capsys):
    turned = lookers(other=("right", half(False, ("blue", "red"))), others={})
    made = disagreement(diffusion, turned, replace(HUNT, guidance=replace(OPTIONS, iterations=0)), seed=0)
    assert made["class"].values.tolist() == ["red", "blue"]
    assert "1 classes are not in both left and right, and are left out: green." in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("who", "asked", "error", "message"),
    [
        (
            {"other": ("right", half(False, ("red",)))},
            {"classes": ("blue",)},
            ParamError,
            "class 'blue', expected one that",
        ),
        ({"other": ("x", replace(half(False), classes=("cat", "dog", "cow")))}, {}, DataError, "none is in both"),
        ({}, {"caption": "a picture"}, ParamError, "expected one with {} where the class stands"),
        ({}, {"samples": 0}, ParamError, "samples = 0, expected at least 1"),
        ({}, {"cue": "grund"}, ParamError, "cue = 'grund', expected an attribute that a judge sees: ground.*ground"),
        ({"judge": None}, {}, ParamError, "there is no judge"),
        ({}, {"ties": {"red": "redish"}}, ParamError, "tied has 'redish', expected a value of ground.*reddish"),
        ({}, {"ties": {"rad": "reddish"}}, ParamError, "tied has 'rad', expected a class of both.*red"),
    ],
)
def test_what_cannot_be_asked_is_said(diffusion, who, asked, error, message):
    with pytest.raises(error, match=message):
        disagreement(diffusion, lookers(**who), replace(HUNT, **asked), seed=0)


def test_a_model_is_named_once():
    with pytest.raises(ParamError, match="left, left look, and a name is there twice"):
        lookers(other=("left", half(False)), others={})
