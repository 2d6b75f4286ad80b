"""Drawing 64 images by a diffusion model of the default size, in batches, beside diffusers' loop image by image.

The weights are random, which makes no step cheaper or dearer.
"""

import time
from typing import Any

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler

from optogram.models.generative.codecs import Patches
from optogram.models.generative.diffusion import Diffusion, UNet
from optogram.models.generative.sampling import sample
from optogram.models.generative.schedules import Schedule
from optogram.models.generative.texts import ClipTexts
from optogram.models.loading.clip_folders import build_clip
from optogram.models.training.diffusion import SCHEDULER, DiffusionOptions, build_unet
from optogram.params.generative import DiffusionTraining
from optogram.params.models import Training

IMAGES, ALONE, STEPS, SCALE = 64, 4, 20, 3.0


def rows() -> list[dict[str, Any]]:
    """CPU-seconds of one thread; those of images drawn alone are measured on a few."""
    torch.set_num_threads(1)
    diffusion, prompts = untrained(), ["a photo of one large red star on the left on grass"] * IMAGES
    sample(diffusion, diffusion.states(prompts[:1]), seeds=[0], steps=1)  # kernels are chosen at the first call
    start = time.process_time()
    sample(diffusion, diffusion.states(prompts), seeds=range(IMAGES), steps=STEPS, scale=SCALE)
    ours = time.process_time() - start
    start = time.process_time()
    for seed in range(ALONE):
        alone(diffusion, prompts[0], seed)
    theirs = (time.process_time() - start) * IMAGES / ALONE
    return [
        {
            "claim": "64 images, 20 steps, guided, by batches",
            "ours": ours,
            "theirs": theirs,
            "ratio": theirs / ours,
            "unit": "CPU-s",
            "sizes": f"64 x 64, {STEPS} steps; alone: {ALONE} images, scaled",
            "device": "cpu, 1 thread",
        }
    ]


def untrained() -> Diffusion:
    """The model that params.yaml's defaults describe, with random weights."""
    training, text = DiffusionTraining(), Training()
    clip = build_clip(
        {
            "embed_dim": text.embed,
            "vision_cfg": {"image_size": 64, "patch_size": 8, "width": 128, "layers": 1, "head_width": 16},
            "text_cfg": {
                "context_length": text.context,
                "vocab_size": 514 + text.merges,
                "width": text.text_width,
                "heads": 8,
                "layers": text.text_layers,
            },
        },
        seed=0,
    )
    clip.model.eval().requires_grad_(False)
    side = 64 // training.codec.factor
    shape = (training.codec.channels, side, side)
    options = DiffusionOptions(steps=1, widths=tuple(training.widths), layers=training.layers)
    unet = UNet(build_unet(options, shape, text.text_width)).eval().requires_grad_(False)
    codec = Patches(training.codec.factor, training.codec.channels)
    return Diffusion(codec, unet, Schedule(SCHEDULER), ClipTexts(clip), shape)


@torch.no_grad()
def alone(diffusion: Diffusion, prompt: str, seed: int) -> torch.Tensor:
    """One image as diffusers' own loop draws it."""
    unet: Any = diffusion.denoiser
    scheduler: Any = DDIMScheduler.from_config(dict(SCHEDULER))
    scheduler.set_timesteps(STEPS)
    states = torch.cat([diffusion.states([""]), diffusion.states([prompt])])
    z = diffusion.noise([seed])
    for when in scheduler.timesteps:
        free, bound = unet(torch.cat([z, z]), when, states).chunk(2)
        z = scheduler.step(free + SCALE * (bound - free), when, z).prev_sample
    return diffusion.codec.decode(z)
