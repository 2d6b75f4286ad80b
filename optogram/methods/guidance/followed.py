"""Methods, guidance: which attribute of the labels a number goes with, such as the activation of a unit."""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float64, Integer

HALF = 0.5
"""What follows an attribute has more than this share of its variance between the attribute's values."""


def followed(
    values: Sequence[Float64[np.ndarray, " image"]],
    own: Sequence[Bool[np.ndarray, " image"]],
    images: xr.Dataset,
    *,
    spurious: str,
    core: str,
) -> xr.Dataset:
    """How much each of several targets follows each attribute, and whether it is spurious or core by that.

    values: of each target, one an image. own: of each target, the images of its class. images: with their labels.
    spurious, core: attributes, such as background and shape.

    `follows` (target, attribute), as `explained`, over all images, and `follows_in_class` over those of its class. A
    target is spurious if more than half of its variance over the images of its class lies between values of the one
    attribute; else core if more than half of it over all images lies between values of the other. `truth` (target) is
    that attribute, `value` (target) the value of it whose images, of the class or of all, have the highest mean; ""
    for what is neither. Over all images no component can tell: it is a part of a class's logit, which follows the
    class.
    """
    attributes = images["attribute"].values.astype(str).tolist()
    label = images["label"].transpose("image", "attribute").values
    names = images["value_name"].transpose("attribute", "value").values.astype(str)
    every, within = (np.zeros((len(values), len(attributes))) for _ in range(2))
    told = np.full((len(values), 2), "", dtype=object)
    for at, (value, rows) in enumerate(zip(values, own, strict=True)):
        for column in range(len(attributes)):
            every[at, column] = explained(value, label[:, column])
            within[at, column] = explained(value[rows], label[rows, column])
        everywhere = np.ones_like(rows)
        for name, shares, some in ((spurious, within, rows), (core, every, everywhere)):
            column = attributes.index(name)
            if not told[at, 0] and shares[at, column] > HALF:
                told[at] = name, names[column, _highest(value[some], label[some, column])]
    return xr.Dataset(
        {
            "follows": (("target", "attribute"), every),
            "follows_in_class": (("target", "attribute"), within),
            "truth": ("target", told[:, 0].astype(str)),
            "value": ("target", told[:, 1].astype(str)),
        },
        {"attribute": attributes},
    )


def explained(values: Float64[np.ndarray, " image"], labels: Integer[np.ndarray, " image"]) -> float:
    """The share of the variance of values that lies between the images of different labels; -1 is unknown.

    It is adjusted for the number of labels (epsilon squared, Kelley 1935), so that many explain no more by chance than
    few. At least 0, and 0 where nothing varies or there is but one label.

    >>> from optogram.methods.guidance.followed import explained
    >>> explained(np.array([0.0, 0.0, 1.0, 1.0]), np.array([3, 3, 5, 5]))
    1.0
    """
    values, labels = values[labels >= 0], labels[labels >= 0]
    kinds, group = np.unique(labels, return_inverse=True)
    n, k = len(values), len(kinds)
    if k < 2 or n <= k:
        return 0.0
    means = np.bincount(group, values) / np.bincount(group)
    whole, left = np.square(values - values.mean()).sum(), np.square(values - means[group]).sum()
    if not whole > 0:
        return 0.0
    return float(np.clip(1 - left / whole * (n - 1) / (n - k), 0, 1))


def _highest(values: Float64[np.ndarray, " image"], labels: Integer[np.ndarray, " image"]) -> int:
    """The label whose images have the largest mean."""
    kinds = np.unique(labels[labels >= 0])
    return int(kinds[np.argmax([values[labels == kind].mean() for kind in kinds])])
