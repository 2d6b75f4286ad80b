"""Canvases against transforms written out as sums, the dataset's magnitudes, and the stages of growing pixels."""

import cmath
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optogram.errors import ParamError, ShapeError
from optogram.methods.visualisation.optimise import Pixels, draw, draws
from optogram.methods.visualisation.parameterisations import (
    COLOURS,
    FourierCanvas,
    Growing,
    MacoCanvas,
    magnitude_spectrum,
)

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
SIZES = [(4, 6), (5, 4), (3, 5)]


def literal_inverse(spectrum, height, width):
    """The real picture of half a spectrum (y, frequency), as a sum of waves; the other half is its mirror image."""
    full = np.zeros((height, width), complex)
    for v in range(height):
        for u in range(width // 2 + 1):
            full[v, u] = spectrum[v, u]
            if 0 < u < (width + 1) // 2:
                full[-v % height, width - u] = spectrum[v, u].conjugate()
    picture = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            waves = [
                full[v, u] * cmath.exp(2j * math.pi * (v * y / height + u * x / width))
                for v in range(height)
                for u in range(width)
            ]
            picture[y, x] = sum(waves).real / (height * width)
    return picture


def literal_forward(picture):
    height, width = picture.shape
    found = np.zeros((height, width // 2 + 1), complex)
    for v in range(height):
        for u in range(width // 2 + 1):
            for y in range(height):
                for x in range(width):
                    found[v, u] += picture[y, x] * cmath.exp(-2j * math.pi * (v * y / height + u * x / width))
    return found


def standardised(values):
    centred = values - values.mean()
    return centred / (np.sqrt((np.abs(centred) ** 2).mean()) + 1e-4)


def coloured(picture):
    rgb = sum(picture[k][None] * np.array(COLOURS[k])[:, None, None] for k in range(3))
    return 1 / (1 + np.exp(-rgb))


def undone(rgb):
    """What was coloured and squashed, (image, colour, y, x)."""
    return np.einsum("nryx,rc->ncyx", np.log(rgb / (1 - rgb)), np.linalg.inv(np.array(COLOURS)))


def photographs(count=5, size=(4, 6), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *size, 3), np.uint8)


@pytest.mark.parametrize("size", SIZES)
def test_the_fourier_canvas_is_a_sum_of_waves_scaled_by_their_frequency(size):
    height, width = size
    canvas = FourierCanvas([3, 4], size)
    spectra = torch.view_as_complex(canvas.parameters[0].detach()).numpy().astype(complex)
    for image, found in zip(spectra, canvas.rgb().detach().numpy(), strict=True):
        scaled = standardised(image)
        for v in range(height):
            for u in range(width // 2 + 1):
                frequency = math.hypot(min(v, height - v) / height, u / width)
                scaled[:, v, u] *= math.sqrt(height * width) / max(frequency, 1 / max(height, width))
        picture = np.stack([literal_inverse(each, height, width) for each in scaled])
        np.testing.assert_allclose(found, coloured(standardised(picture)), atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_the_magnitude_spectrum_is_the_mean_of_sums_of_waves(size):
    images = photographs(5, size)
    decorrelated = images / 255 @ np.linalg.inv(np.array(COLOURS))
    expected = np.mean([[abs(literal_forward(one[..., c])) for c in range(3)] for one in decorrelated], 0)
    found = magnitude_spectrum(images, batch=2)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_the_maco_canvas_has_the_dataset_s_magnitudes_before_the_squashing(size):
    """But for one factor an image; where a frequency is its own opposite, no more than that."""
    height, width = size
    spectrum = magnitude_spectrum(photographs(5, size))
    canvas = MacoCanvas([3, 4], size, spectrum)
    draw(canvas, lambda rgb, step: rgb[:, 0].mean((1, 2)), steps=3, learning_rate=1.0)
    for picture in undone(canvas.rgb().detach().double().numpy()):
        ratio = np.stack([abs(literal_forward(each)) for each in picture]) / spectrum.numpy()
        own = np.zeros(ratio.shape[1:], bool)
        for v in {0, height // 2} if height % 2 == 0 else {0}:
            for u in {0, width // 2} if width % 2 == 0 else {0}:
                own[v, u] = True
        factor = ratio[:, ~own][0, 0]
        np.testing.assert_allclose(ratio[:, ~own], factor, rtol=1e-3)
        own[0, 0] = False  # the mean over all colours is taken away
        assert (ratio[:, own] <= factor * 1.001).all()


def test_maco_moves_phases_only_and_the_picture_with_them():
    spectrum = magnitude_spectrum(photographs())
    canvas = MacoCanvas([3], (4, 6), spectrum)
    before = canvas.rgb().detach()
    draw(canvas, lambda rgb, step: -rgb[:, 0].mean((1, 2)), steps=20, learning_rate=0.3)
    after = canvas.rgb().detach()
    assert after[:, 0].mean() > before[:, 0].mean() + 0.03
    assert torch.equal(spectrum, magnitude_spectrum(photographs()))


def made(kind, seeds):
    if kind == "fourier":
        return FourierCanvas(seeds, (4, 6))
    if kind == "maco":
        return MacoCanvas(seeds, (4, 6), magnitude_spectrum(photographs()))
    return Growing(seeds, (4, 6), MEAN, STD, steps=5)


@pytest.mark.parametrize("kind", ["fourier", "maco", "growing"])
def test_a_canvas_is_of_its_seeds_alone(kind):
    goal = draws([7], (3, 4, 6), "uniform")[0]

    def drawn(seeds):
        canvas = made(kind, seeds)
        return draw(canvas, lambda rgb, step: (rgb - goal).square().sum((1, 2, 3)), steps=5, learning_rate=0.1).rgb

    together = drawn([1, 2, 3])
    assert torch.equal(together, drawn([1, 2, 3]))
    torch.testing.assert_close(together[1:2], drawn([2]))
    assert not torch.allclose(together[0], together[1], atol=0.05)
    assert float(together.min()) >= 0
    assert float(together.max()) <= 1


@given(side=st.integers(4, 40), stages=st.integers(1, 8), steps=st.integers(1, 60))
@settings(max_examples=20, deadline=None)
def test_growing_pixels_reach_the_whole_image_in_even_stages(side, stages, steps):
    canvas = Growing([1], (side, side), MEAN, STD, steps=steps, stages=stages)
    shares = [canvas.share(step) for step in range(steps)]
    assert shares == sorted(shares)
    if steps >= stages:
        assert shares[-1] == 1
        assert len(set(shares)) == stages
    for _ in range(steps):
        canvas.settle()
    rgb = canvas.rgb().detach()
    assert float(rgb.min()) >= -1e-6
    assert float(rgb.max()) <= 1 + 1e-6


def test_what_was_drawn_is_magnified_in_the_next_stage_with_fresh_noise_around_it():
    size = (32, 32)
    canvas = Growing([1], size, MEAN, STD, steps=4, stages=2)  # two thirds of the side, then all of it
    start = Pixels([1], size, MEAN, STD).parameters[0].detach()
    assert torch.equal(canvas.parameters[0], start)
    with torch.no_grad():
        canvas.parameters[0][..., 5:27, 5:27] = 0.5
    canvas.settle()
    assert torch.equal(canvas.parameters[0][..., 4, :], start[..., 4, :]), "the first stage is not over"
    canvas.settle()
    found = canvas.parameters[0].detach()
    flat = torch.isclose(found, torch.tensor(0.5)).all(1)[0]
    assert flat.sum() == 28 * 28
    assert flat[2:30, 2:30].all()
    assert torch.equal(found[..., :2, :], start[..., :2, :])
    again = found.clone()
    canvas.settle()
    canvas.settle()
    assert torch.equal(canvas.parameters[0], again), "there is no stage after the last"


def test_spectra_and_images_that_do_not_fit():
    spectrum = magnitude_spectrum(photographs())
    with pytest.raises(ShapeError, match=r"shape \(3, 4, 4\); expected \(3, 6, 4\) for images of 6 x 6"):
        MacoCanvas([1], (6, 6), spectrum)
    with pytest.raises(ParamError, match="seeds are empty"):
        FourierCanvas([], (4, 4))
    with pytest.raises(ShapeError, match=r"shape \(0, 4, 6, 3\)"):
        magnitude_spectrum(photographs(0))
    with pytest.raises(ParamError, match="images are float64; expected uint8"):
        magnitude_spectrum(photographs() / 255)
    with pytest.raises(ParamError, match="stages = 0"):
        Growing([1], (4, 4), MEAN, STD, steps=3, stages=0)
