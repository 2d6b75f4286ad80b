"""`optogram study analyse`, second half: scores of the methods, their differences, and how well people agree."""

import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import combinations
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy import stats

from optogram.errors import DataError
from optogram.study.answers import Answered
from optogram.study.form import PARTS

DRAWS = 2000
HIGH = 4
"""Scores from here on are high: Figure 7 counts scores 4 and 5."""

Encode = Callable[[Sequence[str]], Float[np.ndarray, "text embed"]]
Cube = Float[np.ndarray, "participant target method"]


@dataclass(frozen=True)
class Estimate:
    """A value with its 95% confidence interval; NaN bounds where two people and two targets have not answered."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Score:
    """A method in one part. values: every score given (naming: similarities); high: the share of scores of 4 and 5,
    or of answers that are the class's very word; quantiles: 5%, 50% and 95% of the values."""

    method: str
    values: tuple[float, ...]
    mean: Estimate
    high: Estimate
    quantiles: tuple[float, float, float]


@dataclass(frozen=True)
class Difference:
    """How much higher the first method scores than the second, on average."""

    first: str
    second: str
    mean: Estimate


@dataclass(frozen=True)
class Part:
    """One part of a study. shown, answered: counts of pictures; agreement: Krippendorff's alpha, NaN for naming."""

    name: str
    participants: int
    shown: int
    answered: int
    agreement: float
    scores: list[Score]
    differences: list[Difference]
    targets: list[str]
    by_target: Float[np.ndarray, "target method"]
    said: dict[tuple[str, str], list[str]]


def analyse(answered: Answered, *, encode: Encode | None = None, seed: int = 0, draws: int = DRAWS) -> list[Part]:
    """The parts that were shown, in the order of the form; Figures 7 and 40 to 42 of the paper.

    Naming is scored by the similarity of the answer to the class's name: the cosine of their unit embeddings by
    `encode`, or without it `spelt_alike`. Differences of ratings are within a person and target (only what was rated
    for both methods counts); of naming, where a person sees one method a target, over the targets named for both.
    Every target counts alike, however many answered it: else a method would gain where more people saw it drawn on easy
    targets. Intervals are bootstrapped over people and targets (`estimate`), from `seed`, and not adjusted.
    """
    return [
        _part(answered, part, encode, seed, draws)
        for part in PARTS
        if any(getattr(shown, part) for shown in answered.key.shown)
    ]


def estimate(
    cube: Cube, *, draws: int = DRAWS, seed: int = 0, least: float = -math.inf, most: float = math.inf
) -> Estimate:
    """The mean of one method, or of the first of two less the second, with its interval within [least, most].

    The interval is the bootstrap's (`bootstrap_means`), wider as few people or targets ask: of n that are drawn with
    replacement the spread is sqrt(1 - 1/n) of what it should be, and Student's quantile lies further out than the
    normal one. n is the smaller of the two numbers.
    """
    means = _means(cube)
    value = float(means[0] - means[1] if len(means) > 1 else means[0])
    there = np.isfinite(cube)
    fewest = int(min(there.any((1, 2)).sum(), there.any((0, 2)).sum()))
    # one person, or one target, says nothing of how others vary
    if fewest < 2:
        return Estimate(value, float("nan"), float("nan"))
    kept = cube[there.any((1, 2))][:, there.any((0, 2))]
    drawn = bootstrap_means(kept, draws=draws, seed=seed)
    each = _there(drawn[:, 0] - drawn[:, 1] if drawn.shape[1] > 1 else drawn[:, 0])
    wider = stats.t.ppf(0.975, fewest - 1) / stats.norm.ppf(0.975) * math.sqrt(fewest / (fewest - 1))
    bounds = value + wider * (np.quantile(each, [0.025, 0.975]) - value)
    return Estimate(value, *(float(bound) for bound in np.clip(bounds, least, most)))


def bootstrap_means(cube: Cube, *, draws: int, seed: int) -> Float[np.ndarray, "draw method"]:
    """Means over targets of the means over people, both drawn anew with replacement; NaN in the cube is no answer.

    Both are samples from larger populations, so both are resampled (Owen, The pigeonhole bootstrap, 2007). In each draw
    those targets count that it has answers of every method for; without any it is NaN.
    """
    lot = np.random.default_rng(seed)
    people, targets, methods = cube.shape
    by_person = lot.multinomial(people, [1 / people] * people, size=draws)
    by_target = lot.multinomial(targets, [1 / targets] * targets, size=draws)

    def summed(values: np.ndarray) -> np.ndarray:
        return (by_person @ values.reshape(people, -1)).reshape(draws, targets, methods)

    there = np.isfinite(cube)
    answers = summed(there.astype(float))
    means = summed(np.where(there, cube, 0.0)) / np.maximum(answers, 1)
    weight = by_target * (answers > 0).all(2)
    total, count = np.einsum("dt,dtm->dm", weight, means), weight.sum(1, keepdims=True)
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def krippendorff_alpha(ratings: Float[np.ndarray, "unit rater"]) -> float:
    """Krippendorff's alpha with the interval metric: 1 is agreement, 0 what chance gives; NaN is no rating.

    Krippendorff, Computing Krippendorff's alpha-reliability (2011): one minus the ratio of the squared differences
    within units to those among all ratings; units rated once do not count. NaN where all ratings are the same, or no
    unit was rated twice.
    """
    rated = np.isfinite(ratings)
    paired = ratings[rated.sum(1) > 1]
    there, values = np.isfinite(paired), np.nan_to_num(paired)
    counts = there.sum(1)
    total = counts.sum()
    # the sum of (a - b)^2 over ordered pairs of n values is 2 n Σ a^2 - 2 (Σ a)^2
    within = 2 * (counts * (values**2).sum(1) - values.sum(1) ** 2)
    among = 2 * (total * (values**2).sum() - values.sum() ** 2)
    if not total or among <= 0:
        return float("nan")
    return float(1 - (within / (counts - 1)).sum() / total / (among / (total * (total - 1))))


def normalised(text: str) -> str:
    """Lower case, single spaces, no leading article, no punctuation unless there is nothing else."""
    plain = unicodedata.normalize("NFKC", text).casefold().strip()
    bare = re.sub(r"[\W_]+", " ", plain).strip()
    return re.sub(r"^(a|an|the) (?=.)", "", bare) or plain


def spelt_alike(answer: str, truth: str) -> float:
    """Similarity of spelling, 0 to 1: difflib's ratio of the normalised texts. It knows no synonyms."""
    return SequenceMatcher(None, normalised(answer), normalised(truth), autojunk=False).ratio()


def clip_encoder(folder: Path) -> Encode:
    """The text tower of a CLIP model folder; of an answer with more tokens than it reads, the first words that fit.

    The paper takes the Universal Sentence Encoder. Raises ModelError if the folder cannot be read.
    """
    from optogram.models.loading.clip_folders import encode_texts, load_clip

    clip = load_clip(folder)

    def fitted(text: str) -> str:
        while True:
            try:
                clip.tokenize([text])
                return text
            except DataError:  # one word alone may be too long
                text = text.rpartition(" ")[0] or text[: len(text) // 2]

    return lambda texts: encode_texts(clip, [fitted(text) for text in texts]).numpy()


def _part(answered: Answered, part: str, encode: Encode | None, seed: int, draws: int) -> Part:
    key = answered.key
    pictures = {opaque for shown in key.shown for opaque in getattr(shown, part)}
    targets = sorted({key.images[opaque].target for opaque in pictures})
    methods = [m for m in key.methods if any(key.images[opaque].method == m for opaque in pictures)]
    cell = {o: (targets.index(key.images[o].target), methods.index(key.images[o].method)) for o in pictures}
    cube = np.full((len(answered.answers), len(targets), len(methods)), np.nan)
    high = cube.copy()
    said: dict[tuple[str, str], list[str]] = {}
    given = [
        (row, cell[o], value) for row, one in enumerate(answered.answers) for o, value in getattr(one, part).items()
    ]
    if part == "name":
        given = [(row, at, text) for row, at, text in given if text.strip()]
        pairs = [(text, targets[at[0]]) for _, at, text in given]
        alike = _similarities(pairs, encode)
        for (row, at, text), (_, truth), value in zip(given, pairs, alike, strict=True):
            cube[row, *at], high[row, *at] = value, normalised(text) == normalised(truth)
            said.setdefault((truth, methods[at[1]]), []).append(text)
    else:
        for row, at, value in given:
            cube[row, *at], high[row, *at] = value, value >= HIGH
    lowest, highest = (1, 5) if part != "name" else (-1 if encode else 0, 1)
    scores = [
        Score(
            method,
            tuple(sorted(_there(cube[..., k]).tolist())),
            estimate(cube[..., [k]], seed=seed, draws=draws, least=lowest, most=highest),
            estimate(high[..., [k]], seed=seed, draws=draws, least=0, most=1),
            _quantiles(_there(cube[..., k])),
        )
        for k, method in enumerate(methods)
    ]
    differences = [
        Difference(
            methods[a],
            methods[b],
            estimate(_comparable(cube[..., [a, b]], part != "name"), seed=seed, draws=draws),
        )
        for a, b in combinations(range(len(methods)), 2)
    ]
    shown = sum(len(getattr(key.shown[one.participant - 1], part)) for one in answered.answers)
    return Part(
        part,
        int(np.isfinite(cube).any((1, 2)).sum()),
        shown,
        int(np.isfinite(cube).sum()),
        float("nan") if part == "name" else krippendorff_alpha(cube.reshape(len(cube), -1).T),
        scores,
        differences,
        targets,
        np.array([[_mean(cube[:, t, m]) for m in range(len(methods))] for t in range(len(targets))]),
        said,
    )


def _similarities(pairs: Sequence[tuple[str, str]], encode: Encode | None) -> list[float]:
    """Of answers to the names of their classes."""
    if encode is None:
        return [spelt_alike(*pair) for pair in pairs]
    texts = sorted({normalised(text) for pair in pairs for text in pair})
    row = {text: k for k, text in enumerate(texts)}
    embedded = encode(texts) if texts else np.zeros((0, 1))
    return [float(embedded[row[normalised(a)]] @ embedded[row[normalised(b)]]) for a, b in pairs]


def _comparable(pair: Cube, within: bool) -> Cube:
    """Two methods' answers where there are answers for both: within a person and target, or for the target at all."""
    there = np.isfinite(pair)
    both = np.all(there, axis=2) if within else np.all(np.any(there, axis=0), axis=1)[None]
    return np.where(both[..., None], pair, np.nan)


def _means(cube: Cube) -> Float[np.ndarray, " method"]:
    """Means over targets of the means over people, of the targets that every method has answers for; else NaN."""
    there = np.isfinite(cube)
    counts = there.sum(0)
    known = (counts > 0).all(1)
    if not known.any():
        return np.full(cube.shape[2], np.nan)
    return (np.where(there, cube, 0.0).sum(0)[known] / counts[known]).mean(0)


def _there(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]


def _mean(values: np.ndarray) -> float:
    there = _there(values)
    return float(there.mean()) if there.size else float("nan")


def _quantiles(values: np.ndarray) -> tuple[float, float, float]:
    low, middle, high = np.quantile(values, [0.05, 0.5, 0.95]) if values.size else [float("nan")] * 3
    return float(low), float(middle), float(high)
