"""A tiny diffusion model of ours with random weights, for tests of whatever asks one."""

from dataclasses import replace

import torch

from optogram.data.scenes import Scenes
from optogram.models.generative.codecs import fit_patches
from optogram.models.generative.diffusion import Diffusion, UNet
from optogram.models.generative.schedules import Schedule
from optogram.models.generative.texts import ClipTexts
from optogram.models.loading.clip_folders import build_clip
from optogram.models.training.denoisers import DiffusionOptions, TransformerOptions, build_denoiser
from optogram.models.training.diffusion import SCHEDULER

ARCHITECTURE = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 16, "layers": 1, "head_width": 8},
    "text_cfg": {"context_length": 64, "vocab_size": 1514, "width": 16, "heads": 2, "layers": 1},
}


def tiny_texts():
    clip = build_clip(ARCHITECTURE, seed=0)
    clip.model.eval().requires_grad_(False)
    with torch.no_grad():
        clip.model.token_embedding.weight.mul_(30)  # tells words apart, as a trained one does
    return ClipTexts(clip)


def tiny_images(count=32):
    return Scenes("single", count, seed=0, size=32).read(0, count)


def placed(z):
    """Latents with the row and the column of each place, from -1 to 1, as two channels more."""
    rows, columns = z.shape[2:]
    where = torch.empty(2, rows, columns)
    for row in range(rows):
        where[0, row] = 2 * row / (rows - 1) - 1
    for column in range(columns):
        where[1, :, column] = 2 * column / (columns - 1) - 1
    return torch.cat([z, where.expand(len(z), -1, -1, -1)], 1)


def tiny_diffusion(**config):
    """Images of 32 x 32. `config`: of the scheduler."""
    codec = fit_patches(tiny_images().pixels.values, factor=4, channels=8)
    texts = tiny_texts()
    unet = build_denoiser(DiffusionOptions(steps=1, widths=(8, 16)), (8, 8, 8), texts.width).unet
    # a new UNet ends in small weights: make what it predicts depend on all that it is told
    with torch.no_grad():
        unet.conv_out.weight.mul_(20)
    denoiser = UNet(unet).eval().requires_grad_(False)
    return Diffusion(codec, denoiser, Schedule({**SCHEDULER, **config}), texts, (8, 8, 8))


def tiny_transformer():
    """The same with a transformer of tokens of 2 x 2, two blocks deep."""
    given = tiny_diffusion()
    shape = TransformerOptions(width=16, depth=2, head=8)
    denoiser = build_denoiser(DiffusionOptions(steps=1, transformer=shape), given.shape, given.texts.width)
    with torch.no_grad():
        torch.nn.init.normal_(denoiser.transformer.proj_out.weight, generator=torch.Generator().manual_seed(0))
    return replace(given, denoiser=denoiser.eval().requires_grad_(False))
