"""The units of a denoiser: what diffusers' own UNet gives at that noise level, whatever images lie beside."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_diffusion import placed, tiny_diffusion, tiny_transformer

from optogram.errors import ModelError, ParamError, ShapeError
from optogram.models.generative.denoiser_units import DenoiserUnits

TIMES = (50, 600)


@pytest.fixture(scope="module")
def diffusion():
    return tiny_diffusion()


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)


@torch.no_grad()
def literal(diffusion, image, name, time, seed):
    """One image's maps: its latents and the seed's noise, mixed as the schedule says."""
    unet, seen = diffusion.denoiser.unet, []
    clean = diffusion.codec.encode(torch.from_numpy(image)[None].permute(0, 3, 1, 2).float() / 255)
    noise = torch.randn(1, *diffusion.shape, generator=torch.Generator().manual_seed(seed))
    alpha, sigma = diffusion.schedule.at(torch.tensor([time]))
    states = diffusion.states([""])
    handle = unet.get_submodule(name).register_forward_hook(lambda *of: seen.append(of[2]))
    unet(placed(alpha * clean + sigma * noise), time, states, class_labels=states.mean(1))
    handle.remove()
    return seen[0][0]


def test_maps_are_those_of_the_definition(diffusion, pixels):
    units = DenoiserUnits(diffusion, TIMES, seed=4)
    found = units.maps(pixels)
    assert len(found) == len(units.layers)
    for layer, maps in zip(units.layers, found, strict=True):
        name, _, time = layer.removeprefix("unet.").partition(" at ")
        assert maps.ndim == 4
        torch.testing.assert_close(maps[1], literal(diffusion, pixels[1], name, int(time), 4), rtol=1e-4, atol=1e-4)


def test_layers_are_residual_blocks_in_the_order_in_which_they_run(diffusion):
    layers = DenoiserUnits(diffusion, TIMES).layers
    first = [name.removesuffix(" at 50") for name in layers if name.endswith(" at 50")]
    parts = [name.split(".")[1] for name in first]
    assert parts == sorted(parts, key=["down_blocks", "mid_block", "up_blocks"].index)
    assert all(".resnets." in name for name in first)
    assert len(layers) == 2 * len(first)


def test_units_of_a_transformer_are_those_of_its_mlps_token_by_token(pixels):
    diffusion = tiny_transformer()
    units = DenoiserUnits(diffusion, TIMES, seed=4)
    maps = dict(zip(units.layers, units.maps(pixels), strict=True))
    assert list(maps)[:2] == [f"transformer.transformer_blocks.{block}.ff.net.0 at 50" for block in (0, 1)]
    network, seen = diffusion.denoiser.transformer, []
    clean = diffusion.codec.encode(torch.from_numpy(pixels[1:2]).permute(0, 3, 1, 2).float() / 255)
    alpha, sigma = diffusion.schedule.at(torch.tensor([600]))
    handle = network.transformer_blocks[1].ff.net[2].register_forward_hook(lambda *of: seen.append(of[1][0]))
    diffusion.denoiser(alpha * clean + sigma * diffusion.noise([4]), torch.tensor([600.0]), diffusion.states([""]))
    handle.remove()
    found = maps["transformer.transformer_blocks.1.ff.net.0 at 600"][1]
    assert found.shape == (64, 4, 4)
    for row in range(4):
        for column in range(4):
            torch.testing.assert_close(found[:, row, column], seen[0][0, 4 * row + column], rtol=1e-4, atol=1e-4)
    assert not torch.equal(units.untrained(seed=1).maps(pixels)[0], units.maps(pixels)[0])


def test_blocks_can_be_chosen(diffusion, pixels):
    whole = DenoiserUnits(diffusion, TIMES)
    name = whole.layers[1].removesuffix(" at 50")
    part = DenoiserUnits(diffusion, TIMES, chosen=[name])
    assert part.layers == (f"{name} at 50", f"{name} at 600")
    maps = dict(zip(whole.layers, whole.maps(pixels), strict=True))
    for layer, found in zip(part.layers, part.maps(pixels), strict=True):
        assert torch.equal(found, maps[layer])
    with pytest.raises(ModelError, match=f"no block '{name}x'.*Did you mean '{name}'"):
        DenoiserUnits(diffusion, TIMES, chosen=[f"{name}x"])


def test_an_image_s_maps_do_not_depend_on_those_beside_it(diffusion, pixels):
    units = DenoiserUnits(diffusion, TIMES)
    together, alone = units.maps(pixels), units.maps(pixels[2:])
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one[2], other[0], rtol=1e-4, atol=1e-4)


def test_the_untrained_twin_has_other_weights_by_its_seed_and_leaves_the_first_alone(diffusion, pixels):
    units = DenoiserUnits(diffusion, TIMES)
    before, state = units.maps(pixels), torch.get_rng_state()
    twins = [units.untrained(seed=seed).maps(pixels) for seed in (1, 1, 2)]
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(one, other) for one, other in zip(before, units.maps(pixels), strict=True))
    assert all(torch.equal(one, other) for one, other in zip(twins[0], twins[1], strict=True))
    assert not torch.equal(twins[0][0], twins[2][0])
    assert not torch.equal(twins[0][0], before[0])


def test_what_does_not_fit_is_named(diffusion, pixels):
    with pytest.raises(ParamError, match="time 1000, expected 0 to 999"):
        DenoiserUnits(diffusion, (1000,))
    with pytest.raises(ShapeError, match="trained on"):
        DenoiserUnits(diffusion, TIMES).maps(pixels[:, :16, :16])
    with pytest.raises(ModelError, match="no torch module"):
        DenoiserUnits(replace(diffusion, denoiser=lambda z, times, states: z), TIMES)
    with pytest.raises(ModelError, match="no blocks with a nonlinearity"):
        DenoiserUnits(replace(diffusion, denoiser=torch.nn.Identity()), TIMES)
