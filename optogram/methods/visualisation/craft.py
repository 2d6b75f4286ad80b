"""Method room, concept directions: what a class is made of in a layer, and the several things one neuron answers to.

Concepts as CRAFT finds them (Fel et al. 2023): a non-negative factorisation of the pooled activations of a class's
patches. Splits as VITAL does (Figure 29): k-means over a neuron's top patches. Both look at pooled features (patch,
channel), of `optogram.decompose.patches.pooled`.

sklearn's threads add partial sums in the order in which they finish: here it has one, so that it repeats exactly.
"""

import warnings
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int, Int64
from sklearn.cluster import KMeans
from sklearn.decomposition import NMF
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import silhouette_score
from threadpoolctl import threadpool_limits

from optogram.decompose.patches import top_patches
from optogram.errors import DataError, ParamError, ShapeError

_STARTS = 10
_ITERATIONS = 400


class Concepts(NamedTuple):
    """Unit directions, non-negative; how much of each is in every patch; and what each matters, most first."""

    direction: Float32[np.ndarray, "concept channel"]
    coefficient: Float32[np.ndarray, "patch concept"]
    importance: Float32[np.ndarray, " concept"]


class Splits(NamedTuple):
    """The groups of a neuron's top patches, the largest first.

    patch: rows of the features, those nearest to the group's centre first, no two from one image; -1 where there are
    fewer. share: of the top patches. silhouette: how well the groups are apart, -1 to 1.
    """

    patch: Int64[np.ndarray, "split reference"]
    share: Float32[np.ndarray, " split"]
    silhouette: float


def class_concepts(
    features: Float[np.ndarray, "patch channel"],
    relevance: Float[np.ndarray, " channel"],
    count: int,
    *,
    rank: int,
    seed: int,
) -> Concepts:
    """The `count` most important of the `rank` concepts that make up the pooled features of a class's patches.

    A = U W with all of them non-negative (CRAFT, eq. 1), by sklearn's NMF from the SVD (nndsvda, seeded), in float64;
    W's rows are scaled to unit length. Features of a layer without a ReLU, such as a ViT's block, count with their
    positive part: a direction then says what patches have more of, never what they have less of.

    Importance: CRAFT takes total Sobol indices of the logit under random masks of U, thousands of passes a class. Here
    the relevance of each channel for the class is shared by the concepts as they share the channel's mean activation,
    I_i = sum_c relevance_c mean(U_i) W_ic / sum_j mean(U_j) W_jc, over the sum of |relevance|. Where the logit is
    linear in the pooled features (a ResNet's last block) and relevance is input times gradient, I_i is what concept i
    adds to the logit; and of a sum of independently masked terms the total Sobol index is its square's share. A
    concept that speaks against the class has a negative importance. Those that the factorisation left empty are
    dropped, so there can be fewer than `count`.

    Raises ParamError for a count or rank out of bounds (rank: at most the patches and the channels), ShapeError if the
    relevance does not have the channels, DataError if no feature is positive.
    """
    features, relevance = np.maximum(features, 0, dtype=np.float64), np.asarray(relevance, np.float64)
    if features.ndim != 2 or relevance.shape != features.shape[1:]:
        raise ShapeError(
            f"features have shape {features.shape}, relevance {relevance.shape}; expected (patch, channel) and "
            "(channel,)."
        )
    if not 1 <= count <= rank or rank > min(features.shape):
        raise ParamError(
            f"{count} of {rank} concepts are asked for, of {features.shape[0]} patches with {features.shape[1]} "
            f"channels. Expected 1 <= concepts <= rank <= {min(features.shape)}."
        )
    if not features.any():
        raise DataError(f"none of {len(features)} patches has a positive feature.\n  Take another layer.")
    options: Any = {"n_components": rank, "init": "nndsvda", "random_state": seed, "max_iter": _ITERATIONS}
    factors: Any = NMF(**options)
    with threadpool_limits(1), warnings.catch_warnings():
        # slow last digits: the factors are as good as any, and the same each time
        warnings.simplefilter("ignore", ConvergenceWarning)
        coefficient = factors.fit_transform(features)
    length = np.linalg.norm(factors.components_, axis=1)
    coefficient = coefficient * length
    direction = factors.components_ / np.where(length > 0, length, 1)[:, None]
    part = coefficient.mean(0)[:, None] * direction
    whole = part.sum(0)
    importance = (part / np.where(whole > 0, whole, 1)) @ relevance / max(np.abs(relevance).sum(), 1e-30)
    found = Concepts(*(each.astype(np.float32) for each in (direction, coefficient, importance)))
    order = np.argsort(-importance, kind="stable")
    order = order[found.coefficient[:, order].any(0)][:count]
    return Concepts(found.direction[order], found.coefficient[:, order], found.importance[order])


def split_patches(
    features: Float[np.ndarray, "patch channel"],
    images: Int[np.ndarray, " patch"],
    direction: Float[np.ndarray, " channel"],
    *,
    patches: int = 1000,
    splits: int = 2,
    references: int = 50,
    seed: int,
) -> Splits | None:
    """The several things that a neuron answers to: k-means over its top patches (Figure 29, A.1).

    The `patches` best along `direction`, no two from one image and all of them active (score above 0), are grouped by
    their pooled features, scaled to unit length: else strong patches would be told from weak ones. A group's references
    are those nearest to its centre.

    Returns None where there is nothing to split: fewer active images than 2 * splits, or a group of fewer than two.

    Raises ParamError for fewer than two splits or one reference, and as `top_patches`.
    """
    if splits < 2 or references < 1:
        raise ParamError(f"splits = {splits}, references = {references}; expected 2 or more, and 1 or more.")
    top = top_patches([(slice(0, len(features)), features)], images, np.asarray(direction)[None], patches)
    chosen = top.patch[0][top.score[0] > 0]
    if len(chosen) < 2 * splits:
        return None
    unit = features[chosen].astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    if len(np.unique(unit, axis=0)) < splits:
        return None
    options: Any = {"n_clusters": splits, "n_init": _STARTS, "random_state": seed}
    with threadpool_limits(1):
        means: Any = KMeans(**options).fit(unit)
        labels = means.labels_
        sizes = np.bincount(labels, minlength=splits)
        if sizes.min() < 2:
            return None
        silhouette = float(silhouette_score(unit, labels))
    _, first = np.unique(labels, return_index=True)
    order = np.lexsort((first, -sizes))
    found = np.full((splits, references), -1)
    for line, group in zip(found, order, strict=True):
        members = np.flatnonzero(labels == group)
        away = np.linalg.norm(unit[members] - means.cluster_centers_[group], axis=1)
        nearest = members[np.argsort(away, kind="stable")][:references]
        line[: len(nearest)] = chosen[nearest]
    return Splits(found, (sizes[order] / len(chosen)).astype(np.float32), silhouette)
