"""Training a judge: it learns what is planted, gives the same bytes twice and after a resume, and refuses bad input."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from planted_bars import TINY, VALUES, bars

from optogram.data.scenes import Scenes
from optogram.errors import DataError, ModelError, ParamError
from optogram.models.judging.network import WINDOW
from optogram.models.training.judge import (
    NONE,
    UNKNOWN,
    JudgeTraining,
    _attributes,
    _centres,
    _JudgeTask,
    _loss_of_values,
    train_judge,
)
from optogram.models.training.strangers import Strangers

SHORT = replace(TINY, steps=12, warmup=2)


@pytest.fixture(scope="module")
def images():
    return bars(160)


@pytest.fixture(scope="module")
def judge(images):
    return train_judge(images, TINY, seed=1, device="cpu")[0]


def weights(judge):
    return b"".join(w.numpy().tobytes() for w in judge.network.state_dict().values())


def train(images, scratch=None, tell=None, save_seconds=30.0, seed=3, **changed):
    others = {"scratch": scratch, "progress": tell, "save_seconds": save_seconds, "device": "cpu"}
    return train_judge(images, replace(SHORT, **changed), seed=seed, **others)[0]


def test_it_learns_what_is_planted(judge):
    fresh = bars(200, seed=9)
    found = judge.parse(fresh["pixels"].values)
    right = (found["value"].values == fresh["label"].values).mean(0)
    assert (right > 0.95).all(), dict(zip(VALUES, right, strict=True))
    assert (found["count"].values == fresh["label"].values[:, 2] + 1).mean() > 0.95
    assert ((found["mask"].values > 0) == (fresh["mask"].values > 0)).mean() > 0.98


def test_it_finds_nothing_where_nothing_is(judge):
    """Grounds of the renderer of the bars, which it has seen mirrored only; and noise."""
    rng = np.random.default_rng(2)
    ground = np.repeat([0, 1], 30)
    bare = np.array([40, 190])[ground][:, None, None, None] + rng.integers(-12, 13, (60, 32, 32, 1))
    found = judge.parse(np.repeat(bare, 3, 3).astype(np.uint8))
    assert found["found"].values.mean() < 0.05
    empty = ~found["found"].values
    assert (found["value"].values[empty][:, :4] == -1).all()
    assert (found["value"].values[:, 4] == ground).mean() > 0.95
    assert (found["probability"].values[empty][:, :4] == 0).all()


def test_two_runs_give_the_same_bytes_and_leave_torch_as_it_was(images):
    before = torch.get_rng_state(), torch.are_deterministic_algorithms_enabled()
    first, second = (train(images) for _ in range(2))
    assert weights(first) == weights(second)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.are_deterministic_algorithms_enabled() == before[1]
    assert weights(train(images, seed=4)) != weights(first)
    assert not first.network.training
    assert not any(w.requires_grad for w in first.network.parameters())


def test_a_run_that_is_cut_off_ends_with_the_same_bytes(images, tmp_path):
    class Killed(Exception):
        pass

    def kill(at):
        def tell(done, total, loss):
            if done == at * SHORT.batch:
                raise Killed

        return tell

    for at, seconds in ((1, 0), (5, 0), (9, 1e9)):
        with pytest.raises(Killed):
            train(images, tmp_path, kill(at), seconds)
    told = []
    resumed = train(images, tmp_path, lambda done, total, loss: told.append((done, loss)))
    assert told[0][0] == 4 * SHORT.batch
    assert math.isnan(told[0][1])
    assert weights(resumed) == weights(train(images))


def test_the_losses_of_all_steps_are_told(images):
    seen = []
    _, history = train_judge(images, SHORT, seed=3, device="cpu", progress=lambda *said: seen.append(said))
    losses = history.losses
    assert [*losses] == ["loss", "inside", "centre", *VALUES]
    assert losses["loss"] == [loss for *_, loss in seen[1:]]
    total = np.mean([losses[name] for name in VALUES], 0) + SHORT.maps * np.add(losses["inside"], losses["centre"])
    np.testing.assert_allclose(losses["loss"], total, rtol=1e-5)


@pytest.mark.parametrize("changed", [{"learning_rate": 2e-3}, {"strangers": Strangers(0.1, 0, 0)}, {"average": 0.5}])
def test_a_checkpoint_of_another_training_is_refused(images, tmp_path, changed):
    train(images, tmp_path, steps=2)
    with pytest.raises(ModelError, match="other parameters"):
        train(images, tmp_path, steps=2, **changed)


def task(images, training):
    attributes = _attributes(images)
    return _JudgeTask(train(images, steps=2).network, images, attributes, training, 0)


def test_a_batch_holds_scenes_and_strangers_with_their_targets(images):
    """Two in twenty are grounds, two clouds, two blobs, in this order behind the scenes."""
    training = replace(SHORT, batch=20, strangers=Strangers(0.1, 0.1, 0.1))
    learnt = task(images, training)
    first, again, other = learnt.batch(5), learnt.batch(5), learnt.batch(6)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.images, other.images)
    scenes, grounds, clouds, blobs = (slice(0, 14), slice(14, 16), slice(16, 18), slice(18, 20))
    assert (first.label[scenes] >= 0).all()
    assert first.inside[scenes].amax((1, 2)).tolist() == [1] * 14
    assert first.inside[14:18].max() == 0
    assert set(first.label[14:, 0].tolist()) == {NONE}
    assert set(first.label[14:, 1:4].flatten().tolist()) == {UNKNOWN}
    assert (first.label[grounds, 4] >= 0).all()
    assert (first.label[blobs, 4] >= 0).all()
    assert set(first.label[clouds, 4].tolist()) == {UNKNOWN}


def test_windows_lie_around_one_of_the_objects(images):
    """No further off than the jitter; and of two objects both are looked at."""
    training = replace(SHORT, batch=64, strangers=Strangers(0, 0, 0))
    batch = task(images, training).batch(0)
    below = []
    for inside, (y, x), label in zip(batch.inside, batch.middle, batch.label, strict=True):
        rows, columns = torch.nonzero(inside).T
        assert (((rows - y).abs() <= 6) & ((columns - x).abs() <= 6)).any()
        if label[2] == 1:
            below.append(bool(y > 15))
    assert 0.2 < np.mean(below) < 0.8
    assert WINDOW % 4 == 0


def test_middles_are_marked_by_gaussians_of_two_pixels(images):
    """The literal, pixel by pixel, of the object that is nearest."""
    masks = images["mask"].values[:6]
    for mask, found in zip(masks, _centres(torch.from_numpy(masks)).numpy(), strict=True):
        middles = [np.argwhere(mask == number).mean(0) for number in range(1, mask.max() + 1)]
        for y, x in np.ndindex(mask.shape):
            distance = min((y - down) ** 2 + (x - right) ** 2 for down, right in middles)
            assert found[y, x] == pytest.approx(math.exp(-distance / 8), abs=1e-5)


def test_what_is_no_object_is_taught_to_have_no_likely_shape():
    """The loss of a stranger is least where all values are equally likely."""
    label = torch.tensor([NONE, NONE])
    even, sure = torch.zeros(2, 4), torch.tensor([[5.0, 0, 0, 0]] * 2)
    assert _loss_of_values(even, label).item() == pytest.approx(math.log(4))
    assert _loss_of_values(sure, label) > _loss_of_values(even, label)
    assert _loss_of_values(sure, torch.tensor([UNKNOWN, UNKNOWN])) == 0
    mixed = _loss_of_values(sure, torch.tensor([0, UNKNOWN]))
    assert mixed.item() == pytest.approx(-torch.log_softmax(sure[0], 0)[0].item() / 2)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"steps": 0}, r"steps = 0"),
        ({"batch": 1}, r"batch = 1"),
        ({"warmup": 99}, r"warmup = 99, expected 0 to 12"),
        ({"learning_rate": 0.0}, r"learning_rate = 0.0"),
        ({"weight_decay": -1.0}, r"weight_decay = -1.0"),
        ({"average": 1.0}, r"decay of an average = 1.0"),
        ({"far": (8, 8)}, r"widths = \[8, 8\], expected three"),
        ({"hidden": 0}, r"expected three numbers above 0"),
    ],
)
def test_bad_hyperparameters_are_named(images, changed, named):
    with pytest.raises(ParamError, match=named):
        train(images, **changed)


def test_images_that_are_no_scenes_are_refused(images):
    with pytest.raises(DataError, match=r"no variable 'mask'"):
        train(images.drop_vars("mask"))
    blank = images.copy(deep=True)
    blank["mask"][3] = 0
    with pytest.raises(DataError, match=r"images without an object"):
        train(blank)
    with pytest.raises(DataError, match=r"none at all"):
        train(images.isel(image=[]))
    odd = images.isel(y=slice(0, 30), x=slice(0, 30))
    with pytest.raises(ParamError, match=r"size = 30, expected a multiple of 8"):
        train(odd)


def test_a_loss_that_is_not_finite_says_what_to_do(images):
    with pytest.raises(ModelError, match="Lower learning_rate"):
        train(images, learning_rate=0.99, weight_decay=900.0, steps=40)


def test_scenes_of_the_renderer_are_taken_as_they_are():
    scenes = Scenes("train", 64, 0).read(0, 64)
    found, _ = train_judge(scenes, replace(JudgeTraining(), steps=1, batch=8, warmup=0), seed=0, device="cpu")
    assert [*found.attributes] == ["shape", "colour", "texture", "size", "count", "position", "background"]
    assert found.size == 64
    assert sum(w.numel() for w in found.network.state_dict().values()) < 1_000_000, "2 MB in half precision"
