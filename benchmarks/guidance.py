"""Pictures optimised through all steps, and null-text inversion, beside Algorithms 1 and 2 as they are written.

The reference takes an image at a time, keeps a checkpoint at every step, asks for both predictions in passes of their
own, and decodes each predicted picture by itself. Weights are random, which makes no step cheaper or dearer.
"""

import time
from itertools import pairwise
from typing import Any

import timm
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from benchmarks.sampling import untrained
from optogram.guidance.engine import guide
from optogram.guidance.inversion import NullText, invert
from optogram.guidance.options import Guidance
from optogram.guidance.trajectory import Start
from optogram.methods.image_objectives import LogProbability
from optogram.models.generative.diffusion import Diffusion
from optogram.models.loading.classifiers import Classifier
from optogram.models.loading.specs import UnitRange

IMAGES, ALONE = 8, 2
PROMPT = "a photo of one large red star on the left on grass"
OPTIONS = Guidance(steps=10, scale=3.0, iterations=2, latents_rate=0.001, states_rate=0.01, null_rate=0.01)
INNER = 10


def rows() -> list[dict[str, Any]]:
    """CPU-seconds of one thread; those of images taken alone are measured on a few."""
    torch.set_num_threads(1)
    diffusion, classifier = untrained(), _classifier()
    diffusion.denoiser.requires_grad_(False)  # type: ignore[attr-defined]
    states, z = diffusion.states([PROMPT] * IMAGES), diffusion.noise(range(IMAGES))
    asked = LogProbability(classifier, torch.arange(IMAGES) % 6)
    guide(diffusion, Start(z[:1], states[:1]), asked, Guidance(steps=1, iterations=0), seeds=[0])  # kernels are chosen
    start = time.process_time()
    found = guide(diffusion, Start(z, states), asked, OPTIONS, seeds=range(IMAGES))
    ours = time.process_time() - start
    start = time.process_time()
    for row in range(ALONE):
        losses = literal(diffusion, z[row : row + 1], states[:1], asked, row)
        torch.testing.assert_close(torch.from_numpy(found.loss[:, row]), losses, atol=1e-3, rtol=1e-3)
    theirs = (time.process_time() - start) * IMAGES / ALONE
    said = f"{IMAGES} pictures optimised for {OPTIONS.iterations} iterations of {OPTIONS.steps} steps, guided"
    return [_row(f"{said}, against Algorithm 1 image by image", ours, theirs), _inversion(diffusion)]


def literal(diffusion: Diffusion, z: Tensor, states: Tensor, asked: LogProbability, row: int) -> Tensor:
    """Algorithm 1 of one image; the loss of each iterate."""
    schedule, mixes = diffusion.schedule, diffusion.schedule.mixes(OPTIONS.steps)
    start = z
    z = z.clone().requires_grad_()
    told = [states.clone().requires_grad_() for _ in range(OPTIONS.steps)]
    null = [diffusion.states([""]).requires_grad_() for _ in range(OPTIONS.steps)]
    groups = [(z,), told, null]
    rates = (OPTIONS.latents_rate, OPTIONS.states_rate, OPTIONS.null_rate)
    adam = torch.optim.Adam([{"params": list(of), "lr": rate} for of, rate in zip(groups, rates, strict=True)])
    losses, rows = [], torch.tensor([row])
    for _ in range(OPTIONS.iterations + 1):
        x, cleans = z, []
        for now, then, bound, free in zip(mixes, mixes[1:], told, null, strict=False):

            def step(x: Tensor, bound: Tensor, free: Tensor, now: Any = now, then: Any = then) -> tuple[Tensor, Tensor]:
                conditional, plain = (diffusion.predict(x, now.time, each) for each in (bound, free))
                prediction = plain + OPTIONS.scale * (conditional - plain)
                clean, _ = schedule.parts(x, prediction, now.alpha, now.sigma)
                return schedule.step(x, prediction, now, then), clean

            x, clean = checkpoint(step, x, bound, free, use_reentrant=False)  # type: ignore[misc]
            cleans.append(clean)
        each = [asked(diffusion.codec.decode(one).clamp(0, 1), rows) for one in (*cleans[-3:-1], x)]
        losses.append(each[-1].detach())
        adam.zero_grad()
        (each[0] / 6 + each[1] / 3 + each[2] / 2).sum().backward()
        adam.step()
        with torch.no_grad():
            z.mul_(start.norm() / z.norm())
    return torch.cat(losses)


def _inversion(diffusion: Diffusion) -> dict[str, Any]:
    images = torch.rand(IMAGES, 3, *diffusion.size, generator=torch.Generator().manual_seed(0))
    states = diffusion.states([PROMPT] * IMAGES)
    options = NullText(inner=INNER, tolerance=0.0, tolerance_growth=0.0)
    start = time.process_time()
    found = invert(diffusion, images, states, steps=OPTIONS.steps, scale=OPTIONS.scale, null_text=options, batch=IMAGES)
    ours = time.process_time() - start
    start = time.process_time()
    for row in range(ALONE):
        z = _null_text(diffusion, found.trajectory[:, row : row + 1], states[:1], options)
        drawn = diffusion.codec.decode(z).clamp(0, 1)
        torch.testing.assert_close(drawn[0], found.images[row], atol=1e-3, rtol=1e-3)
    theirs = (time.process_time() - start) * IMAGES / ALONE
    return _row(f"null states of {IMAGES} images, {INNER} inner steps, against the published loop", ours, theirs)


def _null_text(diffusion: Diffusion, pivot: Tensor, states: Tensor, options: NullText) -> Tensor:
    """The published loop: both predictions at each inner step."""
    mixes, z, null = diffusion.schedule.mixes(OPTIONS.steps), pivot[0], diffusion.states([""])
    for at, (now, then) in enumerate(pairwise(mixes)):
        null = null.detach().clone().requires_grad_()
        adam = torch.optim.Adam([null], options.learning_rate * (1 - at / 100))
        for _ in range(options.inner):
            landed = diffusion.schedule.step(z, _guided(diffusion, z, now.time, states, null), now, then)
            adam.zero_grad()
            (landed - pivot[at + 1]).square().mean().backward()
            adam.step()
        with torch.no_grad():
            z = diffusion.schedule.step(z, _guided(diffusion, z, now.time, states, null), now, then)
    return z


def _guided(diffusion: Diffusion, z: Tensor, time_: float, states: Tensor, null: Tensor) -> Tensor:
    bound, free = diffusion.predict(z, time_, states), diffusion.predict(z, time_, null)
    return free + OPTIONS.scale * (bound - free)


def _classifier() -> Classifier:
    torch.manual_seed(0)
    model = timm.create_model("resnet10t", channels=[32, 64, 128, 192], stem_width=16, num_classes=6)
    return Classifier(model.eval().requires_grad_(False), UnitRange(), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (64, 64))


def _row(claim: str, ours: float, theirs: float) -> dict[str, Any]:
    return {
        "claim": claim,
        "ours": ours,
        "theirs": theirs,
        "ratio": theirs / ours,
        "unit": "CPU-s",
        "sizes": f"64 x 64; alone: {ALONE} images, scaled",
        "device": "cpu, 1 thread",
    }
