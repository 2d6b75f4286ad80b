"""HiResCAM and what of it lies outside a mask: against the definition, and planted maps."""

import numpy as np
import pytest
import timm
import torch
from planted_classifiers import colour_net
from torch import nn

from optogram.errors import ModelError, ShapeError
from optogram.methods.guidance.hirescam import LEAST, along, background, hirescam, outside
from optogram.models.layers import blocks
from optogram.models.linear_head import penultimate


def deep(seed=0):
    torch.manual_seed(seed)
    parts = [nn.Conv2d(3, 5, 3, padding=1), nn.GELU(), nn.Conv2d(5, 6, 3, stride=2), nn.ReLU()]
    parts += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)]
    return nn.Sequential(*parts).eval().requires_grad_(False)


def pictures(count=4, side=17, seed=1):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


SCALARS = {
    "unit": along(torch.eye(6)[2:3]),
    "direction": along(torch.linspace(-1, 1, 6)[None]),
    "curved": lambda features: features.square().sum(1).exp(),
}


@pytest.mark.parametrize("name", SCALARS)
def test_it_is_gradient_times_activation_summed_over_channels(name):
    model, images, scalar = deep(), pictures(), SCALARS[name]
    found = hirescam(model, images, scalar, ["1", "3"])
    for layer, maps in found.items():
        cut = int(layer) + 1
        for image, one in zip(images, maps, strict=True):
            activation = model[:cut](image[None]).requires_grad_()
            scalar(model[cut:-1](activation)).backward()
            torch.testing.assert_close(one, sum(activation.detach()[0] * activation.grad[0]))
        assert not maps.requires_grad
    assert (found["1"] < 0).any(), "signs are kept"


def test_after_the_last_convolution_a_map_adds_up_to_a_linear_scalar():
    model, images = deep(), pictures()
    (maps,) = hirescam(model, images, SCALARS["direction"]).values()
    assert maps.shape == (4, 8, 8)
    torch.testing.assert_close(maps.sum((1, 2)), SCALARS["direction"](penultimate(model, images)))


def test_an_image_gives_the_same_whatever_is_beside_it():
    model, images = deep(), pictures(6)
    directions = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    together = hirescam(model, images, along(directions), ["3"])["3"]
    order = [4, 1, 0, 5, 2, 3]
    other = hirescam(model, images[order], along(directions[order]), ["3"])["3"]
    assert torch.equal(together[order], other)


def test_a_transformer_s_tokens_are_a_map_that_a_norm_before_the_end_empties():
    torch.manual_seed(0)
    size = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 3}
    model = timm.create_model("vit_tiny_patch16_224", **size, class_token=False, global_pool="avg")
    model = model.eval().requires_grad_(False)
    images = pictures(3, 32)
    last = blocks(model, size=32)[-1]
    maps = hirescam(model, images, along(torch.eye(16)[:1]), ["blocks.0", last])
    assert maps[last].shape == maps["blocks.0"].shape == (3, 4, 4)
    assert maps[last].sum((1, 2)).abs().max() < 1e-3 * maps[last].abs().sum((1, 2)).min(), "Euler's theorem"
    found = outside(maps[last].numpy(), np.eye(4, dtype=np.uint8)[None].repeat(3, 0))
    assert found.unsummed.all()
    assert np.isnan(found.share).all()


def test_a_layer_or_a_scalar_that_does_not_fit_is_named():
    model, images = deep(), pictures()
    with pytest.raises(ModelError, match="has no layer 'layer4'"):
        hirescam(model, images, SCALARS["unit"], ["layer4"])
    with pytest.raises(ShapeError, match=r"the scalar has shape \(4, 6\); expected \(4,\)"):
        hirescam(model, images, lambda features: features, ["3"])

    class Beside(nn.Module):
        def __init__(self):
            super().__init__()
            self.main, self.side = deep(), nn.Conv2d(3, 2, 1)

        def forward(self, x):
            self.side(x)
            return self.main(x)

    with pytest.raises(ModelError, match="does not depend on layer 'side'"):
        hirescam(Beside().eval().requires_grad_(False), images, SCALARS["unit"], ["side"])


@pytest.mark.parametrize(("grid", "pixels"), [((2, 2), (8, 8)), ((3, 5), (4, 7)), ((4, 4), (4, 4)), ((6, 6), (4, 4))])
def test_the_sum_outside_is_that_of_the_map_spread_over_fine_pixels(grid, pixels):
    rng = np.random.default_rng(0)
    maps, masks = rng.random((3, *grid)), rng.integers(0, 3, (3, *pixels)).astype(np.uint8)
    found = outside(maps, masks)
    fine = [np.lcm(cells, points) for cells, points in zip(grid, pixels, strict=True)]
    for at in range(3):
        large, mask = maps[at], masks[at] == 0
        for axis in (0, 1):
            large = large.repeat(fine[axis] // grid[axis], axis)
            mask = mask.repeat(fine[axis] // pixels[axis], axis)
        large = large / large.sum()
        assert found.share[at] == pytest.approx(large[mask].sum())
    np.testing.assert_allclose(found.area, (masks == 0).mean((1, 2)))
    np.testing.assert_allclose(found.lowest, background(masks, grid).min((1, 2)))


def test_negative_values_stay_and_what_cannot_be_normalised_is_left_out():
    mask = np.array([[[0, 1]]] * 5)
    maps = np.array([[[3.0, -1.0]], [[-1.0, 3.0]], [[1.0, -1.0]], [[-2.0, 1.0]], [[1.0 + 0.9 * LEAST, -1.0]]])
    found = outside(maps, mask)
    np.testing.assert_allclose(found.share[:2], [1.5, -0.5])
    assert found.unsummed.tolist() == [False, False, True, True, True]
    assert np.isnan(found.share[2:]).all()


def test_objects_that_are_nowhere_or_everywhere_are_left_out():
    masks = np.stack([np.zeros((2, 2)), np.ones((2, 2)), np.eye(2)]).astype(np.uint8)
    found = outside(np.ones((3, 2, 2)), masks)
    assert found.unseen.tolist() == [True, True, False]
    assert found.share[2] == 0.5
    assert np.isnan(found.share[:2]).all()


@pytest.mark.misfits
def test_maps_and_masks_of_different_number_are_refused():
    with pytest.raises(ShapeError, match="2 maps, but masks of 3 images"):
        outside(np.ones((2, 2, 2)), np.ones((3, 2, 2), np.uint8))


def test_a_unit_that_reads_the_object_alone_has_nothing_outside():
    model = colour_net([[1.0, 0, 0]], np.eye(3))
    images = torch.zeros(1, 3, 8, 8)
    images[:, 1] = 1
    images[:, :, 2:4, 2:4] = torch.tensor([1.0, 0, 0])[:, None, None]
    mask = (images[:, 0] > 0).numpy()
    for unit, share in ((0, 0.0), (1, 1.0)):
        (maps,) = hirescam(
            model.eval().requires_grad_(False), images, along(torch.eye(3)[unit : unit + 1]), ["layer"]
        ).values()
        assert outside(maps.numpy(), mask).share[0] == share
