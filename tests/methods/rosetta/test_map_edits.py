"""Edits of maps, worked out by hand, and units that are switched off."""

import pytest
import torch
import torch.nn.functional as F
from tiny_generator import tiny_generator

from optogram.errors import ParamError
from optogram.methods.rosetta.map_edits import ablating, lowered, pasted, raised, shifted, zoomed


def dot(row, column, side=8, channels=2):
    maps = torch.zeros(1, channels, side, side)
    maps[:, 0, row, column] = 1
    return maps


@pytest.mark.parametrize("side", [4, 5, 8, 16])
def test_a_zoom_is_the_middle_of_maps_twice_as_large(side):
    maps = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(side))
    found, large = zoomed(maps), F.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=False)
    assert found.shape == maps.shape
    for row in range(side):
        for column in range(side):
            assert torch.equal(found[..., row, column], large[..., side // 2 + row, side // 2 + column])
    assert torch.equal(zoomed(torch.ones(1, 1, side, side)), torch.ones(1, 1, side, side))


@pytest.mark.parametrize(("side", "places"), [(4, 1), (8, 2), (16, 4), (2, 0), (6, 2)])
def test_a_quarter_is_as_many_places_as_the_thesis_says(side, places):
    found = shifted(dot(0, 0, side), 0, 0.25)
    assert found[0, 0, 0, places] == 1
    assert found.sum() == 1


def test_what_is_shifted_out_is_gone_and_zeros_come_in():
    full = torch.ones(1, 1, 8, 8)
    assert torch.equal(shifted(full, 0.25, 0)[0, 0, :2], torch.zeros(2, 8))
    assert shifted(full, 0.25, 0)[0, 0, 2:].all()
    assert torch.equal(shifted(full, 0, -0.25)[0, 0, :, 6:], torch.zeros(8, 2))
    assert shifted(full, 0, -0.25)[0, 0, :, :6].all()
    assert torch.equal(shifted(full, 0, 0), full)
    with pytest.raises(ParamError, match="shifted by 1"):
        shifted(full, 1, 0)


def test_what_is_in_the_middle_is_pasted_twice():
    found = pasted(dot(3, 4))
    assert found[0, 0, 3].tolist() == [0, 0, 1, 0, 0, 0, 1, 0]
    assert not found[:, 1].any()


def test_removal_and_addition():
    maps = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    low = lowered(maps)
    assert low.shape == maps.shape
    assert torch.equal(low[1, 2], maps[1, 2].min().expand(4, 4))
    where = torch.zeros(2, 8, 8, dtype=torch.bool)
    where[0, :4, :4] = True
    high = raised(maps, torch.tensor([9.0, -9.0, 9.0]), where)
    assert (high[0, 0, :2, :2] == 9).all()
    assert torch.equal(high[0, 1], maps[0, 1])
    assert torch.equal(high[0, 0, 2:], maps[0, 0, 2:])
    assert torch.equal(high[1], maps[1])
    across = torch.zeros(1, 8, 8, dtype=torch.bool)
    across[0, 3:5, 1] = True
    coarse = raised(torch.zeros(1, 1, 2, 2), torch.ones(1), across)
    assert coarse[0, 0].tolist() == [[1, 0], [1, 0]], "small, and across the border of two places"
    larger = raised(torch.zeros(2, 1, 16, 16), torch.ones(1), where)
    assert torch.equal(larger[0, 0], torch.nn.functional.pad(torch.ones(8, 8), (0, 8, 0, 8)))


def test_ablated_units_are_off_inside_and_on_again_after():
    generator = tiny_generator(4, (8, 6, 5))
    latents = generator.latents([1, 2])
    plain, maps = generator.maps(latents)
    with ablating(generator, [(0, 3), (0, 5), (2, 1)]):
        other, off = generator.maps(latents)
    first, second, last = generator.layers
    assert not off[first][:, [3, 5]].any()
    assert torch.equal(off[first][:, [0, 1, 2, 4]], maps[first][:, [0, 1, 2, 4]])
    assert not torch.equal(off[second], maps[second])
    assert not off[last][:, 1].any()
    assert not torch.equal(plain, other)
    with pytest.raises(RuntimeError, match="inside"), ablating(generator, [(0, 3)]):
        raise RuntimeError("inside")
    assert torch.equal(generator.images(latents), plain)
