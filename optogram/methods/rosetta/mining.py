"""Methods, rosetta: mines the units that several models share, and as many times what chance gives, in one pass.

Every model sees an image once, whatever it is compared with. Beside the correlations themselves, those of three null
models are summed up: the images of the second model shuffled against those of the first, the channels of each of its
layers rotated, and its weights as they were before training.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
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
class Kept:
    """Sums that a mining keeps in a file, so that one that was cut off goes on behind it.

    folder: where the file lies. again: the images from a number on, in the order of all. seconds: between two times
    that it is written, or ten times as long as writing takes, if that is more.
    """

    folder: Path
    again: Callable[[int], Iterable[Images]]
    seconds: float = 60.0

    @property
    def file(self) -> Path:
        """The file, whole or not there."""
        return self.folder / "sums.safetensors"

    def write(self, sums: Mapping[str, Tensor]) -> None:
        """Put these sums in place of those before."""
        part = self.file.with_suffix(".part")
        save_file({name: one.contiguous() for name, one in sums.items()}, part)
        part.replace(self.file)

    def read(self) -> dict[str, Tensor]:
        """The sums; empty where there are none, or where the file is damaged."""
        try:
            return load_file(self.file) if self.file.exists() else {}
        except SafetensorError as error:
            say(f"{self.file} is damaged ({error}) and passed over: all images are taken anew.")
            return {}


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
    constant: units that are constant on the images, mean, deviation: of each unit (eq. 4.1), of each member. embedding:
    what came with the images.
    """

    units: Mapping[str, list[tuple[str, int, tuple[int, int]]]]
    matches: Mapping[tuple[str, str], Match]
    within: Float64[np.ndarray, "unit unit"]
    means: Mapping[str, Float[np.ndarray, "image _unit"]]
    constant: Mapping[str, np.ndarray]
    mean: Mapping[str, Float64[np.ndarray, " _unit"]]
    deviation: Mapping[str, Float64[np.ndarray, " _unit"]]
    images: int = 0
    embedding: Float[np.ndarray, "image embed"] | None = None


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
    kept: Kept | None = None,
) -> Mined:
    """Correlations and best buddies of the units of every two members, and of the null models beside.

    batches: images in a random order, as shuffles exchange near ones. The bytes do not depend on how many a batch has.
    k: of best buddies. rate: of false discoveries (`false_discovery_threshold`). seed: of the rotations.
    kept: where sums are kept; a run that is cut off and started again ends with the same bytes.

    Raises DataError for fewer than 50 images, and, naming model, layer and channel, for values that are not finite.
    """
    mining = _Mining(members, shuffles, seed)
    blocks = mining.blocks(batches)
    if kept is not None:
        blocks = mining.resumed(blocks, kept)
    due, count = time.monotonic() + (kept.seconds if kept else 0), 0
    for block in blocks:
        count = mining.add(block)
        if kept is not None and time.monotonic() >= due:
            began = time.monotonic()
            kept.write(mining.state())
            due = time.monotonic() + max(kept.seconds, 10 * (time.monotonic() - began))
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
        self._embeddings: list[np.ndarray] = []
        self._blocks = self._images = 0

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

    def add(self, maps: Mapping[str, list[Tensor]]) -> int:
        """Take in a block; returns the number of images so far."""
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
        self._images += count
        return self._images

    def resumed(self, blocks: Iterator[dict[str, list[Tensor]]], kept: Kept) -> Iterator[dict[str, list[Tensor]]]:
        """The blocks that are not among the sums of a file, whose sums are taken up."""
        first = next(blocks, None)
        state = kept.read() if first is not None else {}
        if first is None or not state:
            yield from [] if first is None else [first]
            yield from blocks
            return
        self._check(first)
        self._begin(first)
        self._restore(state)
        yield from self.blocks(kept.again(self._images))

    def state(self) -> dict[str, Tensor]:
        """All that was summed up and noted so far."""
        found = {f"{at}/{name}": one for at, each in self._correlations().items() for name, one in each.state().items()}
        for name in self._means:
            found[f"means/{name}"] = torch.from_numpy(np.concatenate(self._means[name]))
            found[f"moments/{name}"] = torch.from_numpy(self._moments[name])
        if self._embeddings:
            found["embedding"] = torch.from_numpy(np.concatenate(self._embeddings)[: self._images])
        return found | {"blocks": torch.tensor(self._blocks), "images": torch.tensor(self._images)}

    def _restore(self, state: Mapping[str, Tensor]) -> None:
        for at, each in self._correlations().items():
            start = f"{at}/"
            each.restore({name.removeprefix(start): one for name, one in state.items() if name.startswith(start)})
        for name in self._means:
            self._means[name] = [state[f"means/{name}"].numpy()]
            self._moments[name] = state[f"moments/{name}"].numpy()
        self._embeddings = [state["embedding"].numpy()] if "embedding" in state else []
        self._blocks, self._images = int(state["blocks"]), int(state["images"])

    def _correlations(self) -> dict[str, Correlation]:
        """All that are summed up, by a name."""
        assert self._within is not None
        found = {"within": self._within}
        for at, sums in enumerate(self._sums.values()):
            parts = {"half": sums.halves, "shuffled": sums.shuffled}
            found |= {f"{at}-{kind}{k}": each for kind, many in parts.items() for k, each in enumerate(many)}
            found |= {f"{at}-{kind}": each for kind, each in sums.nulls.items()}
        return found

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
        embedding = np.concatenate(self._embeddings) if self._embeddings else None
        return Mined(units, matches, self._within.table(), means, constant, mean, deviation, count, embedding)

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
