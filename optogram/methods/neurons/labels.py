"""Method room, labels of neurons: the value that a neuron's top images share beside the one that its texts name.

The thesis compares the two by eye (section 3.4, "the found descriptions match the objects in the top 10 images"). On
images with labels it can be counted, and set beside chance.
"""

from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from scipy import sparse

from optogram.errors import DataError, ShapeError
from optogram.metrics.permutation import paired


class ValueAgreement(NamedTuple):
    """How often neurons' texts name the value that their top images share, and how often they would by chance.

    `agreement`: share of the compared neurons with equal values of equal attributes. `chance`: the share expected were
    the two independent with the counts that they have. `p_value`: share of random pairings of neurons with named
    values, the given one among them, that agree as often. `neurons`: how many were compared, those with both.
    """

    agreement: float
    chance: float
    p_value: float
    neurons: int


def shared_values(top: Any, labels: xr.DataArray, value_name: xr.DataArray) -> xr.Dataset:
    """The attribute value that each neuron's top images share most beyond its share in all images.

    top: (neuron, rank) positions of images, as `rank_one` gives them. labels: (image, attribute) integers, -1 unknown;
    value_name: (attribute, value) strings. An unknown label is a value of its own that is never shared: it counts in
    both shares' denominators.

    Returns `image_attribute` and `image_value` (neuron), "" where no value is more frequent among the top images than
    among all, and `excess` (neuron) float32, the difference of the two shares, 0 there. Of equal values the first
    attribute's first one is taken; shares are compared exactly.

    Raises ShapeError if `top` is no (neuron, rank) of these images, or if labels and names do not fit.

    >>> from optogram.methods import shared_values
    >>> found = shared_values([[0, 1, 2]], scenes.label, scenes.value_name)
    >>> found.image_value.dims, found.excess.dtype
    (('neuron',), dtype('float32'))
    """
    top = np.asarray(top)
    values, names, attributes = label_table(labels, value_name)
    images, count = len(values), names.shape[1]
    if top.ndim != 2 or not top.size or top.min() < 0 or top.max() >= images:
        raise ShapeError(
            f"top images have shape {top.shape} and positions {top.min(initial=0)} to {top.max(initial=0)}; expected "
            f"(neuron, rank) of {images} labelled images.\n  Give the labels of the split that the effects are of."
        )
    rank = top.shape[1]
    beyond = np.empty((len(top), len(attributes), count), np.int64)
    for at, column in enumerate(values.T):
        among = column[top]
        places = (among + count * np.arange(len(top))[:, None])[among >= 0]
        of_top = np.bincount(places, minlength=len(top) * count).reshape(-1, count)
        # shares over a common denominator: whole numbers, so that ties are ties
        beyond[:, at] = of_top * images - np.bincount(column[column >= 0], minlength=count) * rank
    flat = beyond.reshape(len(top), -1)
    best, most = flat.argmax(1), flat.max(1)
    attribute, value = np.array(attributes)[best // count], names.ravel()[best]
    return xr.Dataset(
        {
            "image_attribute": ("neuron", np.where(most > 0, attribute, "")),
            "image_value": ("neuron", np.where(most > 0, value, "")),
            "excess": ("neuron", (most.clip(0) / (images * rank)).astype(np.float32)),
        }
    )


def named_values(weight: Any, attribute: Any, value: Any) -> xr.Dataset:
    """The value that each neuron's texts name most: the largest sum of positive weights.

    weight: (neuron, pick) coefficients of the texts; attribute and value: (neuron, pick) strings, what each names, as
    in texts/<pool>: "" for nothing; "colour+shape" and "red+circle" give half of the weight to each. Negative weights
    are left out: the neuron writes away from those texts.

    Returns `attribute` and `value` (neuron), "" where no text with a positive weight names any; the first in the
    alphabet among equals.

    Raises ShapeError if the three differ in shape, DataError if a text does not name as many values as attributes.

    >>> from optogram.methods import named_values
    >>> found = named_values([[0.9, 0.5, -2.0]], [["colour", "shape", "size"]], [["red", "star", "large"]])
    >>> found.attribute.item(), found.value.item()
    ('colour', 'red')
    """
    weight, attribute, value = np.asarray(weight), np.asarray(attribute).astype(str), np.asarray(value).astype(str)
    if weight.ndim != 2 or not weight.shape == attribute.shape == value.shape:
        raise ShapeError(
            f"weights have shape {weight.shape}, attributes {attribute.shape}, values {value.shape}; expected "
            "(neuron, pick) of all."
        )
    kinds, kind = np.unique(np.stack([attribute.ravel(), value.ravel()], 1), axis=0, return_inverse=True)
    named = [named_pairs(*pair) for pair in kinds.tolist()]
    pairs = sorted({pair for each in named for pair in each})
    if not pairs:
        return xr.Dataset({name: ("neuron", np.full(len(weight), "")) for name in ("attribute", "value")})
    neuron = np.repeat(np.arange(len(weight)), weight.shape[1])
    positive = weight.ravel().clip(0).astype(np.float64)
    of_kind = sparse.csr_matrix((positive, (neuron, kind.ravel())), shape=(len(weight), len(kinds)))
    share = np.array([[(pair in each) / max(1, len(each)) for pair in pairs] for each in named])
    score: np.ndarray = of_kind @ share
    best = np.array(pairs)[score.argmax(1)]
    found = np.where(score.max(1)[:, None] > 0, best, "")
    return xr.Dataset({"attribute": ("neuron", found[:, 0]), "value": ("neuron", found[:, 1])})


def value_agreement(
    image_attribute: Any, image_value: Any, text_attribute: Any, text_value: Any, *, seed: int, permutations: int
) -> ValueAgreement:
    """How often the value that a neuron's texts name is the one that its top images share, beside chance.

    All are (neuron) strings, of `shared_values` and `named_values`; neurons with "" on either side are left out.

    Raises ShapeError if they differ in length, DataError if no neuron has both.

    >>> from optogram.methods import value_agreement
    >>> of, seen, named = ["colour"] * 3, ["red", "blue", "red"], ["red", "red", "red"]
    >>> found = value_agreement(of, seen, of, named, seed=0, permutations=99)
    >>> round(found.agreement, 2), found.neurons
    (0.67, 3)
    """
    sides = [
        np.asarray(side).astype(str).ravel() for side in (image_attribute, image_value, text_attribute, text_value)
    ]
    if len({len(side) for side in sides}) > 1:
        raise ShapeError(f"labels are of {', '.join(str(len(side)) for side in sides)} neurons; give all of the same.")
    both = np.all([side != "" for side in sides], axis=0)
    if not both.any():
        raise DataError(
            "no neuron has both a value that its images share and one that its texts name.\n"
            "  Use a pool of texts that name what the images are labelled by."
        )
    images, texts = np.stack(sides[:2], 1)[both], np.stack(sides[2:], 1)[both]
    _, codes = np.unique(np.concatenate([images, texts]), axis=0, return_inverse=True)
    left, right = codes.reshape(2, -1)
    return ValueAgreement(*paired(left, right, seed=seed, permutations=permutations), len(left))


def named_pairs(attribute: str, value: str) -> list[tuple[str, str]]:
    """What a text names, as (attribute, value) pairs; several are written "colour+shape" and "red+circle".

    Raises DataError if there are not as many values as attributes.
    """
    if not attribute or not value:
        return []
    attributes = attribute.split("+")
    values = value.split("+") if len(attributes) > 1 else [value]
    if len(values) != len(attributes):
        raise DataError(
            f"a text names the attributes {attribute!r}, but the values {value!r}.\n"
            "  Give the pool one value for each attribute, joined by '+'."
        )
    return list(zip(attributes, values, strict=True))


def label_table(labels: xr.DataArray, value_name: xr.DataArray) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Labels (image, attribute) and names (attribute, value) as arrays, and the attributes. Raises ShapeError."""
    names = value_name.transpose("attribute", "value").values.astype(str)
    values = labels.transpose("image", "attribute").values.astype(np.int64)
    if values.shape[1] != len(names) or values.max(initial=-1) >= names.shape[1]:
        raise ShapeError(
            f"labels of {values.shape[1]} attributes go up to {values.max(initial=-1)}, but value_name has shape "
            f"{names.shape}.\n  Take both from the same images artifact."
        )
    return values, names, labels["attribute"].values.astype(str).tolist()
