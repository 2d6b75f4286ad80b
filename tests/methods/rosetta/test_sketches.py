"""Sketches turned into pictures by units, where the generator is planted and its units are known."""

import numpy as np
import torch
import xarray as xr
from planted_blob import VALUES, planted_blob

from optogram.methods.rosetta.groups import Drawn, rosetta
from optogram.methods.rosetta.inversion import Inversion
from optogram.methods.rosetta.mining import Member
from optogram.methods.rosetta.sketches import outlines, overlaps, sketched


def test_an_outline_is_the_edge_of_the_object_and_of_no_other_image():
    mask = np.zeros((3, 8, 8), np.uint8)
    mask[1, 2:6, 2:6] = 1
    found = outlines(mask)
    assert found.shape == (3, 8, 8, 3)
    assert (found[[0, 2]] == 255).all()
    dark = found[1, ..., 0] == 0
    expected = np.zeros((8, 8), bool)
    expected[1:7, 1:7] = True
    expected[3:5, 3:5] = False
    np.testing.assert_array_equal(dark, expected)


def test_overlap_is_that_of_the_definition():
    one, other = np.zeros((2, 4, 4), bool), np.zeros((2, 4, 4), bool)
    one[0, :2], other[0, 1:3] = True, True
    np.testing.assert_allclose(overlaps(one, other), [1 / 3, 0])


def test_units_lead_to_where_the_sketch_is_and_permuted_ones_less():
    """The other model sees where something stands out, on a dark ground or in an outline."""
    generator, judge = planted_blob()

    def stands_out(pixels):
        grey = torch.from_numpy(pixels).float().mean(-1) / 255
        centred = (grey - grey.flatten(1).median(1).values[:, None, None]).abs()[:, None]
        kernel = torch.ones(1, 1, 9, 9) / 81
        around = torch.nn.functional.conv2d(centred, kernel, padding=4)
        return [torch.cat([around, 1 - around], 1)]

    member = Member("seer", ("around",), stands_out, lambda pixels: [torch.rand(len(pixels), 2, 32, 32)])
    source = Drawn("blob", generator, range(160), judge)
    settings = {"k": 3, "rate": 0.2, "shuffles": 2, "alike": 0.9, "seed": 0, "shown": 0}
    found = rosetta(source, [source.own[0], member, source.own[1]], **settings)
    mask = np.zeros((4, 32, 32), np.uint8)
    for k, (row, column) in enumerate([(6, 6), (6, 18), (18, 6), (18, 18)]):
        mask[k, row : row + 8, column : column + 8] = 1
    scenes = xr.Dataset(
        {
            "mask": (("image", "y", "x"), mask),
            "label": (("image", "attribute"), np.zeros((4, 2), np.int16)),
            "value_name": (("attribute", "value"), np.array(list(VALUES.values()))),
        },
        {"attribute": list(VALUES)},
    )
    told = []
    result = sketched(
        generator,
        found,
        [member],
        scenes,
        range(4),
        Inversion(steps=80, learning_rate=0.1, regular=0.01),
        judge,
        permutation=1,
        progress=lambda done, total: told.append((done, total)),
    )
    assert result.sketch_pixels.shape == (2, 4, 32, 32, 3)
    ours, mixed = (float(result.sketch_overlap.sel(guide=guide).mean()) for guide in ("all models", "permuted pairs"))
    assert ours > 0.2
    assert mixed < ours
    assert result.sketch_seen.isnull().all(), "this judge knows neither shapes nor sizes"
    assert told[-1] == (160, 160)
