"""Codecs: the patches are the principal components, and diffusers' autoencoders see what they should."""

import numpy as np
import pytest
import torch

from optogram.errors import ModelError, ParamError, ShapeError
from optogram.models.generative.codecs import Autoencoder, Codec, Patches, fit_patches


@pytest.fixture(scope="module")
def pixels():
    rng = np.random.default_rng(0)
    smooth = rng.integers(0, 256, (300, 4, 4, 3)).repeat(2, 1).repeat(2, 2)
    return np.clip(smooth + rng.integers(-20, 20, (300, 8, 8, 3)), 0, 255).astype(np.uint8)


def in_unit_range(pixels):
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255


def test_patches_are_the_principal_components(pixels):
    codec = fit_patches(pixels, factor=4, channels=10)
    # the definition, patch by patch
    rows = [
        image[:, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4].flatten().double()
        for image in in_unit_range(pixels)
        for y in range(2)
        for x in range(2)
    ]
    rows = torch.stack(rows)
    centred = rows - rows.mean(0)
    _, singular, directions = torch.linalg.svd(centred, full_matrices=False)
    scores = centred @ directions[:10].T / (singular[:10] / len(rows) ** 0.5)
    found = codec.encode(in_unit_range(pixels)).permute(0, 2, 3, 1).reshape(-1, 10).double()
    signs = (found * scores).sum(0).sign()
    torch.testing.assert_close(found, scores * signs, rtol=0, atol=2e-4)
    torch.testing.assert_close(codec.components @ codec.components.T, torch.eye(10), rtol=0, atol=1e-5)
    assert np.allclose(found.var(0), 1, atol=1e-3)


@pytest.mark.parametrize("whitening", [0.0, 0.5, 1.0])
def test_whitening_says_how_much_larger_the_first_components_are(pixels, whitening):
    codec = fit_patches(pixels, factor=4, channels=10, whitening=whitening)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    latents = codec.encode(images)
    variance = latents.movedim(1, 0).flatten(1).var(1, correction=0)
    assert float(variance.mean()) == pytest.approx(1, rel=1e-4)
    plain = fit_patches(pixels, factor=4, channels=10, whitening=0).encode(images).movedim(1, 0).flatten(1)
    share = plain.var(1, correction=0) ** (1 - whitening)
    torch.testing.assert_close(variance, share / share.mean(), rtol=1e-3, atol=1e-5)
    whole = fit_patches(pixels, factor=4, channels=10).decode(fit_patches(pixels, factor=4, channels=10).encode(images))
    torch.testing.assert_close(codec.decode(latents), whole, rtol=1e-4, atol=1e-5)


def test_all_components_invert_exactly_and_fewer_by_least_squares(pixels):
    images = in_unit_range(pixels)
    errors = []
    for channels in (48, 20, 10, 3):
        codec = fit_patches(pixels, factor=4, channels=channels)
        assert isinstance(codec, Codec)
        errors.append(float((codec.decode(codec.encode(images)) - images).square().mean()))
    assert errors[0] < 1e-10
    assert errors == sorted(errors)
    whole = fit_patches(pixels, factor=4, channels=48)
    left_out = (whole.scale[10:] ** 2).sum() / 48
    assert errors[2] == pytest.approx(float(left_out), rel=1e-3)


def test_the_order_of_images_and_the_size_of_a_batch_do_not_matter(pixels):
    one, other = fit_patches(pixels), fit_patches(pixels[::-1])
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    images = in_unit_range(pixels)
    assert torch.equal(one.encode(images)[7], one.encode(images[7:8])[0])


def test_what_does_not_fit_is_named(pixels):
    with pytest.raises(ParamError, match=r"channels = 49; expected .* 1 to 48"):
        Patches(4, 49)
    with pytest.raises(ShapeError, match=r"\(256, 3, 8, 8\), expected .* multiples of 3"):
        fit_patches(pixels, factor=3, channels=3)
    with pytest.raises(ModelError, match="vary in 0 directions, expected at least 4"):
        fit_patches(np.full((9, 8, 8, 3), 7, np.uint8), factor=4, channels=4)


def test_autoencoders_of_diffusers_see_what_they_should():
    from diffusers import AutoencoderKL, AutoencoderTiny

    kinds = ("DownEncoderBlock2D",) * 2, ("UpDecoderBlock2D",) * 2
    kl = AutoencoderKL(
        down_block_types=kinds[0],
        up_block_types=kinds[1],
        block_out_channels=(8, 8),
        norm_num_groups=4,
        latent_channels=4,
        scaling_factor=0.5,
        shift_factor=0.25,
    ).eval()
    tiny = AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
        latent_channels=4,
        upsampling_scaling_factor=2,
    ).eval()
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        codec = Autoencoder(kl)
        latents = codec.encode(images)
        assert torch.equal(latents, (kl.encode(images * 2 - 1).latent_dist.mean - 0.25) * 0.5)
        assert torch.equal(codec.decode(latents), (kl.decode(latents / 0.5 + 0.25).sample + 1) / 2)
        assert (codec.factor, codec.channels) == (2, 4)
        codec = Autoencoder(tiny)
        assert torch.equal(codec.encode(images), tiny.encode(images * 2 - 1).latents)
        assert (codec.factor, codec.channels) == (2, 4)
        assert codec.decode(codec.encode(images)).shape == images.shape
        with pytest.raises(ShapeError, match="multiples of 2"):
            codec.encode(images[:, :, :15])
