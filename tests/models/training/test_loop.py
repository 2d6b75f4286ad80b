"""The training loop: its schedule, averages, evaluations and errors, on a GAN of two networks."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from toy_gan import PLAN, RATES, ToyGan

from optogram.errors import ModelError, ParamError
from optogram.models.training.average import Average
from optogram.models.training.loop import Evaluation, Plan, Recipe, descend, train
from optogram.models.training.randomness import epoch_draw, step_draw


def test_the_schedule_is_its_definition():
    plan = Plan(steps=8, batch=1, seed=0, warmup=4)
    half = math.sqrt(0.5) / 2
    expected = [0.25, 0.5, 0.75, 1.0, 1.0, 0.5 + half, 0.5, 0.5 - half]
    assert [plan.share(step) for step in range(8)] == pytest.approx(expected, abs=1e-12)
    constant = replace(plan, decay="none")
    assert [constant.share(step) for step in range(8)] == [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]
    assert [Plan(steps=2, batch=1, seed=0).share(step) for step in range(2)] == pytest.approx([1, 0.5])


def test_each_optimizer_has_its_own_rate_times_the_share():
    class Watched(ToyGan):
        rates: list = []  # noqa: RUF012

        def step(self, batch):
            self.rates.append([self.optimizers[name].param_groups[0]["lr"] for name in RATES])
            return super().step(batch)

    train(Watched(), PLAN)
    low, high = RATES.values()
    assert Watched.rates == [[low / 2, high / 2]] + [[low, high]] * 11


def test_averages_are_their_definition():
    """decay(k) = min(decay, (1 + k) / (10 + k)), in float64; statistics of the batch norm are copied."""
    task, means = ToyGan(), []
    network = task.networks["generator"]
    mean = [w.detach().double() for w in network.parameters()]

    def follow(done, *_):
        step = done // PLAN.batch - 1
        if step >= 0:
            decay = min(0.7, (1 + step) / (10 + step))
            for at, w in enumerate(network.parameters()):
                mean[at] = decay * mean[at] + (1 - decay) * w.detach().double()
            means.append(decay)

    train(task, replace(PLAN, steps=40), progress=follow)
    assert means[0] == 0.1
    assert means[-1] == 0.7
    found = task.averages["generator"].network
    for literal, w, now in zip(mean, found.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(w.double(), literal, atol=1e-6, rtol=1e-5)
        assert not torch.equal(w, now)
    assert all(torch.equal(a, b) for a, b in zip(found.buffers(), network.buffers(), strict=True))
    assert not found.training
    assert not any(w.requires_grad for w in found.parameters())


def test_two_runs_give_the_same_bytes_and_leave_torch_as_it_was():
    """A dropout draws from torch's own generator, whatever its state."""
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        task = ToyGan()
        before = torch.get_rng_state()
        states.append(task.state(train(task, PLAN)))
        assert torch.equal(torch.get_rng_state(), before)
        assert not torch.are_deterministic_algorithms_enabled()
    assert states[0] == states[1]
    other = ToyGan()
    assert other.state(train(other, replace(PLAN, seed=4))) != states[0], "the plan's seed is what dropout draws from"


def test_evaluations_come_when_they_are_due_and_change_nothing():
    plain, task, modes = ToyGan(), ToyGan(), []
    task.networks["discriminator"][1].eval()
    plain.networks["discriminator"][1].eval()

    def look():
        modes.append({module.training for network in task.networks.values() for module in network.modules()})
        assert not torch.is_grad_enabled()

    history, without = train(task, PLAN, evaluation=task.evaluation(told=look)), train(plain, PLAN)
    assert list(history.metrics) == [5, 10, 12]
    assert all(found["off"] > 0 for found in history.metrics.values())
    assert modes == [{False}] * 3
    assert task.networks["generator"].training
    assert not task.networks["discriminator"][1].training, "what was in eval mode is so still"
    assert without.losses == history.losses
    assert plain.state(without)[:2000] == task.state(history)[:2000]


def test_the_history_has_every_step_and_progress_tells_the_first_loss():
    task, told = ToyGan(), []
    history = train(task, PLAN, progress=lambda *said: told.append(said))
    assert [len(values) for values in history.losses.values()] == [12, 12]
    assert list(history.losses) == ["discriminator", "generator"]
    assert [done for done, *_ in told] == [16 * step for step in range(13)]
    assert {total for _, total, _ in told} == {192}
    assert math.isnan(told[0][2])
    assert [loss for *_, loss in told[1:]] == history.losses["discriminator"]


def test_a_loss_that_is_not_finite_names_the_step_and_the_fix(tmp_path):
    message = (
        r"the loss discriminator is nan at step 7 of 12\. Lower learning_rate \(now 0\.001, 0\.0022\) or raise warmup "
        r"\(now 2 steps\)\."
    )
    with pytest.raises(ModelError, match=message):
        train(ToyGan(breaks_at=7), PLAN, scratch=tmp_path)
    history = train(task := ToyGan(), PLAN, scratch=tmp_path)  # the checkpoint is of the step before
    assert history.steps == 12
    assert task.state(history) == (again := ToyGan()).state(train(again, PLAN))


def test_weights_that_the_last_step_broke_are_refused():
    task = ToyGan()
    task.optimizers["generator"].param_groups[0]["lr"] = math.inf
    with pytest.raises(ModelError, match=r"of the generator is not finite after the last step\. Lower learning_rate"):
        train(task, replace(PLAN, steps=1, warmup=0))


@pytest.mark.parametrize("clip", [None, 0.5, 1e9])
def test_descend_takes_the_clipped_gradient_and_drops_what_was_left(clip):
    network = nn.Linear(3, 1, bias=False)
    start = network.weight.detach().clone()
    network.weight.grad = torch.full_like(start, 100.0)
    slope = torch.tensor([[3.0, 0.0, 4.0]])
    descend((network.weight * slope).sum(), network, [torch.optim.SGD(network.parameters(), 1.0)], clip=clip)
    torch.testing.assert_close(network.weight.detach(), start - slope * (min(1, clip / 5) if clip else 1))


def test_draws_follow_from_their_numbers_alone():
    drawn = [float(torch.rand(1, generator=draw(3, k))) for draw in (epoch_draw, step_draw) for k in range(50)]
    assert drawn == [float(torch.rand(1, generator=draw(3, k))) for draw in (epoch_draw, step_draw) for k in range(50)]
    assert len({*drawn}) == 100


def test_a_recipe_fits_itself_to_few_images():
    recipe = Recipe(epochs=2, batch=32, learning_rate=1e-3, weight_decay=0.1, warmup=100, seed=0)
    assert recipe.fitted(100_000) == recipe
    assert recipe.fitted(20) == replace(recipe, batch=20, warmup=1)
    assert recipe.fitted(1000) == replace(recipe, warmup=6)
    assert recipe.fitted(1000).plan(1000, 5) == Plan(steps=62, batch=32, seed=0, warmup=6, save_seconds=5)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Plan(steps=0, batch=1, seed=0), "steps = 0, expected 1 to inf"),
        (lambda: Plan(steps=2, batch=0, seed=0), "batch = 0"),
        (lambda: Plan(steps=2, batch=1, seed=0, warmup=3), "warmup = 3, expected 0 to 2"),
        (lambda: Evaluation(0, dict), "every = 0"),
        (lambda: Average(nn.Linear(1, 1), 1.0), r"decay of an average = 1\.0, expected 0 to less than 1"),
    ],
)
def test_bad_numbers_are_named(make, named):
    with pytest.raises(ParamError, match=named):
        make()
