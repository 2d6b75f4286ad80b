"""Crops against `grid_sample`, their places and sizes, and colours that are shifted."""

import math

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from optogram.methods.visualisation.optimise import draws
from optogram.methods.visualisation.transforms import colour_shifts, cropped, crops, shifted


def sampled(image, box, size):
    """A crop by torch's own sampler: (rgb, y, x), (top, left, side)."""
    top, left, side = box.tolist()
    grid = F.affine_grid(
        torch.tensor([[[side, 0, 2 * left + side - 1], [0, side, 2 * top + side - 1]]]),
        [1, 3, *size],
        align_corners=False,
    )
    return F.grid_sample(image[None], grid, padding_mode="border", align_corners=False)[0]


@given(
    seed=st.integers(0, 10**6),
    old=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    new=st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
@settings(max_examples=40, deadline=None)
def test_crops_are_those_of_grid_sample(seed, old, new):
    rgb = draws([seed, seed + 1], (3, *old), "uniform")
    boxes = crops([seed, seed + 1], 1, 3)[:, 0]
    found = cropped(rgb, boxes, new)
    assert found.shape == (6, 3, *new)
    expected = [sampled(image, box, new) for image, each in zip(rgb, boxes, strict=True) for box in each]
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-4, rtol=1e-4)


def test_the_whole_image_as_a_crop_is_the_image():
    rgb = draws([1, 2], (3, 5, 7), "uniform")
    torch.testing.assert_close(cropped(rgb, torch.tensor([[[0.0, 0.0, 1.0]]] * 2), (5, 7)), rgb)


def test_gradients_of_a_crop_stay_within_it():
    rgb = torch.zeros(1, 3, 8, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(cropped(rgb, torch.tensor([[[0.25, 0.5, 0.25]]]), (8, 8)).sum(), rgb)
    inside = gradient[0, 0] > 0
    assert inside[2:4, 4:6].all()
    assert not inside[:1].any()
    assert not inside[5:].any()
    assert not inside[:, :3].any()
    assert not inside[:, 7:].any()


def test_crops_are_as_large_as_section_a1_says_and_lie_within_the_image():
    boxes = crops(range(20), 50, 6)
    top, left, side = boxes.reshape(-1, 3).T
    assert abs(float(side.mean()) - 0.25) < 0.01
    assert abs(float(side.std()) - 0.1) < 0.01
    assert float(side.min()) >= 0.05
    assert float(boxes.min()) >= 0
    assert float((torch.maximum(top, left) + side).max()) <= 1 + 1e-6
    assert torch.equal(crops([3, 4], 5, 2)[1], crops([4], 5, 2)[0])


def test_colour_shifts_are_of_the_published_ranges():
    shifts = colour_shifts(range(20), 50, 4)
    assert shifts.shape == (20, 50, 4, 2, 3)
    mu, sigma = shifts.unbind(3)
    assert float(mu.min()) >= -1
    assert float(mu.max()) < 1
    assert abs(float(mu.std()) - 1 / math.sqrt(3)) < 0.01
    assert float(sigma.min()) >= math.exp(-1)
    assert float(sigma.max()) < math.e
    assert abs(float(sigma.log().mean())) < 0.02


def test_shifted_colours_are_scaled_then_moved():
    images = torch.ones(2, 3, 1, 1) * torch.tensor([1.0, 2.0])[:, None, None, None]
    shifts = torch.tensor([[[0.0, 0.1, 0.2], [1.0, 2.0, 3.0]], [[1.0, 1.0, 1.0], [0.5, 0.5, 0.5]]])
    found = shifted(images, shifts)[..., 0, 0]
    torch.testing.assert_close(found, torch.tensor([[1.0, 2.1, 3.2], [2.0, 2.0, 2.0]]))
