"""Methods, rosetta: what units stand for, by the labels and masks of scenes, or by a CLIP's texts."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Float64
from torch import Tensor

from optogram.errors import ShapeError

GROUND = "background"
"""The attribute whose values are where no object is."""


class Names(NamedTuple):
    """What each unit stands for, "" where nothing is clear; its attribute; and how well it fits."""

    value: list[str]
    attribute: list[str]
    r: Float64[np.ndarray, " unit"]


def label_names(images: xr.Dataset) -> list[tuple[str, str]]:
    """Attribute and value of each map that `label_maps` makes."""
    names = images["value_name"].transpose("attribute", "value").values.astype(str)
    attributes = images["attribute"].values.astype(str)
    return [(attribute, value) for attribute, row in zip(attributes, names, strict=True) for value in row if value]


def label_maps(images: xr.Dataset) -> Float[Tensor, "image value y x"]:
    """A model whose units are known: a map a value of an attribute, 1 where it is to be seen and 0 elsewhere.

    images: scenes, or what a judge sees in pictures: `mask` (image, y, x), 0 where no object is; `label` (image,
    attribute), the index of a value, -1 for none; `value_name`. Values of the background are where no object is, all
    others where one is.
    """
    mask = torch.from_numpy(images["mask"].transpose("image", "y", "x").values > 0)
    label = images["label"].transpose("image", "attribute").values
    attributes = images["attribute"].values.astype(str).tolist()
    names = images["value_name"].transpose("attribute", "value").values.astype(str)
    found = []
    for column, attribute in enumerate(attributes):
        where = ~mask if attribute == GROUND else mask
        for value, name in enumerate(names[column]):
            if name:
                has = torch.from_numpy(label[:, column] == value)
                found.append((where & has[:, None, None]).float())
    return torch.stack(found, 1)


def named_by_labels(
    correlation: Float64[np.ndarray, "unit value"], names: Sequence[tuple[str, str]], least: float
) -> Names:
    """The value whose map each unit correlates with most, if by more than `least`."""
    best = correlation.argmax(1)
    r = np.take_along_axis(correlation, best[:, None], 1)[:, 0]
    said = [names[at] if value > least else ("", "") for at, value in zip(best.tolist(), r.tolist(), strict=True)]
    return Names([value for _, value in said], [attribute for attribute, _ in said], r)


def named_by_texts(
    means: Float[np.ndarray, "image unit"],
    image_embedding: Float[np.ndarray, "image embed"],
    text_embedding: Float[np.ndarray, "text embed"],
    texts: Sequence[str],
) -> Names:
    """The text whose similarity to an image goes most with how strongly the unit fires in it: Pearson's r over images.

    Similarities are less each text's mean over the images, as some texts are near to all of them.
    """
    if image_embedding.shape[1] != text_embedding.shape[1]:
        raise ShapeError(
            f"images have {image_embedding.shape[1]} dimensions, texts {text_embedding.shape[1]}. Embed both with one "
            "CLIP."
        )
    units = _standardised(means.astype(np.float64))
    scores = _standardised(image_embedding.astype(np.float64) @ text_embedding.T.astype(np.float64))
    r = units.T @ scores / len(means)
    best = r.argmax(1)
    value = np.take_along_axis(r, best[:, None], 1)[:, 0]
    said = [str(texts[at]) if of > 0 else "" for at, of in zip(best.tolist(), value.tolist(), strict=True)]
    return Names(said, [""] * len(said), value)


def agreement(
    a: Sequence[str], b: Sequence[str], left: Sequence[int], right: Sequence[int]
) -> tuple[float, float, int]:
    """How often the two units of a pair have the same name, of pairs of which both have one; by chance; of how many.

    a, b: names of the units of each model. left, right: the units of each pair. Chance is the mean over all ways to
    pair the same units anew.
    """
    both = [(a[one], b[other]) for one, other in zip(left, right, strict=True) if a[one] and b[other]]
    if not both:
        return float("nan"), float("nan"), 0
    mine, theirs = (np.array(side) for side in zip(*both, strict=True))
    chance = sum(float((mine == name).mean() * (theirs == name).mean()) for name in sorted({*mine.tolist()}))
    return float((mine == theirs).mean()), chance, len(both)


def _standardised(columns: Float64[np.ndarray, "row column"]) -> Float64[np.ndarray, "row column"]:
    centred = columns - columns.mean(0)
    deviation = centred.std(0)
    return np.where(deviation > 0, centred / np.where(deviation > 0, deviation, 1), 0)
