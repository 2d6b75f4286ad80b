"""Methods, rosetta: one shared unit alone, drawn from several latents (thesis, section 4.4).

Pictures of all units at once do not tell what one of them stands for. Those of one unit, from latents that have nothing
else in common, show what is left when all else varies: red things, and not hats.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
import xarray as xr
from jaxtyping import Float, UInt8
from torch import Tensor

from optogram.methods.rosetta.inversion import Inversion, Moments, Targets, invert, similarity, targets_of
from optogram.methods.rosetta.mining import Member
from optogram.methods.rosetta.reconstruction import moments_of, units_of
from optogram.models.generative.generators import Generator
from optogram.models.generative.sampling import to_pixels

GOALS = ("start", "its partner's map", "another unit's map")


class _Case(NamedTuple):
    """A concept: the generator's unit, the model and unit it is most like, the image in which that is strongest."""

    concept: int
    own: tuple[int, int]
    model: str
    partner: tuple[int, int]
    image: int


def single_units(
    generator: Generator,
    found: xr.Dataset,
    members: Sequence[Member],
    pixels: UInt8[np.ndarray, "image y x rgb"],
    seeds: Sequence[int],
    options: Inversion,
    *,
    count: int,
    progress: Callable[[int, int], None] | None = None,
) -> xr.Dataset | None:
    """Pictures in which one unit of the generator is active where its partner is in an image (eq. 4.5 of one pair).

    found: rosetta/<group>, whose first `count` concepts with different partners are drawn. pixels: the image of a
    concept is the one of these in which the partner of its first unit is strongest. seeds: of the latents that each
    concept is drawn from.

    Returns a Dataset with the dims `alone` (a concept), `goal` (`GOALS`) and `latent`:
    - `alone_concept` (alone) int64, its number; `alone_model` (alone), the model of the partner; `alone_image` (alone)
      int64, the row of `pixels`; `alone_map` (alone, y, x) float32, the partner's map there, from 0 to 1;
    - `alone_pixels` (alone, goal, latent, y, x, rgb) uint8; `alone_similarity` (alone, goal, latent) float32, of the
      unit's map and the partner's (eq. 4.6). The last goal is the control: as many steps towards the map of the next
      concept's partner, in that one's image.

    None if fewer than two concepts have partners of their own, one of which could be the control of the other.
    """
    first = str(found["model"].values[0])
    own, theirs = moments_of(found, first), {member.name: moments_of(found, member.name) for member in members}
    with torch.no_grad():
        maps = {member.name: list(member.maps(pixels)) for member in members if member.maps}
    cases = _cases(found, maps, count)
    if len(cases) < 2:
        return None
    each, following = len(seeds), [*cases[1:], cases[0]]

    def targets(pairs: Sequence[tuple[_Case, _Case]]) -> dict[str, Tensor]:
        parts = []
        for case, shown in pairs:
            here = [layer[[shown.image] * each] for layer in maps[shown.model]]
            parts.append(targets_of(here, theirs[shown.model], generator, own, [(case.own, shown.partner)]))
        return _behind(parts, each)

    right = [(case, case) for case in cases]
    wanted = targets([*right, *zip(cases, following, strict=True)])
    start = generator.latents(list(seeds)).repeat(2 * len(cases), 1)
    drawn = invert(generator, start, own, wanted, replace(options, reconstructed=0.0), progress=progress)
    latents = torch.cat([start[: each * len(cases)], drawn.latents])
    images, like = _measured(generator, latents, own, targets(right * len(GOALS)))
    shape = (len(GOALS), len(cases), each)
    dims = ("alone", "goal", "latent")
    variables: dict[str, Any] = {
        "alone_concept": ("alone", np.array([case.concept for case in cases], np.int64)),
        "alone_model": ("alone", np.array([case.model for case in cases])),
        "alone_image": ("alone", np.array([case.image for case in cases], np.int64)),
        "alone_map": (("alone", "y", "x"), np.stack([_heat(maps, case, pixels.shape[1:3]) for case in cases])),
        "alone_pixels": ((*dims, "y", "x", "rgb"), images.reshape(*shape, *images.shape[1:]).swapaxes(0, 1)),
        "alone_similarity": (dims, like.reshape(shape).swapaxes(0, 1)),
    }
    return xr.Dataset(variables, {"goal": list(GOALS)})


def _cases(found: xr.Dataset, maps: Mapping[str, Sequence[Tensor]], count: int) -> list[_Case]:
    names = found["model"].values.astype(str).tolist()
    place = {name: units_of(found, name) for name in [names[0], *maps]}
    unit, r = (found[name].transpose("concept", "model").values for name in ("concept_unit", "concept_r"))
    columns = [names.index(name) for name in maps]
    cases: list[_Case] = []
    for concept in range(len(unit)):
        near = [column for column in columns if np.isfinite(r[concept, column])]
        if not near or len(cases) == count:
            continue
        best = max(near, key=lambda column: r[concept, column])
        layer, channel = place[names[best]][int(unit[concept, best])]
        if any(case.model == names[best] and case.partner == (layer, channel) for case in cases):
            continue  # of two concepts with one partner, neither is a control of the other
        own = place[names[0]][int(unit[concept, 0])]
        image = int(maps[names[best]][layer][:, channel].amax((1, 2)).argmax())
        cases.append(_Case(concept, own, names[best], (layer, channel), image))
    return cases


def _behind(parts: Sequence[Targets], each: int) -> dict[str, Tensor]:
    """Targets of so many images each, one behind the other; 0 in the layers that a part says nothing of."""
    shapes = {name: target for part in parts for name, target in part.items()}
    return {
        name: torch.cat([part.get(name, like.new_zeros(each, *like.shape[1:])) for part in parts])
        for name, like in shapes.items()
    }


@torch.no_grad()
def _measured(
    generator: Generator, latents: Float[Tensor, "image latent"], own: Moments, targets: Targets
) -> tuple[UInt8[np.ndarray, "image y x rgb"], Float[np.ndarray, " image"]]:
    images, maps = generator.maps(latents, list(targets))
    like = similarity(maps, generator.layers, own, targets)
    return to_pixels(images, "the generator"), like.float().cpu().numpy()


def _heat(maps: Mapping[str, Sequence[Tensor]], case: _Case, size: tuple[int, ...]) -> Float[np.ndarray, "y x"]:
    """The partner's map of a case's image at the image's size, from 0, its least value, to 1."""
    layer, channel = case.partner
    one = maps[case.model][layer][case.image, channel].float().cpu()
    one = (one - one.min()) / (one.max() - one.min()).clamp_min(1e-12)
    return F.interpolate(one[None, None], size=size, mode="bilinear", align_corners=False)[0, 0].numpy()
