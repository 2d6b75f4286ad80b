"""Pictures that are no scenes: nothing of an object is left in them."""

import numpy as np
import pytest
import torch

from optogram.data.scenes import Scenes
from optogram.errors import DataError, ParamError
from optogram.models.training.strangers import Halves, Strangers


@pytest.fixture(scope="module")
def scenes():
    return Scenes("train", 200, 0, size=32).read(0, 200)


@pytest.fixture
def halves(scenes):
    return Halves(scenes["pixels"].values, scenes["mask"].values)


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("kind", ["grounds", "clouds", "blobs"])
def test_the_same_draw_gives_the_same_pictures(halves, kind):
    first, second, other = (getattr(halves, kind)(9, draw(seed)) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first.images, other.images)
    assert first.images.shape == (9, 3, 32, 32)
    assert 0 <= first.images.min() < first.images.max() <= 1
    assert [len(each) for each in getattr(halves, kind)(0, draw())] == [0, 0, 0]


def test_a_ground_is_a_free_half_of_its_scene_and_its_mirror_image(halves, scenes):
    """Undone: shifted back, each is a half in which the mask is empty, twice."""
    drawn = halves.grounds(60, draw())
    assert not drawn.inside.any()
    ways = set()
    for picture, scene in zip(drawn.images, drawn.scene.tolist(), strict=True):
        pixels, mask = (scenes[name].values[scene] for name in ("pixels", "mask"))
        seen = (picture.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
        matches = [
            (axis, start)
            for axis in (0, 1)
            for start in (0, 16)
            if not mask.take(range(start, start + 16), axis).any()
            for shift in range(32)
            if np.array_equal(np.roll(seen, -shift, axis), mirrored(pixels.take(range(start, start + 16), axis), axis))
        ]
        assert matches
        ways |= set(matches)
    assert len(ways) == 4


def mirrored(half, axis):
    return np.concatenate([half, np.flip(half, axis)], axis)


def test_a_blob_lies_on_a_ground_and_is_of_one_colour(halves):
    drawn = halves.blobs(40, draw(3))
    assert drawn.inside.any((1, 2)).sum() > 20
    for picture, inside in zip(drawn.images, drawn.inside, strict=True):
        away = torch.nn.functional.max_pool2d(inside[None, None].float(), 9, 1, 4)[0, 0] == 0
        if inside.sum() > 60:
            core = torch.nn.functional.avg_pool2d(inside[None, None].float(), 5, 1, 2)[0, 0] == 1
            assert core.sum() < 2 or picture[:, core].std(1).max() < 0.12
        assert away.any()
    assert torch.equal(drawn.scene, halves.grounds(40, draw(3)).scene)


def test_clouds_are_of_no_scene(halves):
    drawn = halves.clouds(30, draw())
    assert drawn.scene.tolist() == [-1] * 30
    assert not drawn.inside.any()
    rough = (drawn.images[:, :, 1:] - drawn.images[:, :, :-1]).abs().mean((1, 2, 3))
    assert rough.max() > 4 * rough.min()


def test_scenes_without_a_free_half_are_refused(scenes):
    crowded = np.ones_like(scenes["mask"].values)
    with pytest.raises(DataError, match=r"in each image objects lie in all halves"):
        Halves(scenes["pixels"].values, crowded)


@pytest.mark.parametrize("changed", [{"blobs": -0.1}, {"grounds": 0.5, "clouds": 0.5}])
def test_shares_that_are_none_are_refused(changed):
    with pytest.raises(ParamError, match=r"expected shares from 0 on"):
        Strangers(**changed)
