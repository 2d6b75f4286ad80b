"""Method room, concepts: what the neurons that are active on an image name, and whether it is true (appendix B)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Bool
from scipy import sparse

from optogram.errors import DataError, ParamError, ShapeError
from optogram.methods.neurons.labels import label_table, named_pairs
from optogram.metrics import intervals
from optogram.metrics.permutation import shuffled_p


class ConceptPrecision(NamedTuple):
    """How often the concepts of an image are true of it, and how often they would be of another.

    `precision`: true ones among the `concepts` that can be judged, over all images. `chance`: the same of each concept
    with any image of them. `p_value`: share of random orders of the images, the given one among them, that do as well.
    `precision_low`, `precision_high`: its 95 % interval, bootstrapped over images, as the concepts of one go together.
    """

    precision: float
    chance: float
    p_value: float
    concepts: int
    precision_low: float
    precision_high: float


def image_concepts(
    norms: xr.DataArray, threshold: Any, codes: xr.Dataset, texts: Sequence[str], count: int
) -> xr.Dataset:
    """The concepts of each image: the texts with the largest image-contribution scores (Gandelsman 2025, appendix B).

    w_j(I) = sum over the active neurons n of gamma_j^n |phi_n(I)|, those whose norm is above their threshold.

    norms: (image, neuron), of `effect_norms`. threshold: (neuron), such as the 98th percentile of each neuron's norms
        on the reference images. codes: `index` and `coefficient` (neuron, pick), gamma as in neurons/<model>/<layer>;
        index -1 is no pick. texts: the pool's, in its order. count: concepts an image.

    Returns `text` (image, k) and `score` (image, k) float32, highest first, "" and 0 where fewer texts have a positive
    score; equal ones in the order of the pool. And `active` (image) int32, the number of active neurons.

    Raises ParamError for a count below 1, ShapeError if the parts do not go together.

    >>> from optogram.methods import image_concepts
    >>> norms = xr.DataArray([[2.0, 0.1], [0.1, 3.0]], dims=("image", "neuron"))
    >>> picks = ("neuron", "pick")
    >>> codes = xr.Dataset({"index": (picks, [[0], [1]]), "coefficient": (picks, [[0.5], [1.0]])})
    >>> image_concepts(norms, np.array([1.0, 1.0]), codes, ["a star", "snow"], 1).text.values.tolist()
    [['a star'], ['snow']]
    """
    if count < 1:
        raise ParamError(f"count = {count}, but an image has to get at least one concept. Set it to 1 or more.")
    lengths, least = norms.transpose("image", "neuron").values, np.asarray(threshold)
    index, coefficient = (codes[name].transpose("neuron", "pick").values for name in ("index", "coefficient"))
    if least.shape != lengths.shape[1:] or len(index) != lengths.shape[1]:
        raise ShapeError(
            f"norms are of {lengths.shape[1]} neurons, thresholds of {least.shape}, texts' coefficients of "
            f"{len(index)}.\n  Take all from the same layer and the same neurons."
        )
    if index.max(initial=-1) >= len(texts) or index.min(initial=0) < -1:
        raise ShapeError(
            f"picks run from {index.min(initial=0)} to {index.max(initial=-1)}, but the pool has {len(texts)} texts.\n"
            "  Give the pool that the picks were made from."
        )
    active = lengths > least
    neuron, pick = np.nonzero(index >= 0)
    parts = coefficient[neuron, pick].astype(np.float64), (neuron, index[neuron, pick])
    gamma = sparse.csr_matrix(parts, shape=(len(index), len(texts)))
    weights: Any = sparse.csr_matrix(np.where(active, lengths, 0).astype(np.float64)) @ gamma
    image, text, score = np.repeat(np.arange(len(lengths)), np.diff(weights.indptr)), weights.indices, weights.data
    order = np.lexsort((text, -score, image))
    order = order[score[order] > 0]
    place = np.arange(len(order)) - np.searchsorted(image[order], image[order])
    order, place = order[place < count], place[place < count]
    names = np.asarray(texts).astype(str)
    found = np.full((len(lengths), count), "", names.dtype)
    scores = np.full((len(lengths), count), np.nan, np.float32)
    found[image[order], place], scores[image[order], place] = names[text[order]], score[order]
    return xr.Dataset(
        {
            "text": (("image", "k"), found),
            "score": (("image", "k"), scores, {"missing": "the active neurons name fewer concepts"}),
            "active": ("image", active.sum(1, dtype=np.int32)),
        },
        {"image": norms["image"]} if "image" in norms.coords else None,
    )


def true_concepts(text: xr.DataArray, pool: xr.Dataset, labels: xr.DataArray, value_name: xr.DataArray) -> xr.DataArray:
    """Whether each concept names its image's own value, (image, k) int8: 1 it does, 0 it names another, -1 not known.

    text: of `image_concepts`. pool: `attribute` and `value` (text) with the texts as coordinate. labels: (image,
        attribute) integers of the same images, -1 unknown; value_name: (attribute, value).

    A text that names two ("colour+shape") is true only if both are, and not if either is not. Not known: the text names
    nothing or an attribute that the image has no label of, or there is no text.

    Raises ShapeError if the images differ in number or labels and names do not fit, DataError for a text that is not in
    the pool.

    >>> from optogram.methods import true_concepts
    >>> text = xr.DataArray([["a star"], ["a star"], ["a ring"]], dims=("image", "k"))
    >>> said = {"attribute": ("text", ["shape", "shape"]), "value": ("text", ["star", "ring"])}
    >>> pool = xr.Dataset(said, {"text": ["a star", "a ring"]})
    >>> labels = xr.DataArray([[0], [1], [-1]], dims=("image", "attribute"), coords={"attribute": ["shape"]})
    >>> names = xr.DataArray([["star", "ring"]], dims=("attribute", "value"))
    >>> true_concepts(text, pool, labels, names).values.tolist()
    [[1], [0], [-1]]
    """
    judged = _Judged.of(text, pool, labels, value_name)
    rows = np.arange(len(judged.kind))[:, None]
    true, known = judged.true[rows, judged.kind], judged.known[rows, judged.kind]
    return xr.DataArray(np.where(known, true, -1).astype(np.int8), text.transpose("image", "k").coords, ("image", "k"))


def concept_precision(
    text: xr.DataArray,
    pool: xr.Dataset,
    labels: xr.DataArray,
    value_name: xr.DataArray,
    *,
    seed: int,
    permutations: int,
) -> ConceptPrecision:
    """How many of the concepts that can be judged are true, beside chance: each image with the labels of another.

    Arguments and errors as `true_concepts`, and DataError if no concept can be judged. Memory grows with the square of
    the number of images.

    >>> from optogram.methods import concept_precision
    >>> text = xr.DataArray([["a star"], ["a star"], ["a ring"]], dims=("image", "k"))
    >>> said = {"attribute": ("text", ["shape", "shape"]), "value": ("text", ["star", "ring"])}
    >>> pool = xr.Dataset(said, {"text": ["a star", "a ring"]})
    >>> labels = xr.DataArray([[0], [1], [1]], dims=("image", "attribute"), coords={"attribute": ["shape"]})
    >>> names = xr.DataArray([["star", "ring"]], dims=("attribute", "value"))
    >>> found = concept_precision(text, pool, labels, names, seed=0, permutations=99)
    >>> round(found.precision, 2), found.concepts
    (0.67, 3)
    """
    judged = _Judged.of(text, pool, labels, value_name)
    images, kinds = judged.true.shape
    counts = np.zeros((images, kinds))
    np.add.at(counts, (np.arange(images)[:, None], judged.kind), 1)
    # of image i's concepts, how many are true of image j, and how many are known to be so or not
    true, known = (counts @ table.T.astype(np.float64) for table in (judged.true, judged.known))
    concepts = int(known.trace())
    if not concepts:
        raise DataError(
            "no concept names a value that the images are labelled by.\n  Use a pool of texts that name such values."
        )
    precision, at = float(true.trace() / concepts), np.arange(images)

    def shuffled(order: np.ndarray) -> np.ndarray:
        return true[at, order].sum(1) / known[at, order].sum(1).clip(1)

    p_value = shuffled_p(precision, shuffled, images, seed=seed, permutations=permutations)
    weights = intervals.resampled(images, seed=seed)
    drawn = (weights @ true.diagonal()) / (weights @ known.diagonal()).clip(1)
    ends = map(float, intervals.percentiles(drawn))
    return ConceptPrecision(precision, float(true.sum() / known.sum()), p_value, concepts, *ends)


class _Judged(NamedTuple):
    """The kinds of things that texts name, each with the images of which it is true, or known to be or not."""

    kind: np.ndarray  # (image, k)
    true: Bool[np.ndarray, "image kind"]
    known: Bool[np.ndarray, "image kind"]

    @classmethod
    def of(cls, text: xr.DataArray, pool: xr.Dataset, labels: xr.DataArray, value_name: xr.DataArray) -> "_Judged":
        found = text.transpose("image", "k").values.astype(str)
        values, names, attributes = label_table(labels, value_name)
        if len(values) != len(found):
            raise ShapeError(f"concepts are of {len(found)} images, labels of {len(values)}; give both of the same.")
        texts = pool["text"].values.astype(str).tolist()
        named = dict(zip(texts, zip(pool["attribute"].values, pool["value"].values, strict=True), strict=True))
        named[""] = ("", "")
        distinct, which = np.unique(found, return_inverse=True)
        if missing := [one for one in distinct.tolist() if one not in named]:
            raise DataError(
                f"the pool has no text {missing[0]!r}.\n  Give the pool that the concepts were picked from."
            )
        kinds = sorted({named[one] for one in distinct.tolist()})
        true = np.zeros((len(found), len(kinds)), bool)
        known = np.zeros_like(true)
        for at, kind in enumerate(kinds):
            pairs = named_pairs(*map(str, kind))
            if not pairs:
                continue
            own = [_own(values, names, attributes, *pair) for pair in pairs]
            true[:, at] = np.all([one == 1 for one in own], axis=0)
            known[:, at] = true[:, at] | np.any([one == 0 for one in own], axis=0)
        at_kind = np.array([kinds.index(named[one]) for one in distinct.tolist()])
        return cls(at_kind[which].reshape(found.shape), true, known)


def _own(values: np.ndarray, names: np.ndarray, attributes: list[str], attribute: str, value: str) -> np.ndarray:
    """For each image 1 if it has this value of the attribute, 0 if another, -1 if that is not known."""
    if attribute not in attributes:
        return np.full(len(values), -1)
    at = attributes.index(attribute)
    label = values[:, at]
    return np.where(label >= 0, names[at][label] == value, -1)
