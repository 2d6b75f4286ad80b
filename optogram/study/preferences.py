"""`optogram study analyse`: which of two methods' counterfactuals people prefer, question by question."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import stats

from optogram.study.analysis import DRAWS, Estimate, estimate, krippendorff_alpha
from optogram.study.answers import Answered
from optogram.study.form import QUESTIONS


@dataclass(frozen=True)
class Preference:
    """The answers to one question. preferred: those for the first method, of `answered`; share: of all answers, with
    Wilson's 95 % interval; p: of the exact binomial test that each is preferred as easily; over: the mean over pairs of
    the means over people, with its interval over both; agreement: Krippendorff's alpha."""

    question: str
    preferred: int
    answered: int
    share: Estimate
    p: float
    over: Estimate
    agreement: float


@dataclass(frozen=True)
class Pairs:
    """All questions. participants: who answered any; shown: pairs, over the participants that gave answers; targets:
    the pairs; by_target: the share that prefers the first method, NaN where nobody answered."""

    methods: tuple[str, str]
    participants: int
    shown: int
    preferences: list[Preference]
    targets: list[str]
    by_target: Float[np.ndarray, "target question"]


def preferences(answered: Answered, *, seed: int = 0, draws: int = DRAWS) -> Pairs | None:
    """What was answered of pairs, or None for a form without any.

    Wilson's interval and the binomial test take every answer for one of its own. People who see the same pair, and
    pairs that one person sees, have more in common: `over` holds for other people and other images (`estimate`).
    """
    key = answered.key
    pictures = {opaque for shown in key.shown for opaque in shown.pairs}
    if not pictures:
        return None
    first, second = key.methods
    targets = sorted({key.images[opaque].target for opaque in pictures})
    cube = np.full((len(answered.answers), len(targets), len(QUESTIONS)), np.nan)
    for row, one in enumerate(answered.answers):
        for opaque, questions in one.pairs.items():
            picture = key.images[opaque]
            for question in questions:
                cube[row, targets.index(picture.target), list(QUESTIONS).index(question)] = picture.method == first
    there = np.isfinite(cube)
    counts = there.sum(0)
    by_target = np.divide(np.nansum(cube, axis=0), counts, out=np.full(counts.shape, np.nan), where=counts > 0)
    shown = sum(len(key.shown[one.participant - 1].pairs) // 2 for one in answered.answers)
    found = [_preference(question, cube[..., k], seed, draws) for k, question in enumerate(QUESTIONS)]
    return Pairs((first, second), int(there.any((1, 2)).sum()), shown, found, targets, by_target)


def _preference(question: str, chosen: Float[np.ndarray, "participant target"], seed: int, draws: int) -> Preference:
    preferred, count = int(np.nansum(chosen)), int(np.isfinite(chosen).sum())
    over = estimate(chosen[..., None], seed=seed, draws=draws, least=0, most=1)
    agreement = krippendorff_alpha(chosen.T)
    if not count:
        return Preference(question, 0, 0, Estimate(float("nan"), 0.0, 1.0), 1.0, over, agreement)
    test = stats.binomtest(preferred, count)
    low, high = test.proportion_ci(0.95, "wilson")
    share = Estimate(preferred / count, float(low), float(high))
    return Preference(question, preferred, count, share, float(test.pvalue), over, agreement)
