"""Methods, guidance: universal visual counterfactual explanations (Algorithm 2), beside what controls give.

An image is inverted, its caption's class is swapped, and what the diffusion model starts from and is told is optimised
until a classifier sees the other class, while what lies outside of the object stays.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from optogram.guidance.attention import Injection, record
from optogram.guidance.engine import Distance, Guided, Objective, guide
from optogram.guidance.inversion import Inversion
from optogram.guidance.masks import check_masks, cleaned, latent_mask
from optogram.guidance.options import Guidance
from optogram.guidance.trajectory import Blend, Start
from optogram.guidance.words import alignment
from optogram.methods.guidance.asked import Asked
from optogram.methods.guidance.conditions import FOUND, PIXELS, SWAPPED, WRONG
from optogram.methods.guidance.controls import on_pixels
from optogram.methods.image_objectives import Keep, LogProbability
from optogram.models.generative.diffusion import Diffusion
from optogram.models.loading.classifiers import Classifier
from optogram.progress import stretch


@dataclass(frozen=True)
class Kept:
    """What stays: the weights w_PX and w_VAE of eq. 19, and how the object's mask is cleaned before (section D.1.4).

    erode, dilate, blur: as `cleaned` takes them.
    """

    pixels: float = 250.0
    encoded: float = 25.0
    erode: int = 1
    dilate: int = 7
    blur: float = 1.0


@dataclass(frozen=True)
class Candidates:
    """Where pictures may start: the shares of the steps in which the original's cross-attention is put in, each with
    and without the original's latents outside of the mask in the first `blended` share of them (section D.1.3).

    Of each image the candidate of the least loss is taken.
    """

    injected: tuple[float, ...] = (0.0,)
    blended: tuple[float, ...] = (0.0,)


@dataclass(frozen=True)
class Scene:
    """Images that were inverted: what they are, what is said of them, what may change, and a seed of each."""

    images: Float[Tensor, "image rgb y x"]
    inversion: Inversion
    mask: Float[Tensor, "image y x"]
    asked: Asked
    seeds: Sequence[int]


def counterfactuals(
    diffusion: Diffusion,
    classifier: Classifier,
    scene: Scene,
    options: Guidance,
    *,
    kept: Kept = Kept(),
    candidates: Candidates = Candidates(),
    batch: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, Float[Tensor, "image rgb y x"]], Guided, Float[Tensor, "image y x"]]:
    """Pictures of each condition, what was found on the way of the first, and the mask as it was cleaned.

    "caption swapped" is where optimisation starts: the picture of the changed caption. "pixels alone" has the same loss
    and no diffusion model. "another class" is the same search for a class that nobody asked for: what it changes is
    what any search changes.

    progress: called with (iterations done, in all).

    Raises DataError for masks that are empty or full, and as `guide`.

    Source: Augustin et al., section 5, D.1 and Algorithm 2.
    """
    mask = cleaned(scene.mask, erode=kept.erode, dilate=kept.dilate, blur=kept.blur)
    check_masks(mask, diffusion.size)
    images = scene.images.to(diffusion.device)
    small = latent_mask(mask, diffusion.codec.factor)
    near = Keep(images, diffusion.codec.encode(images), mask, small, kept.pixels, kept.encoded)
    asked, found = scene.asked, dict[str, Guided]()
    objectives = {FOUND: asked.target, WRONG: asked.other}
    for at, (name, changed) in enumerate(((FOUND, asked.changed), (WRONG, asked.elsewhere))):
        objective = LogProbability(classifier, torch.from_numpy(objectives[name]))
        start = start_of(diffusion, scene, changed, small, candidates, options, objective, near)
        told = stretch(progress, at, len(objectives))
        found[name] = guide(
            diffusion, start, objective, options, seeds=scene.seeds, distance=near, batch=batch, progress=told
        )
    plain = on_pixels(
        images,
        LogProbability(classifier, torch.from_numpy(asked.target)),
        diffusion.codec,
        distance=near,
        iterations=3 * options.iterations,
    )
    pictures = {
        FOUND: found[FOUND].images,
        SWAPPED: found[FOUND].first,
        PIXELS: plain.cpu(),
        WRONG: found[WRONG].images,
    }
    return pictures, found[FOUND], mask


def start_of(
    diffusion: Diffusion,
    scene: Scene,
    changed: Sequence[str],
    mask: Float[Tensor, "image row column"],
    candidates: Candidates,
    options: Guidance,
    objective: Objective,
    distance: Distance,
) -> Start:
    """Of each image the candidate whose picture has the least loss, for the changed captions."""
    inversion, states, device = scene.inversion, diffusion.states(changed), diffusion.device
    start = Start(inversion.latents, states, inversion.null, inversion.below)
    ways = list(product(candidates.injected, candidates.blended))
    if ways == [(0.0, 0.0)]:
        return start
    recorded = record(
        diffusion,
        inversion.latents.to(device),
        diffusion.states(scene.asked.captions),
        inversion.null.to(device),
        steps=options.steps,
        scale=options.scale,
        first=inversion.below,
    )
    pairs = zip(scene.asked.captions, changed, strict=True)
    aligned = torch.stack([alignment(diffusion.texts, *pair) for pair in pairs])

    def through(injected: Tensor, blended: Tensor) -> Start:
        attend = Injection.of(diffusion, recorded, aligned, until=injected)
        pasted = (one.to(device) for one in (inversion.trajectory, mask, blended))
        return replace(start, attend=attend, blend=Blend(*pasted))

    count, losses = len(changed), []
    seeds = [0] * count
    for way in ways:
        looked = guide(
            diffusion,
            through(*(torch.full((count,), share) for share in way)),
            objective,
            replace(options, iterations=0),
            seeds=seeds,
            distance=distance,
        )
        losses.append(looked.loss[0] + looked.distance[0])
    best = np.nan_to_num(np.stack(losses), nan=np.inf).argmin(0)
    return through(*torch.tensor([ways[k] for k in best]).T)
