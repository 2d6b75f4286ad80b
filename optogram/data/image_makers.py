"""Room data: image-makers, which turn descriptions into labelled images. The scenes' own renderer is one of them."""

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol, runtime_checkable

import numpy as np
import xarray as xr
from jaxtyping import Int16

from optogram.data import captions
from optogram.data.scenes import ATTRIBUTES, BLOCK, _background, _objects, value_names
from optogram.errors import DataError, ParamError, nearest

_NAMES = list(ATTRIBUTES)


@runtime_checkable
class ImageMaker(Protocol):
    """Images of descriptions: what a text-to-image model does, with the truth about each image beside it.

    Returns `count` images a description, those of the first description first: `pixels` (image, y, x, rgb) uint8,
    `label` (image, attribute) int16 as in images/<split>, -1 where the maker cannot tell, with `value_name`, and
    `description` (image) int64, the place of the image's description. The same seed gives the same bytes.
    """

    def __call__(self, descriptions: Sequence[str], count: int, seed: int) -> xr.Dataset:
        """Make the images."""
        ...


def mentions(text: str, words: Sequence[str]) -> bool:
    """Whether the text has one of these words or phrases in it, whole, in singular or plural, in any case."""
    return any(_pattern(word).search(text) for word in words)


def value_words(attribute: str) -> dict[str, tuple[str, ...]]:
    """What each value of a scene's attribute is called in texts, the value's name first: ("circle", "disc").

    Raises ParamError for an unknown attribute.
    """
    if attribute not in ATTRIBUTES:
        raise ParamError(
            f"attribute {attribute!r} is unknown; scenes have {', '.join(_NAMES)}.{nearest(attribute, _NAMES)}"
        )
    said = captions._WORDS[_NAMES.index(attribute)]
    return {
        value: tuple(dict.fromkeys((value, *words))) for value, words in zip(ATTRIBUTES[attribute], said, strict=True)
    }


def stated_values(text: str) -> dict[str, tuple[str, ...]]:
    """The values that a text leaves open for each attribute of a scene that it mentions: {"background": ("grass",), …}.

    A value's name counts, and what captions call it. A scene has one value of each attribute: of several, the one that
    is mentioned first. A plural of the objects leaves two or three of them, where no number is named; as in captions,
    "a circle" says nothing about the count.

    >>> from optogram.data import stated_values
    >>> stated_values("a photo of two red objects on grass")
    {'colour': ('red',), 'count': ('two',), 'background': ('grass',)}
    """
    found: dict[str, tuple[str, ...]] = {}
    for attribute in _NAMES:
        starts = {
            value: min((at.start() for word in words if (at := _pattern(word).search(text))), default=len(text))
            for value, words in value_words(attribute).items()
        }
        first = min(starts, key=lambda value: starts[value])
        if starts[first] < len(text):
            found[attribute] = (first,)
    if "count" not in found and _many().search(text):
        found["count"] = ATTRIBUTES["count"][1:]
    return found


@dataclass(frozen=True)
class SceneMaker:
    """Scenes of one class, drawn as descriptions say, by the renderer of the other splits: an `ImageMaker`.

    Each image has the value `value` of `attribute`, whatever its description says of that attribute. What
    the description mentions of the other attributes (`stated_values`) is drawn; those that it does not mention are as
    in the split `eval`, uniformly distributed and independent. So the label of every image is known to be true. What
    cannot be drawn in a scene is passed over.

    `size` is the side in pixels. Raises ParamError for an unknown attribute or value.

    >>> from optogram.data import SceneMaker
    >>> made = SceneMaker("shape", "circle", size=32)(["a photo of a circle on grass"], count=2, seed=0)
    >>> made.pixels.shape, made.description.values.tolist()
    ((2, 32, 32, 3), [0, 0])
    """

    attribute: str
    value: str
    size: int = 64

    def __post_init__(self) -> None:
        known = list(value_words(self.attribute))
        if self.value not in known:
            raise ParamError(
                f"{self.attribute} {self.value!r} is unknown; scenes have {', '.join(known)}."
                + nearest(self.value, known)
            )

    @property
    def noun(self) -> str:
        """The class in words, with its article: "a circle", "a red object", "an object on grass"."""
        return captions.prompts(self.attribute, self.value)[0].removeprefix("a photo of ")

    @property
    def words(self) -> tuple[str, ...]:
        """What the class is called: ("circle", "disc")."""
        return value_words(self.attribute)[self.value]

    def __call__(self, descriptions: Sequence[str], count: int, seed: int) -> xr.Dataset:
        """`count` images of each description, as `ImageMaker` says, and their `mask` (image, y, x).

        Raises DataError for no description or a count below 1, ParamError for a negative seed.
        """
        if not descriptions or count < 1 or seed < 0:
            kind = ParamError if seed < 0 else DataError
            raise kind(
                f"image-maker: {len(descriptions)} descriptions, {count} images each, seed {seed}; expected at least "
                "one of both, and a seed of 0 or more. Write descriptions first."
            )
        total = len(descriptions) * count
        which = np.repeat(np.arange(len(descriptions)), count)
        label = self._labels([stated_values(text) for text in descriptions], which, _stream(seed, 0, 0))
        pixels, mask = [], []
        for block, start in enumerate(range(0, total, BLOCK)):
            part = label[start : start + BLOCK]
            ground = part[:, _NAMES.index("background")]
            pixels.append(_background(ground, self.size, _stream(seed, 1, block)))
            mask.append(_objects(pixels[-1], part, self.size, _stream(seed, 2, block)))
        return xr.Dataset(
            {
                "pixels": (("image", "y", "x", "rgb"), np.concatenate(pixels)),
                "label": (("image", "attribute"), label),
                "value_name": (("attribute", "value"), value_names()),
                "description": ("image", which),
                "mask": (("image", "y", "x"), np.concatenate(mask)),
            },
            {"attribute": _NAMES},
            {"class_attribute": self.attribute},
        )

    def _labels(
        self, stated: list[dict[str, tuple[str, ...]]], which: np.ndarray, rng: np.random.Generator
    ) -> Int16[np.ndarray, "image attribute"]:
        label = np.empty((len(which), len(_NAMES)), np.int16)
        for column, (attribute, values) in enumerate(ATTRIBUTES.items()):
            # one draw an image, whatever is stated: what is free comes out alike under other descriptions
            dice = rng.integers(0, 840, len(which))  # lcm(1, ..., 8): each number of choices is equally likely
            for at, said in enumerate(stated):
                here = which == at
                open_to = [values.index(value) for value in said.get(attribute, values)]
                label[here, column] = np.array(open_to)[dice[here] % len(open_to)]
        label[:, _NAMES.index(self.attribute)] = ATTRIBUTES[self.attribute].index(self.value)
        return label


def _stream(seed: int, kind: int, block: int) -> np.random.Generator:
    key = (seed, zlib.crc32(b"image-maker"), kind, block)
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


@cache
def _pattern(word: str) -> re.Pattern[str]:
    if word.endswith("y"):
        return re.compile(rf"(?<![\w-]){re.escape(word[:-1])}(?:y|ys|ies)(?![\w-])", re.IGNORECASE)
    return re.compile(rf"(?<![\w-]){re.escape(word)}(?:e?s)?(?![\w-])", re.IGNORECASE)


@cache
def _many() -> re.Pattern[str]:
    """Plurals of what a scene's objects are called."""
    nouns = [*captions._THINGS, *(word for words in captions._SHAPES.values() for word in words)]
    plurals = "|".join(re.escape(captions._plural(noun)) for noun in nouns)
    return re.compile(rf"(?<![\w-])(?:{plurals})(?![\w-])", re.IGNORECASE)
