"""Pictures of units: two units that each read one colour, and a judge that knows the colour."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr
from planted_classifiers import classifier
from planted_neuron_pictures import drawn_units
from tiny_diffusion import tiny_diffusion

from optogram.data.scenes import ATTRIBUTES
from optogram.errors import DataError, ModelError, ParamError
from optogram.guidance.options import Guidance
from optogram.methods.guidance.neuron_pictures import Portrayal, chosen_units, headline, neuron_pictures
from optogram.methods.guidance.portraits import CONDITIONS, FOUND, OTHER, TEXT, of_told
from optogram.models.judging.judge import Judge
from optogram.models.judging.network import JudgeNetwork
from optogram.models.loading.specs import UnitRange
from optogram.store.read import read
from optogram.store.write import Provenance, write_dataset

CLASSES = ("reddish", "bluish")
HOW = Portrayal(Guidance(steps=3, iterations=6, latents_rate=0.2, states_rate=0.1), samples=3, top=2)


class Colours(torch.nn.Module):
    """phi is how far red, blue and nothing are above the mean colour, each behind a ReLU; a class reads one of them."""

    def __init__(self, bias=0.2):
        super().__init__()
        self.bias, self.head = bias, torch.nn.Linear(3, 2, bias=False)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([[5.0, -1.0, 1.0], [-1.0, 5.0, 1.0]]))

    def forward(self, images):
        means = images.mean((2, 3))
        above = means[:, [0, 2]] - means.mean(1, keepdim=True) + self.bias
        return self.head(torch.relu(torch.cat([above, 0 * above[:, :1]], 1)))


def colours(**options):
    made = classifier(Colours(**options), CLASSES, attribute="colour", size=(32, 32))
    return replace(made, preprocess=UnitRange())


class Sees(Judge):
    """A judge by definition: the strongest colour."""

    def parse(self, pixels):
        value = pixels.mean((1, 2)).argmax(1).astype(np.int16)
        return xr.Dataset({"value": (("image", "attribute"), value[:, None])}, {"attribute": ["colour"]})


COUNTS = {name: len(values) for name, values in ATTRIBUTES.items()}
JUDGE = Sees(
    JudgeNetwork(32, COUNTS, far=[8, 8, 8], near=[8, 8, 8], hidden=8), {"colour": ("red", "green", "blue")}, 32
)


def real(count=12):
    """Flat pictures of red, green and blue in turn, each of another strength, nearly grey."""
    pixels = np.full((count, 32, 32, 3), 120, np.uint8)
    for k in range(count):
        pixels[k, :, :, k % 3] += 2 + k // 3
    names = np.array([["red", "green", "blue"]])
    return xr.Dataset(
        {
            "pixels": (("image", "y", "x", "rgb"), pixels),
            "label": (("image", "attribute"), np.arange(count)[:, None] % 3),
            "value_name": (("attribute", "value"), names),
        },
        {"image": [f"eval/{k}" for k in range(count)], "attribute": ["class"]},
        {"class_attribute": "class"},
    )


@pytest.fixture(scope="module")
def diffusion():
    return tiny_diffusion()


@pytest.fixture(scope="module")
def found(diffusion):
    return neuron_pictures(diffusion, colours(), real(), HOW, seed=0, judge=JUDGE)


def test_the_unit_of_a_colour_gets_pictures_of_that_colour(found):
    assert found["unit"].values.tolist() == ["reddish, unit 0", "bluish, unit 1"]
    assert found["image"].values.tolist() == [["eval/9", "eval/6"], ["eval/11", "eval/8"]]
    assert found["caption"].values.tolist() == ["an image of a red", "an image of a blue"]
    text, after = (found["activation"].sel(condition=name) for name in (TEXT, FOUND))
    assert (after > text + 0.02).all()
    means = (
        found["pixels"].sel(condition=[TEXT, FOUND]).mean(("sample", "y", "x")).transpose("condition", "unit", "rgb")
    )
    for unit, channel in enumerate((0, 2)):
        share = means.values[:, unit, channel] / means.values[:, unit].sum(1)
        assert share[1] > share[0] + 0.02
    assert found["exceeds"].sel(condition=FOUND).all()
    assert headline(found).value == 1
    assert headline(found).versus_value == found["exceeds"].sel(condition=TEXT).values.mean()


def test_what_is_stored_comes_back(found, tmp_path):
    write_dataset(tmp_path / "found", found, Provenance("neuron_pictures", "Pictures"))
    back = read(tmp_path / "found").load()
    for name in found.data_vars:
        np.testing.assert_array_equal(back[name].values, found[name].values)


def test_activations_are_those_of_the_stored_pictures_and_the_best_real_image_is_the_best_of_all(found):
    model = Colours()

    def phi(pixels):
        means = pixels.astype(np.float64).mean((-3, -2)) / 255
        return np.maximum(means[..., [0, 2]] - means.mean(-1, keepdims=True) + model.bias, 0)

    everything = phi(real()["pixels"].values)
    np.testing.assert_allclose(found["real_activation"].values, -np.sort(-everything, 0)[:2].T, rtol=1e-4)
    np.testing.assert_allclose(found["mean_activation"].values, everything.mean(0), rtol=1e-4)
    for unit in range(2):
        np.testing.assert_allclose(
            found["activation"].values[:, unit], phi(found["pixels"].values[:, unit])[..., unit], rtol=1e-4, atol=1e-6
        )
    best = found["activation"].max("sample")
    np.testing.assert_array_equal(found["exceeds"].values, best.values > everything.max(0))
    # the search's own loss is of what is not yet rounded to pixels
    least = found["loss"].min("iterate").values
    np.testing.assert_allclose(-least, found["activation"].sel(condition=FOUND).values, atol=2e-3)
    np.testing.assert_allclose(
        found["prompt_activation"].values[:, 0], found["activation"].sel(condition=TEXT).mean("sample"), atol=2e-3
    )


def test_the_judge_sees_what_the_top_images_share(found):
    assert found["told"].values.tolist() == ["colour", "colour"]
    assert of_told(found, "common_value").values.tolist() == ["red", "blue"]
    assert of_told(found, "common_share").values.tolist() == [1, 1]
    np.testing.assert_allclose(of_told(found, "data_share").values, 1 / 3)
    judged = found["judged"].sel(attribute="colour")
    for unit, name in enumerate(("red", "blue")):
        for condition in CONDITIONS:
            of = judged.sel(condition=condition).values[unit]
            assert float(of_told(found, "recognised").sel(condition=condition)[unit]) == (of == name).mean()
            strongest = int(found["activation"].sel(condition=condition)[unit].values.argmax())
            assert bool(found["seen"].sel(condition=condition)[unit]) == (of[strongest] == name)


def test_another_text_is_of_another_image_and_from_the_same_noise(diffusion, found):
    for own, other in zip(found["prompt"].values, found["other_caption"].values, strict=True):
        assert other not in own
        assert other in {"an image of a red", "an image of a green", "an image of a blue"}
    still = replace(HOW, guidance=replace(HOW.guidance, iterations=0))
    null = neuron_pictures(diffusion, colours(), real(), still, seed=0)
    for name in (TEXT, OTHER):
        np.testing.assert_array_equal(null["pixels"].sel(condition=name), found["pixels"].sel(condition=name))
    # without a search there is nothing beyond the text, and without a judge nothing is told
    np.testing.assert_array_equal(null["pixels"].sel(condition=FOUND), null["pixels"].sel(condition=TEXT))
    assert "told" not in null


def test_a_picture_follows_from_its_unit_and_number_alone(diffusion, found):
    fewer = neuron_pictures(diffusion, colours(), real(), replace(HOW, samples=2, units=2), seed=0)
    assert fewer["unit"].values.tolist() == found["unit"].values.tolist()  # the third never changes
    for name in ("pixels", "seed", "loss", "activation"):
        np.testing.assert_array_equal(fewer[name].values, found[name].isel(sample=slice(2)).values)


def test_a_unit_behind_a_relu_that_is_0_at_the_start_stays_there(diffusion):
    dead = neuron_pictures(diffusion, colours(bias=-0.005), real(), HOW, seed=0)
    text, after = (dead["activation"].sel(condition=name).values for name in (TEXT, FOUND))
    assert (text == 0).any()
    np.testing.assert_array_equal(after[text == 0], 0)


def test_units_raise_the_logit_of_their_class_and_each_is_taken_once():
    weight = np.array([[3.0, 2.0, -9.0, 0.0], [4.0, 1.0, -9.0, 1.0]])
    features = np.array([[0, 0, 0, 1], [1, 1, 1, 1]], np.float32)
    numbers, classes, raised = chosen_units(weight, features, 2)
    assert list(zip(numbers.tolist(), classes.tolist(), raised.tolist(), strict=True)) == [(0, 0, 1.5), (1, 1, 0.5)]
    with pytest.raises(DataError, match="no unit that raises a logit changes over the images"):
        chosen_units(-np.abs(weight), features, 1)


def test_the_share_of_units_is_beside_that_of_texts_alone():
    told = headline(drawn_units())
    assert (told.value, told.versus_value, told.of) == (0.5, 0, 2)


@pytest.mark.parametrize("name", ["units", "samples", "top", "batch"])
def test_numbers_are_1_or_more(name):
    with pytest.raises(ParamError, match=f"{name} = 0, expected 1 or more"):
        replace(HOW, **{name: 0})


@pytest.mark.misfits
def test_what_cannot_be_done_is_said(diffusion):
    with pytest.raises(DataError, match="2 images, but the 2 that activate a unit most are named"):
        neuron_pictures(diffusion, colours(), real(2), HOW, seed=0)
    one = real().isel(image=slice(0, None, 3))
    with pytest.raises(DataError, match="all images have one of the captions an image of a red, so that there is no"):
        neuron_pictures(diffusion, colours(), one, HOW, seed=0)
    with pytest.raises(ModelError, match="takes images of any size"):
        neuron_pictures(diffusion, replace(colours(), size=None), real(), HOW, seed=0)
