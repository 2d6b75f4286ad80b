"""Metrics room, counterfactuals: whether edited images are what was asked for, and what else changed in them.

A number is NaN where nothing can be said of an image. `optogram.metrics.counterfactual_summaries` has means, shares and
the difference from a control.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Float64, Int, Integer
from torch import Tensor

from optogram.errors import DataError, ParamError, ShapeError, nearest
from optogram.metrics.attribute_changes import attributes_changed
from optogram.metrics.edits import kept
from optogram.metrics.picture_changes import Maps, check_pictures, distances, outside
from optogram.metrics.visualisations import frechet_distance

Classifier = Callable[[Float[Tensor, "image rgb y x"]], Float[Tensor, "image class"]]
"""Images in [0, 1] -> probabilities of classes."""

CONFIDENT = 0.8
STEPS = 50
BATCH = 64
"""Images that a classifier is given at once; always as many, as kernels round by their number."""


class Transition(NamedTuple):
    """What a classifier says while pixels move from originals to counterfactuals; see `cout`.

    cout: area under `target` less that under `source`. source, target: the class' probability at each point.

    >>> from optogram.metrics.counterfactuals import Transition
    >>> Transition(np.array([0.98]), np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])).cout.item()
    0.98
    """

    cout: Float64[np.ndarray, " image"]
    source: Float64[np.ndarray, "image point"]
    target: Float64[np.ndarray, "image point"]


class Seen(NamedTuple):
    """What `Judge.parse` says of the pictures before and after, and the attribute that was asked for.

    asked: None if it was none of them, so that all are to be kept.

    >>> from optogram.metrics.counterfactuals import Seen
    >>> found = judge.parse(scenes.pixels.values)
    >>> Seen(found, found, "shape").asked
    'shape'
    """

    before: xr.Dataset
    after: xr.Dataset
    asked: str | None = None


def counterfactuals(
    original: Float[Tensor, "image rgb y x"],
    edited: Float[Tensor, "image rgb y x"],
    mask: Float[Tensor, "image y x"] | None,
    classifier: Classifier,
    *,
    source: Integer[np.ndarray, " image"],
    target: Integer[np.ndarray, " image"],
    threshold: float = CONFIDENT,
    steps: int = STEPS,
    batch: int = BATCH,
    maps: tuple[Maps, Maps] | None = None,
    embeddings: tuple[Float[np.ndarray, "image embed"], Float[np.ndarray, "image embed"]] | None = None,
    seen: Seen | None = None,
    others: Mapping[str, Integer[np.ndarray, " image"]] | None = None,
) -> xr.Dataset:
    """All that can be said of each counterfactual image, a row an image.

    classifier: the one that is to be flipped, from class `source` to class `target`. mask, maps: as `outside` takes
    them. embeddings: of originals and edited images, in an independent model. others: what other models, which had no
    part in the optimisation, say of the edited images, as indices of the same classes.

    Returns over `image` the variables of `outcomes` and `distances`, those of `outside` if there is a `mask`, and
    - `cout`, `source_curve` and `target_curve` (image, point), of `cout`; `point` is the share of pixels that moved;
    - `s3` of `similarity`, given `embeddings`;
    - `attributes_changed` (MNAC) and `kept`, the share of the attributes beside the asked one whose value is as
      before (`optogram.metrics.edits`), given `seen`;
    - `agreement` (image, model) of `agreement`, given `others`.

    Raises as these, ShapeError for arrays of differing sizes, ParamError if the asked attribute is unknown.

    >>> from optogram.metrics.counterfactuals import counterfactuals
    >>> def classifier(pictures):
    ...     light = pictures.mean((1, 2, 3))
    ...     return torch.stack([1 - light, light], 1)
    >>> dark = torch.zeros(2, 3, 10, 10)
    >>> found = counterfactuals(
    ...     dark, dark + 0.9, None, classifier, source=np.array([0, 0]), target=np.array([1, 1]), steps=10
    ... )
    >>> found.flip.values.tolist(), found.l1.values.round(3).tolist(), found.cout.values.round(3).tolist()
    ([True, True], [0.9, 0.9], [-0.1, -0.1])
    """
    said = _transitions(original, edited, classifier, steps, batch)
    found = outcomes(said[:, 0], said[:, -1], source, target, threshold=threshold)
    found.update(distances(original, edited, maps=maps))
    if mask is not None:
        found.update(outside(original, edited, mask, maps=maps))
    points = _moved(steps, original[0, 0].numel()) / original[0, 0].numel()
    moving = _areas(said, source, target, points)
    found = found.assign_coords(point=points).assign(_of_transition(moving))
    if embeddings is not None:
        _check_count("embeddings", len(embeddings[0]), len(original))
        found["s3"] = ("image",), similarity(*embeddings), {"missing": "an embedding is 0"}
    if seen is not None:
        _check_count("pictures that were judged", seen.before.sizes["image"], len(original))
        found.update(_of_attributes(seen))
    if others:
        each = [agreement(labels, found["flip"].values, target) for labels in others.values()]
        found = found.assign_coords(model=[*others]).assign(agreement=_of_others(each))
    return found


def outcomes(
    before: Float[np.ndarray, "image class"],
    after: Float[np.ndarray, "image class"],
    source: Integer[np.ndarray, " image"],
    target: Integer[np.ndarray, " image"],
    *,
    threshold: float = CONFIDENT,
) -> xr.Dataset:
    """What a classifier says of each image before and after, from its probabilities.

    Returns over `image`:
    - `flip` bool: the most probable class after is the target, the first of equal ones. `flip_before` bool: it was so
      before, which is no success: the share of it is the yardstick of `flip`.
    - `confident` bool: the target's probability after is above `threshold`.
    - `target_before`, `target_after`, `source_before`, `source_after` float64: the classes' probabilities.

    Raises ShapeError for arrays of differing sizes or classes that there are not, DataError for numbers that are no
    probabilities and where source and target are the same, ParamError for a threshold outside of 0 to 1.

    >>> from optogram.metrics.counterfactuals import outcomes
    >>> found = outcomes(np.array([[0.9, 0.1]]), np.array([[0.3, 0.7]]), np.array([0]), np.array([1]))
    >>> found.flip.item(), found.confident.item(), found.target_before.item(), found.target_after.item()
    (True, False, 0.1, 0.7)
    """
    if not 0 < threshold < 1:
        raise ParamError(f"threshold = {threshold}; expected a probability between 0 and 1, such as {CONFIDENT}.")
    for when, probabilities in (("before", before), ("after", after)):
        _check_probabilities(f"probabilities {when}", probabilities)
    if before.shape != after.shape:
        raise ShapeError(
            f"probabilities have shapes {before.shape} before and {after.shape} after; expected one shape."
        )
    _check_classes(source, target, before.shape)
    first, later = np.asarray(before, np.float64), np.asarray(after, np.float64)
    rows = np.arange(len(first))
    found = {
        "flip": later.argmax(1) == target,
        "flip_before": first.argmax(1) == target,
        "confident": later[rows, target] > threshold,
        "target_before": first[rows, target],
        "target_after": later[rows, target],
        "source_before": first[rows, source],
        "source_after": later[rows, source],
    }
    return xr.Dataset({name: (("image",), values) for name, values in found.items()})


def agreement(
    labels: Integer[np.ndarray, " image"], flip: Bool[np.ndarray, " image"], target: Integer[np.ndarray, " image"]
) -> Float64[np.ndarray, " image"]:
    """1 where a model that had no part in the optimisation says the target too, 0 where not; NaN if it did not flip.

    labels: the model's most probable class of each edited image. Its mean is the share of the flipped images.

    Raises ShapeError for arrays of differing sizes.

    >>> from optogram.metrics.counterfactuals import agreement
    >>> agreement(np.array([1, 0, 1]), np.array([True, True, False]), np.array([1, 1, 1])).tolist()
    [1.0, 0.0, nan]
    """
    if not labels.shape == flip.shape == target.shape:
        raise ShapeError(
            f"another model gives {labels.shape} labels for {flip.shape} images with {target.shape} targets; expected "
            "one each. Let it label all edited images."
        )
    return np.where(flip, (labels == target).astype(np.float64), np.nan)


def similarity(
    original: Float[np.ndarray, "image embed"], edited: Float[np.ndarray, "image embed"]
) -> Float64[np.ndarray, " image"]:
    """S3 (Jeanneret et al. 2023, ACE): cosine of each edited image's embedding and its original's.

    The embeddings are those of a model that had no part in the optimisation, theirs of a self-supervised one. NaN where
    an embedding is 0 everywhere.

    Raises ShapeError for arrays of differing sizes, DataError for values that are not finite.

    >>> from optogram.metrics.counterfactuals import similarity
    >>> similarity(np.array([[1.0, 0.0]]), np.array([[3.0, 4.0]])).round(3).tolist()
    [0.6]
    """
    if original.shape != edited.shape or original.ndim != 2:
        raise ShapeError(
            f"embeddings have shapes {original.shape} and {edited.shape}; expected (image, embed), both alike. Embed "
            "the originals and the edited images with one model."
        )
    for whose, values in (("original", original), ("edited", edited)):
        _check_rows(f"embeddings of {whose} images are not finite", np.isfinite(values), "Check the model.")
    first, later = np.asarray(original, np.float64), np.asarray(edited, np.float64)
    length = np.linalg.norm(first, axis=1) * np.linalg.norm(later, axis=1)
    return np.divide((first * later).sum(1), length, out=np.full(len(first), np.nan), where=length > 0)


def cout(
    original: Float[Tensor, "image rgb y x"],
    edited: Float[Tensor, "image rgb y x"],
    classifier: Classifier,
    *,
    source: Integer[np.ndarray, " image"],
    target: Integer[np.ndarray, " image"],
    steps: int = STEPS,
    batch: int = BATCH,
) -> Transition:
    """COUT (Khorram and Fuxin 2022): how early the few pixels that changed most turn the class, in [-1, 1].

    Pixels take the edited image's colour in `steps` equal parts, in the order of their absolute change summed over
    colours, the largest first, in the order of rows where it is equal. This is the order of ACE's published code, taken
    from Khorram's (its scaling of the differences to [0, 1] changes no order); nothing is blurred. Areas are by the
    trapezoidal rule, over the share of all pixels that have moved. Near 1: the target's probability is 1 and the
    source's 0 from the first steps on. -1: the source's stays 1.

    Where pixels do not divide into steps, parts differ by one pixel, and each counts by its size; that code takes a
    last, smaller part and counts it as a whole one.

    classifier: runs without gradients on `batch` images at once, points of all images together, the last batch filled
    up with copies.

    Raises as `check_pictures` and `outcomes`, ParamError for less than one step or image in a batch.

    >>> from optogram.metrics.counterfactuals import cout
    >>> def corner(pictures):
    ...     light = pictures[:, 0, 0, 0]
    ...     return torch.stack([1 - light, light], 1)
    >>> black, edited = torch.zeros(2, 1, 3, 10, 10)
    >>> edited[..., 0, 0] = 1
    >>> found = cout(black, edited, corner, source=np.array([0]), target=np.array([1]))
    >>> found.cout.round(3).tolist(), found.target[0, :3].tolist()
    ([0.98], [0.0, 1.0, 1.0])
    """
    said = _transitions(original, edited, classifier, steps, batch)
    _check_classes(source, target, said[:, 0].shape)
    pixels = original[0, 0].numel()
    return _areas(said, source, target, _moved(steps, pixels) / pixels)


def split_frechet_distance(
    original: Float[np.ndarray, "image channel"], edited: Float[np.ndarray, "image channel"], *, seed: int
) -> float:
    """FID without an image's own original (split-FID of ACE): the mean of two distances across random halves.

    Rows of both are of the same images. Edited images of one half are compared with the originals of the other, and the
    other way; `frechet_distance` of whole sets favours edits that do nothing.

    Raises ShapeError unless the two are alike, DataError for fewer than four images or features not finite.

    >>> from optogram.metrics.counterfactuals import split_frechet_distance
    >>> features = np.tile(np.eye(2), (50, 1))
    >>> round(split_frechet_distance(features, features + [2.0, 0.0], seed=0), 1)
    4.0
    """
    if original.shape != edited.shape:
        raise ShapeError(f"features have shapes {original.shape} and {edited.shape}; expected a row of both an image.")
    if len(original) < 4:
        raise DataError(f"a Fréchet distance across halves needs four images or more, found {len(original)}.")
    order = np.random.default_rng(seed).permutation(len(original))
    one, other = np.array_split(order, 2)
    return (frechet_distance(original[one], edited[other]) + frechet_distance(original[other], edited[one])) / 2


def _of_transition(moving: Transition) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    curves = ("image", "point")
    return {
        "cout": (("image",), moving.cout),
        "source_curve": (curves, moving.source),
        "target_curve": (curves, moving.target),
    }


def _of_others(each: list[np.ndarray]) -> tuple[tuple[str, str], np.ndarray, dict[str, str]]:
    return ("image", "model"), np.stack(each, 1), {"missing": "the image is not flipped"}


def _of_attributes(seen: Seen) -> dict[str, tuple[tuple[str], np.ndarray, dict[str, str]]]:
    names = seen.before["attribute"].values.astype(str).tolist()
    if seen.asked is not None and seen.asked not in names:
        raise ParamError(
            f"asked = {seen.asked!r} is no attribute; there are {', '.join(names)}.{nearest(seen.asked, names)}"
        )
    missing = {"missing": "there was not one object before, or no attribute had a value"}
    changed = attributes_changed(seen.before["value"], seen.after["value"])
    rest = kept(seen.before, seen.after, [name for name in names if name != seen.asked])
    return {"attributes_changed": (("image",), changed, missing), "kept": (("image",), rest, missing)}


def _moved(steps: int, pixels: int) -> Int[np.ndarray, " point"]:
    """How many pixels are the edited image's at each point."""
    return np.arange(steps + 1) * pixels // steps


def _transitions(
    original: Tensor, edited: Tensor, classifier: Classifier, steps: int, batch: int
) -> Float64[np.ndarray, "image point class"]:
    """Probabilities of all classes at all points from the originals to the edited images."""
    check_pictures(original, edited)
    if steps < 1 or batch < 1:
        raise ParamError(f"steps = {steps}, batch = {batch}; expected 1 or more of both, such as {STEPS} and {BATCH}.")
    change = (edited.double() - original.double()).abs().sum(1).flatten(1)
    order = change.argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(1).view(-1, 1, *original.shape[2:])
    moved = torch.from_numpy(_moved(steps, change.shape[1])).to(original.device)
    total, said = len(original) * (steps + 1), []
    with torch.no_grad():
        for start in range(0, total, batch):
            rows = torch.arange(start, start + batch, device=original.device).clamp(max=total - 1)
            image, point = rows // (steps + 1), rows % (steps + 1)
            taken = rank[image] < moved[point].view(-1, 1, 1, 1)
            found = classifier(torch.where(taken, edited[image], original[image]))
            if found.ndim != 2 or len(found) != batch:
                raise ShapeError(
                    f"the classifier gave {tuple(found.shape)} for {batch} images; expected (image, class), a row each."
                )
            said.append(found.double().cpu().numpy()[: total - start])
    probabilities = np.concatenate(said)
    _check_probabilities("the classifier's probabilities", probabilities, steps + 1)
    return probabilities.reshape(len(original), steps + 1, -1)


def _areas(
    said: Float64[np.ndarray, "image point class"],
    source: Integer[np.ndarray, " image"],
    target: Integer[np.ndarray, " image"],
    points: Float64[np.ndarray, " point"],
) -> Transition:
    rows = np.arange(len(said))
    ours, theirs = said[rows, :, source], said[rows, :, target]
    return Transition(np.trapezoid(theirs - ours, points, axis=1), ours, theirs)


def _check_probabilities(what: str, values: np.ndarray, rows: int = 1) -> None:
    """rows: of each image."""
    if values.ndim != 2 or not values.size:
        raise ShapeError(f"{what} have shape {values.shape}; expected (image, class), at least one of both.")
    fix = "Check the model, and take the softmax of logits."
    _check_rows(f"{what} are not finite", np.isfinite(values), fix, rows)
    _check_rows(f"{what} are outside of 0 to 1", (values >= 0) & (values <= 1), fix, rows)


def _check_rows(what: str, right: Bool[np.ndarray, "row column"], fix: str, rows: int = 1) -> None:
    if not right.all():
        raise DataError(f"{what}, first of image {int(right.all(1).argmin()) // rows}. {fix}")


def _check_count(what: str, count: int, images: int) -> None:
    if count != images:
        raise ShapeError(f"there are {count} {what} for {images} images; expected one each, of the same images.")


def _check_classes(source: np.ndarray, target: np.ndarray, shape: tuple[int, ...]) -> None:
    for what, classes in (("source", source), ("target", target)):
        if classes.shape != shape[:1] or not ((classes >= 0) & (classes < shape[1])).all():
            raise ShapeError(
                f"{what} has shape {classes.shape} for {shape[0]} images; expected the index of one of {shape[1]} "
                "classes for each."
            )
    if (source == target).any():
        at = int((source == target).argmax())
        raise DataError(f"source and target are one class, {source[at]}, in image {at}. Ask for another one.")
