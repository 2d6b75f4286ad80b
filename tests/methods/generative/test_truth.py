"""What is seen in samples: planted pictures, whose values are known, by eyes that know them."""

from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr

from optogram.data.requests import scene_requests, without_captions
from optogram.data.scenes import ATTRIBUTES, Scenes, value_names
from optogram.errors import DataError, ShapeError
from optogram.methods.generative.truth import headline, truth
from optogram.metrics.drawn import least

NAMES = [*ATTRIBUTES]
PLACES = [(name, value) for name, values in ATTRIBUTES.items() for value in values]
ZEROSHOT = xr.Dataset(
    {
        "classifier": (("class", "embed"), np.eye(len(PLACES))),
        "attribute": ("class", [name for name, _ in PLACES]),
        "value": ("class", [value for _, value in PLACES]),
    }
)


def embedded(label):
    """An embedding in which a CLIP of the rows above sees these values."""
    found = np.zeros((len(label), len(PLACES)))
    for row, values in enumerate(label):
        for name, value in zip(NAMES, values, strict=True):
            if value >= 0:
                found[row, PLACES.index((name, ATTRIBUTES[name][value]))] = 1
    return found


def seeing(labels):
    """A judge that sees these values in turn, whatever it is shown; -1 everywhere is no object."""
    left = [np.asarray(label) for label in labels]
    values = np.array([[*v, *[""] * (8 - len(v))] for v in ATTRIBUTES.values()])

    def parse(pixels):
        label = left.pop(0)
        assert len(label) == len(pixels)
        shown = (("image", "attribute"), label[:, ::-1])  # in an order of its own
        names = (("attribute", "value"), values[::-1])
        variables = {"value": shown, "value_name": names, "found": ("image", (label >= 0).any(1))}
        return xr.Dataset(variables, {"attribute": NAMES[::-1]})

    return SimpleNamespace(parse=parse)


@pytest.fixture(scope="module")
def real():
    return Scenes("eval", 60, 0, size=32).read(0, 60)


@pytest.fixture(scope="module")
def trained():
    return Scenes("single", 200, 0, size=32).read(0, 200)


@pytest.fixture(scope="module")
def samples():
    asked = without_captions(scene_requests(100, seed=0), 20)
    return asked.assign(pixels=(("image", "y", "x", "rgb"), np.zeros((120, 32, 32, 3), np.uint8)))


def look(samples, real, trained, by_judge, by_clip, real_by_judge=None):
    judge = seeing([by_judge, real.label.values if real_by_judge is None else real_by_judge])
    others = {"zeroshot": ZEROSHOT, "embedding": embedded(by_clip), "real_embedding": embedded(real.label.values)}
    return truth(samples, real, trained, judge=judge, **others)


def drawn_as_asked(samples):
    """What was asked for, and in those that were asked for nothing a red circle."""
    label = samples.label.values.copy()
    label[label.max(1) < 0] = 0
    return label


def test_a_model_that_draws_what_is_asked_is_seen_to(samples, real, trained):
    label = drawn_as_asked(samples)
    found = look(samples, real, trained, label, label)
    assert (found.share.sel(combination="all") == 1).all()
    assert (found.whole == 1).all()
    assert (found.real_share == 1).all()
    assert found.asked.sel(combination="all", eye="judge", attribute="shape") == 100
    assert float(found.free.sel(eye="clip", attribute="shape")[0]) == 1
    assert (found.attrs["samples"], found.attrs["unasked"], found.attrs["real"]) == (120, 20, 60)
    assert found.combinations_drawn == 1
    assert found.seen.sel(eye="judge").values.tolist() == label.tolist()
    told = headline(found)
    assert (told.value, told.of, told.versus, told.yardstick) == (1, 100, "requests shuffled", 1)


def test_one_that_always_draws_the_same_has_the_share_of_chance(samples, real, trained):
    always = np.zeros_like(samples.label.values)
    found = look(samples, real, trained, always, always).sel(combination="all")
    np.testing.assert_allclose(found.share, found.chance)


def test_one_that_was_planted_wrong_at_one_attribute_is_found_by_the_eye_that_saw_it(samples, real, trained):
    label = drawn_as_asked(samples)
    wrong = label.copy()
    at = NAMES.index("colour")
    wrong[:40, at] = (wrong[:40, at] + 1) % 8
    found = look(samples, real, trained, label, wrong)
    assert found.share.sel(combination="all", eye="clip", attribute="colour") == 0.6
    assert found.share.sel(combination="all", eye="judge", attribute="colour") == 1
    held = samples.held_out.values[:100]
    apart = found.share.sel(combination="held_out", eye="clip", attribute="colour")
    assert float(apart) == pytest.approx(1 - held[:40].sum() / held.sum())
    assert headline(found).measure == "share of samples with the colour asked for (the least), by the clip"
    assert headline(found).value == 0.6


def test_pictures_of_a_model_that_is_asked_nothing_are_parsed(samples, real, trained):
    drawn = trained.label.values[:120].copy()
    drawn[:30] = -1
    found = look(samples[["pixels"]], real, trained, drawn, trained.label.values[:120])
    assert found.share.isnull().all()
    assert found.found_share == 0.75
    assert found.real_found == 1
    assert found.found.values.sum() == 90
    known = {tuple(row) for row in trained.label.values[:, [0, 1, 6]].tolist()}
    ours = {tuple(row) for row in drawn[30:, [0, 1, 6]].tolist()}
    assert float(found.recall) == len(known & ours) / len(known)
    assert headline(found).columns()["versus"] == "real images"


def test_what_is_met_least_is_one_place_even_where_two_are_met_as_little(samples, real, trained):
    """And no attribute of which one value only was asked for: its share is what chance gives."""
    judged, clipped = drawn_as_asked(samples), drawn_as_asked(samples)
    judged[:40, NAMES.index("colour")] = (judged[:40, NAMES.index("colour")] + 1) % 8
    clipped[:40, NAMES.index("shape")] = (clipped[:40, NAMES.index("shape")] + 1) % 6
    judged[:100, NAMES.index("count")] = 1
    found = look(samples, real, trained, judged, clipped)
    assert found.share.sel(combination="all", eye="judge", attribute="count") == 0
    attribute, eye = least(found)
    assert float(found.share.sel(combination="all", eye=eye, attribute=attribute)) == 0.6
    told = headline(found)
    assert told.value == 0.6
    assert told.measure == f"share of samples with the {attribute} asked for (the least), by the {eye}"


def test_samples_that_were_asked_for_something_are_not_taken_for_unasked(samples, real, trained):
    asked = samples.isel(image=slice(0, 100))
    mine = asked[["pixels", "prompt"]]
    for some, has_share in ((asked, True), (mine, False)):
        label = asked.label.values
        found = look(some, real, trained, label, label)
        assert found.attrs["unasked"] == 0
        assert found.free.isnull().all()
        assert found.recall.isnull()
        assert found.combinations_drawn == 0
        assert bool(found.share.notnull().any()) == has_share
        assert (least(found) is not None) == has_share


def test_eyes_that_do_not_know_the_images_are_named(samples, real, trained):
    label = drawn_as_asked(samples)
    stranger = seeing([label, real.label.values])
    plain = stranger.parse
    stranger.parse = lambda pixels: plain(pixels).isel(value=slice(None, None, -1))
    others = {"zeroshot": ZEROSHOT, "embedding": embedded(label), "real_embedding": embedded(real.label.values)}
    with pytest.raises(DataError, match=r"the judge knows \w+ \(.*\), which is not that \(.*\) of the images"):
        truth(samples, real, trained, judge=stranger, **others)
    look_again = {**others, "zeroshot": ZEROSHOT.isel({"class": slice(1, None)})}
    with pytest.raises(DataError, match="no zero-shot row of shape 'circle'"):
        truth(samples, real, trained, judge=seeing([label, real.label.values]), **look_again)
    look_again = {**others, "embedding": others["embedding"][:, 1:]}
    with pytest.raises(ShapeError, match="zero-shot rows have"):
        truth(samples, real, trained, judge=seeing([label, real.label.values]), **look_again)
    other = samples.assign(value_name=(("attribute", "value"), value_names()[::-1]))
    with pytest.raises(DataError, match=r"samples were asked for shape \(small, large\)|samples were asked for shape"):
        truth(other, real, trained, judge=seeing([label, real.label.values]), **others)
