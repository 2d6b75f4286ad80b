"""The drawing loop against Adam written out, its independence of batch mates, and images that diverge."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optogram.errors import ParamError, ShapeError
from optogram.methods.visualisation.optimise import (
    Pixels,
    draw,
    draws,
    image_seed,
    jitter,
    jittered,
    l2_norm,
    recorded,
    total_variation,
)

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
SIZE = (5, 6)


def canvas(*seeds):
    return Pixels(seeds, SIZE, MEAN, STD)


def to_goal(goals):
    return lambda rgb, step: (rgb - goals).square().sum((1, 2, 3))


def literal_adam(start, gradient, low, high, steps, rate, betas, decay):
    """Kingma & Ba (2015), Algorithm 1, one image, clamped after each step."""
    x, m, v = start.copy(), np.zeros_like(start), np.zeros_like(start)
    for t in range(1, steps + 1):
        lr = rate * 0.5 * (1 + math.cos(math.pi * (t - 1) / steps)) if decay else rate
        g = gradient(x)
        m, v = betas[0] * m + (1 - betas[0]) * g, betas[1] * v + (1 - betas[1]) * g**2
        x = x - lr * (m / (1 - betas[0] ** t)) / (np.sqrt(v / (1 - betas[1] ** t)) + 1e-8)
        x = np.clip(x, low, high)
    return x


@pytest.mark.parametrize("decay", [False, True])
def test_draw_is_adam_on_clamped_pixels(decay):
    mean, std = (np.array(v)[:, None, None] for v in (MEAN, STD))
    goal = draws([9], (3, *SIZE), "uniform").numpy().astype(np.float64)
    low, high = np.broadcast_to(-mean / std, (3, *SIZE)), np.broadcast_to((1 - mean) / std, (3, *SIZE))
    start = np.clip(draws([4], (3, *SIZE), "normal")[0].numpy().astype(np.float64), low, high)
    expected = literal_adam(start, lambda x: 2 * (x * std + mean - goal[0]) * std, low, high, 7, 0.3, (0.5, 0.9), decay)
    found = draw(
        canvas(4), to_goal(torch.tensor(goal).float()), steps=7, learning_rate=0.3, betas=(0.5, 0.9), decay=decay
    )
    np.testing.assert_allclose(found.rgb[0].numpy(), expected * std + mean, atol=1e-5)


def test_an_image_does_not_depend_on_its_batch_mates():
    goals = draws([1, 2, 3], (3, *SIZE), "uniform")
    together = draw(canvas(5, 6, 7), to_goal(goals), steps=5, learning_rate=0.1)
    alone = draw(canvas(6), to_goal(goals[1:2]), steps=5, learning_rate=0.1)
    assert torch.equal(together.rgb[1], alone.rgb[0])
    assert torch.equal(together.loss[1], alone.loss[0])
    assert torch.equal(together.transparency[1], alone.transparency[0])


def test_a_diverging_image_is_stopped_and_the_others_are_unharmed():
    goals = draws([1, 2], (3, *SIZE), "uniform")

    def loss(rgb, step):
        scale = torch.tensor([1.0, math.nan if step >= 3 else 1.0])
        return to_goal(goals)(rgb, step) * scale

    found = draw(canvas(5, 6), loss, steps=8, learning_rate=0.1)
    well = draw(canvas(5), to_goal(goals[:1]), steps=8, learning_rate=0.1)
    short = draw(canvas(6), to_goal(goals[1:]), steps=3, learning_rate=0.1)
    assert found.diverged.tolist() == [-1, 3]
    assert torch.equal(found.rgb[0], well.rgb[0])
    assert torch.equal(found.rgb[1], short.rgb[0])
    assert found.loss[1].isfinite().all()
    assert (found.loss[1, 3:] == found.loss[1, 2]).all()


def test_a_gradient_that_is_not_finite_stops_an_image_too():
    # the root's slope at 0 is infinite although its value is finite
    found = draw(canvas(5), lambda rgb, step: (rgb * 0).sum((1, 2, 3)).sqrt(), steps=2, learning_rate=0.1)
    assert found.diverged.tolist() == [0]
    assert torch.equal(found.rgb, canvas(5).rgb().detach())


def test_transparency_is_largest_where_the_loss_looks():
    found = draw(canvas(5), lambda rgb, step: (rgb[:, :, 2, 3] - 1).square().sum(1), steps=4, learning_rate=0.01)
    assert found.transparency[0, 2, 3] == 1
    assert (found.transparency[0] > 0).sum() == 1


@given(steps=st.integers(1, 400), most=st.integers(2, 60))
@settings(max_examples=30, deadline=None)
def test_recorded_steps_are_few_sorted_and_hold_both_ends(steps, most):
    found = recorded(steps, most)
    assert len(found) == min(steps, most)
    assert found == sorted(set(found))
    assert (found[0], found[-1]) == (0, steps - 1)


def test_losses_are_recorded_at_the_steps_asked():
    seen = []
    found = draw(canvas(5), lambda rgb, step: seen.append(step) or rgb.sum((1, 2, 3)) * 0 + step, steps=6,
                 learning_rate=0.1, record=[0, 2, 5])  # fmt: skip
    assert found.loss.tolist() == [[0, 2, 5]]
    assert seen == list(range(6))


def test_seeds_are_of_the_name_alone_and_streams_differ():
    assert image_seed(0, "circle", 1) == image_seed(0, "circle", 1)
    assert len({image_seed(s, n, k) for s in (0, 1) for n in ("circle", "ring") for k in (0, 1)}) == 8
    assert torch.equal(draws([3, 4], (2,), "normal")[1], draws([4], (2,), "normal")[0])
    assert not torch.equal(draws([3], (9,), "uniform"), draws([3], (9,), "uniform", stream=1))


def test_jitter_stays_within_its_reach_and_reaches_all_of_it():
    found = jitter([1, 2], 400, (8, 16), 0.25)
    assert found.shape == (2, 400, 2)
    assert sorted(set(found[..., 0].flatten().tolist())) == list(range(-2, 3))
    assert sorted(set(found[..., 1].flatten().tolist())) == list(range(-4, 5))


def test_jittered_rolls_each_image_by_its_own_shift():
    rgb = torch.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5)
    found = jittered(rgb, torch.tensor([[1, 0], [0, -2]]))
    assert torch.equal(found[0, :, 1], rgb[0, :, 0])
    assert torch.equal(found[1, ..., 0], rgb[1, ..., 2])


def test_regularisers_match_their_formulas():
    images = draws([1, 2], (3, 4, 5), "normal").double()
    for image, tv, l2 in zip(images, total_variation(images), l2_norm(images), strict=True):
        x = image.numpy()
        steps = [x[:, :, 1:] - x[:, :, :-1], x[:, 1:] - x[:, :-1]]
        steps += [x[:, 1:, 1:] - x[:, :-1, :-1], x[:, 1:, :-1] - x[:, :-1, 1:]]
        assert float(tv) == pytest.approx(sum(np.linalg.norm(step) for step in steps))
        assert float(l2) == pytest.approx(np.linalg.norm(x))


def test_bad_arguments_are_named():
    with pytest.raises(ParamError, match="steps = 0"):
        draw(canvas(1), to_goal(0), steps=0, learning_rate=0.1)
    with pytest.raises(ParamError, match="learning_rate = nan"):
        draw(canvas(1), to_goal(0), steps=1, learning_rate=math.nan)
    with pytest.raises(ShapeError, match=r"expected \(2,\)"):
        draw(canvas(1, 2), lambda rgb, step: rgb.sum(), steps=1, learning_rate=0.1)
    with pytest.raises(ParamError, match=r"jitter = 0.7"):
        jitter([1], 2, SIZE, 0.7)
    with pytest.raises(ParamError, match="seeds are empty"):
        draws([], (2,), "normal")
