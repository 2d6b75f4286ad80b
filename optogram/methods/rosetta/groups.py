"""Methods, rosetta: a group of models and its images, stored ones or such as a generator draws, to the dictionary."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
import xarray as xr
from jaxtyping import Int64

from optogram.errors import DataError
from optogram.methods.rosetta.correlation import BLOCK
from optogram.methods.rosetta.dictionary import dictionary, pictures
from optogram.methods.rosetta.mining import LEAST, Images, Member, Mined, mine
from optogram.methods.rosetta.naming import Names, label_maps, label_names, named_by_labels, named_by_texts
from optogram.models.generative.denoiser_units import DenoiserUnits
from optogram.models.generative.generators import Generator
from optogram.models.generative.sampling import to_pixels
from optogram.models.judging.judge import Judge
from optogram.models.loading.clip_folders import Clip, encode_images
from optogram.models.units import load_units, untrained

LABELS = "labels"
"""The member whose units are the values of attributes where they are to be seen."""


@runtime_checkable
class Source(Protocol):
    """Images that a group of models sees, by their numbers, from 0 to `total` - 1."""

    @property
    def total(self) -> int:
        """How many there are."""
        ...

    @property
    def own(self) -> Sequence[Member]:
        """Members whose maps come with the images."""
        ...

    @property
    def values(self) -> list[tuple[str, str]]:
        """Attribute and value of each unit of the member LABELS; none where nobody knows what is to be seen."""
        ...

    def draw(self, rows: Int64[np.ndarray, " row"]) -> Images:
        """The images of these numbers."""
        ...


class Stored:
    """Images of an artifact, in a random order from `seed`: shuffles exchange near ones, which are alike in many files.

    count: how many of them are taken, all if there are fewer. Raises DataError if there are fewer than 50.
    """

    def __init__(self, images: xr.Dataset, count: int, seed: int) -> None:
        if images.sizes["image"] < LEAST:
            raise DataError(f"rosetta: there are {images.sizes['image']} images, expected at least {LEAST}. Take more.")
        order = np.random.default_rng(seed).permutation(images.sizes["image"])[:count]
        self._images = images.isel(image=order).load()
        self._labelled = {"mask", "label", "value_name"} <= set(images.variables)

    @property
    def total(self) -> int:
        """How many there are."""
        return int(self._images.sizes["image"])

    @property
    def own(self) -> Sequence[Member]:
        """The labels, of scenes."""
        return [Member(LABELS, (LABELS,))] if self._labelled else []

    @property
    def values(self) -> list[tuple[str, str]]:
        """Of scenes, all values of their attributes."""
        return label_names(self._images) if self._labelled else []

    def draw(self, rows: Int64[np.ndarray, " row"]) -> Images:
        """These images, and the maps of their labels."""
        part = self._images.isel(image=rows)
        return Images(part["pixels"].values, {LABELS: [label_maps(part)]} if self._labelled else {})


@dataclass(frozen=True)
class Drawn:
    """Images that a generator draws, one a seed; the maps of its units come with them, and what a judge sees there."""

    name: str
    generator: Generator
    seeds: Sequence[int]
    judge: Judge | None = None

    @property
    def total(self) -> int:
        """How many there are."""
        return len(self.seeds)

    @property
    def own(self) -> Sequence[Member]:
        """The generator, first; and the labels, if a judge gives them."""
        labels = [] if self.judge is None else [Member(LABELS, (LABELS,))]
        return [Member(self.name, self.generator.layers), *labels]

    @property
    def values(self) -> list[tuple[str, str]]:
        """What the judge knows."""
        known = {} if self.judge is None else self.judge.attributes
        return [(attribute, value) for attribute, values in known.items() for value in values]

    @torch.no_grad()
    def draw(self, rows: Int64[np.ndarray, " row"]) -> Images:
        """These images, drawn anew, with the generator's maps."""
        images, maps = self.generator.maps(self.generator.latents([self.seeds[row] for row in rows.tolist()]))
        pixels = to_pixels(images, self.name)
        given = {self.name: list(maps.values())}
        if self.judge is not None:
            seen = self.judge.parse(pixels)
            given[LABELS] = [label_maps(seen[["mask", "value_name"]].assign(label=seen["value"].variable))]
        return Images(pixels, given)


def members_of(
    source: Source,
    folders: Mapping[str, Path],
    layers: Mapping[str, Sequence[str]],
    *,
    seed: int,
    denoisers: Mapping[str, DenoiserUnits] | None = None,
    device: str = "auto",
) -> list[Member]:
    """The members of a group: a generator that draws the images first, then the models of the folders, then denoisers,
    then labels.

    layers: of the models whose units are not those of all nonlinearities.
    """
    first = source.draw(np.arange(min(BLOCK, source.total))).pixels
    found = [member for member in source.own if member.name != LABELS]
    for name, folder in folders.items():
        units = load_units(folder, layers.get(name), side=first.shape[1], device=device)
        twin = untrained(folder, units, first, seed=seed, device=device)
        found.append(Member(name, units.layers, units.maps, twin.maps))
    for name, looking in (denoisers or {}).items():
        found.append(Member(name, looking.layers, looking.maps, looking.untrained(seed=seed).maps))
    return [*found, *(member for member in source.own if member.name == LABELS)]


def models_of(
    folders: Mapping[str, Path], layers: Mapping[str, Sequence[str]], *, side: int, device: str = "auto"
) -> list[Member]:
    """The members that look at images, without their untrained twins. side: of the images."""
    loaded = {name: load_units(folder, layers.get(name), side=side, device=device) for name, folder in folders.items()}
    return [Member(name, units.layers, units.maps) for name, units in loaded.items()]


def rosetta(
    source: Source,
    members: Sequence[Member],
    *,
    k: int,
    rate: float,
    shuffles: int,
    alike: float,
    seed: int,
    texts: tuple[Clip, xr.Dataset] | None = None,
    shown: int = 24,
    examples: int = 6,
    scratch: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
    """The artifact rosetta/<group>: what the members share, what it stands for, and what chance gives.

    texts: a CLIP, and embeddings of texts in it, (text, embed), by which units are named. scratch: folder in which sums
    are kept: a run that was cut off goes on there. progress: called with the images seen and all of them. Other
    arguments and errors as `mine`, `dictionary` and `pictures`.
    """
    tell = progress or (lambda done, total: None)

    def images(first: int) -> Iterator[Images]:
        for start in range(first, source.total, BLOCK):
            tell(start, source.total)
            given = source.draw(np.arange(start, min(start + BLOCK, source.total)))
            if texts is not None:
                given = given._replace(embedding=encode_images(texts[0], given.pixels).numpy())
            yield given
        tell(source.total, source.total)

    mined = mine(images, members, k=k, rate=rate, shuffles=shuffles, seed=seed, scratch=scratch)
    models = [member for member in members if member.name != LABELS]
    names: dict[str, dict[str, Names]] = {}
    if source.values:
        names["labels"] = {one.name: _by_labels(mined, one.name, source.values) for one in models}
    if texts is not None:
        assert mined.embedding is not None
        said, rows = (
            texts[1]["text"].values.astype(str).tolist(),
            texts[1]["embedding"].transpose("text", "embed").values,
        )
        names["texts"] = {
            one.name: named_by_texts(mined.means[one.name], mined.embedding, rows, said) for one in models
        }
    found = dictionary(mined, models, alike=alike, names=names)
    if shown and found.sizes["concept"]:
        found = found.merge(pictures(found, mined, models, source.draw, shown=shown, images=examples))
    return found


def _by_labels(mined: Mined, name: str, values: list[tuple[str, str]]) -> Names:
    """Named is what is clearer than any unit and value are when the images are shuffled."""
    match = mined.matches[name, LABELS]
    assert match.correlation is not None, "labels are few"
    chance = max((float(r.max()) for r in match.nulls["shuffled"] if len(r)), default=0.0)
    return named_by_labels(match.correlation, values, chance)
