from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from planted_classifiers import classifier, colour_net, coloured
from torch import nn

from optogram.decompose import patches as module
from optogram.decompose.patches import cut, patch_boxes, pooled, top_patches
from optogram.errors import DataError, ModelError, OptogramError, ParamError, ShapeError
from optogram.models.layers import activations


def images_of(count, size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)


def literal_top(scores, images, count):
    """One direction: all patches sorted, an image's second patch passed over."""
    found = []
    for patch in sorted(range(len(scores)), key=lambda each: (-scores[each], each)):
        if images[patch] not in [images[other] for other in found]:
            found.append(patch)
    return found[:count]


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 5), st.integers(1, 6))
def test_boxes_are_all_whole_patches_in_reading_order(y, x, stride, patch):
    patch = min(patch, y, x)
    expected = [
        [row, top, left, patch]
        for row in (4, 7)
        for top in range(0, y, stride)
        for left in range(0, x, stride)
        if top + patch <= y and left + patch <= x
    ]
    assert patch_boxes(np.array([4, 7]), (y, x), patch=patch, stride=stride).tolist() == expected


def test_the_demo_s_grid():
    assert len(patch_boxes(np.arange(600), (64, 64), patch=32, stride=16)) == 5400


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 20))
def test_a_cut_is_the_slice_resized(seed, count, size):
    rng = np.random.default_rng(seed)
    images = images_of(3, 12, seed)
    side = rng.integers(1, 13, count)
    boxes = np.stack([rng.integers(0, 3, count), *(rng.integers(0, 13 - side) for _ in range(2)), side], 1)
    found = cut(images, boxes, (size, size))
    assert found.dtype == np.uint8
    assert found.shape == (count, size, size, 3)
    for patch, (row, top, left, of) in zip(found, boxes, strict=True):
        own = torch.from_numpy(images[row, top : top + of, left : left + of]).permute(2, 0, 1)[None].float()
        expected = F.interpolate(own, (size, size), mode="bilinear", antialias=True)[0].permute(1, 2, 0)
        assert np.abs(patch - expected.numpy()).max() <= 1.01
        if of == size:
            assert (patch == own[0].permute(1, 2, 0).numpy()).all()


class Recorded:
    """An array that is read like a file, and notes what of it."""

    def __init__(self, images):
        self.images, self.shape, self.dtype, self.read = images, images.shape, images.dtype, []

    def __getitem__(self, rows):
        self.read.append(np.arange(len(self.images))[rows].tolist())
        return self.images[rows]


def test_only_the_images_cut_from_are_read_and_those_once():
    images = Recorded(images_of(6, 8))
    boxes = np.array([[5, 1, 2, 4], [1, 0, 0, 8], [5, 4, 4, 4]])
    expected = cut(images.images, boxes, (8, 8))
    assert (cut(images, boxes, (8, 8)) == expected).all()
    assert images.read == [[1, 5]]
    assert cut(images, boxes[:0], (8, 8)).shape == (0, 8, 8, 3)
    assert (cut(xr.DataArray(images.images, dims=("image", "y", "x", "rgb")), boxes, (8, 8)) == expected).all()


@pytest.mark.parametrize("batch", [1, 4, 100])
@pytest.mark.parametrize("block", [1, 3 * 12 * 12 * 5, 1 << 20])
def test_pooled_features_are_each_patch_s_own(batch, block, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK_BYTES", block)
    torch.manual_seed(0)
    own = classifier(nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Flatten()), size=(12, 12))
    images = images_of(4, 10)
    boxes = patch_boxes(np.arange(4), (10, 10), patch=6, stride=4)
    stream = list(pooled(own, images, boxes, "1", batch=batch))
    assert [row for rows, _ in stream for row in range(rows.start, rows.stop)] == list(range(len(boxes)))
    found = np.concatenate([features for _, features in stream])
    assert found.dtype == np.float32
    for features, box in zip(found, boxes, strict=True):
        patch = torch.from_numpy(cut(images, box[None], (12, 12))).permute(0, 3, 1, 2) / 255
        maps = activations(own.model, patch, ["1"])["1"][0]
        expected = [sum(float(value) for value in channel.flatten()) / channel.numel() for channel in maps]
        np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-7)


def test_of_a_vit_the_average_is_over_its_patch_tokens():
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    model = VisionTransformer(16, 4, num_classes=2, embed_dim=8, depth=2, num_heads=2)
    images, kept = images_of(2, 16), []
    boxes = patch_boxes(np.arange(2), (16, 16), patch=8, stride=8)
    ((_, found),) = pooled(classifier(model, size=(16, 16)), images, boxes, "blocks.1")
    hook = model.blocks[1].register_forward_hook(lambda _, __, out: kept.append(out))
    with torch.no_grad():
        model(torch.from_numpy(cut(images, boxes, (16, 16))).permute(0, 3, 1, 2) / 255)
    hook.remove()
    np.testing.assert_allclose(found, kept[0][:, 1:].mean(1), rtol=1e-4, atol=1e-5)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 12), st.integers(1, 6))
def test_the_running_best_is_a_full_sort(seed, count, k, targets):
    """With ties, images in any order, and batches of any size."""
    rng = np.random.default_rng(seed)
    features = rng.integers(-2, 3, (count, 3)).astype(np.float32)
    directions = rng.integers(-1, 2, (targets, 3)).astype(np.float32)
    images = rng.integers(0, 8, count)
    edges = [0, *sorted(rng.integers(0, count + 1, 3).tolist()), count]
    stream = [(slice(a, b), features[a:b]) for a, b in pairwise(edges)]
    top = top_patches(stream, images, directions, k)
    assert top.patch.shape == top.score.shape == (targets, k)
    for patches, scores, direction in zip(top.patch, top.score, directions, strict=True):
        expected = literal_top((features @ direction).tolist(), images.tolist(), k)
        assert patches.tolist() == expected + [-1] * (k - len(expected))
        assert scores.tolist() == [*(features @ direction)[expected], *[0] * (k - len(expected))]
        of = images[patches[patches >= 0]]
        assert len(set(of.tolist())) == len(of)


def test_many_scores_are_not_held_at_once(monkeypatch):
    rng = np.random.default_rng(0)
    features, images = rng.standard_normal((50, 4)).astype(np.float32), np.arange(50) // 3
    whole = top_patches([(slice(0, 50), features)], images, np.eye(4), 5)
    monkeypatch.setattr(module, "_SCORED", 7 * 4)
    few = top_patches([(slice(0, 50), features)], images, np.eye(4), 5)
    assert (whole.patch == few.patch).all()
    assert (whole.score == few.score).all()


def test_the_top_patches_of_a_red_channel_are_the_red_ones():
    names = ["red", "green", "blue", "red", "blue", "red", "green"]
    pixels, corner = coloured(names)
    net = classifier(colour_net([[1, 0]], [[1, 0, 0], [0, 1, 1]]))
    boxes = patch_boxes(np.arange(len(names)), (16, 16), patch=8, stride=8)
    top = top_patches(pooled(net, pixels, boxes, "layer"), boxes[:, 0], np.eye(2), 4)
    red = [k for k, name in enumerate(names) if name == "red"]
    assert set(boxes[top.patch[0, :3], 0]) == set(red)
    for patch in top.patch[0, :3]:
        assert boxes[patch, 1:3].tolist() == corner[boxes[patch, 0]].tolist()
    assert top.score[0, 3] == 0
    assert (top.score[0, :3] > 0.5).all()
    assert not set(boxes[top.patch[1], 0]) & set(red)


@pytest.mark.misfits
def test_what_cannot_be_cut_or_scored():
    net, broken = (classifier(colour_net([[1]], [[weight, 0, 0]])) for weight in (1, np.inf))
    images, ones = images_of(2, 8), [(slice(0, 2), np.ones((2, 3)))]
    boxes = patch_boxes(np.arange(2), (8, 8), patch=4, stride=4)
    wide = xr.DataArray(images, dims=("image", "rgb", "y", "x"))
    cases: list[tuple[type[OptogramError], str, Callable]] = [
        (ParamError, r"patch = 9, but images have 8 x 8", lambda: patch_boxes(boxes[:1, 0], (8, 8), patch=9, stride=1)),
        (ParamError, r"stride = 0, .*; 2 lets", lambda: patch_boxes(boxes[:1, 0], (8, 8), patch=4, stride=0)),
        (DataError, r"box \[2, 0, 0, 4\] .* leaves the 2 images", lambda: cut(images, [[2, 0, 0, 4]], (4, 4))),
        (DataError, r"box \[1, 5, 0, 4\]", lambda: cut(images, [[0, 0, 0, 4], [1, 5, 0, 4]], (4, 4))),
        (DataError, r"box \[0, 0, -1, 4\]", lambda: cut(images, [[0, 0, -1, 4]], (4, 4))),
        (ShapeError, r"\(2, 8, 8, 3\) and are float64", lambda: cut(images / 255, boxes, (4, 4))),
        (ShapeError, r"expected \(image, y, x, rgb\)", lambda: cut(wide, boxes, (4, 4))),
        (ModelError, r"no layer 'layr'. Did you mean 'layer'", lambda: list(pooled(net, images, boxes, "layr"))),
        (
            DataError,
            r"'layer' .* not finite on patch 0, box \[0, 0",
            lambda: list(pooled(broken, images, boxes, "layer")),
        ),
        (ShapeError, r"\(2, 3\), directions \(1, 4\)", lambda: top_patches(ones, np.arange(2), np.ones((1, 4)), 1)),
        (ParamError, r"count = 0 patches", lambda: top_patches(ones, np.arange(2), np.ones((1, 3)), 0)),
    ]
    for error, message, call in cases:
        with pytest.raises(error, match=message):
            call()
