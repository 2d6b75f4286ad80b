"""Methods: VITAL's classes from reference sets of other sizes, with strangers among them, of another split (C.4)."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import xarray as xr
from jaxtyping import Int64, UInt8

from optogram.decompose.patches import as_input, cut, input_size, patch_boxes
from optogram.errors import DataError
from optogram.methods.class_labels import class_labels
from optogram.methods.visualisation.optimise import image_seed
from optogram.methods.visualisation.prototypes import matched_layers
from optogram.methods.visualisation.reference_sets import class_references, corrupted_references
from optogram.methods.visualisation.sort_matching import reference_prototype
from optogram.methods.visualisation.vital import VitalOptions, vital
from optogram.models.loading.classifiers import Classifier

OTHERS = 4  # images of another split that a class needs: two are references, two are compared with


def reference_album(
    classifier: Classifier,
    images: xr.Dataset,
    others: xr.Dataset,
    beside: Sequence[Int64[np.ndarray, " reference"]],
    options: VitalOptions,
    *,
    sizes: Sequence[int],
    strangers: Sequence[int],
    references: int,
    seed: int,
    layers: Sequence[str] = (),
) -> dict[str, UInt8[np.ndarray, "class seed y x rgb"]]:
    """One picture a class for each condition: "5" (so many references), "strangers 5" (so many beside `references`),
    "other split" (`beside`: for each class rows of `others`, such as `other_references`).

    images, others: images/<split> artifacts with the classifier's classes. Sizes that a class has too few images for,
    and more strangers than there are to a class, are left out. Sets are nested: the 5 are among the 10. layers: as
    `matched_layers`. One picture each, whatever `options.seeds` is.

    Raises DataError for a class with fewer than two images, and as `class_references` and `vital`.
    """
    size, count = input_size(classifier, images.pixels), len(classifier.classes)
    names = matched_layers(classifier, layers, size)
    labels = class_labels(classifier, images)[1]
    counts = _counts(classifier, images)
    most, most_strangers = min(counts.values()), sum(counts.values()) - max(counts.values())
    enough = min(references, most)
    sets: dict[str, list[Int64[np.ndarray, " reference"]]] = {
        str(number): [class_references(labels, k, number, seed=seed) for k in range(count)]
        for number in sizes
        if number <= most
    }
    sets |= {
        f"strangers {number}": [corrupted_references(labels, k, enough, number, seed=seed) for k in range(count)]
        for number in strangers
        if number <= most_strangers
    }
    conditions = [(name, images, rows) for name, rows in sets.items()] + [("other split", others, beside)]
    device = next(iter(classifier.model.parameters())).device
    seeds = [image_seed(seed, name, 0) for name in classifier.classes]
    found = {}
    for condition, source, rows in conditions:
        rgb = []
        for start in range(0, count, options.batch):
            part = slice(start, start + options.batch)
            each = [_prototype(classifier, source, one, names, size) for one in rows[part]]
            wanted = {name: torch.stack([one[name] for one in each]).to(device) for name in names}
            made, _ = vital(classifier, wanted, options, seeds=seeds[part], size=size, weights=options.weights)
            rgb.append(made.rgb)
        found[condition] = (torch.cat(rgb) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()[:, None]
    return found


def too_few_for_sets(classifier: Classifier, images: xr.Dataset, others: xr.Dataset) -> str:
    """Why there can be no reference sets of these images, "" if there can: a class has too few of them."""
    try:
        _counts(classifier, images)
        _counts(classifier, others, least=OTHERS)
    except DataError as error:
        return str(error).partition("\n")[0]
    return ""


def other_references(
    classifier: Classifier, others: xr.Dataset, references: int, *, seed: int
) -> list[Int64[np.ndarray, " reference"]]:
    """For each class rows of `others`: `references`, but no more than half of what the scarcest class has.

    Raises DataError for a class with fewer than four images: two of a split are references, two are compared with.
    """
    fewest = min(references, min(_counts(classifier, others, least=OTHERS).values()) // 2)
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
