"""Guidance: pictures optimised through all steps, against a literal transcription of Algorithm 1."""

from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from tiny_diffusion import tiny_diffusion, tiny_transformer

from optogram.errors import ParamError, ShapeError
from optogram.guidance.engine import DIVERGED, DONE, STOPPED, guide
from optogram.guidance.options import COUNTERFACTUALS, DISAGREEMENT, Guidance
from optogram.guidance.trajectory import Blend, Start, Trajectory, graph_bytes
from optogram.guidance.views import views
from optogram.models.generative.sampling import denoise

PROMPTS = ["a red circle", "two small green squares", "a blue star on snow"]


class Redder:
    """Asks for pictures whose red is near a level of each image's own."""

    size = (32, 32)

    def __init__(self, levels):
        self.levels = torch.tensor(levels)

    def __call__(self, images, rows):
        return (images[:, 0].mean((1, 2)) - self.levels[rows]).square()


class Near:
    """How far latents are from zero."""

    def __call__(self, latents, images, rows):
        return 0.01 * latents.square().mean((1, 2, 3)) + 0.02 * images.square().mean((1, 2, 3))


LEVELS = [0.2, 0.9, 0.6]
OPTIONS = Guidance(steps=4, scale=2.0, iterations=3, latents_rate=0.02, states_rate=0.05, null_rate=0.03)


@pytest.fixture(scope="module")
def diffusion():
    return tiny_diffusion()


def start_of(diffusion, count=3, **changed):
    return Start(diffusion.noise(range(count)), diffusion.states(PROMPTS[:count]), **changed)


def literal(diffusion, z_start, states, options, objective, distance, row):
    """Algorithm 1 of one image, step by step, as the published code fills it in; the best iterate and its loss."""
    schedule, steps = diffusion.schedule, options.steps
    z = z_start.clone().requires_grad_()
    told = [states.clone().requires_grad_() for _ in range(steps)]
    null = [diffusion.states([""]).clone().requires_grad_() for _ in range(steps)]
    rows = torch.tensor([row])
    adam = torch.optim.Adam(
        [
            {"params": [z], "lr": options.latents_rate},
            {"params": told, "lr": options.states_rate},
            {"params": null, "lr": options.null_rate},
        ]
    )
    found = []
    for _ in range(options.iterations + 1):
        x, cleans = z, []
        mixes = schedule.mixes(steps)
        for at in range(steps):
            now, then = mixes[at], mixes[at + 1]
            time = torch.tensor([now.time])
            bound = diffusion.denoiser(x, time, told[at])
            free = diffusion.denoiser(x, time, null[at])
            prediction = free + options.scale * (bound - free)
            clean, noise = schedule.parts(x, prediction, now.alpha, now.sigma)
            cleans.append(clean)
            x = then.alpha * clean + then.sigma * noise
        last = [*cleans[-3:-1], x]
        pictures = [diffusion.codec.decode(one).clamp(0, 1) for one in last]
        losses = [objective(p, rows) + distance(c, p, rows) for c, p in zip(last, pictures, strict=True)]
        found.append((float(losses[-1].detach()), pictures[-1].detach(), z.detach().clone()))
        loss = losses[0] / 6 + 2 * losses[1] / 6 + 3 * losses[2] / 6
        adam.zero_grad()
        loss.sum().backward()
        if options.clip is not None:
            for group in ([z], told, null):
                largest = max(float(one.grad.abs().max()) for one in group)
                for one in group:
                    one.grad.mul_(min(1.0, options.clip / largest))
        adam.step()
        if options.renormalised:
            with torch.no_grad():
                z.mul_(z_start.norm() / z.norm())
    return min(found, key=lambda each: each[0]), [loss for loss, _, _ in found]


@pytest.mark.parametrize("clip", [None, 1e-4])
def test_all_images_at_once_are_what_algorithm_1_gives_one_by_one(diffusion, clip):
    options, start = replace(OPTIONS, clip=clip), start_of(diffusion)
    found = guide(diffusion, start, Redder(LEVELS), options, seeds=[0, 1, 2], distance=Near(), batch=3)
    for row in range(3):
        (_, picture, z), losses = literal(
            diffusion, start.latents[row : row + 1], start.states[row : row + 1], options, Redder(LEVELS), Near(), row
        )
        np.testing.assert_allclose(found.loss[:, row] + found.distance[:, row], losses, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found.images[row], picture[0], atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(found.latents[row], z[0], atol=1e-4, rtol=1e-3)
    assert found.status == [DONE] * 3
    assert (found.best > 0).all()


def test_losses_fall_and_the_start_is_what_is_drawn_without_optimisation(diffusion):
    start = start_of(diffusion)
    found = guide(diffusion, start, Redder(LEVELS), replace(OPTIONS, iterations=8), seeds=[0, 1, 2], batch=4)
    assert (found.loss.min(0) < 0.7 * found.loss[0]).all()
    null = diffusion.states([""]).expand(3, -1, -1)
    drawn = denoise(diffusion, start.latents, start.states, null, steps=4, scale=2.0)
    red = diffusion.codec.decode(drawn).clamp(0, 1)[:, 0].mean((1, 2))
    np.testing.assert_allclose(found.loss[0], (red - torch.tensor(LEVELS)).square(), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(found.first, diffusion.codec.decode(drawn).clamp(0, 1), atol=1e-5, rtol=1e-4)


def test_what_was_found_draws_the_picture_that_is_given(diffusion):
    found = guide(diffusion, start_of(diffusion), Redder(LEVELS), OPTIONS, seeds=[0, 1, 2], batch=3)
    trajectory = Trajectory(diffusion, 4, 2.0)
    with torch.no_grad():
        (clean,) = trajectory.cleans(found.latents, found.states, found.null, torch.arange(3))
    torch.testing.assert_close(diffusion.codec.decode(clean).clamp(0, 1), found.images, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("model", [tiny_diffusion, tiny_transformer])
def test_gradients_are_to_the_bit_those_without_checkpoints(model):
    """A step bound too late would be run again with the last one's values: the same loss, another gradient."""
    diffusion = model()
    start, trajectory = start_of(diffusion, 2), Trajectory(diffusion, 5, 3.0)
    gradients = []
    for checkpointed in (0, 3, 5):
        leaves = [
            start.latents.clone().requires_grad_(),
            start.states.repeat(5, 1, 1, 1).requires_grad_(),
            diffusion.states([""]).repeat(5, 2, 1, 1).requires_grad_(),
        ]
        cleans = trajectory.cleans(*leaves, torch.arange(2), finals=3, checkpointed=checkpointed)
        assert len(cleans) == 3
        sum(clean.square().sum() for clean in cleans).backward()
        gradients.append([leaf.grad for leaf in leaves])
    for one, other in zip(gradients[0], gradients[1], strict=True):
        assert torch.equal(one, other)
    for one, other in zip(gradients[0], gradients[2], strict=True):
        assert torch.equal(one, other)
        assert one.abs().max() > 0


def test_little_memory_gives_the_same_bytes(diffusion):
    run = partial(guide, diffusion, start_of(diffusion), Redder(LEVELS), OPTIONS, seeds=[0, 1, 2], batch=3)
    little, much = run(memory=1), run(memory=1 << 40)
    assert torch.equal(little.images, much.images)
    trajectory, start = Trajectory(diffusion, 4, 2.0), start_of(diffusion)
    given = (start.latents, start.states.repeat(4, 1, 1, 1), diffusion.states([""]).repeat(4, 3, 1, 1), torch.arange(3))
    counts = [trajectory.checkpointed(*given, memory) for memory in (1, 20_000_000, 1 << 40)]
    assert counts[0] == 3
    assert counts[2] == 0


def test_bytes_of_a_graph_are_those_of_what_is_kept():
    x = torch.ones(1000, requires_grad=True)
    assert graph_bytes(lambda x: (x.exp(), x.exp()), x) == 2 * 4000  # the results themselves
    weight = torch.nn.Parameter(torch.ones(1000), requires_grad=False)
    assert graph_bytes(lambda x: x * weight, x) == 0


@pytest.mark.parametrize("beside", [[0], [2, 0], [0, 1, 2]])
def test_an_image_does_not_depend_on_what_is_beside_it(diffusion, beside):
    """Whether it is alone, in another place, or waits for one that stops early."""
    options = replace(OPTIONS, crops=2, noise=0.05, stop=0.0005)
    start, levels = start_of(diffusion), [0.2, 0.9, 0.55]
    alone = guide(
        diffusion,
        Start(start.latents[:1], start.states[:1]),
        Redder(levels[:1]),
        options,
        seeds=[7],
        batch=2,
    )
    rows = torch.tensor(beside)
    found = guide(
        diffusion,
        Start(start.latents[rows], start.states[rows]),
        Redder([levels[row] for row in beside]),
        options,
        seeds=[7 + row for row in beside],
        batch=2,
    )
    at = beside.index(0)
    assert torch.equal(found.images[at], alone.images[0])
    np.testing.assert_array_equal(found.loss[:, at], alone.loss[:, 0])


def test_an_image_stops_when_it_is_good_enough(diffusion):
    start = start_of(diffusion)
    plain = guide(diffusion, start, Redder(LEVELS), OPTIONS, seeds=[0, 1, 2], batch=3)
    bound = float(np.sort(plain.loss[0])[1])
    found = guide(diffusion, start, Redder(LEVELS), replace(OPTIONS, stop=bound), seeds=[0, 1, 2], batch=3)
    early = plain.loss[0] <= bound
    assert early.sum() == 2
    assert [found.status[row] == STOPPED for row in np.flatnonzero(early)] == [True, True]
    assert np.isnan(found.loss[1:, early]).all()
    assert (found.best[early] == 0).all()


def test_a_diverged_image_harms_no_other(diffusion):
    start = start_of(diffusion)
    bad = start.latents.clone()
    bad[1] = torch.nan
    said = []
    found = guide(
        diffusion,
        replace(start, latents=bad),
        Redder(LEVELS),
        OPTIONS,
        seeds=[0, 1, 2],
        batch=3,
        progress=lambda done, total: said.append((done, total)),
    )
    good = guide(diffusion, start, Redder(LEVELS), OPTIONS, seeds=[0, 1, 2], batch=3)
    assert found.status == [DONE, DIVERGED, DONE]
    assert torch.equal(found.images[[0, 2]], good.images[[0, 2]])
    assert found.images[1].isnan().all()
    assert said[-1] == (12, 12)


def test_what_fails_on_the_way_keeps_the_best_until_then(diffusion):
    class Breaking(Redder):
        def __call__(self, images, rows):
            loss = super().__call__(images, rows)
            return torch.where((rows == 1) & (loss < self.bound), torch.full_like(loss, torch.nan), loss)

    start, asked = start_of(diffusion), Breaking(LEVELS)
    plain = guide(diffusion, start, Redder(LEVELS), OPTIONS, seeds=[0, 1, 2], batch=3)
    asked.bound = plain.loss[:, 1].min() + 1e-7
    found = guide(diffusion, start, asked, OPTIONS, seeds=[0, 1, 2], batch=3)
    assert found.status[1] == DIVERGED
    assert found.images[1].isfinite().all()
    assert torch.equal(found.images[0], plain.images[0])


def test_what_has_no_rate_stays(diffusion):
    options = replace(OPTIONS, states_rate=0.0, null_rate=0.0)
    start = start_of(diffusion)
    found = guide(diffusion, start, Redder(LEVELS), options, seeds=[0, 1, 2], batch=3)
    assert torch.equal(found.states, start.states.expand(4, -1, -1, -1))
    assert not torch.equal(found.latents, start.latents)
    torch.testing.assert_close(found.latents.flatten(1).norm(dim=1), start.latents.flatten(1).norm(dim=1))


def test_the_cosine_falls_for_each_rate_by_the_same_share():
    """One minimum for all rates would let that of z_T rise."""
    shares = [DISAGREEMENT.share(at) for at in range(15)]
    assert shares[0] == 1
    assert shares[-1] == pytest.approx(0.01)
    assert all(one > other for one, other in pairwise(shares))
    assert {COUNTERFACTUALS.share(at) for at in range(20)} == {1.0}


def test_gradients_of_the_last_steps_alone_leave_the_first_states(diffusion):
    start = start_of(diffusion)
    found = guide(diffusion, start, Redder(LEVELS), replace(OPTIONS, differentiated=2), seeds=[0, 1, 2], batch=3)
    assert torch.equal(found.latents, start.latents)
    assert torch.equal(found.states[:2], start.states.expand(2, -1, -1, -1))
    assert (found.loss.min(0) < found.loss[0]).all()


def test_originals_are_pasted_in_outside_of_the_mask(diffusion):
    start, originals = start_of(diffusion), diffusion.noise([9]).expand(3, -1, -1, -1)
    null = diffusion.states([""]).repeat(4, 3, 1, 1)
    blend = Blend(originals.expand(5, -1, -1, -1, -1), torch.zeros(3, 8, 8), torch.tensor([0.25, 0.25, 0.0]))
    with torch.no_grad():
        given = (start.latents, start.states.repeat(4, 1, 1, 1), null, torch.arange(3))
        (all_pasted,) = Trajectory(diffusion, 4, 2.0, blend=blend).cleans(*given)
        (none,) = Trajectory(diffusion, 4, 2.0, blend=replace(blend, mask=torch.ones(3, 8, 8))).cleans(*given)
        (plain,) = Trajectory(diffusion, 4, 2.0).cleans(*given)
        (from_there,) = Trajectory(diffusion, 4, 2.0).cleans(originals, *given[1:])
    torch.testing.assert_close(all_pasted[:2], from_there[:2])
    torch.testing.assert_close(all_pasted[2], plain[2])
    torch.testing.assert_close(none, plain)


def test_the_noisiest_steps_can_be_left_out(diffusion):
    start = start_of(diffusion)
    null = diffusion.states([""]).repeat(3, 3, 1, 1)
    with torch.no_grad():
        (found,) = Trajectory(diffusion, 4, 2.0, first=1).cleans(
            start.latents, start.states.repeat(3, 1, 1, 1), null, torch.arange(3)
        )
    z, mixes = start.latents, diffusion.schedule.mixes(4)
    for now, then in pairwise(mixes[1:]):
        z = diffusion.schedule.step(z, diffusion.predict(z, now.time, start.states, null[0], 2.0), now, then)
    torch.testing.assert_close(found, z)


def test_views_are_crops_of_the_sides_that_the_code_gives():
    generator = torch.Generator().manual_seed(3)
    ramp = torch.arange(32.0).expand(1, 1, 3, 32, 32)
    seen = views(ramp, [generator], count=200, size=(16, 16), noise=0.0)
    assert seen.shape == (1, 200, 3, 16, 16)
    spans = (seen[0, :, 0, 0, -1] - seen[0, :, 0, 0, 0]) / 15 * 16  # of the ramp, in pixels
    draws = np.random.default_rng(0).random(20000) ** 0.3 * 16 + 16
    np.testing.assert_allclose(spans.mean(), draws.mean(), atol=0.6)
    assert spans.min() >= 15.9
    assert spans.max() <= 32.1


def test_noise_and_crops_are_an_image_s_own():
    pictures = torch.rand(2, 3, 3, 24, 24)
    both = views(pictures, [torch.Generator().manual_seed(s) for s in (1, 2)], count=3, size=(16, 16), noise=0.1)
    second = views(pictures[1:], [torch.Generator().manual_seed(2)], count=3, size=(16, 16), noise=0.1)
    assert torch.equal(both[1], second[0])
    whole = views(pictures, [torch.Generator().manual_seed(s) for s in (1, 2)], count=1, size=(16, 16), noise=0.0)
    assert torch.equal(whole, pictures)


@pytest.mark.misfits
def test_slips_are_said(diffusion):
    start = start_of(diffusion)
    with pytest.raises(ShapeError, match="3 images, but 2 seeds"):
        guide(diffusion, start, Redder(LEVELS), OPTIONS, seeds=[0, 1])
    with pytest.raises(ParamError, match="batch = 0"):
        guide(diffusion, start, Redder(LEVELS), OPTIONS, seeds=[0, 1, 2], batch=0)
    with pytest.raises(ShapeError, match="2 rows of states"):
        Start(start.latents, start.states[:2])
    with pytest.raises(ShapeError, match="states of 3 steps, but 4 are taken"):
        guide(diffusion, replace(start, states=start.states.repeat(3, 1, 1, 1)), Redder(LEVELS), OPTIONS, seeds=[0] * 3)
    with pytest.raises(ParamError, match="crops = 0"):
        Guidance(crops=0)
    with pytest.raises(ParamError, match="states_rate = -1"):
        Guidance(states_rate=-1.0)
    with pytest.raises(ParamError, match="clip = 0"):
        Guidance(clip=0.0)
    with pytest.raises(ParamError, match="4 of 4 steps are left out"):
        guide(diffusion, replace(start, first=4), Redder(LEVELS), OPTIONS, seeds=[0, 1, 2])
