"""Metrics: how well heatmaps segment the object (protocol of Chefer et al. 2021, thesis section 2.5 and Table 2.4)."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypedDict

import numpy as np
import torch
import torch.nn.functional as F
import xarray as xr
from jaxtyping import Bool, Float, Float32, Int

from optogram.errors import DataError, ShapeError
from optogram.metrics.intervals import percentiles, resampled

BLOCK_PIXELS = 1 << 20


class SegmentationScores(TypedDict):
    """Fractions in 0 to 1; higher is better."""

    pixel_accuracy: float
    miou: float
    pixel_accuracy_half: float
    miou_half: float
    map: float
    map_foreground: float


class ImageScores(NamedTuple):
    """The scores' ingredients, image by image; pixels of (actual, predicted) background and object."""

    confusion: Int[np.ndarray, "image actual predicted"]
    at_half: Int[np.ndarray, "image actual predicted"]
    map: Float[np.ndarray, " image"]
    map_foreground: Float[np.ndarray, " image"]

    def scores(self, weights: Int[np.ndarray, "sample image"]) -> dict[str, Float[np.ndarray, " sample"]]:
        """The scores of samples of the images, each image as often as its weight says; keys of SegmentationScores."""
        mean, half = (np.einsum("si,iap->sap", weights, counts) for counts in (self.confusion, self.at_half))
        known = ~np.isnan(self.map_foreground)
        there = weights @ known
        alone = weights @ np.where(known, self.map_foreground, 0)
        return {
            "pixel_accuracy": _right(mean),
            "miou": _mean_iou(mean),
            "pixel_accuracy_half": _right(half),
            "miou_half": _mean_iou(half),
            "map": weights @ self.map / weights.sum(1),
            "map_foreground": np.divide(alone, there, out=np.full(len(weights), np.nan), where=there > 0),
        }


def _right(confusion: Int[np.ndarray, "sample actual predicted"]) -> Float[np.ndarray, " sample"]:
    return confusion.trace(axis1=1, axis2=2) / confusion.sum((1, 2))


def _mean_iou(confusion: Int[np.ndarray, "sample actual predicted"]) -> Float[np.ndarray, " sample"]:
    own = confusion.diagonal(axis1=1, axis2=2)
    union = confusion.sum(1) + confusion.sum(2) - own
    return np.divide(own, union, out=np.zeros(own.shape), where=union > 0).sum(1) / (union > 0).sum(1)


def soft_maps(heatmaps: Any, size: tuple[int, int]) -> Float32[np.ndarray, "image y x"]:
    """Heatmaps (image, grid_y, grid_x) upsampled bilinearly to `size` and min-max normalised image by image.

    A constant heatmap, which has no range to normalise, becomes 0 everywhere.

    >>> from optogram.metrics.segmentation import soft_maps
    >>> soft_maps(np.array([[[0.0, 2.0]]]), (1, 4)).tolist()
    [[[0.0, 0.25, 0.75, 1.0]]]
    """
    maps = torch.from_numpy(np.ascontiguousarray(heatmaps, np.float32))
    large = F.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
    low, high = large.amin((1, 2), keepdim=True), large.amax((1, 2), keepdim=True)
    # a true division: x / x is 1 exactly, and x * (1 / x) need not be
    return ((large - low) / torch.where(high > low, high - low, 1)).numpy()


def foreground(soft: Float32[np.ndarray, "image y x"]) -> Bool[np.ndarray, "image y x"]:
    """Pixels above their image's mean: the segmentation that a soft map stands for.

    >>> from optogram.metrics.segmentation import foreground
    >>> foreground(np.array([[[0.0, 0.2], [0.1, 0.9]]], np.float32)).tolist()
    [[[False, False], [False, True]]]
    """
    return soft > soft.mean((1, 2), keepdims=True, dtype=np.float64)


def segmentation_scores(heatmaps: Any, masks: Any) -> SegmentationScores:
    """Score heatmaps (image, grid_y, grid_x) against masks (image, y, x), True = object.

    Heatmaps are upsampled and normalised (`soft_maps`) and thresholded at their mean (`foreground`), and at one half,
    as the thesis does in section 3.5, for the two with `_half`: which of two methods is better may depend on it.

    pixel_accuracy: pixels whose class is right, over all pixels of all images.
    miou: mean of foreground and background IoU, each its intersections over its unions, both summed over the images
        first. A class that neither masks nor predictions hold has no IoU and is left out.
    map: mean over images of the average precision of both classes pooled, as the published code of Chefer et al.
        computes it: every pixel is scored twice, as object by its soft value s and as background by 1 - s.
    map_foreground: mean over images of the average precision of s alone against the mask. Images with an empty mask
        have none and are left out (nan if all are empty); for an all-object mask it is 1.
    Average precision is sum_n (R_n - R_(n-1)) P_n over the distinct thresholds, as in scikit-learn.

    Raises ShapeError if the two do not belong to the same images, DataError if a heatmap is not finite.

    >>> from optogram.metrics.segmentation import segmentation_scores
    >>> mask = np.array([[[False, True], [False, True]]])
    >>> segmentation_scores(mask.astype(float), mask)["miou"]
    1.0
    """
    parts = image_scores(heatmaps, masks)
    found = parts.scores(np.ones((1, len(parts.map)), np.int64))
    return SegmentationScores(**{name: float(values[0]) for name, values in found.items()})


def image_scores(heatmaps: Any, masks: Any) -> ImageScores:
    """What the scores of each image are made of. Arguments and errors as `segmentation_scores`.

    >>> from optogram.metrics.segmentation import image_scores
    >>> mask = np.array([[[False, True], [False, True]]])
    >>> image_scores(1.0 - mask, mask).confusion.tolist()
    [[[0, 2], [2, 0]]]
    """
    heatmaps, masks = np.asarray(heatmaps, np.float32), np.asarray(masks)
    if heatmaps.ndim != 3 or masks.ndim != 3 or len(heatmaps) != len(masks) or not masks.size or not heatmaps.size:
        raise ShapeError(
            f"heatmaps {heatmaps.shape} and masks {masks.shape} do not fit: expected (image, grid_y, grid_x) and "
            "(image, y, x) for the same images, at least one."
        )
    if masks.dtype != bool:
        raise DataError(f"masks are {masks.dtype}, expected bool. Pass `masks > 0` if 0 is the background.")
    broken = np.flatnonzero(~np.isfinite(heatmaps).all((1, 2)))
    if len(broken):
        raise DataError(
            f"the heatmap of image {broken[0]} has a NaN or infinity. Leave the image out, or check its model."
        )

    # rows: actual background, object; columns: predicted
    confusion, at_half = np.zeros((2, len(masks), 2, 2), np.int64)
    pooled, alone = [], []
    for part in _blocks(*masks.shape):
        truth = masks[part]
        soft = soft_maps(heatmaps[part], (masks.shape[1], masks.shape[2]))
        for counts, found in ((confusion, foreground(soft)), (at_half, soft > 0.5)):
            places = 2 * truth + found + 4 * np.arange(len(truth))[:, None, None]
            counts[part] = np.bincount(places.ravel(), minlength=4 * len(truth)).reshape(-1, 2, 2)
        soft, truth = soft.reshape(len(soft), -1), truth.reshape(len(truth), -1)
        pooled.append(average_precision(np.hstack([1 - soft, soft]), np.hstack([~truth, truth])))
        alone.append(average_precision(soft, truth))
    return ImageScores(confusion, at_half, np.concatenate(pooled), np.concatenate(alone))


def compared(parts: Mapping[str, ImageScores], *, seed: int) -> xr.Dataset:
    """The scores of several methods on the same images, with 95 % intervals bootstrapped over these.

    Returns `score` (method, metric), the metrics those of `SegmentationScores`, with `score_low`, `score_high`; and
    `difference_low`, `difference_high` (method, other, metric), of how far a method is above another: what is common to
    both, such as images that are easy, cancels.

    >>> from optogram.metrics.segmentation import compared, image_scores
    >>> masks = np.array([[[False, True]], [[True, False]]])
    >>> parts = {"right": image_scores(masks.astype(float), masks), "wrong": image_scores(1.0 - masks, masks)}
    >>> compared(parts, seed=0).score.sel(metric="pixel_accuracy").values.tolist()
    [1.0, 0.0]
    """
    images = len(next(iter(parts.values())).map)
    every = {name: one.scores(np.ones((1, images), np.int64)) for name, one in parts.items()}
    weights = resampled(images, seed=seed)
    drawn = np.stack([np.stack([*one.scores(weights).values()], 1) for one in parts.values()], 1)
    ends = percentiles(drawn)
    apart = [percentiles(drawn[:, k, None] - drawn) for k in range(len(parts))]
    one, pair = ("method", "metric"), ("method", "other", "metric")
    return xr.Dataset(
        {
            "score": (one, np.array([[float(of[0]) for of in scores.values()] for scores in every.values()])),
            "score_low": (one, ends.low),
            "score_high": (one, ends.high),
            "difference_low": (pair, np.stack([of.low for of in apart])),
            "difference_high": (pair, np.stack([of.high for of in apart])),
        },
        {"method": list(parts), "other": list(parts), "metric": list(next(iter(every.values())))},
    )


def average_precision(
    scores: Float32[np.ndarray, "image pixel"], truth: Bool[np.ndarray, "image pixel"]
) -> Float[np.ndarray, " image"]:
    """Average precision of each row of scores, which lie in 0 to 1; nan for a row that holds no True.

    >>> from optogram.metrics.segmentation import average_precision
    >>> scores = np.array([[0.9, 0.8, 0.1]], np.float32)
    >>> average_precision(scores, np.array([[True, False, True]])).round(3).tolist()
    [0.833]
    """
    # The bits of floats of one sign sort as integers do, and those in 0 to 1 leave the top bit free for the label:
    # one sort of integers puts scores and labels in order (several times faster than an argsort and two gathers).
    keys = (np.ascontiguousarray(scores, np.float32).view(np.int32) << 1) | truth
    keys.sort(axis=1)
    keys = keys[:, ::-1]
    hits = (keys & 1).astype(bool)
    # a threshold takes all its ties at once: precision is read at the last of each run of equal scores
    last = np.ones(keys.shape, bool)
    np.not_equal(keys[:, 1:] >> 1, keys[:, :-1] >> 1, out=last[:, :-1])
    size = keys.shape[1]
    ends = np.where(last, np.arange(size), size)
    ends = np.minimum.accumulate(ends[:, ::-1], axis=1)[:, ::-1]
    found = np.cumsum(hits, axis=1)
    precision = np.take_along_axis(found, ends, 1) / (ends + 1)
    total = found[:, -1]
    return np.where(total > 0, (precision * hits).sum(1) / np.maximum(total, 1), np.nan)


def _blocks(images: int, rows: int, columns: int) -> Iterator[slice]:
    step = max(1, BLOCK_PIXELS // (rows * columns))
    for start in range(0, images, step):
        yield slice(start, start + step)
