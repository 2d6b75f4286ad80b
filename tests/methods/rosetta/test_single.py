"""One shared unit alone, where the generator is planted: its picture is where the unit was led to."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from planted_blob import planted_blob

from optogram.methods.rosetta.groups import Drawn, rosetta
from optogram.methods.rosetta.inversion import Inversion
from optogram.methods.rosetta.mining import Member
from optogram.methods.rosetta.reconstruction import moments_of
from optogram.methods.rosetta.single import GOALS, single_units
from optogram.models.generative.sampling import to_pixels


def brightness(pixels):
    """A model that sees where it is bright, and where it is dark."""
    grey = torch.from_numpy(pixels).float().mean(-1)[:, None] / 255
    return [torch.cat([grey, 1 - grey], 1)]


@pytest.fixture(scope="module")
def blob():
    generator, judge = planted_blob()
    member = Member("seer", ("grey",), brightness, lambda pixels: [torch.rand(len(pixels), 2, 32, 32)])
    source = Drawn("blob", generator, range(160), judge)
    settings = {"k": 3, "rate": 0.2, "shuffles": 2, "alike": 0.9, "seed": 0, "shown": 0}
    return generator, rosetta(source, [source.own[0], member, source.own[1]], **settings), member


def test_a_unit_alone_goes_where_its_partner_was(blob):
    generator, found, member = blob
    with torch.no_grad():
        pixels = to_pixels(generator.images(generator.latents([900, 901, 902])), "blob")
    told = []
    options = Inversion(steps=80, learning_rate=0.1, regular=0.01)
    given = (generator, found, [member], pixels, [5, 6, 7], options)
    alone = single_units(*given, count=2, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (80, 80)
    assert alone.goal.values.tolist() == list(GOALS)
    assert alone.alone_concept.values.tolist() == [0, 1]
    assert alone.alone_pixels.shape == (2, 3, 3, 32, 32, 3)
    start, led, other = (alone.alone_similarity.sel(goal=goal) for goal in GOALS)
    assert (led.mean("latent") > start.mean("latent")).all()
    assert (led.mean("latent") > other.mean("latent")).all()
    # the picture of the start is that of the seed, whatever the concept
    with torch.no_grad():
        first = to_pixels(generator.images(generator.latents([5, 6, 7])), "blob")
    assert np.abs(alone.alone_pixels.sel(goal="start").values.astype(int) - first).max() <= 1

    image, unit = int(alone.alone_image[0]), found.concept_unit.values[0].astype(int)
    partner = int(found.channel.values[unit[1]])
    seen = [one[partner] for one in brightness(pixels)[0]]
    assert seen[image].max() == max(one.max() for one in seen), "the image in which the partner is strongest"
    heat = (seen[image] - seen[image].min()) / (seen[image].max() - seen[image].min())
    np.testing.assert_allclose(alone.alone_map.values[0], heat, atol=1e-6)

    # literal: eq. 4.6 of one pair, both maps at the larger size, over the places of one image
    own, theirs = moments_of(found, "blob"), moments_of(found, "seer")
    channel = int(found.channel.values[unit[0]])
    with torch.no_grad():
        (maps,) = generator.maps(generator.latents([5, 6, 7]))[1].values()
    large = F.interpolate(maps[:, channel : channel + 1], size=(32, 32), mode="bilinear")[:, 0]
    theirs_here = (seen[image] - theirs.mean[0][partner]) / theirs.deviation[0][partner]
    literal = ((large - own.mean[0][channel]) / own.deviation[0][channel] * theirs_here).mean((1, 2))
    np.testing.assert_allclose(start.values[0], literal, rtol=1e-4, atol=1e-5)


def test_one_concept_has_no_other_as_its_control(blob):
    generator, found, member = blob
    pixels = np.zeros((2, 32, 32, 3), np.uint8)
    assert single_units(generator, found, [member], pixels, [0], Inversion(2), count=1) is None
    same = found.isel(concept=[0, 0])
    assert single_units(generator, same, [member], pixels, [0], Inversion(2), count=2) is None, "one partner for both"
