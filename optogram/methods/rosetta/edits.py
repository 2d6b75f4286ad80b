"""Methods, rosetta: edits of what a generator draws by its shared units (thesis, section 4.4), judged in the picture.

Maps of the units are changed, and latents found whose maps are like the changed ones. That the maps follow says little:
whether the object moved, grew or left is asked of a judge that looks at the picture alone. Beside each edit stands a
control of as many steps: the same with the units' maps permuted, or with other units of the same layers. What a unit
does is asked more directly by setting it to zero while the generator draws.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import xarray as xr
from torch import Tensor

from optogram.errors import DataError
from optogram.methods.rosetta.concept_edits import Unit, concept_edits, enough, named_concepts, other_units
from optogram.methods.rosetta.following import Drawing, Told, follow
from optogram.methods.rosetta.inversion import Inversion
from optogram.methods.rosetta.map_edits import pasted, shifted, zoomed
from optogram.methods.rosetta.reconstruction import Pair, permuted, units_of
from optogram.metrics.edits import enlarged, kept, moved, succeeded
from optogram.metrics.headline import Headline
from optogram.metrics.intervals import share

STRIDE = 0.25
"""How far maps are shifted, as a share of their side."""
CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "zoom in": zoomed,
    "shift right": lambda maps: shifted(maps, 0, STRIDE),
    "copy and paste": lambda maps: pasted(maps, STRIDE),
}
ANEW = {"copy and paste"}
"""Edits that start from other latents than the picture's own, as the thesis does."""
MEANT = {"zoom in": {"size", "position"}, "shift right": {"position"}, "copy and paste": {"count", "position", "size"}}
"""Attributes that an edit may change; the others should stay as they are."""
MATCHED, CONTROL = "shared units", "permuted"


def edits(
    drawing: Drawing,
    found: xr.Dataset,
    seeds: Sequence[int],
    options: Inversion,
    *,
    images: int,
    concepts: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
    """The artifact rosetta_edits/<group>: edits and ablations of pictures, those with one object before others.

    found: rosetta/<group>, whose first model is the generator. seeds: of the pictures to choose from. images: how many
    are edited in each way; of those that do not show one object it is only told what the units did. concepts: how many
    values, those with the clearest units, are taken out and put in. seed: of the permutation and of other units.
    progress: called with (steps done, steps in all).

    Raises DataError if the generator shares no unit.
    """
    units = shared_units(found)
    if not units:
        raise DataError("no unit of the generator has a partner above chance")
    latents = drawing.generator.latents(list(seeds))
    pixels = drawing.pixels(latents)
    seen = drawing.judge.parse(pixels)
    single = seen["count"].values == 1
    rows = np.concatenate([np.flatnonzero(single), np.flatnonzero(~single)])[:images]
    values = [
        each
        for each in named_concepts(found, units)
        if enough(seen, each, images) and other_units(drawing.alive, each.units, seed=seed)
    ][:concepts]
    tell = Told(progress, options.steps, 2 * len(CHANGES) + 4 * bool(values))
    before = seen.isel(image=rows)
    parts = [_pictures(drawing, latents[rows], pixels[rows], before, units, options, seed, tell)]
    if values:
        parts.append(concept_edits(drawing, latents, pixels, seen, values, options, images, seed, tell))
    return xr.merge(parts).assign_attrs(shared=len(units), side=pixels.shape[1])


def headline(found: xr.Dataset) -> Headline:
    """How often an edit is seen in the picture, beside permuted units; without any object, how far units go."""
    of = int(found["success_of"].sum() / 2)
    measure, told = ("edits by shared units that are seen in the picture", "succeeded")
    if not of:
        measure, told, of = "way to edited maps that shared units went", "reached", found.sizes["image"]
    real, control = (float(found[told].sel(pairs=name).mean()) for name in (MATCHED, CONTROL))
    return Headline(measure, real, of, "permuted units", control)


def shared_units(found: xr.Dataset) -> list[Unit]:
    """The generator's units that have a partner above chance, in the order of its layers; none that is constant."""
    place = units_of(found, str(found["model"].values[0]))
    shared = {int(a) for a in found["a"].values[found["found"].values]}
    constant = found["constant"].values
    return [unit for number, unit in place.items() if number in shared and not constant[number]]


def _pictures(
    drawing: Drawing,
    latents: Tensor,
    pixels: np.ndarray,
    before: xr.Dataset,
    units: Sequence[Unit],
    options: Inversion,
    seed: int,
    tell: Told,
) -> xr.Dataset:
    """Edits of all shared units together."""
    own = [(unit, unit) for unit in units]
    pairs = {MATCHED: own, CONTROL: permuted_alike(drawing, own, seed)}
    maps, side = drawing.maps(latents), pixels.shape[1]
    first = int(np.random.SeedSequence((seed, 1)).generate_state(1, np.uint32)[0])
    anew = drawing.generator.latents(range(first, first + len(latents)))
    shape, names = (len(CHANGES), len(pairs), len(latents)), before["attribute"].values.astype(str).tolist()
    drawn, reached = np.zeros((*shape, *pixels.shape[1:]), np.uint8), np.zeros(shape, np.float32)
    scores = {name: np.full(shape, np.nan, np.float32) for name in ("amount", "succeeded", "kept")}
    for e, (edit, change) in enumerate(CHANGES.items()):
        for p, each in enumerate(pairs.values()):
            start = anew if edit in ANEW else latents
            wanted = [([change(layer) for layer in maps], each)]
            there, reached[e, p] = follow(drawing, start, wanted, options, tell.next())
            drawn[e, p] = drawing.pixels(there)
            after = drawing.judge.parse(drawn[e, p])
            scores["amount"][e, p] = _amount(edit, before, after)
            scores["succeeded"][e, p] = succeeded(edit, before, after, side=side, share=STRIDE)
            scores["kept"][e, p] = kept(before, after, [name for name in names if name not in MEANT[edit]])
    hits, of = np.nansum(scores["succeeded"], 2), np.isfinite(scores["succeeded"]).sum(2)
    interval = share(hits, of)
    over = ("edit", "pairs")
    variables: dict[str, Any] = {
        "original": (("image", "y", "x", "rgb"), pixels),
        "pixels": ((*over, "image", "y", "x", "rgb"), drawn),
        "reached": ((*over, "image"), reached),
        **{name: ((*over, "image"), each) for name, each in scores.items()},
        "success_low": (over, interval.low),
        "success_high": (over, interval.high),
        "success_of": (over, of),
    }
    for name in ("amount", "succeeded", "kept"):
        variables[name] = (*variables[name], {"missing": "there was not one object before, or there is not one after"})
    variables["reached"] = (*variables["reached"], {"missing": "the edit changes no map"})
    return xr.Dataset(variables, {"edit": list(CHANGES), "pairs": list(pairs)})


def permuted_alike(drawing: Drawing, pairs: Sequence[Pair], seed: int) -> list[Pair]:
    """The same units, each asked for what is another's of the same layer; of a layer with one, its own."""
    found: list[Pair] = []
    for layer in sorted({layer for (layer, _), _ in pairs}):
        found += permuted([pair for pair in pairs if pair[0][0] == layer], seed)
    return found


def _amount(edit: str, before: xr.Dataset, after: xr.Dataset) -> np.ndarray:
    """How much larger, how many pixels further to the right, how many objects."""
    if edit == "zoom in":
        return enlarged(before, after)
    if edit == "shift right":
        return moved(before, after)[:, 1]
    return np.where(before["count"].values == 1, after["count"].values, np.nan)
