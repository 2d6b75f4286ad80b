"""Methods, rosetta: tables of all pairs of units in parts that fit into memory, of which the nearest units are kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from optogram.errors import DataError
from optogram.methods.rosetta.correlation import Correlation
from optogram.methods.rosetta.matching import Nearest, Pairs, assigned, false_discovery_threshold, paired
from optogram.progress import say


class Rows(NamedTuple):
    """A part of a table: all units of `other`, and of `one` those of the layers from a number to another."""

    one: str
    other: str
    first: int
    last: int


@dataclass(frozen=True)
class Match:
    """What is shared by two models.

    pairs: their best buddies; halves: the correlations of these on each half of images.
    threshold: the least correlation at which the share of false discoveries is low enough, infinite if there is none.
    nulls: correlations of the best buddies of each null model, by its kind; of "shuffled" an array a shuffle.
    correlation: of their units, and assigned: the correlations of the best one-to-one assignment of them; None where
    the table was made in parts.
    """

    pairs: Pairs
    halves: Float64[np.ndarray, "half pair"]
    threshold: float
    nulls: Mapping[str, Sequence[Float64[np.ndarray, " _null_pair"]]]
    correlation: Float64[np.ndarray, "unit_a unit_b"] | None = None
    assigned: Float64[np.ndarray, " assigned"] | None = None


def parts_of(layers: Mapping[str, Sequence[tuple[str, int]]], *, tables: int, room: int) -> list[list[Rows]]:
    """Parts of the tables of every two models, and of the first with itself, none of more than `room` bytes.

    layers: name and channels of each layer, by model. tables: how many there are of every two models, null models
    included. A table that fits into a part is not divided.

    Raises DataError for a layer whose rows alone do not fit.
    """
    names, found, left = [*layers], [list[Rows]()], room
    units = {name: sum(channels for _, channels in each) for name, each in layers.items()}
    for one, other in [(names[0], names[0]), *combinations(names, 2)]:
        each, first = 8 * units[other] * (1 if one == other else tables), 0
        if left < units[one] * each <= room:
            found, left = [*found, []], room
        for at, (layer, channels) in enumerate(layers[one]):
            if channels * each > room:
                told = ", ".join(f"{name} {count:,}" for name, count in units.items())
                raise DataError(
                    f"rosetta: tables of all pairs of units of {one}'s layer {layer!r} and of {other} take "
                    f"{channels * each / 2**30:,.1f} GiB, and there is room for {room / 2**30:,.1f} GiB (units: "
                    f"{told}). Name fewer layers of {other}: rosetta.groups.NAME.layers."
                )
            if channels * each > left:
                found[-1] += [Rows(one, other, first, at)] if at > first else []
                found, left, first = [*found, []], room, at
            left -= channels * each
        found[-1].append(Rows(one, other, first, len(layers[one])))
    return found


class Gathered:
    """What is kept of the tables of two models, part by part, the first rows first.

    itself: False for a model with itself. whole: whether a table that comes as one part is kept as it is.
    """

    def __init__(self, k: int, *, itself: bool = True, whole: bool = True) -> None:
        self._k, self._nearest, self._whole = k, Nearest(k, itself=itself), whole and itself
        self._halves: list[np.ndarray] = []
        self._nulls: dict[str, list[Nearest]] = {}
        self._tables: list[np.ndarray] = []
        self._constant: list[tuple[np.ndarray, np.ndarray]] = []

    def add(
        self, whole: Correlation, halves: Sequence[Correlation] = (), nulls: Mapping[str, Sequence[Correlation]] = {}
    ) -> None:
        """Take in the next rows: of all images, of each half of them, and of each null model."""
        table = whole.table()
        near = self._nearest.add(table)
        if halves:
            at = [np.take_along_axis(half.table(), np.maximum(near, 0), 1) for half in halves]
            self._halves.append(np.stack(at))
        for kind, each in nulls.items():
            nearest = self._nulls.setdefault(kind, [Nearest(self._k) for _ in each])
            for one, null in zip(nearest, each, strict=True):
                one.add(null.table())
        self._constant.append(whole.constant())
        self._tables = [table] if self._whole and len(self._constant) == 1 else []

    @property
    def constant(self) -> tuple[np.ndarray, np.ndarray]:
        """Which units of each model are constant on the images."""
        return np.concatenate([rows for rows, _ in self._constant]), self._constant[0][1]

    @property
    def pairs(self) -> Pairs:
        """The best buddies."""
        return paired(self._nearest.found())

    def match(self, rate: float) -> Match:
        """All of it; the threshold is for this share of false discoveries."""
        pairs = self.pairs
        halves = np.concatenate(self._halves, 1)[:, pairs.a, pairs.rank_a - 1]
        nulls = {kind: [paired(one.found()).r for one in each] for kind, each in self._nulls.items()}
        threshold = false_discovery_threshold(pairs.r, nulls["shuffled"], rate)
        if not self._tables:
            return Match(pairs, halves, threshold, nulls)
        (table,) = self._tables
        return Match(pairs, halves, threshold, nulls, table, table[tuple(assigned(table).T)])


@dataclass(frozen=True)
class Kept:
    """Sums that a mining keeps in a file of `folder`, so that one that was cut off goes on behind it."""

    folder: Path
    part: int

    @property
    def file(self) -> Path:
        """The file, whole or not there."""
        return self.folder / f"sums-{self.part}.safetensors"

    def write(self, sums: Mapping[str, Tensor], identity: str) -> None:
        """Put these sums in place of those before; identity: of what. That it cannot be written is said."""
        part = self.file.with_suffix(".part")
        try:
            save_file({name: one.contiguous() for name, one in sums.items()}, part, {"identity": identity})
            part.replace(self.file)
        except (OSError, SafetensorError) as error:
            part.unlink(missing_ok=True)
            say(f"{self.file} could not be written ({error}): a run that is cut off takes more images anew.")

    def read(self, identity: str) -> dict[str, Tensor]:
        """The sums; empty where there are none, or, which is said, where they are damaged or another run's."""
        if not self.file.exists():
            return {}
        try:
            with safe_open(self.file, "pt") as file:
                if (file.metadata() or {}).get("identity") == identity:
                    return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            why = "is of other models, another seed or other parts"
        except SafetensorError as error:
            why = f"is damaged ({error})"
        say(f"{self.file} {why}, and passed over: all images are taken anew.")
        return {}
