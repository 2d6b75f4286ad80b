"""Room data: what can be said of a scene, as training captions of varying completeness and as zero-shot prompts."""

from itertools import product

import numpy as np
from jaxtyping import Bool, Int16

from optogram.errors import ParamError, nearest

VARIANTS = 8
"""Captions drawn for each image."""
WIDTH = 96
"""Longest caption in characters; captions are fixed-width strings, so that every shard has one type."""

# The order of the columns of `labels` and `mentions`: that of `scenes.ATTRIBUTES`, whose values key the words below.
_ATTRIBUTES = ("shape", "colour", "texture", "size", "count", "position", "background")
_SIZES_OF_MENTION = (0.30, 0.22, 0.16, 0.12, 0.09, 0.07, 0.04)
"""How often a caption states one, two, ..., seven attributes; many short ones, since zero-shot prompts are short."""

_NAMED = 0.5
"""How often a caption names the shape besides: people mostly do, and it is the hardest to learn."""

_SHAPES = {
    "circle": ("circle", "disc"),
    "square": ("square",),
    "triangle": ("triangle",),
    "star": ("star",),
    "cross": ("cross", "plus sign"),
    "ring": ("ring", "hoop"),
}
_THINGS = ("object", "shape", "thing")
_COLOURS = tuple((name,) for name in ("red", "green", "blue", "yellow", "purple", "orange", "white", "black"))
_TEXTURES = (("plain", "solid"), ("striped",), ("dotted", "spotted"), ("checkered",))
_SIZES = (("small", "little"), ("large", "big"))
_COUNTS = (("one", "a single"), ("two", "a pair of"), ("three", "a trio of"))
_POSITIONS = (
    ("on the left", "at the left side"),
    ("on the right", "at the right side"),
    ("at the top", "in the upper part"),
    ("at the bottom", "in the lower part"),
    ("in the centre", "in the middle"),
)
_BACKGROUNDS = (
    ("on grass", "in the grass"),
    ("on water", "in the water"),
    ("on sand", "in the sand"),
    ("on snow", "in the snow"),
    ("on bricks", "on a brick wall"),
    ("at night", "in the night sky"),
)
_GROUNDS = ("grass", "water", "sand", "snow", "brick", "night")
_OPENINGS = ("a photo of ", "a picture of ", "an image of ", "")
_WORDS = (tuple(_SHAPES.values()), _COLOURS, _TEXTURES, _SIZES, _COUNTS, _POSITIONS, _BACKGROUNDS)
_NAMES = (
    tuple(_SHAPES),
    tuple(words[0] for words in _COLOURS),
    ("plain", "striped", "dotted", "checkered"),
    ("small", "large"),
    ("one", "two", "three"),
    ("left", "right", "top", "bottom", "centre"),
    _GROUNDS,
)


def captions(
    labels: Int16[np.ndarray, "image attribute"], variants: int, rng: np.random.Generator, *, full: int = 0
) -> tuple[np.ndarray, Bool[np.ndarray, "image variant attribute"]]:
    """`variants` captions of each image, (image, variant) str, and which attributes each of them states.

    What is stated is always true. An unstated count shows at most as a plural, where there is more than one object. The
    first `full` captions of an image state every attribute.
    """
    shape = (len(labels), variants)
    stated = 1 + rng.choice(len(_SIZES_OF_MENTION), shape, p=_SIZES_OF_MENTION)
    order = rng.permuted(np.broadcast_to(np.arange(len(_ATTRIBUTES)), (*shape, len(_ATTRIBUTES))), axis=-1)
    mentions = order < stated[..., None]
    mentions[..., 0] |= rng.random(shape) < _NAMED
    mentions[:, :full] = True
    dice = rng.integers(0, 2**16, (*shape, 11)).tolist()
    rows = zip(labels.tolist(), mentions.tolist(), dice, strict=True)
    texts = [[_say(row, *each) for each in zip(said, rolled, strict=True)] for row, said, rolled in rows]
    return np.array(texts, f"<U{WIDTH}"), mentions


def prompts(attribute: str, value: str) -> list[str]:
    """Zero-shot prompts that state the one value and no other: their embeddings are averaged into its classifier.

    Raises ParamError for an unknown attribute or value.

    >>> from optogram.data import prompts
    >>> prompts("colour", "red")[:2]
    ['a photo of a red object', 'a photo of red objects']
    """
    if attribute not in _ATTRIBUTES:
        known = ", ".join(_ATTRIBUTES)
        raise ParamError(f"prompts: attribute {attribute!r} is unknown; expected one of {known}.")
    k = _ATTRIBUTES.index(attribute)
    if value not in _NAMES[k]:
        raise ParamError(
            f"prompts: {attribute} {value!r} is unknown; expected one of {', '.join(_NAMES[k])}."
            + nearest(value, list(_NAMES[k]))
        )
    words = _WORDS[k][_NAMES[k].index(value)]
    if attribute == "shape":
        phrases = [phrase for word in words for phrase in (f"a {word}", _plural(word))]
    elif attribute == "count":
        things = [thing if value == "one" else _plural(thing) for thing in _THINGS]
        phrases = [f"{word} {thing}" for word, thing in product(words, things)]
    elif attribute == "position":
        phrases = [f"{thing} {word}" for word, thing in product(words, ("an object", "objects", "a shape", "shapes"))]
    elif attribute == "background":
        phrases = [f"{thing} {word}" for word, thing in product(words, ("an object", "objects", "a shape", "shapes"))]
        phrases.append(f"a {value} background")
    else:
        article = {word: "an" if word[0] in "aeiou" else "a" for word in words}
        phrases = [
            phrase
            for word, thing in product(words, _THINGS)
            for phrase in (f"{article[word]} {word} {thing}", f"{word} {_plural(thing)}")
        ]
    return [opening + phrase for opening, phrase in product(_OPENINGS, phrases)]


def _say(label: list[int], said: list[bool], dice: list[int]) -> str:
    """One caption. `said`: the attributes it states; `dice`: the choices that are left open."""
    *_, opening, order, number, tags = dice
    words = [_WORDS[k][value][dice[k] % len(_WORDS[k][value])] if said[k] else "" for k, value in enumerate(label)]
    shape, colour, texture, size, count, position, background = words
    thing = shape or _THINGS[dice[0] % len(_THINGS)]
    many = label[4] > 0
    if tags % 16 == 0:
        ground = _GROUNDS[label[6]] if background else ""
        return ", ".join(
            word for word in (shape, colour, texture, size, count and _NAMES[4][label[4]], position, ground) if word
        )
    if background and sum(said) == 1 and number % 2:
        return f"{_OPENINGS[opening % 4]}a {_GROUNDS[label[6]]} background"
    noun = " ".join(word for word in (size, colour, texture, thing) if word)
    if count:
        noun = f"{count} {_plural(noun) if many else noun}"
    elif many and number % 2:
        noun = _plural(noun)
    else:
        noun = f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
    if order % 4 == 0 and (position or background):
        return ", ".join(part for part in (background, position, noun) if part)
    return _OPENINGS[opening % 4] + " ".join(part for part in (noun, position, background) if part)


def _plural(noun: str) -> str:
    return f"{noun}es" if noun.endswith("s") else f"{noun}s"
