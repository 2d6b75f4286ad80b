"""Which layers' channels are units, and their maps."""

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import nn

from optogram.errors import ModelError
from optogram.models.loading.classifier_folders import load_classifier_folder, save_classifier
from optogram.models.loading.classifiers import Classifier
from optogram.models.loading.clip_folders import Preprocess, build_clip, save_clip
from optogram.models.units import load_units, unit_layers, untrained

RESNET = {"channels": [8, 8, 16, 16], "stem_width": 8, "num_classes": 4}
VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
HALF = (0.5, 0.5, 0.5)


def pixels(count, side=64, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), np.uint8)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    torch.manual_seed(3)
    model = timm.create_model("resnet10t", **RESNET).eval().requires_grad_(False)
    path = tmp_path_factory.mktemp("models") / "small"
    made = Classifier(model, Preprocess(64, HALF, HALF), HALF, HALF, (64, 64), tuple("abcd"), "shape")
    save_classifier(made, path, spec="timm:resnet10t", arguments=RESNET, dtype=torch.float32)
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "clip"
    vision = {"image_size": 32, "layers": 2, "width": 16, "patch_size": 8, "head_width": 8}
    text = {"context_length": 16, "vocab_size": 600, "width": 16, "heads": 2, "layers": 1}
    save_clip(build_clip({"embed_dim": 8, "vision_cfg": vision, "text_cfg": text}, seed=0), path, dtype=torch.float32)
    return path


@pytest.mark.parametrize(
    ("model", "size", "expected"),
    [
        (
            lambda: timm.create_model("resnet10t", **RESNET),
            64,
            ["conv1.2", "conv1.5", "act1", *(f"layer{k}.0.act{n}" for k in (1, 2, 3, 4) for n in (1, 2))],
        ),
        (
            lambda: timm.create_model(
                "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2
            ),
            32,
            ["blocks.0.mlp.act", "blocks.1.mlp.act"],
        ),
        # its ReLU runs twice in a block, which ends with it
        (
            lambda: torchvision.models.resnet18(weights=None),
            64,
            ["relu", *(f"layer{k}.{n}" for k in (1, 2, 3, 4) for n in (0, 1))],
        ),
        # nothing in it is a nonlinearity
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3, 2)), 16, ["0", "1"]),
    ],
)
def test_units_are_what_comes_out_of_nonlinearities(model, size, expected):
    assert unit_layers(model().eval(), size=size) == expected


def test_gates_are_no_units():
    gated = timm.create_model("efficientnet_b0", num_classes=3).eval()
    found = unit_layers(gated, size=64)
    assert found
    assert not [name for name in found if ".se." in name]


def test_maps_are_those_of_the_layers(classifier):
    units, images = load_units(classifier, side=64), pixels(3)
    seen = {}
    model = load_classifier_folder(classifier).model
    model.layer2[0].act2.register_forward_hook(lambda _, __, output: seen.update(found=output.clone()))
    model(Preprocess(64, HALF, HALF)(images))
    maps = units.maps(images)[units.layers.index("layer2.0.act2")]
    torch.testing.assert_close(maps, seen["found"])
    assert (maps >= 0).all()


def test_a_clip_s_units_are_those_of_its_image_tower(clip):
    units = load_units(clip, side=64)
    assert units.layers == tuple(f"transformer.resblocks.{k}.mlp.gelu" for k in (0, 1))
    assert [maps.shape for maps in units.maps(pixels(2))] == [(2, 64, 4, 4)] * 2


def test_named_layers_are_taken_as_they_are(classifier):
    assert load_units(classifier, ["layer1", "layer3"], side=64).layers == ("layer1", "layer3")
    with pytest.raises(ModelError, match="no layer 'layer9'"):
        load_units(classifier, ["layer9"], side=64).maps(pixels(1))
    with pytest.raises(ModelError, match="no layers of units"):
        load_units(classifier, [], side=64)


@pytest.mark.parametrize("kind", ["classifier", "clip"])
def test_an_untrained_twin_is_the_model_with_other_weights(kind, request):
    folder, images = request.getfixturevalue(kind), pixels(16)
    trained = load_units(folder, side=64)
    twin, again, other = (untrained(folder, trained, images, seed=seed) for seed in (1, 1, 2))
    shapes = [(name, w.shape) for name, w in trained.model.named_parameters()]
    assert [(name, w.shape) for name, w in twin.model.named_parameters()] == shapes
    assert twin.layers == trained.layers
    found = [units.maps(images[:4])[-1] for units in (trained, twin, again, other)]
    assert torch.equal(found[1], found[2])
    assert not torch.allclose(found[1], found[0])
    assert not torch.allclose(found[1], found[3])
    assert not any(part.training for part in twin.model.modules())


def test_an_untrained_twin_takes_the_images_statistics(classifier):
    images = pixels(32)
    twin = untrained(classifier, load_units(classifier, side=64), images, seed=0)
    seen = []
    twin.model.bn1.register_forward_hook(lambda _, __, output: seen.append(output.clone()))
    twin.maps(images)
    assert abs(float(seen[-1].mean())) < 0.05
    assert abs(float(seen[-1].std()) - 1) < 0.05


@pytest.mark.parametrize("side", [64, 32], ids=["its size", "another size"])
def test_watched_images_give_the_maps_of_their_pixels_and_gradients(classifier, side):
    units = load_units(classifier, side=side)
    seen = pixels(2, side)
    images = (torch.from_numpy(seen).permute(0, 3, 1, 2).float() / 255).requires_grad_(True)
    watched = units.watch(images)
    for one, other in zip(watched, units.maps(seen), strict=True):
        assert one.shape == other.shape
        if side == 64:
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    watched[-1].sum().backward()
    assert images.grad.abs().sum() > 0
