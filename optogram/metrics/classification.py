"""Metrics room, zero-shot classification: accuracy and margin for every attribute, chance beside them, and groups."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Int, Int32

from optogram.errors import DataError, ShapeError


@dataclass(frozen=True)
class ZeroShotTask:
    """What to classify: for each attribute, which classifier rows compete and which of them is right for each image.

    Every attribute is a question of its own ("which colour?"), answered by the largest logit among the classes of that
    attribute. An image whose label is -1 has no answer and is left out of that attribute's numbers.

    >>> from optogram.metrics.classification import ZeroShotTask
    >>> task = ZeroShotTask.prepare(zeroshot, scenes.label, scenes.value_name)
    >>> correct, margin = task.outcome(compact.embedding.values @ zeroshot.classifier.values.T)
    >>> correct.shape, margin.shape
    ((12, 7), (12, 7))
    """

    attributes: tuple[str, ...]
    columns: tuple[Int[np.ndarray, " _"], ...]
    truth: Int[np.ndarray, "image attribute"]

    @classmethod
    def prepare(cls, classifier: xr.Dataset, labels: xr.DataArray, value_name: xr.DataArray) -> "ZeroShotTask":
        """The task for the attributes that both the classifier and the labels have, in the labels' order.

        classifier: `embeddings/<model>/zeroshot`: `attribute` (class) and `value` (class).
        labels: (image, attribute) integers with an `attribute` coordinate; value_name: (attribute, value) strings.

        Raises DataError if they share no attribute or if a label in use has no class, ShapeError if `labels` and
        `value_name` do not go together.
        """
        labels, value_name = labels.transpose("image", "attribute"), value_name.transpose("attribute", "value")
        names = labels["attribute"].values.astype(str).tolist()
        if labels.sizes["attribute"] != value_name.sizes["attribute"]:
            raise ShapeError(
                f"labels have {labels.sizes['attribute']} attributes, value_name has {value_name.sizes['attribute']}.\n"
                "  Take both from the same images artifact."
            )
        asked, answer = (classifier[name].values.astype(str) for name in ("attribute", "value"))
        attributes, columns, truth = [], [], []
        for at, name in enumerate(names):
            rows = np.flatnonzero(asked == name)
            if not len(rows):
                continue
            index = labels.values[:, at].astype(int)
            values, choices = value_name.values[at].astype(str).tolist(), answer[rows].tolist()
            place = np.array([choices.index(value) if value in choices else -1 for value in values])
            used = np.unique(index[index >= 0])
            without = [
                str(i) if i >= len(values) else repr(values[i]) for i in used if i >= len(values) or place[i] < 0
            ]
            if without:
                raise DataError(
                    f"{name}: images are labelled {', '.join(without[:5])}, but the classifier has only "
                    f"{', '.join(map(repr, choices[:5]))}.\n"
                    "  Add texts for these values to the class pool, or label those images -1."
                )
            attributes.append(name)
            columns.append(rows)
            truth.append(np.where(index >= 0, place[index], -1))
        if not attributes:
            raise DataError(
                f"the classifier names {', '.join(sorted(set(asked.tolist())))}, but images are labelled by "
                f"{', '.join(names)}.\n  Build the class pool from the same images."
            )
        return cls(tuple(attributes), tuple(columns), np.stack(truth, axis=1))

    def outcome(
        self, logits: Float[np.ndarray, "image class"], images: slice | Bool[np.ndarray, " image"] = slice(None)
    ) -> tuple[Float[np.ndarray, "image attribute"], Float[np.ndarray, "image attribute"]]:
        """Correct (0 or 1) and margin (true logit less the best other) of each image; NaN where the label is -1.

        images: which of the task's images the logits are of, all by default. Equal logits go to the first class. The
        margin is NaN for an attribute with one class only.
        """
        truth = self.truth[images]
        if len(logits) != len(truth):
            raise ShapeError(f"logits are of {len(logits)} images, but labels of {len(truth)}; give one each an image.")
        correct = np.full(truth.shape, np.nan, np.float32)
        margin = np.full(truth.shape, np.nan, np.float32)
        for at, columns in enumerate(self.columns):
            known = np.flatnonzero(truth[:, at] >= 0)
            right = truth[known, at]
            among = logits[np.ix_(known, columns)]
            correct[known, at] = among.argmax(axis=1) == right
            if len(columns) > 1:
                each = np.arange(len(known))
                own = among[each, right]
                among[each, right] = -np.inf
                margin[known, at] = own - among.max(axis=1)
        return correct, margin

    def baselines(self) -> xr.Dataset:
        """For each attribute: `chance` = 1 / classes, `majority` = share of its commonest label, `count` labelled."""
        counts = [np.bincount(column[column >= 0], minlength=1) for column in self.truth.T]
        total = np.array([count.sum() for count in counts])
        most = np.array([count.max() for count in counts])
        return xr.Dataset(
            {
                "chance": ("attribute", np.array([1 / len(columns) for columns in self.columns])),
                "majority": ("attribute", np.divide(most, total, out=np.full(len(total), np.nan), where=total > 0)),
                "count": ("attribute", total),
            },
            {"attribute": list(self.attributes)},
        )


def score(embeddings: Any, classifier: xr.Dataset, labels: xr.DataArray, value_name: xr.DataArray) -> xr.Dataset:
    """Zero-shot `accuracy`, `margin`, `chance`, `majority` and `count`, each (attribute).

    embeddings: (image, embed), unit norm or not: scaling an image's embedding changes no answer. The margin is the mean
        over images of the true class's logit less the best other's, in the units of the embeddings: pass unit ones for
        cosines. Arguments and errors otherwise as `ZeroShotTask.prepare`; an attribute without labels scores NaN.

    >>> from optogram.metrics.classification import score
    >>> found = score(compact.embedding, zeroshot, scenes.label, scenes.value_name)
    >>> found.accuracy.dims, found.accuracy.sizes["attribute"]
    (('attribute',), 7)
    >>> found.chance.sel(attribute="shape").round(3).item()
    0.167
    """
    task = ZeroShotTask.prepare(classifier, labels, value_name)
    vectors, weights = np.asarray(embeddings), np.asarray(classifier["classifier"].values)
    if vectors.ndim != 2 or vectors.shape[1] != weights.shape[1]:
        raise ShapeError(
            f"embeddings have shape {vectors.shape}, the classifier {weights.shape}; expected (image, embed) and "
            "(class, embed).\n  Take both from the same model."
        )
    correct, margin = task.outcome(vectors @ weights.T)
    return task.baselines().assign(
        accuracy=("attribute", nan_mean(correct)),
        margin=("attribute", nan_mean(margin)),
    )


def accuracy(embeddings: Any, classifier: xr.Dataset, labels: xr.DataArray, value_name: xr.DataArray) -> xr.DataArray:
    """Zero-shot accuracy (attribute), with `chance`, `majority` and `count` as coordinates. Arguments as `score`.

    >>> from optogram.metrics.classification import accuracy
    >>> found = accuracy(compact.embedding, zeroshot, scenes.label, scenes.value_name)
    >>> found["count"].values.tolist()
    [12, 12, 12, 12, 12, 12, 12]
    """
    result = score(embeddings, classifier, labels, value_name)
    return result["accuracy"].assign_coords({name: result[name] for name in ("chance", "majority", "count")})


def group_accuracy(correct: Float[np.ndarray, " image"], group: Any) -> xr.Dataset:
    """`accuracy` (group) and `count` (group), with `worst` and `overall`: worst-group accuracy as on Waterbirds.

    correct: 0 or 1 an image, NaN where unknown (left out). group: a label an image, integers or strings.

    Raises ShapeError if the two differ in length, DataError if no image is known.

    >>> from optogram.metrics.classification import group_accuracy
    >>> found = group_accuracy(np.array([1.0, 1.0, 0.0, 1.0]), ["land", "land", "water", "water"])
    >>> found.accuracy.values.tolist(), found.worst.item(), found.overall.item()
    ([1.0, 0.5], 0.5, 0.75)
    """
    names = np.asarray(group)
    if names.shape != correct.shape:
        raise ShapeError(f"correct has shape {correct.shape}, group {names.shape}; give one group for each image.")
    known = ~np.isnan(correct)
    if not known.any():
        raise DataError("no image has a known label, so groups have no accuracy.\n  Label the images.")
    groups, place, count = np.unique(names[known], return_inverse=True, return_counts=True)
    per_group = np.bincount(place, weights=correct[known]) / count
    return xr.Dataset(
        {
            "accuracy": ("group", per_group),
            "count": ("group", count),
            "worst": per_group.min(),
            "overall": correct[known].mean(dtype=np.float64),
        },
        {"group": groups},
    )


def nan_mean(outcomes: Float[np.ndarray, "image attribute"]) -> Float[np.ndarray, " attribute"]:
    """Mean over images of what is not NaN; NaN (and no warning) where nothing is.

    >>> from optogram.metrics.classification import nan_mean
    >>> nan_mean(np.array([[1.0, np.nan], [0.0, np.nan], [np.nan, 1.0]])).tolist()
    [0.5, 1.0]
    """
    known = ~np.isnan(outcomes)
    count = known.sum(0)
    total = np.where(known, outcomes, 0).sum(0, dtype=np.float64)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def moved(
    before: Float[np.ndarray, "image attribute"], after: Float[np.ndarray, "image attribute"]
) -> Int32[np.ndarray, "way attribute"]:
    """Of answers before and after, 1 right and 0 wrong: how many images are lost, and how many gained.

    >>> from optogram.metrics.classification import moved
    >>> moved(np.array([[1.0], [1.0], [0.0]]), np.array([[0.0], [0.0], [1.0]])).tolist()
    [[2], [1]]
    """
    return np.stack([(before > after).sum(0, dtype=np.int32), (before < after).sum(0, dtype=np.int32)])
