"""Methods: VITAL's classes from reference sets of other sizes, with strangers among them, of another split (C.4)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Int64, UInt8

from optogram.errors import DataError
from optogram.methods.drawing import image_seed
from optogram.methods.patches import as_input, cut, input_size, patch_boxes
from optogram.methods.prototypes import matched_layers
from optogram.methods.reference_sets import class_references, corrupted_references
from optogram.methods.sort_matching import reference_prototype
from optogram.methods.targets import class_labels
from optogram.methods.vital import vital
from optogram.models.classifiers import Classifier


def reference_album(
    classifier: Classifier,
    images: xr.Dataset,
    others: xr.Dataset,
    beside: Sequence[Int64[np.ndarray, " reference"]],
    *,
    sizes: Sequence[int],
    strangers: Sequence[int],
    references: int,
    seed: int,
    steps: int,
    batch: int = 32,
    layers: Sequence[str] = (),
    **options: Any,
) -> dict[str, UInt8[np.ndarray, "class seed y x rgb"]]:
    """One picture a class for each condition: "5" (so many references), "strangers 5" (so many beside `references`),
    "other split" (`beside`: for each class rows of `others`, such as `other_references`).

    images, others: images/<split> artifacts with the classifier's classes. Sizes that a class has too few images for
    are left out. Sets are nested: the 5 are among the 10. layers: as `matched_layers`. batch: classes drawn
    at once. options: of `vital`.

    Raises DataError for a class with fewer than two images, and as `class_references` and `vital`.
    """
    size, count = input_size(classifier, images.pixels), len(classifier.classes)
    names = matched_layers(classifier, layers, size)
    labels = class_labels(classifier, images)[1]
    most = min(_counts(classifier, images).values())
    enough = min(references, most)
    sets: dict[str, list[Int64[np.ndarray, " reference"]]] = {
        str(number): [class_references(labels, k, number, seed=seed) for k in range(count)]
        for number in sizes
        if number <= most
    }
    sets |= {
        f"strangers {number}": [corrupted_references(labels, k, enough, number, seed=seed) for k in range(count)]
        for number in strangers
    }
    conditions = [(name, images, rows) for name, rows in sets.items()] + [("other split", others, beside)]
    device = next(iter(classifier.model.parameters())).device
    seeds = [image_seed(seed, name, 0) for name in classifier.classes]
    found = {}
    for condition, source, rows in conditions:
        rgb = []
        for start in range(0, count, batch):
            part = slice(start, start + batch)
            each = [_prototype(classifier, source, one, names, size) for one in rows[part]]
            wanted = {name: torch.stack([one[name] for one in each]).to(device) for name in names}
            rgb.append(vital(classifier, wanted, seeds=seeds[part], size=size, steps=steps, **options)[0].rgb)
        found[condition] = (torch.cat(rgb) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()[:, None]
    return found


def other_references(
    classifier: Classifier, others: xr.Dataset, references: int, *, seed: int
) -> list[Int64[np.ndarray, " reference"]]:
    """For each class rows of `others`: `references`, but no more than half of what the scarcest class has.

    Raises DataError for a class with fewer than four images: two of a split are references, two are compared with.
    """
    fewest = min(references, min(_counts(classifier, others, least=4).values()) // 2)
    labels = class_labels(classifier, others)[1]
    return [class_references(labels, k, fewest, seed=seed) for k in range(len(classifier.classes))]


def _counts(classifier: Classifier, images: xr.Dataset, least: int = 2) -> dict[str, int]:
    """How many images each class has; DataError for one with fewer than `least`."""
    attribute, labels = class_labels(classifier, images)
    counts = {name: int((labels == k).sum()) for k, name in enumerate(classifier.classes)}
    for name, count in counts.items():
        if count < least:
            raise DataError(
                f"class {name!r} has {count} of the {len(labels)} images of a split, by their label of {attribute!r}; "
                f"reference sets need {least} or more.\n  Give more images, or leave the model out of "
                "reference_sets.models."
            )
    return counts


def _prototype(
    classifier: Classifier, images: xr.Dataset, rows: np.ndarray, layers: Sequence[str], size: tuple[int, int]
) -> Mapping[str, torch.Tensor]:
    shape = images.sizes["y"], images.sizes["x"]
    boxes = patch_boxes(rows, shape, patch=min(shape), stride=max(shape))
    return reference_prototype(classifier.model, as_input(classifier, cut(images.pixels, boxes, size)), layers)
