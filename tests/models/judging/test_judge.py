"""A judge: each picture is judged on its own, what is saved is what is loaded, and bad input is refused by name."""

import json
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from planted_bars import TINY, bars
from safetensors.torch import load_file, save_file

from optogram.errors import DataError, ModelError, ParamError, ShapeError
from optogram.models.judging.judge import BATCH, Judge, load_judge, save_judge
from optogram.models.judging.network import WINDOW, JudgeNetwork, Scout, windows
from optogram.models.judging.objects import MOST
from optogram.models.training.judge import train_judge


@pytest.fixture(scope="module")
def judge():
    return train_judge(bars(160), replace(TINY, steps=120), seed=1, device="cpu")[0]


@pytest.fixture(scope="module")
def pixels():
    """Bars, then noise, in which the map finds whatever it finds."""
    noise = np.random.default_rng(0).integers(0, 256, (30, 32, 32, 3), np.uint8)
    return np.concatenate([bars(60, seed=5)["pixels"].values, noise])


@pytest.fixture
def folder(judge, tmp_path):
    save_judge(judge, tmp_path / "judge")
    return tmp_path / "judge"


def test_what_is_judged_does_not_depend_on_what_is_beside_it(judge, pixels):
    whole = judge.parse(pixels)
    assert len(pixels) > 2 * BATCH
    assert whole["found"].values.any()
    for rows in ([3], [5, 4], [*range(7, 71)], [80, 2, 40]):
        alone = judge.parse(pixels[rows])
        for name in ("value", "probability", "found", "count", "box", "area", "mask"):
            assert np.array_equal(alone[name], whole[name][rows], equal_nan=name in ("box", "area")), name


def test_the_parts_of_a_judgement_say_the_same(judge, pixels):
    found = judge.parse(pixels)
    assert {name: str(found[name].dtype) for name in ("value", "count", "mask", "box", "area", "probability")} == {
        **{"value": "int16", "count": "int16", "mask": "uint8"},
        **dict.fromkeys(("box", "area", "probability"), "float32"),
    }
    assert found["box"].shape == (len(pixels), MOST, 4)
    for at in range(len(pixels)):
        one = found.isel(image=at)
        count = int(one["count"])
        assert bool(one["found"]) == (count > 0)
        assert np.isnan(one["area"].values).tolist() == [False] * count + [True] * (MOST - count)
        assert (
            np.bincount(one["mask"].values.ravel(), minlength=count + 1)[1:].tolist()
            == one["area"][:count].values.tolist()
        )
        for number, (top, left, bottom, right) in enumerate(one["box"].values[:count].astype(int), 1):
            y, x = np.nonzero(one["mask"].values == number)
            assert (y.min(), x.min(), y.max() + 1, x.max() + 1) == (top, left, bottom, right)
    total = found["probability"].sum("value").values
    np.testing.assert_allclose(total[:, 4], 1, rtol=1e-5)
    np.testing.assert_allclose(total[:, :4], np.repeat(found["found"].values[:, None], 4, 1), rtol=1e-5)
    for name in ("box", "area"):
        assert found[name].attrs["missing"]


def test_a_value_is_seen_when_its_probability_is_large_enough(judge, pixels):
    probability = judge.parse(pixels)["probability"].values
    for sure in (0.0, 0.5, 0.9, 1.0):
        value = replace(judge, sure=sure).parse(pixels)["value"].values
        best = probability.max(2)
        expected = np.where((best >= sure) & (best > 0), probability.argmax(2), -1)
        assert np.array_equal(value, expected)


def test_what_is_smaller_than_least_is_no_object(judge, pixels):
    few, many = (replace(judge, least=least).parse(pixels) for least in (1024, 1))
    assert not few["found"].values[:60].any()
    assert (few["value"].values[:60, :4] == -1).all()
    assert (many["count"].values >= few["count"].values).all()


def test_what_objects_have_is_the_mean_over_them_of_what_is_seen_in_their_windows(judge, pixels):
    """The literal: one object after the other."""
    found = judge.parse(pixels)
    several = np.flatnonzero(found["count"].values > 1)[:8]
    assert len(several) == 8
    for at in several:
        mask, seen = found["mask"].values[at], []
        for number in range(1, int(found["count"][at]) + 1):
            y, x = np.nonzero(mask == number)
            padded = np.pad(pixels[at] / 255, ((14, 14), (14, 14), (0, 0)), constant_values=0.5)
            top, left = round(y.mean()), round(x.mean())
            cut = torch.from_numpy(padded[top : top + WINDOW, left : left + WINDOW]).permute(2, 0, 1).float()
            seen.append([logits.softmax(1)[0].numpy() for logits in judge.network.glance(cut[None])])
        for attribute, values in enumerate(zip(*seen, strict=True)):
            mean = np.mean(values, 0)
            np.testing.assert_allclose(found["probability"].values[at, attribute, : len(mean)], mean, atol=1e-5)


def test_windows_are_cut_out_around_the_middle_and_grey_outside():
    images = torch.rand(2, 3, 40, 40)
    cut = windows(images, torch.tensor([1, 0, 1]), torch.tensor([[20, 18], [0, 39], [39, 39]]))
    assert cut.shape == (3, 3, WINDOW, WINDOW)
    assert torch.equal(cut[0], images[1, :, 6:34, 4:32])
    assert torch.equal(cut[1, :, 14:, :15], images[0, :, :14, 25:])
    assert cut[1, :, :14].unique().tolist() == [0.5]
    assert cut[2, :, 15:, 15:].unique().tolist() == [0.5]


def test_round_trip_in_half_precision(judge, folder, pixels):
    loaded = load_judge(folder, "cpu")
    assert not loaded.network.training
    assert all(w.dtype == torch.float32 and not w.requires_grad for w in loaded.network.parameters())
    for name, weight in judge.network.state_dict().items():
        expected = weight.half().float() if weight.is_floating_point() else weight
        assert torch.equal(loaded.network.state_dict()[name], expected), name
    assert replace(loaded, network=judge.network) == judge
    assert [*loaded.attributes] == [*judge.attributes], "their order counts"
    before, after = judge.parse(pixels[:60]), loaded.parse(pixels[:60])
    np.testing.assert_allclose(before["probability"], after["probability"], atol=0.05)
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_a_judge_that_is_saved_twice_has_the_same_bytes_and_overwrites_nothing(judge, folder, tmp_path):
    save_judge(load_judge(folder, "cpu"), tmp_path / "again")
    for name in ("config.json", "model.safetensors"):
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    with pytest.raises(ModelError, match="exists already"):
        save_judge(judge, folder)


def test_a_history_is_kept_beside_the_weights(judge, tmp_path):
    save_judge(judge, tmp_path / "judge", history={"steps": [1, 2]})
    assert json.loads((tmp_path / "judge/history.json").read_text()) == {"steps": [1, 2]}
    assert load_judge(tmp_path / "judge", "cpu").size == judge.size


def test_weights_that_half_precision_cannot_hold_are_refused(judge, tmp_path):
    large = replace(judge, network=deepcopy(judge.network))
    large.network.scout.heads[0].bias[0] = 1e6
    with pytest.raises(ModelError, match=r"scout\.heads\.0\.bias is too large for torch\.float16"):
        save_judge(large, tmp_path / "judge")
    save_judge(large, tmp_path / "judge", dtype=torch.float32)


def test_folders_that_are_no_judge_s_are_refused(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())

    def put(**changed):
        (folder / "config.json").write_text(json.dumps(config | changed))

    with pytest.raises(ModelError, match=r"is no model folder: config\.json is missing"):
        load_judge(tmp_path / "nothing")
    put(kind="classifier")
    with pytest.raises(ModelError, match="its kind is 'classifier', not 'judge'"):
        load_judge(folder)
    put(size=33)
    with pytest.raises(ModelError, match="expected a multiple of 8"):
        load_judge(folder)
    put(architecture={"far": [8, 8, 8]})
    with pytest.raises(ModelError, match=r"cannot be read"):
        load_judge(folder)
    put(architecture=config["architecture"] | {"hidden": 25})
    with pytest.raises(ModelError, match=r"tensor .* does not fit config\.json: expected shape .*25"):
        load_judge(folder)
    put(sure=1.5)
    with pytest.raises(ModelError, match=r"sure = 1.5"):
        load_judge(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"cannot be read"):
        load_judge(folder)


def test_weights_that_are_cut_off_or_of_another_judge_are_refused(folder):
    weights = load_file(folder / "model.safetensors")
    save_file({name: w for name, w in weights.items() if "heads.0.bias" not in name}, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"heads\.0\.bias does not fit .* found absent"):
        load_judge(folder)
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="cannot be read"):
        load_judge(folder)


@pytest.mark.misfits
def test_pictures_that_do_not_fit_are_refused(judge, pixels):
    for wrong in (pixels[0], pixels[:, :16], pixels / 255, pixels[..., :2]):
        with pytest.raises(ShapeError, match=r"expected uint8 \(image, 32, 32, 3\)"):
            judge.parse(wrong)
    with pytest.raises(DataError, match="no picture to judge"):
        judge.parse(pixels[:0])


def test_bad_settings_are_named(judge):
    with pytest.raises(ParamError, match=r"sure = -0.1"):
        replace(judge, sure=-0.1)
    with pytest.raises(ParamError, match=r"least = 0"):
        replace(judge, least=0)
    with pytest.raises(ParamError, match=r"size = 0, expected a multiple of 8"):
        Scout(0, [2], [8, 8, 8], 8)
    with pytest.raises(ParamError, match=r"widths = \[8, 8\]"):
        JudgeNetwork(32, {"shape": 2}, far=[8, 8, 8], near=[8, 8], hidden=8)


def test_attributes_are_told_by_the_network_that_sees_them():
    network = JudgeNetwork(
        32, {"count": 3, "shape": 5, "background": 2, "size": 4}, far=[8] * 3, near=[8] * 3, hidden=8
    )
    assert [head.out_features for head in network.scout.heads] == [3, 2]
    assert [head.out_features for head in network.glance.heads] == [5, 4]
    attributes = {
        name: tuple(map(str, range(n))) for name, n in (("count", 3), ("shape", 5), ("background", 2), ("size", 4))
    }
    judge = Judge(network.eval(), attributes, 32, least=1)
    found = judge.parse(np.zeros((2, 32, 32, 3), np.uint8))
    assert found["value_name"].sel(attribute="shape").values.tolist() == ["0", "1", "2", "3", "4"]
    assert found["probability"].shape == (2, 4, 5)
