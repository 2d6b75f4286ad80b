"""The one step is DDIM's and Euler's: against diffusers, and against the equations."""

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, PNDMScheduler

from optogram.errors import ModelError, ParamError
from optogram.models.generative.schedules import Schedule

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
CONFIGS = {
    "cosine, trailing, v": {
        "beta_schedule": "squaredcos_cap_v2",
        "prediction_type": "v_prediction",
        "timestep_spacing": "trailing",
        "clip_sample": False,
    },
    "linear, trailing, image": {"prediction_type": "sample", "timestep_spacing": "trailing", "clip_sample": False},
    "Stable Diffusion 1": {**SD, "steps_offset": 1, "set_alpha_to_one": False, "timestep_spacing": "leading"},
    "Stable Diffusion 2": {**SD, "steps_offset": 1, "set_alpha_to_one": False, "prediction_type": "v_prediction"},
    "zero terminal SNR": {**SD, "prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
}


def toy(z, time):
    """A prediction that depends on both."""
    return torch.sin(z) + time / 1000


def draw(count=3):
    return torch.randn(count, 4, 5, 5, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("steps", [1, 10, 20, 50])
@pytest.mark.parametrize("name", CONFIGS)
def test_the_step_is_that_of_ddim(name, steps):
    scheduler = DDIMScheduler(**CONFIGS[name])
    schedule = Schedule({**scheduler.config, "_class_name": "DDIMScheduler"})
    scheduler.set_timesteps(steps)
    z = theirs = draw()
    mixes = schedule.mixes(steps)
    assert [mix.time for mix in mixes[:-1]] == scheduler.timesteps.tolist()
    for place, time in enumerate(scheduler.timesteps):
        theirs = scheduler.step(toy(theirs, time), time, theirs).prev_sample
        z = schedule.step(z, toy(z, mixes[place].time), mixes[place], mixes[place + 1])
    torch.testing.assert_close(z, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()))


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_the_step_is_eulers_for_flow_matching(shift):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    schedule = Schedule({**scheduler.config, "_class_name": "FlowMatchEulerDiscreteScheduler"})
    scheduler.set_timesteps(12)
    z = theirs = draw()
    mixes = schedule.mixes(12)
    for place, time in enumerate(scheduler.timesteps):
        theirs = scheduler.step(toy(theirs, time), time, theirs).prev_sample
        z = schedule.step(z, toy(z, mixes[place].time), mixes[place], mixes[place + 1])
    torch.testing.assert_close(z, theirs, rtol=1e-5, atol=1e-5)
    assert (mixes[-1].alpha, mixes[-1].sigma) == (1, 0)


@pytest.mark.parametrize("kind", ["DDIMScheduler", "FlowMatchEulerDiscreteScheduler"])
@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_a_right_prediction_tells_both_parts(kind, prediction):
    schedule = Schedule({"_class_name": kind, "prediction_type": prediction})
    clean, noise = draw(), draw().flip(0)
    times = torch.tensor([1, 400, 990])
    alpha, sigma = schedule.at(times)
    z, target = alpha * clean + sigma * noise, schedule.target(clean, noise, alpha, sigma)
    for k in range(3):
        found = schedule.parts(z[k], target[k], float(alpha[k]), float(sigma[k]))
        torch.testing.assert_close(found[0], clean[k], rtol=0, atol=2e-3)
        torch.testing.assert_close(found[1], noise[k], rtol=0, atol=2e-3)


def test_noise_and_velocity_are_diffusers():
    scheduler = DDIMScheduler(prediction_type="v_prediction")
    schedule = Schedule({**scheduler.config, "_class_name": "DDIMScheduler"})
    clean, noise, times = draw(), draw().flip(0), torch.tensor([0, 500, 999])
    alpha, sigma = schedule.at(times)
    torch.testing.assert_close(alpha * clean + sigma * noise, scheduler.add_noise(clean, noise, times))
    torch.testing.assert_close(schedule.target(clean, noise, alpha, sigma), scheduler.get_velocity(clean, noise, times))


def test_going_back_undoes_a_step():
    schedule = Schedule({"_class_name": "DDIMScheduler", **CONFIGS["cosine, trailing, v"]})
    now, then = schedule.mixes(10)[4:6]
    z = draw()
    clean, noise = schedule.parts(z, toy(z, now.time), now.alpha, now.sigma)
    velocity = schedule.target(clean, noise, then.alpha, then.sigma)
    back = schedule.step(schedule.step(z, toy(z, now.time), now, then), velocity, then, now)
    torch.testing.assert_close(back, z, rtol=0, atol=1e-5)


def test_another_solver_with_the_same_noise_is_taken_as_ddim():
    schedule = Schedule({**PNDMScheduler(**{k: SD[k] for k in list(SD)[:3]}).config, "_class_name": "PNDMScheduler"})
    assert len(schedule.mixes(7)) == 8


def test_what_is_not_known_is_named():
    with pytest.raises(ModelError, match="'HeunScheduler' is of a kind that is not known; expected one of DDIM"):
        Schedule({"_class_name": "HeunScheduler"})
    with pytest.raises(ModelError, match="prediction_type = 'score', expected epsilon, sample or v_prediction"):
        Schedule({"_class_name": "DDIMScheduler", "prediction_type": "score"})
    with pytest.raises(ParamError, match="steps = 0, expected 1 to 1000"):
        Schedule({"_class_name": "DDIMScheduler"}).mixes(0)
