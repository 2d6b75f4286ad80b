"""Methods, rosetta: mines the units that several models share, and as many times what chance gives, in one pass.

Every model sees an image once, whatever it is compared with. Beside the correlations themselves, those of three null
models are summed up: the images of the second model shuffled against those of the first, the channels of each of its
layers rotated, and its weights as they were before training.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, UInt8
from torch import Tensor

from optogram.errors import DataError
from optogram.methods.rosetta.correlation import (
    BLOCK,
    Block,
    Correlation,
    Maps,
    centres_of,
    in_blocks,
    layers_of,
    units_by_size,
)
from optogram.methods.rosetta.matching import (
    Pairs,
    assigned,
    false_discovery_threshold,
    neighbours,
    paired,
)

LEAST = 50
"""Images below which correlations say nothing."""


@dataclass(frozen=True)
class Member:
    """A model of a group: `maps` gives those of its units of images, `untrained` those of its untrained twin.

    layers: names, in the order of the maps. Without `maps` they come with the images: those of a generator that drew
    them, or of labels.
    """

    name: str
    layers: tuple[str, ...]
    maps: Callable[[UInt8[np.ndarray, "image y x rgb"]], Maps] | None = None
    untrained: Callable[[UInt8[np.ndarray, "image y x rgb"]], Maps] | None = None


class Images(NamedTuple):
    """Images, and the maps that come with them, by the member's name."""

    pixels: UInt8[np.ndarray, "image y x rgb"]
    maps: Mapping[str, Maps]


@dataclass(frozen=True)
class Match:
    """What is shared by two models.

    correlation: of their units. pairs: their best buddies; halves: the correlations of these on each half of images.
    threshold: the least correlation at which the share of false discoveries is low enough, infinite if there is none.
    nulls: correlations of the best buddies of each null model, by its kind; of "shuffled" an array a shuffle. assigned:
    the best one-to-one assignment of units.
    """

    correlation: Float64[np.ndarray, "unit_a unit_b"]
    pairs: Pairs
    halves: Float64[np.ndarray, "half pair"]
    threshold: float
    nulls: Mapping[str, Sequence[Float64[np.ndarray, " _null_pair"]]]
    assigned: np.ndarray


@dataclass(frozen=True)
class Mined:
    """What a group of models shares.

    units: of each member, the layer, channel and size of each unit. matches: by the two names. within: correlations of
    the first member's units with each other. means: (image, unit) the mean of each map, of each member.
    constant: units that are constant on the images, mean, deviation: of each unit (eq. 4.1), of each member.
    """

    units: Mapping[str, list[tuple[str, int, tuple[int, int]]]]
    matches: Mapping[tuple[str, str], Match]
    within: Float64[np.ndarray, "unit unit"]
    means: Mapping[str, Float[np.ndarray, "image _unit"]]
    constant: Mapping[str, np.ndarray]
    mean: Mapping[str, Float64[np.ndarray, " _unit"]]
    deviation: Mapping[str, Float64[np.ndarray, " _unit"]]
    images: int = 0


@dataclass
class _Sums:
    """Of two models: of the images themselves in two halves, and of each null model."""

    halves: list[Correlation]
    shuffled: list[Correlation]
    nulls: dict[str, Correlation] = field(default_factory=dict)


def mine(
    batches: Iterable[Images],
    members: Sequence[Member],
    *,
    k: int = 5,
    rate: float = 0.01,
    shuffles: int = 4,
    seed: int,
) -> Mined:
    """Correlations and best buddies of the units of every two members, and of the null models beside.

    batches: images in a random order, as shuffles exchange near ones. The bytes do not depend on how many a batch has.
    k: of best buddies. rate: of false discoveries (`false_discovery_threshold`). seed: of the rotations.

    Raises DataError for fewer than 50 images, and, naming model, layer and channel, for values that are not finite.
    """
    mining = _Mining(members, shuffles, seed)
    count = 0
    for block in mining.blocks(batches):
        count += mining.add(block)
    if count < LEAST:
        raise DataError(f"rosetta: there are {count} images, expected at least {LEAST}. Take more.")
    return mining.found(k, rate, count)


class _Mining:
    """The sums of a group while images come in."""

    def __init__(self, members: Sequence[Member], shuffles: int, seed: int) -> None:
        self._members, self._shuffles, self._seed = members, shuffles, seed
        self._twins = [member for member in members if member.untrained]
        self._centres: dict[str, Sequence[Tensor]] = {}
        self._sums: dict[tuple[str, str], _Sums] = {}
        self._rotations: dict[str, list[Tensor]] = {}
        self._means: dict[str, list[np.ndarray]] = {member.name: [] for member in members}
        self._units: dict[str, list[tuple[int, tuple[int, int]]]] = {}
        self._moments: dict[str, np.ndarray] = {}
        self._within: Correlation | None = None
        self._blocks = 0

    def blocks(self, batches: Iterable[Images]) -> Iterator[dict[str, list[Tensor]]]:
        """Maps of every member and every twin, the same number of images at a time."""
        names = [*(member.name for member in self._members), *(_twin(member.name) for member in self._twins)]

        def maps() -> Iterator[list[Maps]]:
            for images in batches:
                own = [
                    member.maps(images.pixels) if member.maps else images.maps[member.name] for member in self._members
                ]
                yield [*own, *(member.untrained(images.pixels) for member in self._twins if member.untrained)]

        for block in in_blocks(maps()):
            yield dict(zip(names, block, strict=True))

    def add(self, maps: Mapping[str, list[Tensor]]) -> int:
        """Take in a block; returns its number of images."""
        self._check(maps)
        if not self._units:
            self._begin(maps)
        blocks = {name: Block(each, self._centres[name]) for name, each in maps.items()}
        names = [member.name for member in self._members]
        for name in names:
            self._moments[name] = self._moments.get(name, 0) + own_sums(blocks[name], self._units[name])
            self._means[name].append(np.concatenate([layer.mean((2, 3)).cpu().numpy() for layer in maps[name]], 1))
        count = len(maps[names[0]][0])
        rotated = {name: self._rotated(name, maps[name]) for name in names[1:] if name in self._rotations}
        orders = [torch.roll(torch.arange(count), 1 + shift) for shift in range(self._shuffles)]
        for one, other in combinations(names, 2):
            sums = self._sums[one, other]
            sums.halves[self._blocks % 2].add(blocks[one], blocks[other])
            if count == BLOCK:  # in a smaller one some images might stay where they are
                for correlation, order in zip(sums.shuffled, orders, strict=True):
                    correlation.add(blocks[one], blocks[other].shuffled(order))
            if "untrained" in sums.nulls:
                sums.nulls["untrained"].add(blocks[one], blocks[_twin(other)])
            if "rotated" in sums.nulls:
                sums.nulls["rotated"].add(blocks[one], rotated[other])
        first = blocks[names[0]]
        assert self._within is not None
        self._within.add(first, first)
        self._blocks += 1
        return count

    def _begin(self, maps: Mapping[str, list[Tensor]]) -> None:
        """Sizes and centres, which the first block tells."""
        self._units = {name: layers_of(each) for name, each in maps.items()}
        self._centres = {name: centres_of(each) for name, each in maps.items()}
        self._check_size()
        twins = {member.name for member in self._twins}
        for at, member in enumerate(self._members):
            if member.maps:
                self._rotations[member.name] = rotations([of[0] for of in self._units[member.name]], (self._seed, at))
        for one, other in combinations([member.name for member in self._members], 2):
            sizes = self._units[one], self._units[other]
            halves, shuffled = ([Correlation(*sizes) for _ in range(many)] for many in (2, self._shuffles))
            sums = _Sums(halves, shuffled)
            kinds = {"rotated": other in self._rotations, "untrained": other in twins}
            sums.nulls = {kind: Correlation(*sizes) for kind, there in kinds.items() if there}
            self._sums[one, other] = sums
        first = self._units[self._members[0].name]
        self._within = Correlation(first, first)

    def _check_size(self) -> None:
        """Refuse tables that this machine has no memory for."""
        many = {member.name: sum(of[0] for of in self._units[member.name]) for member in self._members}
        pairs = sum(many[one] * many[other] for one, other in combinations(many, 2))
        need, there = 8 * pairs * (4 + self._shuffles), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if need > there / 2:
            told = ", ".join(f"{name} {count:,}" for name, count in many.items())
            raise DataError(
                f"rosetta: tables of all pairs of units take {need / 2**30:,.0f} GiB, more than half of this machine's "
                f"{there / 2**30:,.0f} GiB (units: {told}). Name fewer layers of the largest models: "
                "rosetta.groups.NAME.layers."
            )

    def _rotated(self, name: str, maps: Sequence[Tensor]) -> Block:
        """The maps with the channels of each layer rotated, about their centres."""
        turned = []
        for layer, centre, rotation in zip(maps, self._centres[name], self._rotations[name], strict=True):
            centred = layer - centre[:, None, None]
            turned.append(torch.einsum("dc,icyx->idyx", rotation.to(layer.device), centred))
        return Block(turned, [torch.zeros_like(centre) for centre in self._centres[name]])

    def _check(self, maps: Mapping[str, list[Tensor]]) -> None:
        for name, layers in maps.items():
            member = next(one for one in self._members if name in (one.name, _twin(one.name)))
            for layer, found in zip(member.layers, layers, strict=True):
                if not bool(torch.isfinite(found).all()):
                    channel = int((~torch.isfinite(found)).any(0).any(-1).any(-1).nonzero()[0, 0])
                    raise DataError(
                        f"rosetta: channel {channel} of layer {layer!r} of {name} has values that are not finite. "
                        "Leave the layer out, or find out what makes them."
                    )

    def found(self, k: int, rate: float, count: int) -> Mined:
        """What the sums tell."""
        matches, constant = {}, {}
        for names, sums in self._sums.items():
            whole = sums.halves[0] + sums.halves[1]
            constant |= dict(zip(names, whole.constant(), strict=True))
            matches[names] = _match(whole, sums, k, rate)
        assert self._within is not None
        units = {}
        for member in self._members:
            sizes = zip(member.layers, self._units[member.name], strict=True)
            units[member.name] = [(layer, channel, grid) for layer, (many, grid) in sizes for channel in range(many)]
        means = {name: np.concatenate(parts) for name, parts in self._means.items()}
        moments = {name: self._mean_and_deviation(name, count) for name in units}
        mean, deviation = ({name: each[k] for name, each in moments.items()} for k in (0, 1))
        return Mined(units, matches, self._within.table(), means, constant, mean, deviation, count)

    def _mean_and_deviation(self, name: str, images: int) -> Float64[np.ndarray, "2 unit"]:
        """Eq. 4.1, at the units' own sizes."""
        places = np.concatenate([np.full(many, grid[0] * grid[1]) for many, grid in self._units[name]])
        count = images * places
        total, square = self._moments[name]
        centre = torch.cat(list(self._centres[name])).double().cpu().numpy()
        variance = np.maximum(square - total**2 / count, 0) / (count - 1)
        return np.stack([centre + total / count, np.sqrt(variance)])


def own_sums(block: Block, layers: Sequence[tuple[int, tuple[int, int]]]) -> Float64[np.ndarray, "2 unit"]:
    """Sums and sums of squares of each unit's maps, less its centre, in the order of the layers."""
    found = np.empty((2, sum(many for many, _ in layers)))
    for grid, units in units_by_size(layers).items():
        found[:, units] = torch.stack(block.moments(grid, grid)).cpu().numpy()
    return found


def _match(whole: Correlation, sums: _Sums, k: int, rate: float) -> Match:
    table = whole.table()
    pairs = paired(table, neighbours(table, k))
    halves = np.stack([half.table()[pairs.a, pairs.b] for half in sums.halves])
    nulls = {"shuffled": [_buddies(null.table(), k) for null in sums.shuffled]}
    nulls |= {kind: [_buddies(null.table(), k)] for kind, null in sums.nulls.items()}
    threshold = false_discovery_threshold(pairs.r, nulls["shuffled"], rate)
    return Match(table, pairs, halves, threshold, nulls, assigned(table))


def _buddies(table: Float64[np.ndarray, "unit_a unit_b"], k: int) -> Float64[np.ndarray, " pair"]:
    return paired(table, neighbours(table, k)).r


def _twin(name: str) -> str:
    return f"{name}, untrained"


def rotations(channels: Sequence[int], entropy: Sequence[int]) -> list[Float[Tensor, "_channel _channel"]]:
    """A random rotation of the channels of each layer, uniform over all (Stewart 1980)."""
    generator = np.random.default_rng(np.random.SeedSequence(entropy))
    found = []
    for many in channels:
        q, r = np.linalg.qr(generator.standard_normal((many, many)))
        found.append(torch.from_numpy((q * np.sign(np.diag(r))).astype(np.float32)))
    return found
