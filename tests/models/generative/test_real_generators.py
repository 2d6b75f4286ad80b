"""Generators and a codec that others have trained, by the architectures in examples/: they give what was given.

Weights and expected outputs are float16; they run in float32. So outputs differ by what the weights were rounded by.
"""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import avg_pool2d

from examples import taef2
from optogram.models.generative.generators import load_generator, save_generator
from optogram.models.generative.weights import fill_from

SHARED = Path(os.environ.get("OPTOGRAM_SHARED_DATA", Path(__file__).parents[4] / "shared/data"))
pytestmark = pytest.mark.skipif(not SHARED.exists(), reason="the shared data is not here")


def expected(name):
    return {key: value.float() for key, value in load_file(SHARED / f"{name}.expected.safetensors").items()}


def off(found, wanted):
    """The largest and the mean difference."""
    difference = (found - wanted).abs()
    return float(difference.max()), float(difference.mean())


@torch.no_grad()
def test_a_dcgan_of_faces():
    generator = load_generator(
        "callable:examples.dcgan:generator", checkpoint=SHARED / "faces_dcgan.safetensors", device="cpu"
    )
    wanted = expected("faces_dcgan")
    images, maps = generator.maps(wanted["z"].flatten(1))
    most, mean = off(2 * images - 1, wanted["image"])
    assert most < 2e-3
    assert mean < 2e-4
    assert sum(each.shape[1] for each in maps.values()) == 512 + 256 + 128 + 64


@torch.no_grad()
def test_a_mobilestylegan_of_faces():
    generator = load_generator(
        "callable:examples.mobilestylegan:generator",
        checkpoint=SHARED / "faces_mobilestylegan.safetensors",
        device="cpu",
    )
    wanted = expected("faces_mobilestylegan")
    most, mean = off(generator.styles(wanted["z"]), wanted["w"])  # of up to 2.7
    assert most < 5e-3
    assert mean < 1e-3
    drawn = generator.model.drawn(wanted["w"])
    assert drawn.shape == (3, 3, 512, 512)
    most, mean = off(avg_pool2d(drawn, 4), wanted["image_512_pooled_to_128"])  # from -1.07 to 1.45
    assert most < 0.04
    assert mean < 1e-3


@torch.no_grad()
def test_taef2():
    codec = taef2.codec().eval()
    parts = {name: SHARED / f"taef2_{name}.safetensors" for name in ("encoder", "decoder")}
    fill_from(codec, parts, "callable:examples.taef2:codec")
    wanted = expected("taef2")
    latents = codec.encode(wanted["x"])
    assert latents.shape == (2, codec.channels, 128 // codec.factor, 128 // codec.factor)
    most, mean = off(latents, wanted["z"])  # x was rounded too
    assert most < 0.1
    assert mean < 3e-3
    most, mean = off(codec.decode(wanted["z"]), wanted["y"])
    assert most < 1e-3
    assert mean < 2e-4
    assert off(codec.decode(latents), wanted["y"])[1] < 3e-4
    assert float(latents.std()) == pytest.approx(0.86, abs=0.01)


@torch.no_grad()
def test_a_real_generator_survives_its_folder_in_half_precision(tmp_path):
    generator = load_generator(
        "callable:examples.dcgan:generator", checkpoint=SHARED / "faces_dcgan.safetensors", device="cpu"
    )
    save_generator(generator, tmp_path / "faces")
    latents = generator.latents([0, 1])
    assert torch.equal(load_generator(str(tmp_path / "faces"), device="cpu").images(latents), generator.images(latents))
