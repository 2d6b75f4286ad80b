"""Metrics room, feature visualisations: Fréchet distance, AUC and MAD of a neuron, top-k accuracy, cues of classes."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float, Float64, Int

from optogram.errors import DataError, ParamError, ShapeError, nearest

ROUNDING = 1e-12
"""A difference of shares that is none: 0.35 - 0.1 falls short of 0.25."""


def frechet_distance(ours: Float[np.ndarray, "own channel"], theirs: Float[np.ndarray, "other channel"]) -> float:
    """FID (Heusel et al. 2017) in whatever features: |m - m'|^2 + tr(S + S' - 2 (S S')^1/2), S with n - 1.

    tr (S S')^1/2 is the sum of the singular values of R R'^T, where S = R^T R comes from a QR of the centred features.
    So no root is taken of an eigenvalue that rounding made of 0. With fewer images than channels those roots put
    scipy's `sqrtm` and torchmetrics off by 1e-6 in float64; this agrees with 40 digits to 1e-13, and is faster.

    Expect more with few images than with many of the same kind: compare sets of the same size.

    Raises ShapeError if the two differ in channels, DataError for fewer than two images or features not finite.

    >>> from optogram.metrics.visualisations import frechet_distance
    >>> features = np.random.default_rng(0).standard_normal((50, 3))
    >>> round(frechet_distance(features, features + [2.0, 0.0, 0.0]), 6)
    4.0
    """
    means, roots = [], []
    for features in (ours, theirs):
        if features.ndim != 2 or features.shape[1] != ours.shape[1]:
            raise ShapeError(
                f"features have shapes {ours.shape} and {theirs.shape}; expected (image, channel), channels alike. "
                "Take both from the same layer."
            )
        if len(features) < 2:
            raise DataError(f"a Fréchet distance needs two images or more on each side, found {len(features)}.")
        features = np.asarray(features, np.float64)
        _check_finite("features", features)
        means.append(features.mean(0))
        roots.append(np.linalg.qr(features - means[-1], mode="r") / np.sqrt(len(features) - 1))
    apart = np.square(means[0] - means[1]).sum()
    variances = sum(np.square(root).sum() for root in roots)
    common = np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum()
    return max(0.0, float(apart + variances - 2 * common))


def roc_auc(synthetic: Float[np.ndarray, " image"], control: Float[np.ndarray, " other"]) -> float:
    """Probability that a synthetic image activates a neuron more than a control image, ties counted half.

    The area under the ROC curve of CoSy (Kopf et al. 2024), synthetic images being the positives. With the images that
    activate the neuron most as control (B.1), 0.5 says that the synthetic ones are as good as these.

    Raises DataError if one side has no image, or an activation is not finite.

    >>> from optogram.metrics.visualisations import roc_auc
    >>> roc_auc(np.array([0.9, 0.4]), np.array([0.1, 0.4, 0.5]))
    0.75
    """
    _check_activations(synthetic, control)
    below, upto = (np.searchsorted(np.sort(control), synthetic, side) for side in ("left", "right"))
    return float((below + upto).mean() / (2 * len(control)))


def mean_activation_difference(synthetic: Float[np.ndarray, " image"], control: Float[np.ndarray, " other"]) -> float:
    """MAD of CoSy (Kopf et al. 2024): mean activation on synthetic images less that on control, in its deviations.

    The standard deviation is that of the control images, with n. NaN where it is 0: a neuron that answers all control
    images alike has no scale.

    Raises DataError if one side has no image, or an activation is not finite.

    >>> from optogram.metrics.visualisations import mean_activation_difference
    >>> mean_activation_difference(np.array([3.0, 5.0]), np.array([1.0, 3.0]))
    2.0
    """
    _check_activations(synthetic, control)
    synthetic, control = (np.asarray(side, np.float64) for side in (synthetic, control))
    # of equal numbers the mean may round away from them, and leave a deviation above 0
    if np.ptp(control) == 0:
        return float("nan")
    return float((synthetic.mean() - control.mean()) / control.std())


def top_k_accuracy(scores: Float[np.ndarray, "image class"], truth: Int[np.ndarray, " image"], k: int = 1) -> float:
    """Share of images whose true class is among the k highest scores; of equal scores the first class is higher.

    Raises DataError if there is no image or a score is not finite, ShapeError if truth is no class index for each.

    >>> from optogram.metrics.visualisations import top_k_accuracy
    >>> logits = np.array([[2.0, 1.0, 0.0], [2.0, 1.0, 0.0]])
    >>> top_k_accuracy(logits, np.array([0, 1])), top_k_accuracy(logits, np.array([0, 1]), k=2)
    (0.5, 1.0)
    """
    ranked = np.argsort(-_checked(scores, truth), axis=1, kind="stable")
    return float((ranked[:, :k] == truth[:, None]).any(1).mean())


def confidence(
    logits: Float[np.ndarray, "image class"], truth: Int[np.ndarray, " image"]
) -> Float64[np.ndarray, " image"]:
    """Softmax probability of the true class of each image (Table 4). Raises as `top_k_accuracy`.

    >>> from optogram.metrics.visualisations import confidence
    >>> confidence(np.array([[0.0, 0.0], [np.log(3.0), 0.0]]), np.array([0, 0])).round(2).tolist()
    [0.5, 0.75]
    """
    logits = _checked(logits, truth)
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return odds[np.arange(len(truth)), truth] / odds.sum(1)


@dataclass(frozen=True)
class Cue:
    """A value of another attribute that goes with a class; `excess` = P(value | class) - P(value).

    >>> from optogram.metrics.visualisations import Cue
    >>> str(Cue("background", "water", 0.4))
    'background: water'
    """

    attribute: str
    value: str
    excess: float

    def __str__(self) -> str:
        return f"{self.attribute}: {self.value}"


def cues(
    labels: xr.DataArray, value_name: xr.DataArray, class_attribute: str, *, least: float = 0.25
) -> dict[str, Cue | None]:
    """For each class the value of another attribute that is most over-represented in it, None where none is by `least`.

    labels: (image, attribute) of an images artifact, with its `attribute` coordinate; -1 is unknown and not counted,
    of either attribute. value_name: (attribute, value). Of equal excess the first in the artifact's order.

    Raises ParamError for a class attribute that images are not labelled by.

    >>> from optogram.metrics.visualisations import cues
    >>> tied = xr.DataArray([[0, 1], [0, 1], [1, 0], [1, 1]], dims=("image", "attribute"))
    >>> names = xr.DataArray([["circle", "star"], ["snow", "water"]], dims=("attribute", "value"))
    >>> found = cues(tied.assign_coords(attribute=["shape", "background"]), names, "shape")
    >>> str(found["circle"]), found["circle"].excess
    ('background: water', 0.25)
    """
    known = labels["attribute"].values.astype(str).tolist()
    if class_attribute not in known:
        raise ParamError(
            f"class_attribute = {class_attribute!r}, but images are labelled by {', '.join(known)}."
            f"{nearest(class_attribute, known)} Name one of these."
        )
    label = labels.transpose("image", "attribute").values.astype(int)
    names = value_name.transpose("attribute", "value").values.astype(str)
    own = known.index(class_attribute)
    found: dict[str, Cue | None] = {str(name): None for name in names[own] if name}
    for at, attribute in enumerate(known):
        both = label[(label[:, own] >= 0) & (label[:, at] >= 0)]
        if at == own or not len(both):
            continue
        everywhere = np.bincount(both[:, at], minlength=names.shape[1]) / len(both)
        for index in np.unique(both[:, own]):
            here = both[both[:, own] == index, at]
            excess = np.bincount(here, minlength=names.shape[1]) / len(here) - everywhere
            best, so_far = int(excess.argmax()), found[str(names[own, index])]
            bound = so_far.excess + ROUNDING if so_far else least - ROUNDING
            if excess[best] > bound:
                found[str(names[own, index])] = Cue(attribute, str(names[at, best]), float(excess[best]))
    return found


def _checked(scores: np.ndarray, truth: np.ndarray) -> Float64[np.ndarray, "image class"]:
    if scores.ndim != 2 or truth.shape != scores.shape[:1] or not ((truth >= 0) & (truth < scores.shape[-1])).all():
        raise ShapeError(
            f"scores have shape {scores.shape}, truth {truth.shape}; expected (image, class) and the index of a class "
            "for each image."
        )
    if not len(scores):
        raise DataError("no image to score. Give at least one.")
    _check_finite("scores", scores)
    return np.asarray(scores, np.float64)


def _check_activations(synthetic: np.ndarray, control: np.ndarray) -> None:
    for whose, activation in (("synthetic", synthetic), ("control", control)):
        if not len(activation):
            raise DataError(f"no {whose} image: AUC and MAD compare activations on both. Give at least one.")
        _check_finite(f"activations on {whose} images", activation)


def _check_finite(what: str, values: Any) -> None:
    if not np.isfinite(values).all():
        row = int(np.argmin(np.isfinite(values).reshape(len(values), -1).all(1)))
        raise DataError(f"{what} are not finite, first in image {row}. Check the images and the checkpoint.")
