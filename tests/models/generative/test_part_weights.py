"""Weights of a module whose parts come as a checkpoint each."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from examples import taef2
from optogram.errors import ModelError
from optogram.models.generative.weights import fill_from


def codec(seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return taef2.codec(channels=4, width=8)


@pytest.fixture
def parts(tmp_path):
    """A codec, and its encoder and decoder as files, in float16 and with a prefix."""
    source = codec(1)
    for name in ("encoder", "decoder"):
        weights = {f"module.{key}": w.half() for key, w in getattr(source, name).state_dict().items()}
        save_file(weights, tmp_path / f"{name}.safetensors")
    return source, {name: tmp_path / f"{name}.safetensors" for name in ("encoder", "decoder")}


def test_each_part_takes_its_own_file(parts):
    source, checkpoint = parts
    filled = codec(2)
    fill_from(filled, checkpoint, "spec")
    for (name, ours), theirs in zip(filled.state_dict().items(), source.state_dict().values(), strict=True):
        assert ours.dtype == torch.float32
        assert torch.equal(ours, theirs.half().float()), name


def test_one_file_fills_the_whole(parts, tmp_path):
    source, filled = parts[0], codec(2)
    save_file(source.state_dict(), tmp_path / "whole.safetensors")
    fill_from(filled, str(tmp_path / "whole.safetensors"), "spec")
    assert all(
        torch.equal(a, b) for a, b in zip(filled.state_dict().values(), source.state_dict().values(), strict=True)
    )


def test_a_part_within_a_part_has_its_dotted_name(tmp_path):
    module = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    save_file({"weight": torch.ones(2, 2), "bias": torch.ones(2)}, tmp_path / "w.safetensors")
    fill_from(module, {"0.0": tmp_path / "w.safetensors"}, "spec")
    assert torch.equal(module[0][0].weight, torch.ones(2, 2))


def test_parts_that_do_not_fit_are_named_before_anything_is_read(parts):
    _, checkpoint = parts
    with pytest.raises(
        ModelError, match=r"spec has no part 'encodr', .*some of encoder, decoder\. Did you mean 'encoder"
    ):
        fill_from(codec(2), checkpoint | {"encodr": "nowhere"}, "spec")
    with pytest.raises(
        ModelError, match=r"spec: no checkpoint for decoder \(such as the tensor decoder\.1\.weight\); giv"
    ):
        fill_from(codec(2), {"encoder": "nowhere"}, "spec")
    with pytest.raises(ModelError, match=r"no checkpoint for encoder, decoder .*given are those of nothing"):
        fill_from(codec(2), {}, "spec")


def test_a_file_of_another_part_is_refused_by_both_names(parts):
    _, checkpoint = parts
    with pytest.raises(ModelError, match=r"encoder\.safetensors does not fit the decoder of spec: "):
        fill_from(codec(2), {"encoder": checkpoint["encoder"], "decoder": checkpoint["encoder"]}, "spec")


def test_the_codec_of_the_examples_takes_eight_pixels_to_a_latent_and_back():
    tiny = codec(3).eval()
    images = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        latents = tiny.encode(images)
        assert latents.shape == (2, tiny.channels, 16 // tiny.factor, 24 // tiny.factor)
        again = tiny.decode(100 * latents)
        bounded = tiny.decode(3 * torch.tanh(100 * latents / 3))
    assert again.shape == images.shape
    assert 0 <= float(again.min()) <= float(again.max()) <= 1
    assert not torch.allclose(again, bounded), "latents are bounded once, by the decoder itself"
    x = torch.rand(1, 8, 3, 3)
    block = tiny.decoder[3]
    pooled = x + block.pool(x)
    torch.testing.assert_close(block(x), (block.conv(pooled) + pooled).relu())
