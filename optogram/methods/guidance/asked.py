"""Methods, guidance: which images are to be changed, and into what."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import xarray as xr
from jaxtyping import Float, Int64

from optogram.errors import DataError
from optogram.guidance.captions import class_names, image_captions, label_captions, with_class

Kind = Literal["classes", "errors"]


@dataclass(frozen=True)
class Asked:
    """Images, and the class that each is to be taken for.

    rows: of the dataset. source, target: numbers of the classifier's classes. other: a third class, for the control
    that is led elsewhere. captions, changed: what is said of each image, and what would be said of the picture that is
    asked for.
    """

    rows: Int64[np.ndarray, " image"]
    source: Int64[np.ndarray, " image"]
    target: Int64[np.ndarray, " image"]
    other: Int64[np.ndarray, " image"]
    captions: Sequence[str]
    changed: Sequence[str]
    elsewhere: Sequence[str]


def ask(
    images: xr.Dataset,
    classes: Sequence[str],
    probabilities: Float[np.ndarray, "image class"],
    *,
    of: Kind = "classes",
    count: int,
    captions: str = "labels",
    seed: int,
    device: str = "auto",
) -> Asked:
    """Images of an images/<split> dataset that a classifier is to see as something else.

    classes: the classifier's, by which images are labelled with their `class_attribute`. probabilities: what it says of
    all images. of: "classes" takes images that it gets right, in a random order, and another class for each, all as
    often; "errors" takes those that it gets wrong, the surest first, toward their label (section D.2.1). Scenes of
    several objects are left out: what would one of them be changed into? count: at most so many images. captions: as
    `image_captions` takes them. seed: of the order and the classes.

    Raises DataError if no image is left, for a class of the images that the classifier lacks, and as `image_captions`.
    """
    names = class_names(images)
    if unknown := sorted({*names} - {*classes}):
        raise DataError(
            f"counterfactuals: the images have the class {unknown[0]!r}, which the classifier lacks; it has "
            f"{', '.join(classes)}. Take a classifier of these classes."
        )
    label = np.array([classes.index(name) for name in names])
    said, draw = probabilities.argmax(1), np.random.default_rng(seed)
    right = (said == label) == (of == "classes")
    if "count" in (attributes := images["attribute"].values.astype(str).tolist()):
        right &= images["label"].values[:, attributes.index("count")] == 0
    rows = np.flatnonzero(right)
    if not len(rows):
        raise DataError(f"counterfactuals: the classifier gets no image {'right' if of == 'classes' else 'wrong'}.")
    if of == "classes":
        rows = draw.permutation(rows)[:count]
        source = label[rows]
        steps = 1 + draw.permutation(np.arange(len(rows)) % (len(classes) - 1))
        target = (source + steps) % len(classes)
    else:
        rows = rows[np.argsort(-probabilities.max(1)[rows], kind="stable")][:count]
        source, target = said[rows], label[rows]
    left = [[k for k in range(len(classes)) if k not in pair] for pair in zip(source, target, strict=True)]
    other = np.array([draw.choice(each) if each else first for each, first in zip(left, source, strict=True)])
    chosen = images.isel(image=rows)
    told = image_captions(captions, chosen, device=device)
    swapped = [changed_captions(chosen, told, classes, each, captions) for each in (target, other)]
    return Asked(rows, source, target, other, told, *swapped)


def changed_captions(
    images: xr.Dataset, captions: Sequence[str], classes: Sequence[str], target: Int64[np.ndarray, " image"], given: str
) -> list[str]:
    """The captions with the name of the class `target` in place of the images' own (Algorithm 2).

    given: as `ask` takes captions; those from labels are said anew, whatever words the class has there.

    Raises DataError for a caption that does not name the image's class.
    """
    if given != "labels":
        goals = [classes[int(goal)] for goal in target]
        names = zip(captions, class_names(images), goals, strict=True)
        return [with_class(caption, name, goal) for caption, name, goal in names]
    column = images["attribute"].values.astype(str).tolist().index(str(images.attrs["class_attribute"]))
    values = images["value_name"].values[column].astype(str).tolist()
    label = images["label"].values.copy()
    label[:, column] = [values.index(classes[goal]) for goal in target]
    return label_captions(images.assign(label=(images["label"].dims, label)))
