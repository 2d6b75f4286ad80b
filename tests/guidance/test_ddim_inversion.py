"""Inversion: exact where DDIM inversion is, diffusers' steps and the published loop, an image for itself."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler
from tiny_diffusion import tiny_diffusion
from torch import nn

from optogram.errors import ParamError, ShapeError
from optogram.guidance.inversion import Exact, NullText, invert, up
from optogram.models.generative.schedules import Schedule

PROMPTS = ["a red star", "a blue ring on snow", "two squares at night"]
KINDS = {
    "epsilon": {"prediction_type": "epsilon"},
    "sample": {"prediction_type": "sample"},
    "v_prediction": {"prediction_type": "v_prediction"},
    "flow": {"_class_name": "FlowMatchEulerDiscreteScheduler"},
}
GAIN = 0.03
ASKED = {
    "steps": 5,
    "scale": 3.0,
    "below": 1,
    "batch": 4,
    "null_text": NullText(inner=10, learning_rate=0.1, tolerance=0.01, tolerance_growth=0.001),
}
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
CONFIGS = {
    "Stable Diffusion 1": {**SD, "steps_offset": 1, "set_alpha_to_one": False, "timestep_spacing": "leading"},
    "the tests' own": {"timestep_spacing": "trailing", "clip_sample": False},
}


class Known(nn.Module):
    """What predicts rightly for one noise that it knows; for flows, one velocity. DDIM inversion is exact for it.

    With a network it is nearly so: the noise is off by `GAIN` times what the network says.
    """

    def __init__(self, schedule, shape, network=None):
        super().__init__()
        self.schedule, self.network = schedule, network
        self.noise = torch.randn(1, *shape, generator=torch.Generator().manual_seed(3))

    def forward(self, z, times, states):
        noise = self.noise.expand_as(z)
        if self.network:
            noise = noise + GAIN * self.network(z, times, states)
        if self.schedule.flow:
            return noise
        alpha, sigma = self.schedule.at(times)
        return self.schedule.target((z - sigma * noise) / alpha, noise, alpha, sigma)


class Counted(nn.Module):
    """The real denoiser, which notes the states that it was asked for."""

    def __init__(self, denoiser):
        super().__init__()
        self.denoiser, self.asked = denoiser, []

    def forward(self, z, times, states):
        self.asked.append(states.detach().clone())
        return self.denoiser(z, times, states)


def drawable(diffusion, count=3):
    """Images in [0, 1] that the codec keeps, about its grey."""
    shape = (count, *diffusion.shape)
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(7))
    grey = diffusion.codec.decode(torch.zeros(1, *diffusion.shape))
    images = grey + 0.25 * (diffusion.codec.decode(latents) - grey)
    assert 0 < float(images.min()) < float(images.max()) < 1
    return images


def scheduled(diffusion, **config):
    """The model with another schedule, and a denoiser that is nearly a known one."""
    schedule = Schedule({**diffusion.schedule.config, **config})
    return replace(diffusion, schedule=schedule, denoiser=Known(schedule, diffusion.shape, diffusion.denoiser))


def psnr(found):
    return -10 * found.error.log10()


@pytest.fixture(scope="module")
def tiny():
    return tiny_diffusion()


@pytest.fixture(scope="module")
def near(tiny):
    return scheduled(tiny)


@pytest.fixture(scope="module")
def found(near):
    return invert(near, drawable(near), near.states(PROMPTS), **ASKED)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_exact_where_ddim_inversion_is(tiny, kind):
    given = scheduled(tiny, **KINDS[kind])
    known = Known(given.schedule, given.shape)
    given, images = replace(given, denoiser=known), drawable(given)
    found = invert(given, images, given.states(PROMPTS), steps=8, scale=1.0, below=1, batch=3)
    mixes = given.schedule.mixes(8)[1:]
    # z / alpha grows by what sigma / alpha grows by, times the noise; flows go along a line
    clean = given.codec.encode(images)
    assert len(found.trajectory) == len(mixes) == 8
    for place, mix in enumerate(mixes):
        literal = clean + mix.sigma * known.noise
        if kind != "flow":
            ratio = mix.sigma / mix.alpha - mixes[-1].sigma / mixes[-1].alpha
            literal = mix.alpha * (clean / mixes[-1].alpha + ratio * known.noise)
        torch.testing.assert_close(found.trajectory[place], literal, rtol=0, atol=1e-4)
    assert torch.equal(found.latents, found.trajectory[0])
    torch.testing.assert_close(found.images, images, rtol=0, atol=2e-4)
    assert float(found.error.max()) < 1e-8


@pytest.mark.parametrize("kind", KINDS)
def test_more_steps_bring_back_more(tiny, kind):
    given = scheduled(tiny, **KINDS[kind])
    images, states = drawable(given), given.states(PROMPTS)
    few, many = (invert(given, images, states, steps=steps, scale=1.0, below=1, batch=3) for steps in (5, 25))
    assert bool((psnr(many) > psnr(few) + 6).all())
    assert bool((psnr(many) > 23).all())
    literal = -10 * (many.images - images).square().mean((1, 2, 3)).log10()
    torch.testing.assert_close(psnr(many), literal, rtol=0, atol=1e-3)


def test_the_way_up_is_the_same_whatever_a_model_predicts(tiny):
    ways = []
    for kind in ("epsilon", "sample", "v_prediction"):
        given = scheduled(tiny, **KINDS[kind])
        ways.append(invert(given, drawable(given), given.states(PROMPTS), steps=5, scale=1.0, batch=3).trajectory)
    torch.testing.assert_close(ways[1], ways[0], rtol=0, atol=1e-3)
    torch.testing.assert_close(ways[2], ways[0], rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@torch.no_grad()
def test_the_way_up_is_diffusers_with_the_noise_that_the_model_sees(tiny, name, prediction):
    config = {**DDIMScheduler(**CONFIGS[name]).config, "prediction_type": prediction}
    given = replace(tiny, schedule=Schedule({**config, "_class_name": "DDIMScheduler"}))
    inverse = DDIMInverseScheduler.from_config({**config, "prediction_type": "epsilon"})
    inverse.set_timesteps(10)
    images, states = drawable(given), given.states(PROMPTS)
    found = invert(given, images, states, steps=10, scale=1.0, batch=3)
    z = given.codec.encode(images)
    for place, time in enumerate(inverse.timesteps):
        told = given.denoiser(z, torch.full((3,), float(time)), states)
        alpha, sigma = (float(share[0]) for share in given.schedule.at(time.expand(1)))
        noise = given.schedule.parts(z, told, alpha, sigma)[1]
        z = inverse.step(noise, int(time), z).prev_sample
        torch.testing.assert_close(found.trajectory[-2 - place], z, rtol=1e-3, atol=1e-3 * float(z.abs().max()))


def test_diffusers_own_way_up_breaks_where_an_image_is_foreseen_of_clean_latents(tiny):
    schedule = tiny.schedule
    now, then = schedule.mixes(10)[-1], schedule.mixes(10)[-2]
    z, prediction = torch.ones(1, 2, 3, 3), torch.full((1, 2, 3, 3), 0.9)
    inverse = DDIMInverseScheduler.from_config({**schedule.config})
    inverse.set_timesteps(10)
    assert not bool(inverse.step(prediction, int(then.time), z).prev_sample.isfinite().any())
    noise = (z - then.alpha * prediction) / then.sigma
    torch.testing.assert_close(up(schedule, z, prediction, now, then), then.alpha * z + then.sigma * noise)


def literal(diffusion, image, states, options):
    """Null-text inversion of one image as published (Mokady et al. 2023): both branches are asked each time."""
    schedule, scale = diffusion.schedule, ASKED["scale"]
    mixes = schedule.mixes(ASKED["steps"])[ASKED["below"] :]
    with torch.no_grad():
        way = [diffusion.codec.encode(image)]
        for now, then in pairwise(reversed(mixes)):
            foreseen = diffusion.denoiser(way[-1], torch.full((1,), then.time), states)
            noise = (way[-1] - then.alpha * foreseen) / then.sigma
            clean = (way[-1] - now.sigma * noise) / now.alpha
            way.append(then.alpha * clean + then.sigma * noise)
    z, null, kept, taken = way[-1], diffusion.states([""]), [], []
    for i, (now, then) in enumerate(pairwise(mixes)):
        times = torch.full((1,), now.time)
        null = null.clone().detach().requires_grad_()
        adam = torch.optim.Adam([null], lr=options.learning_rate * (1 - i / 100))
        target = way[len(way) - i - 2]
        taken.append(0)
        for _ in range(options.inner):
            free, bound = (diffusion.denoiser(z, times, of) for of in (null, states))
            reached = schedule.step(z, free + scale * (bound - free), now, then)
            loss = nn.functional.mse_loss(reached, target)
            adam.zero_grad()
            loss.backward()
            adam.step()
            taken[-1] += 1
            if loss.item() < options.tolerance + options.tolerance_growth * i:
                break
        kept.append(null.detach())
        with torch.no_grad():
            free, bound = (diffusion.denoiser(z, times, of) for of in (null, states))
            z = schedule.step(z, free + scale * (bound - free), now, then)
    return torch.stack(way[::-1]), torch.stack(kept), diffusion.codec.decode(z).detach().clamp(0, 1), taken


def test_null_text_is_the_published_loop(near):
    images, states = drawable(near), near.states(PROMPTS)
    found = invert(near, images, states, **{**ASKED, "batch": 1})
    for k in range(3):
        one = slice(k, k + 1)
        way, null, drawn, taken = literal(near, images[one], states[one], ASKED["null_text"])
        assert found.inner[:, k].tolist() == taken
        for ours, theirs in ((found.trajectory[:, one], way), (found.null[:, one], null), (found.images[one], drawn)):
            torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-5)
    assert len(set(found.inner[0].tolist())) > 1, "some stop before others"


def test_null_states_bring_back_what_guidance_loses(near, found):
    images, states = drawable(near), near.states(PROMPTS)
    plain = invert(near, images, states, **{**ASKED, "null_text": None})
    assert bool((psnr(found) > psnr(plain) + 4).all())
    assert torch.equal(found.trajectory, plain.trajectory), "the pivot is the same"
    assert not bool(plain.inner.any())
    assert torch.equal(plain.null, near.states([""]).expand_as(plain.null))
    # without guidance null states count for nothing, and are not moved
    free, told = (
        invert(near, images, states, **{**ASKED, "scale": 1.0, "null_text": null}) for null in (None, NullText())
    )
    assert torch.equal(free.images, told.images)
    assert torch.equal(free.null, told.null)
    assert bool((psnr(free) > psnr(plain) + 4).all())
    # a time that is nearly noise alone loses the image
    lost = invert(near, images, states, **{**ASKED, "null_text": None, "below": 0})
    assert bool((psnr(plain) > psnr(lost) + 2).all())


def test_what_was_found_draws_the_images_again(near, found):
    z, states = found.latents, near.states(PROMPTS)
    for (now, then), null in zip(pairwise(near.schedule.mixes(ASKED["steps"])[1:]), found.null, strict=True):
        z = near.schedule.step(z, near.predict(z, now.time, states, null, ASKED["scale"]), now, then)
    torch.testing.assert_close(near.codec.decode(z).clamp(0, 1), found.images, rtol=0, atol=1e-4)
    assert all(each.dtype == torch.float32 for each in (found.latents, found.null, found.images, found.error))


def test_an_image_is_the_same_bytes_whatever_is_beside_it(near, found):
    images, states = drawable(near), near.states(PROMPTS)
    for k in range(3):
        one = slice(k, k + 1)
        same(invert(near, images[one], states[one], **ASKED), 0, found, k)
    two = invert(near, images[1:], states[1:], **ASKED)
    for k in range(2):
        same(two, k, found, k + 1)


def same(one, k, other, j):
    for name in ("latents", "images", "error"):
        assert torch.equal(getattr(one, name)[k], getattr(other, name)[j])
    for name in ("trajectory", "null", "inner"):
        assert torch.equal(getattr(one, name)[:, k], getattr(other, name)[:, j])


def test_an_image_that_is_not_finite_is_told_and_harms_no_other(near, found):
    images, states = drawable(near), near.states(PROMPTS)
    images[1, 0, 3, 3] = torch.nan
    broken = invert(near, images, states, **ASKED)
    assert broken.error.isnan().tolist() == [False, True, False]
    same(broken, 0, found, 0)
    same(broken, 2, found, 2)
    assert broken.inner[:, 1].tolist() == [1] * 4, "no more is tried"
    states[2] = torch.inf
    assert invert(near, drawable(near), states, **ASKED).error.isnan().tolist() == [False, False, True]


def test_the_states_are_asked_for_once_a_step_and_weights_get_no_gradients(near, found):
    counted = Counted(near.denoiser).requires_grad_(True)
    states = near.states(PROMPTS)
    again = invert(replace(near, denoiser=counted), drawable(near), states, **ASKED)
    assert torch.equal(again.null, found.null)
    assert all(weight.grad is None for weight in counted.parameters())
    bound = [torch.equal(asked[:3], states) for asked in counted.asked]
    assert sum(bound) == 2 * 4  # once up and once down
    assert len(bound) == 2 * 4 + int(found.inner.max(1).values.sum()) + 4
    counted.requires_grad_(False)


def test_drawing_starts_below_a_time_that_is_noise_alone(tiny):
    given = scheduled(tiny, rescale_betas_zero_snr=True, prediction_type="v_prediction")
    images, states = drawable(given), given.states(PROMPTS)
    with pytest.raises(ParamError, match=r"below = 0, but time 999 of the schedule is noise alone .* at least 1"):
        invert(given, images, states, steps=5, scale=1.0)
    found = invert(given, images, states, steps=5, scale=1.0, below=2, batch=3, null_text=None)
    assert (len(found.trajectory), len(found.null), len(found.inner), found.below) == (4, 3, 3, 2)
    with torch.no_grad():
        z = found.latents
        for now, then in pairwise(given.schedule.mixes(5)[2:]):
            z = given.schedule.step(z, given.denoiser(z, torch.full((3,), now.time), states), now, then)
    torch.testing.assert_close(given.codec.decode(z).clamp(0, 1), found.images, rtol=0, atol=1e-5)


def test_batches_are_told_and_none_is_fine(near):
    seen, asked = [], {"steps": 2, "scale": 2.0, "batch": 2, "null_text": NullText(inner=1)}
    found = invert(near, drawable(near), near.states(PROMPTS), **asked, progress=lambda *x: seen.append(x))
    assert seen == [(2, 3), (3, 3)]
    assert found.null.shape[:2] == (2, 3)
    none = invert(near, torch.empty(0, 3, 32, 32), near.states([]), **asked)
    assert (none.images.shape, none.trajectory.shape[:2], none.error.shape) == ((0, 3, 32, 32), (3, 0), (0,))


@pytest.mark.misfits
def test_what_does_not_fit_is_named(near):
    images, states = drawable(near), near.states(PROMPTS)
    with pytest.raises(ShapeError, match=r"images of shape \(3, 3, 16, 16\), expected \(image, 3, 32, 32\)"):
        invert(near, images[..., :16, :16], states, **ASKED)
    with pytest.raises(ShapeError, match="3 images, but 2 rows of states"):
        invert(near, images, states[:2], **ASKED)
    for key, value, text in (
        ("batch", 0, "batch = 0"),
        ("steps", 0, "steps = 0"),
        ("below", 5, "below = 5, expected 0 to 4"),
        ("below", -1, "below = -1"),
        ("scale", 0.0, "scale = 0.0, expected above 0"),
        ("scale", torch.inf, "scale = inf"),
        ("steps", 102, "101 diffusion steps, expected at most 100"),
    ):
        with pytest.raises(ParamError, match=text):
            invert(near, images, states, **{**ASKED, key: value})
    for key, value in (("inner", 0), ("learning_rate", 0.0), ("tolerance", -1.0), ("tolerance_growth", torch.nan)):
        with pytest.raises(ParamError, match=f"null text: {key} = "):
            NullText(**{key: value})


class Soft(nn.Module):
    """Sees of all latents much the same image: what is noise to it depends on the latents."""

    def __init__(self, schedule):
        super().__init__()
        self.schedule = schedule

    def forward(self, z, times, states):
        alpha, sigma = self.schedule.at(times)
        clean = 0.5 * torch.tanh(0.8 * z)
        return self.schedule.target(clean, (z - alpha * clean) / sigma, alpha, sigma)


@pytest.mark.parametrize("kind", KINDS)
def test_exact_steps_up_are_undone_by_those_down(kind):
    diffusion = tiny_diffusion(**KINDS[kind])
    diffusion = replace(diffusion, denoiser=Soft(diffusion.schedule))
    images, states = drawable(diffusion), diffusion.states(PROMPTS)
    off = {}
    for name, exact in (("plain", None), ("once", Exact([1, 2, 3], 0)), ("often", Exact([1, 2, 3], 30))):
        found = invert(diffusion, images, states, steps=8, scale=1.0, null_text=None, exact=exact, batch=4)
        mixes, z, errors = diffusion.schedule.mixes(8), found.latents, []
        for at, (now, then) in enumerate(pairwise(mixes[:-1])):
            z = diffusion.schedule.step(z, diffusion.predict(z, now.time, states), now, then)
            if then.sigma >= 0.1:  # below, noise was mixed in
                errors.append(float((z - found.trajectory[at + 1]).abs().max()))
        off[name] = max(errors)
        assert torch.equal(found.trajectory[-1], diffusion.codec.encode(images))
    assert off["often"] < 1e-4
    assert off["often"] < 0.01 * min(off["once"], off["plain"])


def test_noise_that_is_mixed_in_first_is_an_image_s_own():
    diffusion = tiny_diffusion(prediction_type="sample")
    diffusion = replace(diffusion, denoiser=Soft(diffusion.schedule))
    images, states = drawable(diffusion), diffusion.states(PROMPTS)
    run = {"steps": 8, "scale": 1.0, "null_text": None, "batch": 2}
    found = invert(diffusion, images, states, exact=Exact([1, 2, 3]), **run)
    alone = invert(diffusion, images[2:], states[2:], exact=Exact([3]), **run)
    assert torch.equal(found.latents[2:], alone.latents)
    first, noise = diffusion.schedule.mixes(8)[-2], diffusion.noise([1, 2, 3])
    mixed = first.alpha * diffusion.codec.encode(images) + first.sigma * noise
    torch.testing.assert_close(found.trajectory[-2], mixed)
    with pytest.raises(ShapeError, match="3 images, but 2 seeds"):
        invert(diffusion, images, states, exact=Exact([1, 2]), **run)
    with pytest.raises(ParamError, match="repeats = -1"):
        Exact([1], -1)
