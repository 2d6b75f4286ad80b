"""What a codec leaves, of a codec that is known: one that keeps colours and blurs everything else away."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import xarray as xr

from optogram.methods.generative import round_trip as module
from optogram.methods.generative.round_trip import decoded, headline, round_trip
from optogram.models.generative.codecs import fit_patches

VALUES = [["stripes", "plain"], ["dark", "light"]]


@pytest.fixture(scope="module")
def images():
    """Stripes of a pixel or their mean, dark or light."""
    draw = np.random.default_rng(0)
    label = draw.integers(0, 2, (60, 2))
    level = np.where(label[:, 1] == 1, 160, 60)[:, None, None, None]
    stripes = (
        np.where(label[:, 0] == 0, 50, 0)[:, None, None, None] * (1 - 2 * (np.arange(16) % 2))[None, None, :, None]
    )
    pixels = np.broadcast_to(level + stripes, (60, 16, 16, 3)) + draw.integers(-3, 4, (60, 16, 16, 3))
    return xr.Dataset(
        {
            "pixels": (("image", "y", "x", "rgb"), pixels.clip(0, 255).astype(np.uint8)),
            "label": (("image", "attribute"), label.astype(np.int16)),
            "value_name": (("attribute", "value"), np.array(VALUES)),
        },
        {"attribute": ["texture", "light"]},
    )


class Means(torch.nn.Module):
    """A codec that keeps the mean of each 4 x 4 patch."""

    factor, channels = 4, 3

    def encode(self, images):
        return F.avg_pool2d(images, 4)

    def decode(self, latents):
        return F.interpolate(latents, scale_factor=4)


class Seer:
    """A classifier by the definition, whose logits are those of stripes and of none."""

    attribute, classes = "texture", ("plain", "stripes")


def stripes(_, pixels):
    across = np.abs(np.diff(pixels.astype(float), axis=2)).mean((1, 2, 3))
    return np.stack([40 - across, across - 40], 1).astype(np.float32), np.zeros((len(pixels), 1), np.float32)


def embedded(clip, pixels):
    logits, _ = stripes(None, pixels)
    light = pixels.mean((1, 2, 3)) - 110
    return torch.from_numpy(np.stack([logits[:, 1], logits[:, 0], -light, light], 1)).float()


@pytest.fixture
def found(images, monkeypatch):
    class Clip:
        device = torch.device("cpu")

    monkeypatch.setattr(module, "look", stripes)
    monkeypatch.setattr(module, "encode_images", embedded)
    zeroshot = xr.Dataset(
        {
            "classifier": (("class", "embed"), np.eye(4, dtype=np.float32)),
            "attribute": ("class", ["texture", "texture", "light", "light"]),
            "value": ("class", [value for row in VALUES for value in row]),
        }
    )

    class Other(Seer):
        attribute = "weather"

    return round_trip(images, Means(), Clip(), zeroshot, {"seer": Seer(), "other": Other()})


def test_what_is_blurred_away_is_told_no_more(found, images):
    assert found.check.values.tolist() == ["CLIP: texture", "CLIP: light", "seer: texture"]
    assert found.before.values.tolist() == [1, 1, 1]
    plain = float((images.label[:, 0] == 1).mean())
    np.testing.assert_allclose(found.after.values, [plain, 1, plain])
    assert (found.after_low <= found.after).all()
    assert found["count"].values.tolist() == [60] * 3
    line = headline(found)
    assert line.value == pytest.approx(plain)
    assert line.versus_value == 1
    assert "CLIP: texture" in line.measure


def test_psnr_is_that_of_the_definition(found, images):
    pixels = images.pixels.values
    there = decoded(Means(), pixels, torch.device("cpu"), batch=7)
    error = ((there.astype(float) - pixels) / 255) ** 2
    np.testing.assert_allclose(found.psnr.values, -10 * np.log10(error.mean((1, 2, 3))), rtol=1e-4)


def test_a_codec_of_all_components_changes_nothing(images):
    pixels = images.pixels.values
    codec = fit_patches(pixels, factor=4, channels=48)
    assert np.abs(decoded(codec, pixels, torch.device("cpu")).astype(int) - pixels).max() <= 1
