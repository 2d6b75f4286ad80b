"""Edits by shared units, where the generator is planted: its units are where the object is, and of which colour."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr
from artifact_schemas import schemas
from planted_blob import SIDE, VALUES, planted_blob

from optogram.errors import ParamError, ShapeError
from optogram.methods.rosetta.concept_edits import other_units
from optogram.methods.rosetta.edits import edits, headline, named_concepts, shared_units
from optogram.methods.rosetta.following import Drawing, follow
from optogram.methods.rosetta.groups import Drawn, rosetta
from optogram.methods.rosetta.inversion import Inversion, similarity, targets_of
from optogram.methods.rosetta.map_edits import shifted
from optogram.methods.rosetta.mining import Member
from optogram.methods.rosetta.reconstruction import moments_of
from optogram.metrics.edits import enlarged, kept, moved, succeeded


@pytest.fixture(scope="module")
def planted():
    generator, judge = planted_blob()

    def colours(pixels):
        return [torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255]

    member = Member("colours", ("rgb",), colours, lambda pixels: [torch.rand(len(pixels), 3, 32, 32)])
    source = Drawn("blob", generator, range(160), judge)
    settings = {"k": 3, "rate": 0.1, "shuffles": 2, "alike": 0.9, "seed": 0, "shown": 0}
    found = rosetta(source, [source.own[0], member, source.own[1]], **settings)
    return Drawing("blob", generator, moments_of(found, "blob"), judge), found


OPTIONS = Inversion(steps=60, learning_rate=0.1, regular=0.01)


@pytest.fixture(scope="module")
def edited(planted):
    drawing, found = planted
    told = []
    result = edits(
        drawing,
        found,
        range(160),
        OPTIONS,
        images=6,
        concepts=2,
        seed=0,
        progress=lambda done, total: told.append((done, total)),
    )
    return result, told


def test_an_edit_of_planted_units_is_seen_and_permuted_ones_do_less(edited):
    found, told = edited
    seen = found.succeeded.mean("image")
    assert float(seen.sel(edit="shift right", pairs="shared units")) >= 0.8
    assert float(seen.sel(edit="zoom in", pairs="shared units")) >= 0.5
    assert (seen.sel(pairs="permuted") <= seen.sel(pairs="shared units")).all()
    # red and blue lie at the same places, so that exchanging them still moves something
    assert float(seen.sel(edit="shift right", pairs="permuted")) < 0.8
    # a generator that draws one object cannot draw it twice, wherever its units are asked to be
    assert not seen.sel(edit="copy and paste").any()
    moved_right = found.amount.sel(edit="shift right", pairs="shared units")
    assert float(moved_right.mean()) == pytest.approx(8, abs=3)
    assert (found.reached.sel(edit="shift right", pairs="shared units") > 0.5).all()
    assert (found.success_low <= seen).all()
    assert (found.success_high >= seen).all()
    assert told[0][0] == 0
    assert told[-1] == (10 * 60, 10 * 60)


def test_units_of_a_value_take_it_out_and_put_it_in(edited):
    found, _ = edited
    colour = [name for name in found.concept.values.tolist() if name.startswith("colour")]
    assert colour
    seen = found.concept_seen.sel(concept=colour).mean("sample")
    assert (seen.sel(way="ablated", units="its units") == 0).all()
    assert (seen.sel(way="removed", units="its units") <= 0.5).all()
    assert (seen.sel(way="added", units="its units") >= 0.5).all()
    assert (seen.sel(way="ablated", units="other units") > seen.sel(way="ablated", units="its units")).all()


def test_the_headline_stands_beside_permuted_units(edited):
    line = headline(edited[0])
    assert line.versus == "permuted units"
    assert line.value > line.versus_value
    assert line.of == 18


def test_the_same_bytes_come_again(planted, edited):
    drawing, found = planted
    again = edits(drawing, found, range(160), OPTIONS, images=6, concepts=2, seed=0)
    xr.testing.assert_identical(again, edited[0])


def test_the_way_is_that_of_the_definition(planted):
    """Mean squared distance of standardised maps, written out."""
    drawing, found = planted
    latents, units = drawing.generator.latents([7, 8, 9]), shared_units(found)
    pairs = [(unit, unit) for unit in units]
    maps = [shifted(layer, 0, 0.25) for layer in drawing.maps(latents)]
    there, reached = follow(drawing, latents, [(maps, pairs)], replace(OPTIONS, steps=5))

    def distance(latents):
        now = drawing.maps(latents)
        each = [
            ((now[layer][:, c] - maps[layer][:, c]) / drawing.own.deviation[layer][c]).square().mean((1, 2))
            for layer, c in units
        ]
        return torch.stack(each).mean(0)

    np.testing.assert_allclose(reached, (1 - distance(there) / distance(latents)).numpy(), rtol=1e-3, atol=1e-4)


def test_pictures_followed_together_are_those_followed_alone(planted):
    drawing, found = planted
    latents, (first, *others) = drawing.generator.latents([7, 8]), [(unit, unit) for unit in shared_units(found)]
    maps = [shifted(layer, 0, 0.25) for layer in drawing.maps(latents)]
    wanted = [([layer[:1] for layer in maps], [first]), ([layer[1:] for layer in maps], others)]
    both, _ = follow(drawing, latents, wanted, OPTIONS)
    for k, each in enumerate(wanted):
        alone, _ = follow(drawing, latents[k : k + 1], [each], OPTIONS)
        torch.testing.assert_close(alone[0], both[k], rtol=1e-2, atol=1e-2)


def test_without_bounds_a_map_that_is_twice_as_strong_is_twice_as_similar(planted):
    drawing, found = planted
    own, layers = drawing.own, drawing.generator.layers
    maps = drawing.maps(drawing.generator.latents([1, 2]))
    pairs = [(unit, unit) for unit in shared_units(found)]
    targets = targets_of(maps, own, drawing.generator, own, pairs)
    centre = own.mean[0][:, None, None]
    twice = [centre + 2 * (maps[0] - centre)]
    once, double = (similarity(dict(zip(layers, m, strict=True)), layers, own, targets) for m in (maps, twice))
    torch.testing.assert_close(double, 2 * once)


def test_other_units_are_of_the_same_layers():
    found = other_units({0: [0, 1, 2, 3], 1: [0, 1, 2], 2: [*range(9)]}, [(0, 1), (0, 2), (1, 0), (1, 1)], seed=1)
    assert [unit for unit in found if unit[0] == 0] == [(0, 0), (0, 3)]
    assert [unit for unit in found if unit[0] == 1] == [(1, 2)]
    assert other_units({0: [0, 1]}, [(0, 0), (0, 1)], seed=0) == []


def test_concepts_are_values_that_shared_units_are_named_by(planted):
    _, found = planted
    units = shared_units(found)
    named = named_concepts(found, units)
    assert {each.attribute for each in named} <= {*VALUES}
    assert all(set(each.units) <= set(units) for each in named)
    first = [each.attribute for each in named[: len({one.attribute for one in named})]]
    assert len(first) == len(set(first)), "one of each attribute comes first"


def test_pictures_without_an_object_are_edited_last_and_say_nothing(planted):
    drawing, found = planted
    blind = replace(drawing, judge=replace(drawing.judge, least=SIDE**2))
    few = edits(blind, found, range(4), replace(OPTIONS, steps=2), images=3, concepts=2, seed=0)
    assert few.sizes["image"] == 3
    assert few.succeeded.isnull().all()
    assert not few.success_of.any()
    assert few.reached.notnull().all()
    assert few.kept.isnull().all()
    assert few.amount.isnull().all()
    assert headline(few).measure == "way to edited maps that shared units went"
    assert headline(few).of == 3
    assert "concept" not in few.dims


def test_the_artifact_is_as_documented(edited):
    wanted = schemas()["rosetta_edits/<group>"]
    assert {name: variable.dims for name, variable in edited[0].data_vars.items()} == wanted


# The metrics, by hand


def parsed(boxes, areas, values):
    """A row a picture; None where no object is."""
    box, area = np.full((len(boxes), 2, 4), np.nan), np.full((len(boxes), 2), np.nan)
    for row, (one, of) in enumerate(zip(boxes, areas, strict=True)):
        for k, (corner, size) in enumerate(zip(one, of, strict=True)):
            box[row, k], area[row, k] = corner, size
    return xr.Dataset(
        {
            "box": (("image", "object", "side"), box),
            "area": (("image", "object"), area),
            "count": ("image", np.array([len(one) for one in boxes])),
            "value": (("image", "attribute"), np.array(values)),
        },
        {"attribute": ["shape", "colour"]},
    )


BEFORE = parsed(
    [[(4, 4, 8, 8)], [(4, 4, 8, 8)], [], [(0, 0, 4, 4)]], [[16], [16], [], [16]], [[0, 1], [0, 1], [-1, -1], [2, 2]]
)
AFTER = parsed(
    [[(4, 12, 8, 16)], [(2, 3, 8, 9)], [(0, 0, 4, 4)], [(0, 0, 4, 4), (8, 8, 12, 12)]],
    [[16], [36], [16], [16, 16]],
    [[0, 1], [0, 2], [1, 1], [2, 2]],
)


def test_how_far_and_how_much_larger():
    np.testing.assert_array_equal(moved(BEFORE, AFTER), [[0, 8], [-1, 0], [np.nan] * 2, [np.nan] * 2])
    np.testing.assert_array_equal(enlarged(BEFORE, AFTER), [1, 36 / 16, np.nan, np.nan])


@pytest.mark.parametrize(
    ("edit", "expected"),
    [("shift right", [1, 0, np.nan, 0]), ("zoom in", [0, 1, np.nan, 0]), ("copy and paste", [0, 0, np.nan, 1])],
)
def test_what_counts_as_seen(edit, expected):
    np.testing.assert_array_equal(succeeded(edit, BEFORE, AFTER, side=32), expected)


def test_what_stays_is_counted_of_what_there_was():
    np.testing.assert_array_equal(kept(BEFORE, AFTER, ["shape", "colour"]), [1, 0.5, np.nan, 1])
    with pytest.raises(ParamError, match="attribute 'shap'"):
        kept(BEFORE, AFTER, ["shap"])
    with pytest.raises(ParamError, match="'zoom' is unknown"):
        succeeded("zoom", BEFORE, AFTER, side=32)
    with pytest.raises(ShapeError, match="4 pictures before and 1 after"):
        moved(BEFORE, AFTER.isel(image=[0]))
