"""Segmentation scores beside literal loops and scikit-learn, and on cases with known answers."""

import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import average_precision_score

from optogram.errors import DataError, ShapeError
from optogram.metrics.intervals import mean_interval
from optogram.metrics.segmentation import (
    average_precision,
    compared,
    foreground,
    image_scores,
    segmentation_scores,
    soft_maps,
)


def literal(heatmaps, masks):
    """The protocol, one image and one class at a time."""
    right, intersections, unions, total = np.zeros(2), np.zeros((2, 2)), np.zeros((2, 2)), 0
    pooled, alone = [], []
    for heatmap, mask in zip(heatmaps, masks, strict=True):
        large = torch.nn.functional.interpolate(
            torch.tensor(heatmap, dtype=torch.float32)[None, None], size=mask.shape, mode="bilinear"
        )[0, 0].numpy()
        spread = large.max() - large.min()
        soft = (large - large.min()) / (spread if spread > 0 else np.float32(1))
        total += mask.size
        for at, predicted in enumerate((soft > soft.mean(dtype=np.float64), soft > 0.5)):
            right[at] += (predicted == mask).sum()
            for which in (0, 1):
                intersections[at, which] += ((predicted == which) & (mask == which)).sum()
                unions[at, which] += ((predicted == which) | (mask == which)).sum()
        scores, labels = soft.ravel(), mask.ravel()
        both = np.concatenate([1 - scores, scores]), np.concatenate([~labels, labels])
        pooled.append(average_precision_score(both[1], both[0]))
        if labels.any():
            alone.append(average_precision_score(labels, scores))
    iou = [
        np.mean([i / u for i, u in zip(*counts, strict=True) if u])
        for counts in zip(intersections, unions, strict=True)
    ]
    return {
        "pixel_accuracy": right[0] / total,
        "pixel_accuracy_half": right[1] / total,
        "miou": iou[0],
        "miou_half": iou[1],
        "map": np.mean(pooled),
        "map_foreground": np.mean(alone) if alone else np.nan,
    }


def examples(count, grid=(7, 5), size=(28, 20), seed=0):
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, *size), bool)
    for mask in masks:
        y, x = rng.integers(0, size[0] - 4), rng.integers(0, size[1] - 4)
        mask[y : y + rng.integers(2, 12), x : x + rng.integers(2, 12)] = True
    blocks = masks.reshape(count, grid[0], size[0] // grid[0], grid[1], size[1] // grid[1]).mean((2, 4))
    return (blocks + 0.4 * rng.normal(size=blocks.shape)).astype(np.float32), masks


def same(found, expected, tolerance=1e-6):
    return all(found[name] == pytest.approx(expected[name], abs=tolerance, nan_ok=True) for name in expected)


@pytest.mark.parametrize("seed", range(3))
def test_matches_literal_loops(seed, monkeypatch):
    heatmaps, masks = examples(9, seed=seed)
    masks[3], masks[5] = True, False
    heatmaps[7] = 0.25
    assert same(segmentation_scores(heatmaps, masks), literal(heatmaps, masks))
    monkeypatch.setattr("optogram.metrics.segmentation.BLOCK_PIXELS", 2 * masks[0].size)
    assert same(segmentation_scores(torch.from_numpy(heatmaps), masks), literal(heatmaps, masks))


@settings(max_examples=60, deadline=None)
@given(
    scores=arrays(np.float32, (2, 12), elements=st.sampled_from([0, 1e-9, 0.125, 0.25, 0.5, 1])),
    truth=arrays(bool, (2, 12)),
)
def test_average_precision_with_ties(scores, truth):
    for found, s, t in zip(average_precision(scores, truth), scores, truth, strict=True):
        if t.any():
            assert found == pytest.approx(average_precision_score(t, s), abs=1e-6)
        else:
            assert np.isnan(found)


def test_perfect_and_opposite():
    _, masks = examples(4, grid=(28, 20))
    right = segmentation_scores(masks.astype(np.float32), masks)
    assert set(right.values()) == {1}
    assert len(right) == 6
    wrong = segmentation_scores(-masks.astype(np.float32), masks)
    assert wrong["pixel_accuracy"] == wrong["miou"] == 0
    assert wrong["map"] < 0.6


def test_scale_and_shift_of_an_image_do_not_matter():
    heatmaps, masks = examples(6)
    moved = heatmaps * np.arange(1, 7)[:, None, None] - 3
    # bilinear interpolation near the border repeats values, and rounding decides which of them are exact ties
    assert same(segmentation_scores(moved, masks), segmentation_scores(heatmaps, masks), 1e-3)


def test_methods_are_compared_on_the_same_images():
    heatmaps, masks = examples(60)
    noise = np.random.default_rng(3).normal(0, 0.5, heatmaps.shape).astype(np.float32)
    parts = [image_scores(maps, masks) for maps in (heatmaps, heatmaps + noise, heatmaps)]
    found = compared(dict(zip("abc", parts, strict=True)), seed=0)
    np.testing.assert_allclose(found.score[0], [*segmentation_scores(heatmaps, masks).values()])
    assert (found.score_low < found.score).all()
    assert (found.score < found.score_high).all()
    assert (found.difference_low[0, 1] > 0).all()
    np.testing.assert_allclose(found.difference_high[1, 0], -found.difference_low[0, 1])
    assert not found.difference_low[0, 2].any()
    # the mean of image scores has the interval of any mean
    ends = [found[f"score_{end}"].sel(metric="map")[0] for end in ("low", "high")]
    np.testing.assert_allclose(ends, mean_interval(parts[0].map), atol=0.005)


def test_masks_of_one_class():
    heatmaps, masks = examples(3)
    nothing = segmentation_scores(np.zeros_like(heatmaps), np.zeros_like(masks))
    assert nothing["pixel_accuracy"] == nothing["miou"] == 1
    assert np.isnan(nothing["map_foreground"])
    assert segmentation_scores(heatmaps, np.ones_like(masks))["map_foreground"] == 1


def test_soft_maps():
    heatmaps, _ = examples(3)
    soft = soft_maps(heatmaps, (28, 20))
    assert soft.shape == (3, 28, 20)
    assert (soft.min((1, 2)) == 0).all()
    assert (soft.max((1, 2)) == 1).all()
    assert 0 < foreground(soft).mean() < 1
    assert not soft_maps(np.full((1, 2, 2), 7.0), (4, 4)).any()


def test_fast_enough():
    heatmaps, masks = examples(2000, grid=(8, 8), size=(64, 64))
    start = time.process_time()
    segmentation_scores(heatmaps, masks)
    assert time.process_time() - start < 10


def test_refusals():
    heatmaps, masks = examples(2)
    with pytest.raises(ShapeError, match=r"heatmaps \(1, 7, 5\) and masks \(2, 28, 20\)"):
        segmentation_scores(heatmaps[:1], masks)
    with pytest.raises(DataError, match="masks are uint8, expected bool"):
        segmentation_scores(heatmaps, masks.astype(np.uint8))
    heatmaps[1, 0, 0] = np.nan
    with pytest.raises(DataError, match="heatmap of image 1 has a NaN"):
        segmentation_scores(heatmaps, masks)
