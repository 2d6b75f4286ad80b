"""Methods, rosetta: values taken out of pictures and put into others by the units named by them; such units ablated."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from optogram.methods.rosetta.following import Drawing, Told, follow
from optogram.methods.rosetta.inversion import Inversion
from optogram.methods.rosetta.map_edits import ablating, lowered, raised
from optogram.methods.rosetta.naming import GROUND
from optogram.methods.rosetta.reconstruction import units_of
from optogram.metrics.edits import kept

OWN, OTHERS = "its units", "other units"
ABLATED, REMOVED, ADDED = "ablated", "removed", "added"
HIGH = 3.0
"""Deviations above its mean to which a unit is raised where a value is added."""

Unit = tuple[int, int]
"""A unit of the generator: the number of its layer, and its channel there."""


class Concept(NamedTuple):
    """A value of an attribute, and the shared units of the generator that are named by it, the clearest first."""

    attribute: str
    value: str
    units: list[Unit]


def named_concepts(found: xr.Dataset, units: Sequence[Unit]) -> list[Concept]:
    """The values that shared units are named by: the clearest of each attribute, then the second of each, and so on."""
    place = units_of(found, str(found["model"].values[0]))
    chosen, clear = set(units), found["name_r_labels"].values
    named: dict[tuple[str, str], list[int]] = {}
    for number, unit in place.items():
        value = str(found["name_labels"].values[number])
        if unit in chosen and value:
            named.setdefault((str(found["attribute_labels"].values[number]), value), []).append(number)
    ordered = {key: sorted(each, key=lambda number: -clear[number]) for key, each in named.items()}
    best = sorted(ordered, key=lambda key: -clear[ordered[key][0]])
    rank = {key: [other for other in best if other[0] == key[0]].index(key) for key in best}
    return [Concept(*key, [place[number] for number in ordered[key]]) for key in sorted(best, key=rank.__getitem__)]


def other_units(alive: Mapping[int, Sequence[int]], units: Sequence[Unit], *, seed: int) -> list[Unit]:
    """As many units of the same layers, drawn by the seed from those that are not among `units`, or as many as are.

    alive: of each layer the channels to draw from: those that are not constant.
    """
    draw, found = np.random.default_rng(seed), list[Unit]()
    for layer in sorted({layer for layer, _ in units}):
        taken = {channel for at, channel in units if at == layer}
        free = [channel for channel in alive[layer] if channel not in taken]
        count = min(len(taken), len(free))
        found += [(layer, int(channel)) for channel in sorted(draw.choice(free, count, replace=False))] if count else []
    return found


def concept_edits(
    drawing: Drawing,
    latents: Tensor,
    pixels: np.ndarray,
    seen: xr.Dataset,
    values: Sequence[Concept],
    options: Inversion,
    images: int,
    seed: int,
    tell: Told,
) -> xr.Dataset:
    """Values taken out of pictures that show them, and put into others, by their own units and by other ones."""
    has, lacks = zip(*(with_and_without(seen, each, images) for each in values), strict=True)
    sides = {OWN: [each.units for each in values]}
    sides[OTHERS] = [other_units(drawing.alive, units, seed=seed + at) for at, units in enumerate(sides[OWN])]
    shape = (len(values), 3, len(sides), images)
    drawn = np.zeros((*shape, *pixels.shape[1:]), np.uint8)
    level = [mean + HIGH * deviation for mean, deviation in zip(drawing.own.mean, drawing.own.deviation, strict=True)]
    for s, chosen in enumerate(sides.values()):
        for c, units in enumerate(chosen):
            with ablating(drawing.generator, units):
                drawn[c, 0, s] = drawing.pixels(latents[has[c]])
        for w, rows in ((1, has), (2, lacks)):
            wanted = []
            for c, units in enumerate(chosen):
                maps = drawing.maps(latents[rows[c]])
                where = torch.from_numpy(seen["mask"].values[rows[c]] > 0).to(latents.device)
                where = ~where if values[c].attribute == GROUND else where
                changed = [
                    lowered(layer) if w == 1 else raised(layer, high, where)
                    for layer, high in zip(maps, level, strict=True)
                ]
                wanted.append(
                    (changed, [(unit, unit) for unit in units if drawing.own.deviation[unit[0]][unit[1]] > 0])
                )
            start = torch.cat([latents[each] for each in rows])
            there, _ = follow(drawing, start, wanted, options, tell.next())
            drawn[:, w, s] = drawing.pixels(there).reshape(len(values), images, *pixels.shape[1:])
    return _measured(drawing, pixels, seen, values, (has, has, lacks), drawn, list(sides))


def _measured(
    drawing: Drawing,
    pixels: np.ndarray,
    seen: xr.Dataset,
    values: Sequence[Concept],
    rows: Sequence[Sequence[np.ndarray]],
    drawn: np.ndarray,
    sides: list[str],
) -> xr.Dataset:
    """Whether each value is seen in the picture, and how many of the other attributes are as before."""
    names = seen["attribute"].values.astype(str).tolist()
    known = seen["value_name"].transpose("attribute", "value").values.astype(str)
    there, stay = (np.zeros(drawn.shape[:4], np.float32) for _ in range(2))
    for c, each in enumerate(values):
        column = names.index(each.attribute)
        index = known[column].tolist().index(each.value)
        for w, chosen in enumerate(rows):
            before = seen.isel(image=chosen[c])
            for s in range(len(sides)):
                after = drawing.judge.parse(drawn[c, w, s])
                there[c, w, s] = after["value"].transpose("image", "attribute").values[:, column] == index
                stay[c, w, s] = kept(before, after, [name for name in names if name != each.attribute])
    over = ("concept", "way", "units")
    original = np.stack([np.stack([pixels[chosen[c]] for chosen in rows]) for c in range(len(values))])
    variables: dict[str, Any] = {
        "concept_units": ("concept", np.array([len(each.units) for each in values], np.int32)),
        "concept_original": (("concept", "way", "sample", "y", "x", "rgb"), original),
        "concept_pixels": ((*over, "sample", "y", "x", "rgb"), drawn),
        "concept_seen": ((*over, "sample"), there),
        "concept_kept": ((*over, "sample"), stay, {"missing": "no other attribute was seen before"}),
    }
    coordinates: dict[str, Any] = {
        "concept": [f"{each.attribute}: {each.value}" for each in values],
        "way": [ABLATED, REMOVED, ADDED],
        "units": sides,
    }
    return xr.Dataset(variables, coordinates)


def with_and_without(seen: xr.Dataset, concept: Concept, images: int) -> tuple[np.ndarray, np.ndarray]:
    """The first pictures of one object in which a value is seen, and the first in which it is not."""
    names = seen["attribute"].values.astype(str).tolist()
    column = names.index(concept.attribute)
    index = seen["value_name"].transpose("attribute", "value").values.astype(str)[column].tolist().index(concept.value)
    shows = seen["value"].transpose("image", "attribute").values[:, column] == index
    alone = seen["count"].values == 1
    return np.flatnonzero(alone & shows)[:images], np.flatnonzero(alone & ~shows)[:images]


def enough(seen: xr.Dataset, concept: Concept, images: int) -> bool:
    """Whether there are so many pictures with a concept, and as many without."""
    return all(len(rows) == images for rows in with_and_without(seen, concept, images))
