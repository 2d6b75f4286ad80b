"""Method room, patches: squares cut out of many images, and which of them a direction in a layer answers to most.

VITAL, section 3.2.2 and A.3, after CRAFT (Fel et al. 2023): images are cropped into patches, these are resized to the
model's input, and a patch's score is the global average of its activations over space, along a direction: one channel
for a neuron. The top patches, no two from one image, are the references of a neuron. A ViT's average is over its
patch tokens.

Patches are named by boxes (image row, top, left, side), and cut again where their pixels are wanted: what is held of
them is a box and, where the caller asks, the pooled features. Patches enter the model as the uint8 pixels that `cut`
gives, rounding included, so that what is shown is what was scored.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
import xarray as xr
from jaxtyping import Float, Float32, Int, Int32, Int64, UInt8

from optogram.errors import DataError, ParamError, ShapeError
from optogram.models.batches import in_batches
from optogram.models.layers import activations
from optogram.models.loading.classifiers import Classifier

_BLOCK_BYTES = 64 << 20
_SCORED = 1 << 20  # scores held at once, patches x directions

Stream = Iterable[tuple[slice, Float32[np.ndarray, "_patch channel"]]]
"""Rows of the patches, in order and without gaps, and their pooled features."""


class Top(NamedTuple):
    """The best patches of each direction, best first: rows of the boxes (-1 where there are fewer) and scores (0)."""

    patch: Int64[np.ndarray, "target k"]
    score: Float32[np.ndarray, "target k"]


def patch_boxes(
    rows: Int[np.ndarray, " image"], size: tuple[int, int], *, patch: int, stride: int
) -> Int32[np.ndarray, "patch 4"]:
    """Boxes (image row, top, left, side) of every patch of side `patch` that lies wholly within an image of `size`.

    Image by image, line by line, from the top left corner on: what is left over at the right and bottom when the
    strides do not fill an image is in no patch, as in CRAFT.

    Raises ParamError for a stride below 1, or a patch below 1 or larger than the image.
    """
    if not 1 <= patch <= min(size):
        raise ParamError(f"patch = {patch}, but images have {size[0]} x {size[1]} pixels. Set it to 1 to {min(size)}.")
    if stride < 1:
        raise ParamError(f"stride = {stride}, expected 1 or more; {max(1, patch // 2)} lets patches overlap by half.")
    tops, lefts = (np.arange(0, length - patch + 1, stride) for length in size)
    columns = np.meshgrid(np.asarray(rows), tops, lefts, [patch], indexing="ij")
    return np.stack([each.ravel() for each in columns], 1).astype(np.int32)


def cut(images: Any, boxes: Int[np.ndarray, "patch 4"], size: tuple[int, int]) -> UInt8[np.ndarray, "patch y x rgb"]:
    """The patches of the boxes, in their order, resized to `size` (y, x): bilinear, antialiased where they shrink.

    images: (image, y, x, rgb) uint8, an array or a lazy xr.DataArray, of which only the images named are read, once.

    Raises ShapeError for other images, DataError for a box that leaves its image.
    """
    shape, boxes = _shape(images), np.asarray(boxes)
    row, top, left, side = boxes.astype(np.int64).T
    lowest, room = np.minimum(top, left), np.minimum(shape[1] - top, shape[2] - left) - side
    outside = np.flatnonzero((row < 0) | (row >= shape[0]) | (lowest < 0) | (side < 1) | (room < 0))
    if len(outside):
        raise DataError(
            f"box {boxes[outside[0]].tolist()} (image row, top, left, side) leaves the {shape[0]} images of "
            f"{shape[1]} x {shape[2]}.\n  Cut it from the images that it was found in."
        )
    found = np.empty((len(boxes), *size, 3), np.uint8)
    if not len(boxes):
        return found
    read, at = np.unique(row, return_inverse=True)
    whole = bool(read[-1] - read[0] + 1 == len(read))
    pixels = np.asarray(images[slice(read[0], read[-1] + 1) if whole else read])
    for length in np.unique(side):
        those = np.flatnonzero(side == length)
        windows = np.lib.stride_tricks.sliding_window_view(pixels, (length, length), (1, 2)).transpose(0, 1, 2, 4, 5, 3)
        found[those] = _resized(windows[at[those], top[those], left[those]], size)
    return found


def pooled(
    classifier: Classifier, images: Any, boxes: Int[np.ndarray, "patch 4"], layer: str, *, batch: int = 32
) -> Iterator[tuple[slice, Float32[np.ndarray, "patch channel"]]]:
    """Features of every patch at a layer, averaged over space, streamed: (rows of the boxes, features of these).

    images, boxes: as `cut`; patches are resized to the classifier's size, or to that of whole images where it takes
    any. At most `batch` are in the model at once, and 64 MB of patches in memory.

    Raises ModelError as `activations`, DataError for features that are not finite, and as `cut`.
    """
    size = input_size(classifier, images)
    device = next((parameter.device for parameter in classifier.model.parameters()), torch.device("cpu"))
    block = max(1, _BLOCK_BYTES // (3 * size[0] * size[1]))
    for start in range(0, len(boxes), block):
        pixels = cut(images, boxes[start : start + block], size)

        def work(rows: slice, pixels: np.ndarray = pixels) -> np.ndarray:
            with torch.no_grad():
                found = activations(classifier.model, as_input(classifier, pixels[rows]).to(device), [layer])[layer]
                return found.float().mean((2, 3)).cpu().numpy()

        for rows, features in in_batches(len(pixels), batch, work):
            rows = slice(start + rows.start, start + rows.stop)
            broken = np.flatnonzero(~np.isfinite(features).all(1))
            if len(broken):
                raise DataError(
                    f"layer {layer!r} has features that are not finite on patch {rows.start + broken[0]}, box "
                    f"{boxes[rows][broken[0]].tolist()}.\n  Check this image and the checkpoint."
                )
            yield rows, features


def top_patches(
    stream: Stream,
    images: Int[np.ndarray, " patch"],
    directions: Float[np.ndarray, "target channel"],
    count: int,
) -> Top:
    """The `count` patches with the largest <features, direction> for each direction, no two from the same image.

    stream: as `pooled` gives, or one entry with all features; each is looked at once, and what is held is the best so
        far. images: the image of every patch. Of equal patches the earlier one goes first.

    Raises ParamError for a count below 1, ShapeError if directions do not have as many channels as the features.
    """
    if count < 1:
        raise ParamError(f"count = {count} patches a direction; expected 1 or more.")
    directions, images = np.asarray(directions, np.float32), np.asarray(images)
    patch = np.full((len(directions), count), -1)
    score = np.full(patch.shape, -np.inf, np.float32)
    for rows, features in stream:
        if directions.ndim != 2 or features.ndim != 2 or features.shape[1] != directions.shape[1]:
            raise ShapeError(
                f"features have shape {features.shape}, directions {directions.shape}; expected (patch, channel) and "
                "(target, channel) with the same channels."
            )
        step = max(1, _SCORED // max(1, len(directions)))
        for start in range(0, len(features), step):
            more = (features[start : start + step] @ directions.T).T
            those = np.broadcast_to(rows.start + start + np.arange(more.shape[1]), more.shape)
            patch, score = _best(np.hstack([patch, those]), np.hstack([score, more]), images, count)
    return Top(patch, np.where(patch >= 0, score, np.float32(0)))


def input_size(classifier: Classifier, images: Any) -> tuple[int, int]:
    """(y, x) of what enters the model: its own size, or that of the images where it takes any."""
    _, y, x, _ = _shape(images)
    return classifier.size or (y, x)


def as_input(
    classifier: Classifier, pixels: UInt8[np.ndarray, "image y x rgb"]
) -> Float32[torch.Tensor, "image rgb y x"]:
    """What the model takes, of pixels that already have its size. Stays channels-last, which convolutions like."""
    return classifier.normalise(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255)


def _best(
    patch: Int64[np.ndarray, "target held"], score: Float32[np.ndarray, "target held"], images: np.ndarray, count: int
) -> tuple[Int64[np.ndarray, "target k"], Float32[np.ndarray, "target k"]]:
    """The best `count` of each line, at most one of an image. Lines hold earlier patches first: sorting is stable."""
    order = np.argsort(-score, 1, kind="stable")
    patch, score = np.take_along_axis(patch, order, 1), np.take_along_axis(score, order, 1)
    # places that are still empty count as images of their own
    image = np.where(patch >= 0, images[patch], -1 - np.arange(patch.shape[1]))
    by_image = np.argsort(image, 1, kind="stable")
    sorted_image = np.take_along_axis(image, by_image, 1)
    again = np.zeros(patch.shape, bool)
    np.put_along_axis(again, by_image[:, 1:], sorted_image[:, 1:] == sorted_image[:, :-1], 1)
    first = np.argsort(again, 1, kind="stable")[:, :count]
    return np.take_along_axis(patch, first, 1), np.take_along_axis(score, first, 1)


def _resized(pixels: UInt8[np.ndarray, "patch side side rgb"], size: tuple[int, int]) -> np.ndarray:
    """On integers, which torch does ten times as fast as on floats; at most one level off the rounded float."""
    if pixels.shape[1:3] == size:
        return pixels
    planes = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2)
    return F.interpolate(planes, size, mode="bilinear", antialias=True).permute(0, 2, 3, 1).numpy()


def _shape(images: Any) -> tuple[int, int, int, int]:
    shape = tuple(images.shape)
    named = not isinstance(images, xr.DataArray) or images.dims == ("image", "y", "x", "rgb")
    if len(shape) != 4 or shape[3] != 3 or images.dtype != np.uint8 or not named:
        raise ShapeError(f"images have shape {shape} and are {images.dtype}; expected (image, y, x, rgb) in uint8.")
    return shape
