"""Metrics: how well heatmaps segment the object (protocol of Chefer et al. 2021, thesis section 2.5 and Table 2.4)."""

from collections.abc import Iterator
from typing import Any, TypedDict

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Int

from optogram.errors import DataError, ShapeError

BLOCK_PIXELS = 1 << 20


class SegmentationScores(TypedDict):
    """Fractions in 0 to 1; higher is better."""

    pixel_accuracy: float
    miou: float
    pixel_accuracy_half: float
    miou_half: float
    map: float
    map_foreground: float


def soft_maps(heatmaps: Any, size: tuple[int, int]) -> Float32[np.ndarray, "image y x"]:
    """Heatmaps (image, grid_y, grid_x) upsampled bilinearly to `size` and min-max normalised image by image.

    A constant heatmap, which has no range to normalise, becomes 0 everywhere.
    """
    maps = torch.from_numpy(np.ascontiguousarray(heatmaps, np.float32))
    large = F.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
    low, high = large.amin((1, 2), keepdim=True), large.amax((1, 2), keepdim=True)
    # a true division: x / x is 1 exactly, and x * (1 / x) need not be
    return ((large - low) / torch.where(high > low, high - low, 1)).numpy()


def foreground(soft: Float32[np.ndarray, "image y x"]) -> Bool[np.ndarray, "image y x"]:
    """Pixels above their image's mean: the segmentation that a soft map stands for."""
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
    confusion, at_half = np.zeros((2, 2, 2), np.int64)
    pooled, alone = [], []
    for part in _blocks(*masks.shape):
        truth = masks[part]
        soft = soft_maps(heatmaps[part], (masks.shape[1], masks.shape[2]))
        for counts, found in ((confusion, foreground(soft)), (at_half, soft > 0.5)):
            counts += np.bincount((2 * truth + found).ravel(), minlength=4).reshape(2, 2)
        soft, truth = soft.reshape(len(soft), -1), truth.reshape(len(truth), -1)
        pooled.append(average_precision(np.hstack([1 - soft, soft]), np.hstack([~truth, truth])))
        alone.append(average_precision(soft, truth))
    single = np.concatenate(alone)
    single = single[~np.isnan(single)]
    return {
        "pixel_accuracy": float(confusion.trace() / confusion.sum()),
        "miou": _mean_iou(confusion),
        "pixel_accuracy_half": float(at_half.trace() / at_half.sum()),
        "miou_half": _mean_iou(at_half),
        "map": float(np.concatenate(pooled).mean()),
        "map_foreground": float(single.mean()) if len(single) else float("nan"),
    }


def _mean_iou(confusion: Int[np.ndarray, "actual predicted"]) -> float:
    union = confusion.sum(0) + confusion.sum(1) - confusion.diagonal()
    present = union > 0
    return float((confusion.diagonal()[present] / union[present]).mean())


def average_precision(
    scores: Float32[np.ndarray, "image pixel"], truth: Bool[np.ndarray, "image pixel"]
) -> Float[np.ndarray, " image"]:
    """Average precision of each row of scores, which lie in 0 to 1; nan for a row that holds no True."""
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
