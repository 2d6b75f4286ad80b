"""Method room, semantic adversarial examples: phrases that neurons confuse with a class, and the images they spoil.

Gandelsman (2025), section 3.5. A task is a pair of classes: images of the one, `own`, that shall be taken for the
`other`. It measures how robust the studied model is, and how much knowing its neurons tells about that.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Float32, Int, Int32, UInt8

from optogram.errors import DataError, ParamError, ShapeError
from optogram.methods.neurons.sparse import SparseCodes, omp
from optogram.methods.neurons.text_dictionary import distinct_texts, prepare_texts
from optogram.progress import progress

FEWER_PHRASES = {"missing": "there are fewer phrases"}
FEWER_SHOWN = {"missing": "fewer descriptions fooled the model"}

METHODS = ("second_order", "random", "indirect", "similar", "plain")
"""Where the phrases come from: neurons as second-order effects tell them, random neurons, neurons as indirect effects
tell them, texts most similar to the classes' difference, and none at all: what the model gets wrong anyway."""

NEAR = 0.5
"""Cosine about the pool's mean from which a phrase counts as a synonym of the other class."""


class Fooled(NamedTuple):
    """Which images were taken for the other class, and by how much."""

    taken: Bool[np.ndarray, " image"]
    margin: Float32[np.ndarray, " image"]


def strongest_neurons(
    v: Float[np.ndarray, "task embed"], r: Float[np.ndarray, "neuron embed"], count: int
) -> Int[np.ndarray, "task rank"]:
    """The `count` neurons with the largest |<v, r_n>| of each task (all, if there are fewer), largest first.

    v: M_text(other) - M_text(own); equal neurons come in their order. Raises ShapeError if embed differs, ParamError
    for a count below 1.

    >>> from optogram.methods import strongest_neurons
    >>> r = np.array([[1.0, 0.0], [0.0, 1.0], [-2.0, 0.0]])
    >>> strongest_neurons(np.array([[1.0, 0.5]]), r, 2).tolist()
    [[2, 0]]
    """
    if count < 1:
        raise ParamError(f"count = {count}; expected at least 1 neuron.")
    return np.argsort(-np.abs(_along(v, r)), axis=1, kind="stable")[:, :count]


def phrase_scores(
    v: Float[np.ndarray, "task embed"],
    r: Float[np.ndarray, "neuron embed"],
    codes: SparseCodes,
    neurons: Int[np.ndarray, "task rank"],
    texts: int,
) -> Float[np.ndarray, "task text"]:
    """Contribution scores w_j = sum over neurons n of gamma_j^n <v, r_n> (eq. 3.4), float64, for all tasks at once.

    codes: of `omp` for the rows of r, index -1 for no pick; neurons: those that count in each task, as from
    `strongest_neurons`; texts: how many the pool has. Raises ShapeError if codes, r and v do not go together.

    >>> from optogram.methods import omp, phrase_scores, strongest_neurons
    >>> v, r = np.array([[1.0, 0.5]]), np.array([[1.0, 0.0], [0.0, 1.0], [-2.0, 0.0]])
    >>> codes = omp(np.eye(2), r, 1)
    >>> phrase_scores(v, r, codes, strongest_neurons(v, r, 2), 2).tolist()
    [[5.0, 0.0]]
    """
    along = _along(v, r)
    index, gamma = np.asarray(codes.indices), np.asarray(codes.coefficients, np.float64)
    if index.shape != gamma.shape or len(index) != len(r) or index.max(initial=-1) >= texts or len(neurons) != len(v):
        raise ShapeError(
            f"codes of {index.shape} and {gamma.shape}, {len(r)} directions, {texts} texts, neurons for {len(neurons)} "
            f"of {len(v)} tasks do not go together. Take the codes of these directions in this pool."
        )
    weight = gamma[neurons] * np.take_along_axis(along, neurons, 1)[..., None]
    weight[index[neurons] < 0] = 0
    place = np.maximum(index[neurons], 0) + texts * np.arange(len(v))[:, None, None]
    return np.bincount(place.ravel(), weight.ravel(), texts * len(v)).reshape(len(v), texts)


def synonyms(
    embeddings: Float[np.ndarray, "text embed"],
    others: Float[np.ndarray, "task embed"],
    named: Bool[np.ndarray, "task text"],
    *,
    near: float = NEAR,
) -> Bool[np.ndarray, "task text"]:
    """Phrases that stand for each task's other class, and so would make its images honest ones: True there.

    named: those that say the class's word; and those whose text embedding has a cosine above `near` with the other
    class's, both less the pool's mean. The thesis compares with a sentence encoder; here it is the studied CLIP's own
    text encoder, so what counts as similar is what the model itself takes for similar.

    >>> from optogram.methods import synonyms
    >>> texts = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    >>> synonyms(texts, np.array([[1.0, 0.0]]), np.zeros((1, 3), bool)).tolist()
    [[True, True, False]]
    """
    if embeddings.shape[1] != others.shape[1] or named.shape != (len(others), len(embeddings)):
        raise ShapeError(
            f"embeddings {embeddings.shape}, classes {others.shape} and named {named.shape} do not go together; "
            "expected (text, embed), (task, embed), (task, text)."
        )
    mean = embeddings.mean(0, dtype=np.float64)
    return named | (_unit(others - mean) @ _unit(embeddings - mean).T > near)


def candidates(
    scores: Float[np.ndarray, "task text"], refused: Bool[np.ndarray, "task text"], count: int
) -> Int[np.ndarray, "task phrase"]:
    """The `count` phrases with the largest positive score that are not refused, best first; -1 where there are fewer.

    Equal scores come in the order of the pool.

    >>> from optogram.methods import candidates
    >>> scores = np.array([[0.5, 2.0, -1.0, 3.0]])
    >>> candidates(scores, np.array([[False, False, False, True]]), 3).tolist()
    [[1, 0, -1]]
    """
    if count < 1:
        raise ParamError(f"count = {count}; expected at least 1 phrase.")
    left = np.where(refused, -np.inf, scores)
    order = np.argsort(-left, axis=1, kind="stable")[:, :count]
    order = np.where(np.take_along_axis(left, order, 1) > 0, order, -1)
    return np.pad(order, ((0, 0), (0, count - order.shape[1])), constant_values=-1)


def fooled(images: Float[Any, "image embed"], own: Float[Any, " embed"], other: Float[Any, " embed"]) -> Fooled:
    """Which images a binary zero-shot classifier takes for the other class: those nearer to its text than to their own.

    images, own, other: embeddings, of unit norm. `margin` is the similarity to the other class less that to the own
    one, float32; an image in the middle counts as its own.

    >>> from optogram.methods import fooled
    >>> own, other = np.eye(2)
    >>> fooled(np.array([[0.9, 0.1], [0.2, 0.8]]), own, other).taken.tolist()
    [False, True]
    """
    margin = np.asarray(images) @ (np.asarray(other) - np.asarray(own))
    return Fooled(margin > 0, margin.astype(np.float32))


def mined_phrases(
    own: Float[np.ndarray, "task embed"],
    other: Float[np.ndarray, "task embed"],
    pool: xr.Dataset,
    r: Float[np.ndarray, "neuron embed"],
    indirect: Float[np.ndarray, "unit embed"],
    refused: Bool[np.ndarray, "task text"],
    *,
    neurons: int,
    sparsity: int,
    phrases: int,
    repeats: int,
    seed: int,
) -> xr.Dataset:
    """Candidate phrases of every method: `phrase` and `score` (task, method, repeat, phrase), "" and NaN where fewer.

    own, other: unit text embeddings of the classes. pool: `embeddings/<model>/<pool>`, in which directions are
    decomposed; of texts that the encoder cannot tell apart, the first. r: directions of the neurons; indirect: of
    indirect effects, maybe of fewer neurons.
    refused: texts not to use: those that name a class, and those of which the image-maker can draw nothing. Neurons are
        decomposed in all texts, and synonyms of the other class (`synonyms`) are refused besides.
    neurons, sparsity, phrases, repeats: as in params.adversarial. `random` takes other neurons in each repeat.

    `score` is w_j of eq. 3.4; for `similar` the cosine of the phrase and v, for `plain`, which has no phrase, 0.
    Raises as `prepare_texts` and `omp`.
    """
    kept = distinct_texts(pool["embedding"].values)
    pool = pool.isel(text=kept)
    embedding, v = pool["embedding"].values, other - own
    texts, most = prepare_texts(pool["embedding"]), min(sparsity, *embedding.shape)
    refused = synonyms(embedding, other, refused[:, kept])
    codes, count = omp(texts, r, most), len(texts)

    def scores(neurons_of_task: np.ndarray) -> np.ndarray:
        return phrase_scores(v, r, codes, neurons_of_task, count)

    indirectly = strongest_neurons(v, indirect, neurons)
    fixed = {
        "second_order": scores(strongest_neurons(v, r, neurons)),
        "indirect": phrase_scores(v, indirect, omp(texts, indirect, most), indirectly, count),
        "similar": _unit(v) @ embedding.T,
        "plain": np.zeros((len(v), count)),
    }
    shape = (len(v), len(METHODS), repeats, phrases)
    index, score = np.full(shape, -1), np.full(shape, np.nan, np.float32)
    for repeat in range(repeats):
        rng = np.random.default_rng((seed, repeat))
        drawn = rng.permuted(np.tile(np.arange(len(r)), (len(v), 1)), axis=1)[:, :neurons]
        for at, method in enumerate(METHODS):
            found = scores(drawn) if method == "random" else fixed[method]
            best = candidates(found, refused, phrases)
            index[:, at, repeat] = best
            score[:, at, repeat] = np.where(best >= 0, np.take_along_axis(found, np.maximum(best, 0), 1), np.nan)
    words = np.where(index >= 0, pool["text"].values.astype(str)[index], "")
    dims = ("task", "method", "repeat", "phrase")
    return xr.Dataset({"phrase": (dims, words), "score": (dims, score, FEWER_PHRASES)}, {"method": list(METHODS)})


def attack(
    mined: xr.Dataset,
    own: Float[np.ndarray, "task embed"],
    other: Float[np.ndarray, "task embed"],
    describe: Callable[[int, Sequence[str], int, int], list[str]],
    make: Callable[[int, Sequence[str], int, int], xr.Dataset],
    encode: Callable[[np.ndarray], Any],
    *,
    descriptions: int,
    chosen: int,
    images: int,
    seed: int,
    shown: int = 3,
) -> xr.Dataset:
    """Images of the mined phrases, and how many of them are taken for the other class (Table 3.3).

    mined: of `mined_phrases`. describe: (task, phrases, count, seed) -> descriptions; make: (task, descriptions, images
    of each, seed) -> images with `pixels` and `description`; encode: pixels -> unit embeddings.
    For each task and list of phrases `descriptions` are written; in each repeat `chosen` of them are drawn (with
    replacement where there are fewer) and `images` made of each. Seeds do not depend on the method, so that what is
    left open, such as attributes that no description states, comes out alike for all.

    Returns `fooled`, `images` (task, method, repeat) int32; `phrase`, `score` (task, method, phrase) of the first
    repeat; and of the `shown` descriptions whose images fooled the model most clearly `description`, `pixels`, `margin`
    (task, method, shown), "", 0 and NaN where fewer did.

    Raises DataError if there is no description at all for a task.
    """
    tasks, methods, repeats = (mined.sizes[name] for name in ("task", "method", "repeat"))
    made = np.zeros((2, tasks, methods, repeats), np.int32)
    best: list[tuple[str, float, np.ndarray]] = []
    with progress("Adversarial images", made[0].size * chosen * images, "images") as advance:
        for task, method in np.ndindex(tasks, methods):
            written: dict[tuple[str, ...], list[str]] = {}
            found: dict[str, tuple[float, np.ndarray]] = {}
            for repeat in range(repeats):
                phrases = tuple(filter(None, mined["phrase"].values[task, method, repeat].astype(str).tolist()))
                if phrases not in written:
                    written[phrases] = describe(task, phrases, descriptions, _seed(seed, 0, task))
                if not (texts := written[phrases]):
                    raise DataError(f"task {task}: the describer wrote nothing. Set adversarial.generator to grammar.")
                rng = np.random.default_rng((seed, 1, task, repeat))
                drawn = [texts[at] for at in rng.choice(len(texts), chosen, replace=len(texts) < chosen)]
                batch = make(task, drawn, images, _seed(seed, 2, task, repeat))
                pixels, of = batch["pixels"].values, batch["description"].values
                taken, margin = fooled(encode(pixels), own[task], other[task])
                made[:, task, method, repeat] = taken.sum(), len(taken)
                for at in np.flatnonzero(taken):
                    if margin[at] > found.get(drawn[of[at]], (0.0,))[0]:
                        found[drawn[of[at]]] = float(margin[at]), pixels[at]
                advance(len(taken))
            best += _clearest(found, shown, np.zeros_like(pixels[0]))
    return _attacked(mined, made, best)


def _clearest(
    found: Mapping[str, tuple[float, np.ndarray]], shown: int, blank: UInt8[np.ndarray, "y x rgb"]
) -> list[tuple[str, float, np.ndarray]]:
    """The `shown` descriptions of the largest margins with these and their images, then "", NaN and blanks."""
    ranked = sorted(found.items(), key=lambda item: -item[1][0])[:shown]
    return [(text, *of) for text, of in ranked] + [("", math.nan, blank)] * (shown - len(ranked))


def _attacked(
    mined: xr.Dataset, made: Int32[np.ndarray, "2 task method repeat"], best: Sequence[tuple[str, float, np.ndarray]]
) -> xr.Dataset:
    """What `attack` returns, of the images fooled and made, and of what is shown of each task and method in turn."""
    columns = [np.stack(part) for part in zip(*best, strict=True)]
    text, margin, pixels = (part.reshape(*made.shape[1:3], -1, *part.shape[1:]) for part in columns)
    first = mined.isel(repeat=0)
    return xr.Dataset(
        {
            "fooled": (("task", "method", "repeat"), made[0]),
            "images": (("task", "method", "repeat"), made[1]),
            "phrase": (("task", "method", "phrase"), first["phrase"].values),
            "score": (("task", "method", "phrase"), first["score"].values, FEWER_PHRASES),
            "description": (("task", "method", "shown"), text),
            "pixels": (("task", "method", "shown", "y", "x", "rgb"), pixels),
            "margin": (("task", "method", "shown"), margin.astype(np.float32), FEWER_SHOWN),
        },
        {"method": mined["method"].values},
    )


def binary_accuracy(
    images: Float[Any, "image embed"],
    value: Sequence[str] | np.ndarray,
    pairs: Sequence[tuple[str, str]],
    own: Float[np.ndarray, "task embed"],
    other: Float[np.ndarray, "task embed"],
) -> Float[np.ndarray, " task"]:
    """Accuracy of each pair's binary classifier on ordinary images of the two classes, whose values are given.

    Raises DataError for a pair without images.
    """
    values, found = np.asarray(value), []
    for pair, *texts in zip(pairs, own, other, strict=True):
        right = [~fooled(np.asarray(images)[values == pair[0]], *texts).taken]
        right += [fooled(np.asarray(images)[values == pair[1]], *texts).taken]
        if not sum(map(len, right)):
            raise DataError(f"no image is labelled {pair[0]} or {pair[1]}. Name classes that images/eval have.")
        found.append(np.concatenate(right).mean())
    return np.array(found)


def _along(v: np.ndarray, r: np.ndarray) -> Float[np.ndarray, "task neuron"]:
    if v.ndim != 2 or r.ndim != 2 or v.shape[1] != r.shape[1]:
        raise ShapeError(f"v has shape {v.shape}, r {r.shape}; expected (task, embed) and (neuron, embed).")
    return v.astype(np.float64) @ r.astype(np.float64).T


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _seed(*key: int) -> int:
    return int(np.random.SeedSequence(key).generate_state(1)[0])
