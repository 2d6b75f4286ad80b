"""Correlations of all units of two models, beside the equations as they are written: both maps at the larger size.

The reference takes the same batches and adds up the same products in float32, after it has upsampled both layers of
each pair to the larger of their sizes (eq. 4.2). Maps are random, which makes no product cheaper or dearer.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from optogram.methods.rosetta.correlation import pearson
from optogram.methods.rosetta.inversion import Inversion, Moments, invert
from optogram.models.generative.gan_networks import GanGenerator
from optogram.models.generative.generators import generator_of
from optogram.models.layers import activations
from optogram.models.units import unit_layers

IMAGES, BATCH = 64, 32
INVERTED, STEPS, FULL = 8, 20, 200
RESNET: tuple[str, dict[str, Any]] = ("resnet10t", {"channels": [32, 64, 128, 192], "stem_width": 16})
VIT: tuple[str, dict[str, Any]] = (
    "vit_tiny_patch16_224",
    {"img_size": 64, "patch_size": 8, "embed_dim": 48, "depth": 4, "num_heads": 4},
)
# 192 to 24 channels at the sides 4 to 64
DRAWN = [(channels, (side, side)) for channels, side in zip((192, 128, 64, 48, 24), (4, 8, 16, 32, 64), strict=True)]
# a generator's layers against those of a classifier at 224 pixels
LARGE = [(64, (128, 128)), (128, (64, 64))]
SMALL = [(128, (7, 7)), (128, (14, 14))]


def rows() -> list[dict[str, Any]]:
    """CPU-seconds of one thread."""
    torch.set_num_threads(1)
    images = torch.rand(IMAGES, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    models = [timm.create_model(name, **sizes).eval().requires_grad_(False) for name, sizes in (RESNET, VIT)]
    layers = [unit_layers(model, size=64) for model in models]

    def maps() -> list[list[Tensor]]:
        with torch.no_grad():
            return [[*activations(model, images, names).values()] for model, names in zip(models, layers, strict=True)]

    resnet, vit = maps()
    drawn, large, small = (_random(sizes, seed) for seed, sizes in enumerate((DRAWN, LARGE, SMALL)))
    return [
        _row("the demo's resnet and vit", *_both(lambda: (resnet, vit))),
        _row("the same with the passes of both models", *_both(maps)),
        _row("a generator of the default widths and the resnet", *_both(lambda: (drawn, resnet))),
        _row("maps of 64 and 128 and maps of 7 and 14 pixels a side", *_both(lambda: (large, small))),
        _inversion(),
    ]


def _inversion() -> dict[str, Any]:
    """Images inverted together and one by one, by all units of a generator with its own maps."""
    torch.manual_seed(0)
    generator = generator_of(GanGenerator(), spec="callable:optogram.models.generative.gan_networks:GanGenerator")
    wanted, start = generator.latents(range(INVERTED)), generator.latents(range(100, 100 + INVERTED))
    with torch.no_grad():
        _, shown = generator.maps(wanted, batch=INVERTED)
    moments = Moments(*([of(layer) for layer in shown.values()] for of in (_mean, _deviation)))
    targets = {name: layer / layer[0].numel() for name, layer in shown.items()}
    options, seconds = Inversion(steps=STEPS), []
    for rows in (slice(None), *(slice(k, k + 1) for k in range(INVERTED))):
        begin = time.process_time()
        invert(generator, start[rows], moments, {name: each[rows] for name, each in targets.items()}, options)
        seconds.append(time.process_time() - begin)
    ours, theirs = seconds[0] * FULL / STEPS, sum(seconds[1:]) * FULL / STEPS
    return {
        "claim": f"{INVERTED} images inverted by matched units in {FULL} steps, together against one by one",
        "ours": ours,
        "theirs": theirs,
        "ratio": theirs / ours,
        "unit": "CPU-s",
        "sizes": f"64 x 64; {STEPS} steps, scaled",
        "device": "cpu, 1 thread",
    }


def _mean(layer: Tensor) -> Tensor:
    return layer.mean((0, 2, 3))


def _deviation(layer: Tensor) -> Tensor:
    return layer.std((0, 2, 3))


def _both(maps: Callable[[], Sequence[Sequence[Tensor]]]) -> tuple[float, float]:
    found, seconds = [], []
    for way in (_ours, literal):
        start = time.process_time()
        found.append(way(*maps()))
        seconds.append(time.process_time() - start)
    np.testing.assert_allclose(*found, atol=1e-4)
    return seconds[0], seconds[1]


def _ours(a: Sequence[Tensor], b: Sequence[Tensor]) -> np.ndarray:
    rows = [slice(start, start + BATCH) for start in range(0, IMAGES, BATCH)]
    return pearson(([layer[part] for layer in a], [layer[part] for layer in b]) for part in rows)


def literal(a: Sequence[Tensor], b: Sequence[Tensor]) -> np.ndarray:
    """Eq. 4.1 and 4.2, pair of layers by pair of layers."""
    return np.block([[_pair(one, other) for other in b] for one in a])


def _pair(a: Tensor, b: Tensor) -> np.ndarray:
    size = tuple(max(sides) for sides in zip(a.shape[2:], b.shape[2:], strict=True))

    def columns(maps: Tensor) -> Tensor:
        return F.interpolate(maps, size=size, mode="bilinear", align_corners=False).movedim(1, 0).flatten(1)

    parts = [(columns(a[at : at + BATCH]), columns(b[at : at + BATCH])) for at in range(0, IMAGES, BATCH)]
    count = sum(one.shape[1] for one, _ in parts)
    means = [sum(part[side].sum(1) for part in parts) / count for side in (0, 1)]
    centred = [[part[side] - means[side][:, None] for part in parts] for side in (0, 1)]  # type: ignore[index]
    variances = [sum((part**2).sum(1) for part in side) for side in centred]
    covariance = sum(one @ other.T for one, other in zip(*centred, strict=True))
    found = covariance / torch.sqrt(variances[0][:, None] * variances[1])  # type: ignore[index]
    return found.nan_to_num(0).double().numpy()


def _random(sizes: Sequence[tuple[int, tuple[int, int]]], seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(IMAGES, channels, *grid, generator=generator) for channels, grid in sizes]


def _row(claim: str, ours: float, theirs: float) -> dict[str, Any]:
    return {
        "claim": f"correlations of {claim}, against both maps upsampled to the larger size",
        "ours": ours,
        "theirs": theirs,
        "ratio": theirs / ours,
        "unit": "CPU-s",
        "sizes": f"{IMAGES} images, batches of {BATCH}",
        "device": "cpu, 1 thread",
    }
