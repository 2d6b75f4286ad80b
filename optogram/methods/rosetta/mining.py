"""Methods, rosetta: mines the units that several models share, and as many times what chance gives, in one pass.

Every model sees an image once a pass, whatever it is compared with. Beside the correlations themselves, those of three
null models are summed up: the images of the second model shuffled against those of the first, the channels of each of
its layers rotated, and its weights as they were before training.

Tables of all pairs that do not fit into memory are made in parts: layers of the one model with the whole of the other,
a pass over the images each. Of a part nothing is kept but the nearest units of each unit, in both directions.
"""

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
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
from optogram.methods.rosetta.matching import Pairs
from optogram.methods.rosetta.parts import Gathered, Kept, Match, Rows, parts_of
from optogram.progress import say

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
    """Images, the maps that come with them, by the member's name, and what a CLIP makes of them, if anything."""

    pixels: UInt8[np.ndarray, "image y x rgb"]
    maps: Mapping[str, Maps]
    embedding: Float[np.ndarray, "image embed"] | None = None


@dataclass(frozen=True)
class Mined:
    """What a group of models shares.

    units: of each member, the layer, channel and size of each unit. matches: by the two names. within: best buddies
    among the first member's own units. means: (image, unit) the mean of each map, of each member.
    constant: units that are constant on the images, mean, deviation: of each unit (eq. 4.1), of each member. embedding:
    what came with the images.
    """

    units: Mapping[str, list[tuple[str, int, tuple[int, int]]]]
    matches: Mapping[tuple[str, str], Match]
    within: Pairs
    means: Mapping[str, Float[np.ndarray, "image _unit"]]
    constant: Mapping[str, np.ndarray]
    mean: Mapping[str, Float64[np.ndarray, " _unit"]]
    deviation: Mapping[str, Float64[np.ndarray, " _unit"]]
    images: int = 0
    embedding: Float[np.ndarray, "image embed"] | None = None


@dataclass
class _Sums:
    """Of rows of a table: of the images in two halves, or whole, and of each null model, by its kind."""

    halves: list[Correlation]
    nulls: dict[str, list[Correlation]] = field(default_factory=dict)

    def all(self) -> list[Correlation]:
        """In one order."""
        return [*self.halves, *(one for each in self.nulls.values() for one in each)]


def mine(
    batches: Callable[[int], Iterable[Images]],
    members: Sequence[Member],
    *,
    k: int = 5,
    rate: float = 0.01,
    shuffles: int = 4,
    seed: int,
    memory: int | None = None,
    scratch: Path | None = None,
    save_seconds: float = 60.0,
) -> Mined:
    """Correlations and best buddies of the units of every two members, and of the null models beside.

    batches: gives the images from a number on, in one order, a random one, as shuffles exchange near images. The bytes
    do not depend on how many a batch has. k: of best buddies. rate: of false discoveries
    (`false_discovery_threshold`). seed: of the rotations. memory: bytes for tables of pairs, by default half of this
    machine's; those that need more are made in parts, a pass over the images each, to the same pairs. scratch: folder
    for the sums, which are kept every `save_seconds`, or less often if that takes long: a run that was cut off and is
    started again there ends with the same bytes.

    Raises DataError for fewer than 50 images, and, naming model, layer and channel, for values that are not finite.
    """
    room = memory or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    gathered: dict[tuple[str, str], Gathered] = {}
    part, parts = 0, 1
    while True:
        mining = _Mining(members, shuffles, seed, room, part)
        count = _pass(mining, batches, Kept(scratch, part) if scratch else None, save_seconds)
        if count < LEAST:
            raise DataError(f"rosetta: there are {count} images, expected at least {LEAST}. Take more.")
        if part == 0:
            head, parts = mining, len(mining.parts)
        mining.gather(gathered, k)
        part += 1
        if part == parts:
            return head.found(gathered, rate)


def _pass(mining: "_Mining", batches: Callable[[int], Iterable[Images]], kept: Kept | None, save_seconds: float) -> int:
    """Take in all images; returns how many there are."""
    due, saved = time.monotonic() + save_seconds, True
    for block in mining.resumed(batches, kept):
        mining.add(block)
        saved = False
        if kept is not None and time.monotonic() >= due:
            began = time.monotonic()
            kept.write(mining.state(), mining.identity)
            wait = max(save_seconds, 10 * (time.monotonic() - began)) if save_seconds else 0
            due, saved = time.monotonic() + wait, True
    if kept is not None and not saved and len(mining.parts) > 1:
        kept.write(mining.state(), mining.identity)
    return mining.images


class _Mining:
    """The sums of a part of a group's tables while images come in; `images` so far."""

    def __init__(self, members: Sequence[Member], shuffles: int, seed: int, room: int, part: int) -> None:
        self._members, self._shuffles, self._seed, self._room, self._part = members, shuffles, seed, room, part
        self._twins = [member for member in members if member.untrained]
        self._centres: dict[str, Sequence[Tensor]] = {}
        self._sums: dict[Rows, _Sums] = {}
        self._rotations: dict[str, list[Tensor]] = {}
        self._means: dict[str, list[np.ndarray]] = {member.name: [] for member in members}
        self._units: dict[str, list[tuple[int, tuple[int, int]]]] = {}
        self._moments: dict[str, np.ndarray] = {}
        self._embeddings: list[np.ndarray] = []
        self.parts: list[list[Rows]] = []
        self._blocks = self.images = 0

    def blocks(self, batches: Iterable[Images]) -> Iterator[dict[str, list[Tensor]]]:
        """Maps of every member and every twin, the same number of images at a time."""
        names = [*(member.name for member in self._members), *(_twin(member.name) for member in self._twins)]

        def maps() -> Iterator[list[Maps]]:
            for images in batches:
                if images.embedding is not None:
                    self._embeddings.append(images.embedding)
                own = [
                    member.maps(images.pixels) if member.maps else images.maps[member.name] for member in self._members
                ]
                yield [*own, *(member.untrained(images.pixels) for member in self._twins if member.untrained)]

        for block in in_blocks(maps()):
            yield dict(zip(names, block, strict=True))

    def add(self, maps: Mapping[str, list[Tensor]]) -> None:
        """Take in a block of images."""
        self._check(maps)
        blocks = {name: Block(each, self._centres[name]) for name, each in maps.items()}
        names = [member.name for member in self._members]
        count = len(maps[names[0]][0])
        rotated = {name: self._rotated(name, maps[name]) for name in names[1:] if name in self._rotations}
        orders = [torch.roll(torch.arange(count), 1 + shift) for shift in range(self._shuffles)]
        ranges: dict[tuple[str, int, int], Block] = {}
        for rows, sums in self._sums.items():
            one, other, first, last = rows
            if last - first < len(maps[one]):
                if (one, first, last) not in ranges:
                    ranges[one, first, last] = Block(maps[one][first:last], self._centres[one][first:last])
                of = ranges[one, first, last]
            else:
                of = blocks[one]
            sums.halves[self._blocks % len(sums.halves)].add(of, blocks[other])
            if count == BLOCK:  # in a smaller one some images might stay where they are
                for correlation, order in zip(sums.nulls.get("shuffled", []), orders, strict=False):
                    correlation.add(of, blocks[other].shuffled(order))
            for correlation in sums.nulls.get("untrained", []):
                correlation.add(of, blocks[_twin(other)])
            for correlation in sums.nulls.get("rotated", []):
                correlation.add(of, rotated[other])
        for name in names:  # which costs little now that maps were made smaller
            self._moments[name] = self._moments.get(name, 0) + own_sums(blocks[name], self._units[name])
            self._means[name].append(own_means(blocks[name], self._units[name]))
        self._blocks += 1
        self.images += count

    def resumed(
        self, batches: Callable[[int], Iterable[Images]], kept: Kept | None
    ) -> Iterator[dict[str, list[Tensor]]]:
        """The blocks that are not among the sums of a file, whose sums are taken up."""
        blocks = self.blocks(batches(0))
        first = next(blocks, None)
        if first is None:
            return
        self._check(first)
        self._begin(first)
        state = kept.read(self.identity) if kept is not None else {}
        if not state:
            yield first
            yield from blocks
            return
        self._restore(state)
        yield from self.blocks(batches(self.images))

    @property
    def identity(self) -> str:
        """What the sums are of."""
        said = [[(member.name, *member.layers) for member in self._members], self._units, self._shuffles, self._seed]
        return json.dumps([*said, self.parts])

    def state(self) -> dict[str, Tensor]:
        """All that was summed up and noted so far."""
        every = [one for sums in self._sums.values() for one in sums.all()]
        found = {f"{at}/{name}": part for at, one in enumerate(every) for name, part in one.state().items()}
        for name in self._means:
            found[f"means/{name}"] = torch.from_numpy(np.concatenate(self._means[name]))
            found[f"moments/{name}"] = torch.from_numpy(self._moments[name])
        if self._embeddings:
            found["embedding"] = torch.from_numpy(np.concatenate(self._embeddings)[: self.images])
        return found | {"blocks": torch.tensor(self._blocks), "images": torch.tensor(self.images)}

    def _restore(self, state: Mapping[str, Tensor]) -> None:
        for at, one in enumerate(one for sums in self._sums.values() for one in sums.all()):
            start = f"{at}/"
            one.restore({name.removeprefix(start): part for name, part in state.items() if name.startswith(start)})
        for name in self._means:
            self._means[name] = [state[f"means/{name}"].numpy()]
            self._moments[name] = state[f"moments/{name}"].numpy()
        self._embeddings = [state["embedding"].numpy()] if "embedding" in state else []
        self._blocks, self.images = int(state["blocks"]), int(state["images"])

    def _begin(self, maps: Mapping[str, list[Tensor]]) -> None:
        """Sizes and centres, which the first block tells, and the parts of the tables."""
        self._units = {name: layers_of(each) for name, each in maps.items()}
        self._centres = {name: centres_of(each) for name, each in maps.items()}
        layers = {
            member.name: [(layer, of[0]) for layer, of in zip(member.layers, self._units[member.name], strict=True)]
            for member in self._members
        }
        self.parts = parts_of(layers, tables=4 + self._shuffles, room=self._room)
        if len(self.parts) > 1:
            say(f"Tables of all pairs of units in parts: pass {self._part + 1} of {len(self.parts)} over the images.")
        twins = {member.name for member in self._twins}
        for at, member in enumerate(self._members):
            if member.maps:
                self._rotations[member.name] = rotations([of[0] for of in self._units[member.name]], (self._seed, at))
        for rows in self.parts[self._part]:
            sizes = self._units[rows.one][rows.first : rows.last], self._units[rows.other]
            if rows.one == rows.other:
                self._sums[rows] = _Sums([Correlation(*sizes)])
                continue
            many = {"shuffled": self._shuffles}
            many |= {"untrained": int(rows.other in twins), "rotated": int(rows.other in self._rotations)}
            nulls = {kind: [Correlation(*sizes) for _ in range(count)] for kind, count in many.items() if count}
            self._sums[rows] = _Sums([Correlation(*sizes) for _ in range(2)], nulls)

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

    def gather(self, gathered: dict[tuple[str, str], Gathered], k: int) -> None:
        """Keep what is kept of this part's tables."""
        for rows, sums in self._sums.items():
            pair = rows.one, rows.other
            # labels, whose maps come with the images, are few
            few = len(self.parts) == 1 or not next(one for one in self._members if one.name == rows.other).maps
            of = gathered.setdefault(pair, Gathered(k, itself=rows.one != rows.other, whole=few))
            if rows.one == rows.other:
                of.add(sums.halves[0])
            else:
                of.add(sums.halves[0] + sums.halves[1], sums.halves, sums.nulls)
        self._sums.clear()

    def found(self, gathered: Mapping[tuple[str, str], Gathered], rate: float) -> Mined:
        """What all parts tell."""
        first = self._members[0].name
        matches, constant = {}, {}
        for names, each in gathered.items():
            if names != (first, first):
                constant |= dict(zip(names, each.constant, strict=True))
                matches[names] = each.match(rate)
        units = {}
        for member in self._members:
            sizes = zip(member.layers, self._units[member.name], strict=True)
            units[member.name] = [(layer, channel, grid) for layer, (many, grid) in sizes for channel in range(many)]
        means = {name: np.concatenate(parts) for name, parts in self._means.items()}
        moments = {name: self._mean_and_deviation(name, self.images) for name in units}
        mean, deviation = ({name: each[k] for name, each in moments.items()} for k in (0, 1))
        embedding = np.concatenate(self._embeddings) if self._embeddings else None
        within = gathered[first, first].pairs
        return Mined(units, matches, within, means, constant, mean, deviation, self.images, embedding)

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


def own_means(block: Block, layers: Sequence[tuple[int, tuple[int, int]]]) -> Float[np.ndarray, "image _unit"]:
    """The mean of each map of each image, in the order of the layers."""
    found = np.empty((block.images, sum(many for many, _ in layers)), np.float32)
    for grid, units in units_by_size(layers).items():
        found[:, units] = (block.totals(grid) / (grid[0] * grid[1])).T.cpu().numpy()
    return found + block.centre.float().cpu().numpy()


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
