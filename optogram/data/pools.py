"""Text pools: the descriptions, words, prompts and random vectors in which findings about a model are phrased."""

import codecs
import math
import unicodedata
from collections.abc import Callable, Iterable
from importlib import resources
from itertools import combinations, product
from pathlib import Path

import numpy as np
import xarray as xr
from jaxtyping import Float32

from optogram.data import captions
from optogram.data.photos import class_prompts
from optogram.data.scenes import ATTRIBUTES
from optogram.data.spelling import is_no_text, plain
from optogram.errors import DataError, ParamError, nearest

POOLS = ("descriptions", "words", "words_10k", "words_30k", "class", "random")
WORDS = {"words_10k": 10_000, "words_30k": 30_000}  # the thesis's pools for neurons (section 3.4)
COUNT = 3498  # as many as the thesis has (appendix A)
RANDOM_NAME = "random {:04d}"

_PLACES = {"left": "on the left", "right": "on the right", "top": "at the top", "bottom": "at the bottom"}
_PLACES |= {"centre": "in the centre", "brick": "on bricks", "night": "at night"}
_PLACES |= {ground: f"on {ground}" for ground in ("grass", "water", "sand", "snow")}
_SINGLE = ("{}", "a photo of {}", "an image with {}")
_CLASS_PHRASES = ("{}", "a photo of a {}", "something that looks like a {}", "part of a {}")

Text = tuple[str, str, str]  # the text, the attribute and the value that it names


def pool(name: str | Path, *, images: xr.Dataset | None = None, count: int = COUNT) -> xr.Dataset:
    """The pool called `name`, as in docs/artifacts/texts.md: coordinate `text`, with `attribute` and `value`.

    descriptions: phrases for what `images` is labelled with, and general descriptions of pictures;
    words: the `count` most common English words; words_10k, words_30k: the 10,000 and 30,000 most common ones,
    whatever `count` is; class: every labelled value under each zero-shot prompt;
    random: names for `count` vectors that no text has, see `random_vectors`;
    any other, or a Path: a text file of the user's, one description a line, see `read_descriptions`.
    `images` is any images/<split> dataset; by default, scenes.

    Raises ParamError for an unknown pool or count < 1; DataError for a file that cannot be used.

    >>> from optogram.data import pool
    >>> found = pool("words", count=3)
    >>> found.text.values.tolist()
    ['the', 'to', 'and']
    >>> pool("class").value.values[0].item()
    'circle'
    """
    if count < 1:
        raise ParamError(f"count = {count}: a pool needs at least 1 text.")
    vocabulary = _vocabulary(images)
    if name == "descriptions":
        return _table(_descriptions(vocabulary))
    words = {"words": count, **WORDS}
    if isinstance(name, str) and name in words:
        return _table(_common_words(words[name], vocabulary))
    if name == "class":
        return _table((text, a, v) for a, v, texts in zeroshot_prompts(images) for text in texts)
    if name == "random":
        return _table((RANDOM_NAME.format(number), "", "") for number in range(1, count + 1))
    if isinstance(name, str) and not Path(name).suffix and "/" not in name and not Path(name).is_file():
        raise ParamError(
            f"text pool {name!r} is unknown: expected {', '.join(POOLS)}, or the path of a .txt file with one "
            f"description a line.{nearest(name, list(POOLS))}"
        )
    return _table((text, *_named(text, vocabulary)) for text in read_descriptions(Path(name)))


def is_random(texts: Iterable[str]) -> bool:
    """Whether these are the names of the `random` pool: they stand for vectors, not for what they say.

    >>> from optogram.data import is_random, pool
    >>> is_random(pool("random", count=2).text.values), is_random(["a red star"])
    (True, False)
    """
    return all(text == RANDOM_NAME.format(number) for number, text in enumerate(texts, 1))


def random_vectors(count: int, embed: int, seed: int) -> Float32[np.ndarray, "count embed"]:
    """`count` Gaussian vectors scaled to unit norm (Gandelsman 2025, appendix A): a pool without meaning to compare to.

    The same on every machine: PCG64, and norms by exact summation, not by a BLAS or SIMD sum.

    >>> from optogram.data import random_vectors
    >>> found = random_vectors(3, 16, seed=0)
    >>> found.shape, np.allclose(np.linalg.norm(found, axis=1), 1)
    ((3, 16), True)
    """
    normal = np.random.Generator(np.random.PCG64(seed)).standard_normal((count, embed))
    norms = np.array([math.sqrt(math.fsum(row)) for row in (normal * normal).tolist()])
    return (normal / norms[:, None]).astype(np.float32)


def zeroshot_prompts(images: xr.Dataset | None = None) -> list[tuple[str, str, list[str]]]:
    """(attribute, value, prompts) for every labelled value of `images` (scenes by default), in their order.

    >>> from optogram.data import zeroshot_prompts
    >>> attribute, value, said = zeroshot_prompts()[0]
    >>> attribute, value, said[0]
    ('shape', 'circle', 'a photo of a circle')
    """
    say: dict[str, Callable[[str], list[str]]] = {"class": class_prompts}
    return [
        (attribute, value, say[attribute](value) if attribute in say else captions.prompts(attribute, value))
        for attribute, values in _vocabulary(images).items()
        for value in values
    ]


def read_descriptions(path: Path) -> list[str]:
    """Descriptions of a UTF-8 text file, one a line, spelt as `plain` does; any line ends and a byte order mark do.

    Raises DataError if the file is missing, not UTF-8, empty, or has blank or repeated lines or characters that are no
    text, naming the lines.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from optogram.data import read_descriptions
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "mine.txt"
    ...     size = path.write_text("a red star")
    ...     read_descriptions(path)
    ['a red star']
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}). Expected a text file, one description a line."
        ) from error
    try:
        content = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        wide = " (it begins as UTF-16 does)" if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else ""
        raise DataError(f"{path}: line {line} is not UTF-8{wide}. Save the file as UTF-8 text.") from error
    content = content.replace("\r\n", "\n").replace("\r", "\n")
    lines = [plain(line.strip()) for line in content.removesuffix("\n").split("\n")]
    if not any(lines):
        raise DataError(f"{path}: empty. Write one description a line.")
    blank = [number for number, line in enumerate(lines, 1) if not line]
    if blank:
        raise DataError(f"{path}: blank line{_numbers(blank)}. Remove the blank lines: each line is one description.")
    first: dict[str, int] = {}
    repeated = [number for number, line in enumerate(lines, 1) if first.setdefault(line, number) != number]
    if repeated:
        number = repeated[0]
        raise DataError(
            f"{path}: repeated line{_numbers(repeated)}; line {number} says {lines[number - 1]!r} as line "
            f"{first[lines[number - 1]]} does. Remove the repeated lines: a pool's texts are unique."
        )
    _check_characters(path, lines)
    return lines


def _check_characters(path: Path, lines: list[str]) -> None:
    """DataError for characters that no text has, with their places."""
    places = [(n, at, c) for n, line in enumerate(lines, 1) for at, c in enumerate(line, 1) if is_no_text(c)]
    if not places:
        return
    numbers = sorted({number for number, _, _ in places})
    number, at, character = places[0]
    what = "control characters" if unicodedata.category(character) == "Cc" else "characters that are no text"
    name = "a tab" if character == "\t" else unicodedata.name(character, "without a name")
    raise DataError(
        f"{path}: {what} in line{_numbers(numbers)}; the first is U+{ord(character):04X} ({name}), character {at} of "
        f"line {number}. Remove them, tabs included."
    )


def _numbers(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:10])) + (f" and {len(numbers) - 10} more" if len(numbers) > 10 else "")
    return f"s {shown}" if len(numbers) > 1 else f" {shown}"


def _vocabulary(images: xr.Dataset | None) -> dict[str, list[str]]:
    """Each attribute's values, without the "" that pads `value_name`."""
    if images is None:
        return {attribute: list(values) for attribute, values in ATTRIBUTES.items()}
    rows = zip(images["attribute"].values, images["value_name"].values, strict=True)
    return {str(attribute): [str(value) for value in values if value] for attribute, values in rows}


def _table(texts: Iterable[Text]) -> xr.Dataset:
    """Of a text that occurs twice, the first is kept."""
    kept: dict[str, tuple[str, str]] = {}
    for text, attribute, value in texts:
        kept.setdefault(text, (attribute, value))
    columns = list(zip(*kept.values(), strict=True))
    return xr.Dataset(
        {name: ("text", np.array(column, str)) for name, column in zip(("attribute", "value"), columns, strict=True)},
        coords={"text": ("text", np.array(list(kept), str))},
    )


def _descriptions(vocabulary: dict[str, list[str]]) -> list[Text]:
    general = (resources.files("optogram.data") / "general_descriptions.txt").read_text("utf-8").splitlines()
    texts: list[Text] = []
    for value in vocabulary.get("class", []):
        texts += [(phrase.format(value), "class", value) for phrase in _CLASS_PHRASES]
    if vocabulary.keys() <= ATTRIBUTES.keys():
        texts += _scene_phrases(vocabulary)
    return texts + [(text, *_named(text, vocabulary)) for text in general]


def _scene_phrases(vocabulary: dict[str, list[str]]) -> list[Text]:
    """Every value by itself, then every two values of different attributes, which are tagged with both."""
    texts: list[Text] = []
    for attribute, values in vocabulary.items():
        for value in values:
            phrases = [_phrase({attribute: value}), _phrase({attribute: value}, plural=True)]
            texts += [(form.format(phrase), attribute, value) for phrase in phrases for form in _SINGLE]
    for one, other in combinations(vocabulary, 2):
        for value, second in product(vocabulary[one], vocabulary[other]):
            texts.append((_phrase({one: value, other: second}), f"{one}+{other}", f"{value}+{second}"))
    return texts


def _phrase(stated: dict[str, str], *, plural: bool = False) -> str:
    """What is stated of an object, in English: `two crosses`, `a striped object`, `rings on sand`."""
    before = [stated[attribute] for attribute in ("size", "colour", "texture") if attribute in stated]
    after = [_PLACES[stated[attribute]] for attribute in ("position", "background") if attribute in stated]
    noun = stated.get("shape", "object")
    count = stated.get("count", "")
    if count not in ("", "one") or (plural and not count):
        noun += "es" if noun.endswith("s") else "s"
        before = [count, *before] if count else before
    else:
        first = [*before, noun][0]
        before = [count or ("an" if first[0] in "aeiou" else "a"), *before]
    return " ".join([*before, noun, *after])


def _common_words(count: int, vocabulary: dict[str, list[str]]) -> list[Text]:
    """The most common words of letters only (wordfreq), most common first."""
    from wordfreq import top_n_list

    asked = count
    while True:
        listed = top_n_list("en", asked)
        words = list(dict.fromkeys(word for word in listed if word.isascii() and word.isalpha()))
        if len(words) >= count:
            return [(word, *_named(word, vocabulary)) for word in words[:count]]
        if len(listed) < asked:
            raise DataError(f"words: {count:,} words asked, but the list has {len(words):,}. Ask for at most as many.")
        asked *= 2


def _named(text: str, vocabulary: dict[str, list[str]]) -> tuple[str, str]:
    """The one attribute and value whose name is in the text; ("", "") if there is none, or more than one."""
    words = f" {' '.join(word.strip('.,;:!?()').lower() for word in text.split())} "
    found = [
        (attribute, value)
        for attribute, values in vocabulary.items()
        for value in values
        if f" {value.lower()} " in words
    ]
    return found[0] if len(found) == 1 else ("", "")
