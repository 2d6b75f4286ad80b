"""Sampling: diffusers' own loop gives the same pictures, and an image depends on nothing but its states and seed."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from tiny_diffusion import placed, tiny_diffusion

from optogram.errors import DataError, ModelError, ParamError, ShapeError
from optogram.models.generative.codecs import Patches
from optogram.models.generative.diffusion import Diffusion
from optogram.models.generative.sampling import sample

PROMPTS = ["a red star", "a blue ring on snow", "", "two squares at night"]


@pytest.fixture(scope="module")
def diffusion():
    return tiny_diffusion()


@torch.no_grad()
def literal(diffusion, prompt, seed, steps, scale):
    """One image by diffusers' scheduler and UNet."""
    unet = diffusion.denoiser.unet
    scheduler = DDIMScheduler.from_config(dict(diffusion.schedule.config))
    scheduler.set_timesteps(steps)
    z = torch.randn(1, *diffusion.shape, generator=torch.Generator().manual_seed(seed))
    free, bound = diffusion.states([""]), diffusion.states([prompt])
    for time in scheduler.timesteps:
        with_text, without = (unet(placed(z), time, s, class_labels=s.mean(1)).sample for s in (bound, free))
        z = scheduler.step(without + scale * (with_text - without), time, z).prev_sample
    return diffusion.codec.decode(z)[0].clamp(0, 1)


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_diffusers_gives_the_same_pictures(diffusion, scale):
    found = sample(diffusion, diffusion.states(PROMPTS), seeds=[3, 1, 4, 1], steps=5, scale=scale, batch=4)
    assert found.shape == (4, 3, 32, 32)
    assert 0 <= float(found.min()) < float(found.max()) <= 1
    for k, (prompt, seed) in enumerate(zip(PROMPTS, [3, 1, 4, 1], strict=True)):
        torch.testing.assert_close(found[k], literal(diffusion, prompt, seed, 5, scale), rtol=0, atol=2e-4)
    assert float((found[1] - found[3]).abs().max()) > 0.01, "the prompts matter"


def test_an_image_is_the_same_bytes_whatever_is_beside_it(diffusion):
    states, seeds = diffusion.states(PROMPTS), [3, 1, 4, 1]
    together = sample(diffusion, states, seeds=seeds, steps=3)
    for k in range(4):
        alone = sample(diffusion, states[k : k + 1], seeds=seeds[k : k + 1], steps=3)
        assert np.array_equal(alone[0].numpy(), together[k].numpy())
    turned = sample(diffusion, states.flip(0), seeds=seeds[::-1], steps=3)
    assert np.array_equal(turned.flip(0).numpy(), together.numpy())


def test_batches_are_told_and_none_is_fine(diffusion):
    seen = []
    sample(diffusion, diffusion.states(PROMPTS), seeds=range(4), steps=1, batch=3, progress=lambda *x: seen.append(x))
    assert seen == [(3, 4), (4, 4)]
    assert sample(diffusion, diffusion.states([]), seeds=[]).shape == (0, 3, 32, 32)


def test_what_does_not_fit_is_named(diffusion):
    with pytest.raises(ShapeError, match="4 rows of states, but 2 seeds"):
        sample(diffusion, diffusion.states(PROMPTS), seeds=[1, 2])
    with pytest.raises(ParamError, match="batch = 0"):
        sample(diffusion, diffusion.states(PROMPTS), seeds=range(4), batch=0)
    with pytest.raises(DataError, match="prompt 1 holds blanks only"):
        diffusion.states(["a star", "  "])
    with pytest.raises(DataError, match="tokens, but this model reads at most 64"):
        diffusion.states(["a star " * 40])
    parts = diffusion.denoiser, diffusion.schedule, diffusion.texts
    with pytest.raises(ModelError, match="the codec has 9 channels, but the denoiser takes 8"):
        Diffusion(Patches(4, 9), *parts, (8, 8, 8))
