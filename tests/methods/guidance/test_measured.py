"""Counterfactuals of a planted classifier, drawn by a tiny diffusion model, beside their controls."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_diffusion import tiny_diffusion
from torch import nn

from optogram.data.scenes import Scenes
from optogram.errors import DataError
from optogram.guidance.inversion import NullText
from optogram.guidance.options import Guidance
from optogram.methods.guidance.conditions import CONDITIONS, FOUND, PIXELS, SWAPPED, WRONG, agreed_flips
from optogram.methods.guidance.controls import on_pixels
from optogram.methods.guidance.counterfactuals import Candidates, Kept
from optogram.methods.guidance.masked import Masking
from optogram.methods.guidance.measured import Search, Seers, as_classes, headline, measured
from optogram.methods.image_objectives import LogProbability
from optogram.models.generative.codecs import fit_patches
from optogram.models.loading.classifiers import Classifier
from optogram.models.loading.specs import UnitRange

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "white", "black")
TONES = torch.tensor(
    [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0.6, 0, 0.8], [1, 0.6, 0], [1, 1, 1], [0, 0, 0]]
).float()


class Tones(nn.Module):
    """Sees the colour that the pictures' middle is nearest to."""

    def __init__(self, sharp=6.0):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(sharp))

    def forward(self, images):
        middle = images[:, :, 8:24, 8:24].mean((2, 3))
        return -self.scale * (middle[:, None] - TONES).square().sum(2)


def seer(sharp=6.0):
    model = Tones(sharp).eval().requires_grad_(False)
    return Classifier(model, UnitRange(), (0.0,) * 3, (1.0,) * 3, (32, 32), COLOURS, "colour")


@pytest.fixture(scope="module")
def images():
    found = Scenes("single", 60, seed=0, size=32).read(0, 60)
    label = found["label"].copy()
    pixels = torch.from_numpy(found["pixels"].values).permute(0, 3, 1, 2).float() / 255
    label[:, 1] = seer().model(pixels).argmax(1).numpy()  # what the planted classifier sees is right
    return found.assign(label=label).assign_attrs(class_attribute="colour")


SEARCH = Search(
    guidance=Guidance(steps=4, iterations=6, latents_rate=0.1, states_rate=0.1),
    kept=Kept(pixels=20.0, encoded=0.0, dilate=3),
    images=4,
    least=-100.0,
    repeats=2,
)


@pytest.fixture(scope="module")
def found(images):
    said = []
    seers = Seers(seer(), {"other": seer(3.0)})
    made = measured(
        tiny_diffusion(), images, seers, SEARCH, seed=1, progress=lambda done, total: said.append((done, total))
    )
    assert said[-1] == (56, 56), "of the search and of that for another class"
    return made


def test_the_search_raises_the_target_above_its_start(found):
    after = found["target_after"]
    assert (after.sel(condition=FOUND) > after.sel(condition=SWAPPED)).all()
    assert (found["loss"].min("iterate") < found["loss"][0]).all()
    np.testing.assert_allclose(
        -np.log(after.sel(condition=SWAPPED)), found["loss"][0], atol=0.02, err_msg="but for 8 bits"
    )


def test_a_search_for_another_class_does_not_raise_the_target(found):
    after = found["target_after"]
    assert float(after.sel(condition=WRONG).mean()) < float(after.sel(condition=FOUND).mean())


def test_pixels_alone_flip_and_change_little(found):
    assert bool(found["flip"].sel(condition=PIXELS).any())
    far = found["l1"].mean("image")
    assert float(far.sel(condition=PIXELS)) < float(far.sel(condition=FOUND))


def test_what_is_told_of_a_picture_is_of_the_stored_bytes(found):
    pixels = torch.from_numpy(found["pixels"].sel(condition=FOUND).values).permute(0, 3, 1, 2).float() / 255
    p = seer().model(pixels).softmax(1).gather(1, torch.from_numpy(found["target"].values)[:, None])[:, 0]
    np.testing.assert_allclose(found["target_after"].sel(condition=FOUND), p, atol=1e-5)
    change = np.abs(pixels.numpy() - np.moveaxis(found["original"].values, 3, 1) / 255)
    np.testing.assert_allclose(found["l1"].sel(condition=FOUND), change.mean((1, 2, 3)), atol=1e-5)


def test_the_headline_is_what_all_agree_on(found):
    told, agreed = headline(found), agreed_flips(found)
    label = found["other_label"].sel(model="other")
    np.testing.assert_array_equal(agreed, found["flip"] & (label == found["target"]))
    assert told.value == float(agreed.sel(condition=FOUND).mean())
    assert told.versus_value == float(agreed.sel(condition=SWAPPED).mean())
    assert found.condition.values.tolist() == [*CONDITIONS]


def test_the_same_bytes_again_and_with_fewer_images(images, found):
    seers = Seers(seer(), {"other": seer(3.0)})
    again = measured(tiny_diffusion(), images, seers, SEARCH, seed=1)
    assert again.identical(found)


def test_inversions_that_failed_are_said_and_left_out(images, capsys):
    run = replace(SEARCH, guidance=Guidance(steps=4, iterations=0))
    whole = measured(tiny_diffusion(), images, Seers(seer(), {}), run, seed=1)
    bound = float(np.sort(whole["inversion_psnr"])[1]) + 1e-4
    part = measured(tiny_diffusion(), images, Seers(seer(), {}), replace(run, least=bound), seed=1)
    kept = whole["inversion_psnr"].values >= bound
    assert part["image"].values.tolist() == whole["image"].values[kept].tolist()
    assert part.attrs["chosen"] == 4
    np.testing.assert_array_equal(part["pixels"], whole["pixels"].values[:, kept])
    assert "2 of 4 inversions have a PSNR below" in capsys.readouterr().err
    with pytest.raises(DataError, match="no inversion has a PSNR of 99 dB"):
        measured(tiny_diffusion(), images, Seers(seer(), {}), replace(run, least=99.0), seed=1)


def test_the_candidate_of_the_least_loss_starts(images):
    run = replace(SEARCH, guidance=Guidance(steps=4, scale=2.0, iterations=0), null_text=NullText(2))
    losses = {}
    for name, candidates in {
        "plain": Candidates(),
        "injected": Candidates((0.5,)),
        "blended": Candidates((0.0,), (0.5,)),
        "all": Candidates((0.0, 0.5), (0.0, 0.5)),
    }.items():
        made = measured(tiny_diffusion(), images, Seers(seer(), {}), replace(run, candidates=candidates), seed=1)
        losses[name] = (made["loss"] + made["distance"])[0].values
    alone = np.stack([losses[name] for name in ("plain", "injected", "blended")])
    assert (losses["all"] <= alone.min(0) + 1e-4).all()
    assert not np.allclose(losses["plain"], losses["injected"])
    assert not np.allclose(losses["plain"], losses["blended"])


def test_masks_come_from_attention_where_there_are_none(images):
    bare = images.drop_vars("mask")
    run = replace(SEARCH, guidance=Guidance(steps=4, iterations=0))
    with pytest.raises(DataError, match="no masks"):
        measured(tiny_diffusion(), bare, Seers(seer(), {}), run, seed=1)
    made = measured(tiny_diffusion(), bare, Seers(seer(), {}), replace(run, masking=Masking("attention")), seed=1)
    assert 0 < float(made["mask"].mean()) < 1


def test_pixels_alone_lower_the_loss_to_the_best_iterate():
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    codec = fit_patches((images.permute(0, 2, 3, 1) * 255).byte().numpy(), factor=4, channels=8)
    asked = LogProbability(seer(), torch.tensor([0, 1, 2]))
    rows = torch.arange(3)
    before = asked(images, rows)
    changed = on_pixels(images, asked, codec, iterations=10)
    assert (asked(changed, rows) < before).all()
    assert torch.equal(on_pixels(images, asked, codec, iterations=0), images)


def test_models_are_matched_by_the_names_of_their_classes():
    assert as_classes(np.array([0, 2, 1, -1]), ("a", "b", "c"), ("c", "a"), "it").tolist() == [1, 0, -1, -1]
    with pytest.raises(DataError, match="it has the classes x, none of which is among a, b"):
        as_classes(np.array([0]), ("x",), ("a", "b"), "it")
