"""A tiny diffusion model of ours with random weights, for tests of whatever asks one."""

from dataclasses import replace

import torch
from diffusers import PixArtTransformer2DModel

from optogram.data.scenes import Scenes
from optogram.models.generative.codecs import fit_patches
from optogram.models.generative.diffusion import Diffusion, Transformer, UNet
from optogram.models.generative.schedules import Schedule
from optogram.models.generative.texts import ClipTexts
from optogram.models.loading.clip_folders import build_clip
from optogram.models.training.diffusion import SCHEDULER, DiffusionOptions, build_unet

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
    unet = build_unet(DiffusionOptions(steps=1, widths=(8, 16)), (8, 8, 8), texts.width)
    # a new UNet ends in small weights: make what it predicts depend on all that it is told
    with torch.no_grad():
        unet.conv_out.weight.mul_(20)
    denoiser = UNet(unet).eval().requires_grad_(False)
    return Diffusion(codec, denoiser, Schedule({**SCHEDULER, **config}), texts, (8, 8, 8))


def tiny_transformer(out_channels=8):
    """The same with a transformer of tokens of 2 x 2, two blocks deep."""
    given = tiny_diffusion()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        transformer = PixArtTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=8,
            out_channels=out_channels,
            num_layers=2,
            cross_attention_dim=16,
            sample_size=8,
            patch_size=2,
            activation_fn="gelu",
            caption_channels=given.texts.width,
            use_additional_conditions=False,
        )
    return replace(given, denoiser=Transformer(transformer.eval().requires_grad_(False)))
