"""Methods, rosetta: the dictionary of what models share (thesis, section 4.3), beside what chance gives."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
import xarray as xr
from jaxtyping import Float

from optogram.errors import ParamError
from optogram.methods.rosetta.correlation import Maps
from optogram.methods.rosetta.matching import concepts, merged
from optogram.methods.rosetta.mining import Images, Match, Member, Mined
from optogram.methods.rosetta.naming import Names, agreement
from optogram.methods.rosetta.nulls import KINDS, NULLS
from optogram.metrics.headline import Headline

SIDE = 32
"""Side of the maps that are kept for pictures."""


class Concept(NamedTuple):
    """Units of one model that are alike, and the partners of that which is shared best.

    units: of the first model, the best first. partners: of the best, by the other model's name, a unit and the
    correlation with it.
    """

    units: list[int]
    partners: dict[str, tuple[int, float]]


def dictionary(
    mined: Mined, members: Sequence[Member], *, alike: float, names: Mapping[str, Mapping[str, Names]]
) -> xr.Dataset:
    """Units, matches, pairs, layers and concepts of a group of models.

    members: the models, without that of the labels; the first is the one that concepts are joined over (eq. 4.4).
    alike: the least correlation of two units of it that are one concept. names: what units stand for, by the way that
    they were named ("labels", "texts") and by member.

    The variables are those of docs/artifacts/rosetta.md, without pictures.
    """
    order = [member.name for member in members]
    starts = dict(zip(order, np.cumsum([0, *(len(mined.units[name]) for name in order)]).tolist(), strict=False))
    matches = {pair: match for pair, match in mined.matches.items() if set(pair) <= set(order)}
    if not matches:
        raise ParamError("rosetta: a group needs two models at least. Name another one in it.")
    found = xr.merge(
        [
            _units(mined, order, names),
            _pairs(matches, starts),
            _matches(matches, names),
            _layers(mined, matches, order),
            _concepts(shared_concepts(mined, order, alike=alike), matches, order, starts),
        ]
    )
    return found.assign_attrs(images=mined.images, anchor=order[0])


def headline(found: xr.Dataset) -> Headline:
    """Pairs of the first two models above shuffled images, beside those of the null model that comes nearest."""
    count = found["count"].isel(match=0)
    first, second = (str(found[name].values[0]) for name in ("first", "second"))
    measure = f"best buddies of {first} and {second} above shuffled images"
    nulls = {said: float(count.sel(kind=kind)) for kind, said in NULLS.items() if np.isfinite(count.sel(kind=kind))}
    near = max(nulls, key=lambda said: nulls[said])
    units = int((found["model_of"] == first).sum())
    return Headline(measure, float(count.sel(kind="real")), units, near, nulls[near])


def shared_concepts(mined: Mined, order: Sequence[str], *, alike: float) -> list[Concept]:
    """The units of the first model that others share, in groups of those that are alike; most widely shared first."""
    first, partners, r = order[0], {}, dict[tuple[str, int, int], float]()
    for name in order[1:]:
        match = mined.matches[first, name]
        kept = match.pairs.r >= match.threshold
        partners[name] = np.stack([match.pairs.a, match.pairs.b], 1)[kept]
        r |= {(name, a, b): value for a, b, value in zip(*(each.tolist() for each in match.pairs[:3]), strict=True)}
    joined = merged(partners)

    def best(unit: int) -> dict[str, tuple[int, float]]:
        return {name: (found[0], r[name, unit, found[0]]) for name, found in joined[unit].items()}

    def key(unit: int) -> tuple[int, float]:
        rs = [r for _, r in best(unit).values()]
        return len(rs), sum(rs) / len(rs)

    within = np.stack([mined.within.a, mined.within.b], 1)[mined.within.r >= alike]
    groups = [sorted(group, key=key, reverse=True) for group in concepts(joined, within)]
    return [Concept(group, best(group[0])) for group in sorted(groups, key=lambda each: key(each[0]), reverse=True)]


def pictures(
    found: xr.Dataset,
    mined: Mined,
    members: Sequence[Member],
    draw: Callable[[np.ndarray], Images],
    *,
    shown: int,
    images: int,
) -> xr.Dataset:
    """The images in which each of the first `shown` concepts is strongest, and the maps of its units in them.

    The last two of four or more images are the middle one and that in which it is weakest, to compare with.

    draw: the images of these numbers, and the maps that come with them. Returns `pixels` (shown, example, y, x, rgb)
    uint8, `image_number` (shown, example), and `maps` (shown, model, example, my, mx) float16, each unit's between 0
    and 1 over its examples; NaN of models that do not share the concept.
    """
    first, count = members[0].name, min(shown, found.sizes["concept"])
    units = found["concept_unit"].transpose("concept", "model").values[:count]
    starts = {one.name: int(np.flatnonzero(found["model_of"].values == one.name)[0]) for one in members}
    top = np.empty((count, images), np.int64)
    for at in range(count):
        means = mined.means[first][:, int(units[at, 0]) - starts[first]]
        order = np.argsort(-means, kind="stable")
        top[at] = order[:images]
        if images >= 4:
            top[at, -2:] = order[len(order) // 2], order[-1]
    rows, place = np.unique(top, return_inverse=True)
    given = draw(rows)
    place = place.reshape(top.shape)
    maps = np.full((count, len(members), images, SIDE, SIDE), np.nan, np.float16)
    for column, member in enumerate(members):
        layers = member.maps(given.pixels) if member.maps else given.maps[member.name]
        for at in range(count):
            if np.isfinite(units[at, column]):
                one = _map_of(layers, int(units[at, column]) - starts[member.name], place[at])
                maps[at, column] = one
    variables: dict[str, Any] = {
        "pixels": (("shown", "example", "y", "x", "rgb"), given.pixels[place]),
        "image_number": (("shown", "example"), top),
        "maps": (("shown", "model", "example", "my", "mx"), maps, {"missing": "the model does not share it"}),
    }
    return xr.Dataset(variables)


def _map_of(layers: Maps, unit: int, images: np.ndarray) -> Float[np.ndarray, "image my mx"]:
    for layer in layers:
        if unit < layer.shape[1]:
            chosen = layer[torch.from_numpy(images), unit][:, None].float()
            found = F.interpolate(chosen, size=(SIDE, SIDE), mode="bilinear", align_corners=False)[:, 0].cpu().numpy()
            low, high = found.min(), found.max()
            return (found - low) / (high - low) if high > low else np.zeros_like(found)
        unit -= layer.shape[1]
    raise IndexError(unit)


def _units(mined: Mined, order: Sequence[str], names: Mapping[str, Mapping[str, Names]]) -> xr.Dataset:
    rows = [(name, *unit) for name in order for unit in mined.units[name]]
    ids = np.array([f"{model}:{layer}:{channel}" for model, layer, channel, _ in rows])
    variables: dict[str, Any] = {
        "model_of": ("unit", np.array([row[0] for row in rows])),
        "layer_of": ("unit", np.array([row[1] for row in rows])),
        "channel": ("unit", np.array([row[2] for row in rows], np.int32)),
        "map_height": ("unit", np.array([row[3][0] for row in rows], np.int32)),
        "map_width": ("unit", np.array([row[3][1] for row in rows], np.int32)),
        "mean": ("unit", np.concatenate([mined.mean[name] for name in order])),
        "deviation": ("unit", np.concatenate([mined.deviation[name] for name in order])),
        "constant": ("unit", np.concatenate([mined.constant[name] for name in order])),
    }
    for way, by_model in names.items():
        said = [by_model[name] for name in order]
        variables[f"name_{way}"] = ("unit", np.array([value for each in said for value in each.value]))
        if way == "labels":
            variables["attribute_labels"] = ("unit", np.array([value for each in said for value in each.attribute]))
        variables[f"name_r_{way}"] = ("unit", np.concatenate([each.r for each in said]).astype(np.float32))
    return xr.Dataset(variables, {"unit": ids, "model": list(order)})


def _pairs(matches: Mapping[tuple[str, str], Match], starts: Mapping[str, int]) -> xr.Dataset:
    columns: dict[str, list[np.ndarray]] = {
        name: [] for name in ("a", "b", "r", "rank_a", "rank_b", "found", "pair_match")
    }
    halves, null_r, null_kind, null_match = [], [], [], []
    for number, ((one, other), match) in enumerate(matches.items()):
        pairs = match.pairs
        here = (starts[one] + pairs.a, starts[other] + pairs.b, pairs.r, pairs.rank_a, pairs.rank_b)
        for name, values in zip(
            columns, (*here, pairs.r >= match.threshold, np.full(len(pairs.r), number)), strict=True
        ):
            columns[name].append(values)
        halves.append(match.halves)
        for kind, parts in match.nulls.items():
            r = np.concatenate(list(parts))
            null_r.append(r)
            null_kind += [kind] * len(r)
            null_match += [number] * len(r)
    types = {"r": np.float32, "found": bool}
    variables: dict[str, Any] = {
        name: ("pair", np.concatenate(values).astype(types.get(name, np.int32))) for name, values in columns.items()
    }
    variables["r_half"] = (("half", "pair"), np.concatenate(halves, 1).astype(np.float32))
    variables["null_r"] = ("null_pair", np.concatenate(null_r).astype(np.float32))
    variables["null_kind"] = ("null_pair", np.array(null_kind))
    variables["null_match"] = ("null_pair", np.array(null_match, np.int32))
    return xr.Dataset(variables)


def _matches(matches: Mapping[tuple[str, str], Match], names: Mapping[str, Mapping[str, Names]]) -> xr.Dataset:
    counts = np.full((len(matches), len(KINDS)), np.nan)
    agreed = np.full((len(matches), max(1, len(names)), 3), np.nan)
    stable, one_to_one = np.full(len(matches), np.nan), np.full(len(matches), np.nan)
    for number, (pair, match) in enumerate(matches.items()):
        kept = match.pairs.r >= match.threshold
        counts[number, 0] = kept.sum()
        for kind, parts in match.nulls.items():
            counts[number, KINDS.index(kind)] = np.mean([(r >= match.threshold).sum() for r in parts])
        if kept.any():
            stable[number] = (match.halves[:, kept] >= match.threshold).all(0).mean()
        if match.assigned is not None:
            one_to_one[number] = (match.assigned >= match.threshold).sum()
        for way, by_model in enumerate(names.values()):
            of = [by_model[name].value for name in pair]
            agreed[number, way] = agreement(of[0], of[1], match.pairs.a[kept].tolist(), match.pairs.b[kept].tolist())
    none = {"missing": "there is no pair, or no null model of this kind"}
    thresholds = np.array([match.threshold for match in matches.values()])
    variables: dict[str, Any] = {
        "first": ("match", np.array([one for one, _ in matches])),
        "second": ("match", np.array([other for _, other in matches])),
        "threshold": ("match", np.where(np.isfinite(thresholds), thresholds, np.nan), none),
        "count": (("match", "kind"), counts, none),
        "stable": ("match", stable, none),
        "assigned": ("match", one_to_one, {"missing": "the table of all pairs was made in parts"}),
    }
    coordinates: dict[str, Any] = {"kind": list(KINDS)}
    if names:
        variables |= {
            "agreement": (("match", "naming"), agreed[..., 0], none),
            "agreement_chance": (("match", "naming"), agreed[..., 1], none),
            "agreement_of": (("match", "naming"), agreed[..., 2], none),
        }
        coordinates["naming"] = list(names)
    return xr.Dataset(variables, coordinates)


def _layers(mined: Mined, matches: Mapping[tuple[str, str], Match], order: Sequence[str]) -> xr.Dataset:
    """How many units of each layer have partners."""
    partners = {name: np.zeros((len(mined.units[name]), len(order)), bool) for name in order}
    for (one, other), match in matches.items():
        kept = match.pairs.r >= match.threshold
        partners[one][match.pairs.a[kept], order.index(other)] = True
        partners[other][match.pairs.b[kept], order.index(one)] = True
    rows = []
    for name in order:
        of = np.array([layer for layer, _, _ in mined.units[name]])
        for layer in dict.fromkeys(of.tolist()):
            shared = partners[name][of == layer].sum(1)
            rows.append((name, layer, len(shared), (shared > 0).mean(), (shared == len(order) - 1).mean()))
    return xr.Dataset(
        {
            "layer_model": ("layer", np.array([row[0] for row in rows])),
            "layer_name": ("layer", np.array([row[1] for row in rows])),
            "layer_units": ("layer", np.array([row[2] for row in rows], np.int32)),
            "layer_shared": ("layer", np.array([row[3] for row in rows])),
            "layer_shared_by_all": ("layer", np.array([row[4] for row in rows])),
        }
    )


def _concepts(
    found: Sequence[Concept], matches: Mapping[tuple[str, str], Match], order: Sequence[str], starts: Mapping[str, int]
) -> xr.Dataset:
    unit = np.full((len(found), len(order)), np.nan)
    r, chance = np.full_like(unit, np.nan), np.full_like(unit, np.nan)
    for row, concept in enumerate(found):
        unit[row, 0] = starts[order[0]] + concept.units[0]
        for name, (partner, value) in concept.partners.items():
            column = order.index(name)
            null = np.concatenate(list(matches[order[0], name].nulls["shuffled"]))
            unit[row, column], r[row, column] = starts[name] + partner, value
            chance[row, column] = (1 + (null >= value).sum()) / (1 + len(null))
    none = {"missing": "the model does not share it"}
    return xr.Dataset(
        {
            "concept_unit": (("concept", "model"), unit, none),
            "concept_r": (("concept", "model"), r, none),
            "concept_chance": (("concept", "model"), chance, none),
            "concept_units": ("concept", np.array([len(concept.units) for concept in found], np.int32)),
            "concept_models": ("concept", np.array([1 + len(concept.partners) for concept in found], np.int32)),
        }
    )
