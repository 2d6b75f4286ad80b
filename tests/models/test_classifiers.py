import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torchvision.models import ConvNeXt, VisionTransformer
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.vgg import VGG, make_layers

from optogram.data.photos import Photos
from optogram.errors import ModelError
from optogram.models.layers import activations, blocks, in_order
from optogram.models.linear_head import catching_head, penultimate
from optogram.models.loading.classifiers import load_classifier
from optogram.models.loading.clip_folders import Preprocess

SHARED = Path(os.environ.get("OPTOGRAM_SHARED_DATA", Path(__file__).parents[3] / "shared/data"))


# Factories that specs of this file name


def plain():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))


def prepared():
    return plain(), Preprocess(48, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def equalised():
    return plain(), lambda pixels: torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div(255).square()


def inverted():
    return plain(), lambda pixels: 1 - torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div(255)


def flattened():
    return plain(), lambda pixels: torch.from_numpy(pixels).float().flatten(1)


def saved(tmp_path, model):
    path = tmp_path / "weights.safetensors"
    save_file(model.state_dict(), path)
    return path


def vit(layers=3):
    return VisionTransformer(32, 8, layers, 2, 16, 32, num_classes=5).eval()


def timm_vit(**options):
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=16, depth=3, num_heads=2, **options
    ).eval()


def vgg():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = VGG(make_layers([4, "M", 8, 8, "M", 8]), init_weights=False)
    made.avgpool, made.classifier = nn.AdaptiveAvgPool2d(2), nn.Sequential(nn.Linear(32, 5))
    return made.eval()


def convnext():
    return ConvNeXt(
        [CNBlockConfig(8, 12, 2), CNBlockConfig(12, 16, 2), CNBlockConfig(16, None, 1)], num_classes=5
    ).eval()


# Preprocessing in numbers


def test_preprocessing_of_torchvision_and_timm_and_of_factories(tmp_path):
    shuffle = torchvision.models.shufflenet_v2_x0_5(weights=None, num_classes=3)
    found = load_classifier("torchvision:shufflenet_v2_x0_5", checkpoint=saved(tmp_path, shuffle), device="cpu")
    assert np.allclose([found.mean, found.std], [(0.485, 0.456, 0.406), (0.229, 0.224, 0.225)], atol=1e-5)
    assert found.size == (224, 224)
    assert found.model(torch.zeros(1, 3, 64, 64)).shape == (1, 3)
    made = timm.create_model("vit_tiny_patch16_224")
    found = load_classifier("timm:vit_tiny_patch16_224", checkpoint=saved(tmp_path, made), device="cpu")
    assert np.allclose([found.mean, found.std], 0.5, atol=1e-5)
    assert found.size == (224, 224)
    found = load_classifier(f"callable:{__name__}:prepared", device="cpu")
    assert np.allclose([found.mean, found.std], [(0.1, 0.2, 0.3), (0.4, 0.5, 0.6)], atol=1e-5)
    assert found.size == (48, 48)
    found = load_classifier(f"callable:{__name__}:plain", device="cpu")
    assert (found.mean, found.size) == ((0, 0, 0), None)


def test_normalise_is_the_preprocessing():
    found = load_classifier(f"callable:{__name__}:prepared", device="cpu")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 48, 48, 3), np.uint8)
    rgb = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    assert torch.allclose(found.normalise(rgb), found.preprocess(pixels), atol=1e-5)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("open_clip:ViT-B-32/openai", r"is a CLIP and has no classes. Expected timm:NAME"),
        (f"callable:{__name__}:equalised", r"not \(rgb - mean\) / std of each colour; black became \[0.0, "),
        (f"callable:{__name__}:inverted", r"not \(rgb - mean\) / std"),
        (f"callable:{__name__}:flattened", r"made \(3, 12288\) of 3 images; expected \(3, 3, y, x\)"),
        (f"callable:{__name__}:plane", r"has no function 'plane'. Did you mean .*'plain'"),
    ],
)
def test_specs_of_no_classifier(spec, message):
    with pytest.raises(ModelError, match=message):
        load_classifier(spec, device="cpu")


def test_a_checkpoint_that_does_not_fit(tmp_path):
    other = nn.Sequential(nn.Conv2d(3, 5, 3))
    with pytest.raises(ModelError, match=r"0.bias has shape \(5,\), expected \(4,\)|0.weight has shape \(5, 3, 3, 3\)"):
        load_classifier(f"callable:{__name__}:plain", checkpoint=saved(tmp_path, other))


# Blocks


def test_blocks_of_cnns():
    stages = ["layer1", "layer2", "layer3", "layer4"]
    assert blocks(torchvision.models.resnet18(weights=None)) == ["relu", *stages]
    assert blocks(timm.create_model("resnet26d")) == ["act1", *stages]
    assert blocks(timm.create_model("convnext_atto")) == [f"stages.{stage}" for stage in range(4)]
    # of torchvision's layout: stem, stage, downsampling, stage, …
    assert blocks(convnext()) == ["features.1", "features.3", "features.5"]
    # the last ReLU before each pooling
    assert blocks(vgg()) == ["features.1", "features.6", "features.9"]


def test_blocks_of_vits():
    layers = [f"encoder.layers.encoder_layer_{layer}" for layer in range(3)]
    assert blocks(vit(), size=32) == ["conv_proj", *layers]
    expected = ["patch_embed.proj", "blocks.0", "blocks.1", "blocks.2"]
    assert blocks(timm_vit(), size=32) == expected
    # LayerNorms beside the encoder that give tokens of the same shape
    assert blocks(timm_vit(pre_norm=True, reg_tokens=2), size=32) == expected


def test_blocks_leave_the_model_as_it_was():
    model = torchvision.models.resnet18(weights=None).train()
    model.layer1.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    blocks(model)
    assert model.training
    assert not model.layer1.training
    assert model.layer2.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_blocks_that_are_not_found():
    with pytest.raises(ModelError, match=r"no blocks found in Sequential with images of 224 x 224"):
        blocks(nn.Sequential(nn.Flatten(), nn.Linear(3 * 224 * 224, 2)))
    model = vit()
    with pytest.raises(ModelError, match=r"does not take an image of 224 x 224: .*Pass its size as `size`"):
        blocks(model)
    assert not any(module._forward_hooks for module in model.modules())


# Activations


def literal(model, images):
    """The ResNet's own forward, written out."""
    x = model.relu(model.bn1(model.conv1(images)))
    found = {"relu": x.clone()}
    x = model.maxpool(x)
    for name in ("layer1", "layer2", "layer3", "layer4"):
        x = getattr(model, name)(x)
        found[name] = x.clone()
    return found


def test_activations_of_a_cnn_and_their_gradient():
    model = torchvision.models.resnet18(weights=None).eval()
    images = torch.randn(2, 3, 64, 48, requires_grad=True)
    layers = ["layer4", "relu", "layer2"]
    found, expected = activations(model, images, layers), literal(model, images)
    assert list(found) == layers
    assert all(torch.equal(found[name], expected[name]) for name in layers)
    ours, theirs = (torch.autograd.grad(each["layer2"].square().sum(), images)[0] for each in (found, expected))
    assert torch.equal(ours, theirs)
    assert not any(module._forward_hooks for module in model.modules())


def test_a_later_relu_in_place_does_not_change_what_was_caught():
    model = torchvision.models.resnet18(weights=None).eval()
    images = torch.randn(1, 3, 32, 32)
    found = activations(model, images, ["bn1"])["bn1"]
    assert torch.equal(found, nn.Sequential(model.conv1, model.bn1)(images))
    assert (found < 0).any()


def test_tokens_are_laid_out_as_patches_without_the_class_token():
    images = torch.randn(2, 3, 32, 32)
    model = vit()
    tokens = torch.cat([model.class_token.expand(2, -1, -1), model._process_input(images)], 1)
    tokens = model.get_submodule("encoder.layers.encoder_layer_0")(tokens + model.encoder.pos_embedding)
    found = activations(model, images, ["encoder.layers.encoder_layer_0"])["encoder.layers.encoder_layer_0"]
    assert found.shape == (2, 16, 4, 4)
    for y in range(4):
        for x in range(4):
            assert torch.allclose(found[:, :, y, x], tokens[:, 1 + 4 * y + x], atol=1e-6)


def test_tokens_of_oblong_images_with_registers():
    model = timm_vit(reg_tokens=4, dynamic_img_size=True)
    images = torch.randn(2, 3, 16, 40)
    names = ["patch_embed.proj", "blocks.1", "norm"]
    found = activations(model, images, names)
    assert {each.shape for each in found.values()} == {(2, 16, 2, 5)}
    assert torch.equal(found["norm"].flatten(2).mT, model.forward_features(images)[:, 5:])  # pyright: ignore


def test_layers_that_cannot_be_taken():
    model = torchvision.models.resnet18(weights=None).eval()
    images = torch.randn(1, 3, 64, 64)
    for name, message in (
        ("layer5", r"no layer 'layer5'. Did you mean 'layer\d'.*`blocks` lists"),
        ("", r"no layer ''"),
        ("layer1.0.relu", r"'layer1.0.relu' runs more than once"),
        ("fc", r"'fc' gives \(1, 1000\); expected a map"),
    ):
        with pytest.raises(ModelError, match=message):
            activations(model, images, [name])
    with pytest.raises(ModelError, match=r"'inner' of Holder does not run"):
        activations(Holder().eval(), images, ["inner"])
    assert torch.equal(activations(Swapping().eval(), images, ["swap"])["swap"], images)  # channels last are put second
    with pytest.raises(ModelError, match=r"training mode: call model\.eval"):
        activations(model.train(), images, ["layer1"])
    assert not any(module._forward_hooks for module in model.modules())


class Holder(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.ModuleList([nn.Conv2d(3, 3, 1)])

    def forward(self, x):
        return self.inner[0](x)


class Permute(nn.Module):
    def forward(self, x):
        return x.permute(0, 2, 3, 1)


class Swapping(nn.Module):
    def __init__(self):
        super().__init__()
        self.swap = Permute()

    def forward(self, x):
        return self.swap(x)


def test_hooks_go_when_the_model_fails():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Linear(7, 2)).eval()
    with pytest.raises(RuntimeError):
        activations(model, torch.zeros(1, 3, 8, 8), ["0"])
    assert not any(module._forward_hooks for module in model.modules())


# Features before the logits


@pytest.mark.parametrize(
    ("model", "head"),
    [
        (torchvision.models.resnet18(weights=None), "fc"),
        (vit(), "heads.head"),
        (timm_vit(num_classes=4), "head"),
        (vgg(), "classifier.0"),
        (convnext(), "classifier.2"),
        (nn.Sequential(nn.Flatten(), nn.Linear(3072, 4), nn.ReLU(), nn.Linear(4, 2)), "3"),
    ],
    ids=lambda each: each if isinstance(each, str) else type(each).__name__,
)
def test_the_logits_are_a_linear_map_of_the_penultimate_features(model, head):
    model.eval()
    images = torch.randn(2, 3, 32, 32, requires_grad=True)
    features = penultimate(model, images)
    linear = model.get_submodule(head)
    assert features.shape == (2, linear.in_features)
    assert torch.equal(linear(features), model(images))
    assert torch.autograd.grad(features.square().sum(), images)[0].abs().sum() > 0
    assert not any(module._forward_hooks for module in model.modules())


class Head(nn.Module):
    """Ends as `end` says."""

    def __init__(self, end):
        super().__init__()
        self.linear, self.end = nn.Linear(3, 2), end

    def forward(self, x):
        return self.end(self.linear, x)


class Cosines(nn.Linear):
    def forward(self, input):
        return nn.functional.linear(input, nn.functional.normalize(self.weight), self.bias) * 3


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        Head(lambda linear, x: linear(x.mean((2, 3))).relu()),
        Head(lambda linear, x: linear(x.permute(0, 2, 3, 1)).mean((1, 2))),
        Head(lambda linear, x: linear(x.permute(0, 2, 3, 1))),
        Head(lambda linear, x: {"logits": linear(x.mean((2, 3)))}),
        Head(lambda linear, x: x.mean((2, 3)) + 0 * linear(x.mean((2, 3))).sum()),
        Head(lambda linear, x: linear(x.mean((2, 3))).mul_(2)),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), Cosines(3, 2)),
    ],
    ids=["convolution", "activation", "mean", "map", "dict", "beside", "in place", "cosines"],
)
def test_models_without_features_before_the_logits(model):
    with pytest.raises(ModelError, match=rf"logits of {type(model).__name__} are not what an nn.Linear returns"):
        penultimate(model.eval(), torch.ones(1, 3, 8, 8))
    assert not any(module._forward_hooks for module in model.modules())


def test_a_failed_pass_leaves_nothing_to_the_next():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 2), nn.Linear(2, 4))
    with catching_head(model) as head:
        with pytest.raises(RuntimeError):
            model(torch.zeros(1, 3, 2, 1))
        logits = model(torch.ones(1, 3, 1, 1))
    assert head.logits is logits
    assert torch.equal(head.features, model[1](torch.ones(1, 3)))


# The real one


@pytest.mark.skipif(not SHARED.exists(), reason="the shared data is not here")
def test_a_really_trained_resnet_on_real_photographs():
    found = load_classifier(
        "callable:examples.resnet56:resnet56", checkpoint=SHARED / "cifar10_resnet56.safetensors", device="cpu"
    )
    assert found.size == (32, 32)
    assert blocks(found.model) == ["layer1", "layer2", "layer3"]
    rows = Photos(SHARED / "cifar10_subset.zip", "eval", size=32, limit=200).read(0, 200)
    images = found.preprocess([Image.fromarray(pixels) for pixels in rows.pixels.values])
    assert torch.equal(images, found.preprocess(rows.pixels.values))
    with torch.no_grad():
        guess = found.model(images).argmax(1).numpy()
    # 83.1 % on all 2,000; within two standard deviations of 200
    assert (guess == rows.label.values[:, 0]).mean() > 0.778


def test_layers_are_put_in_the_order_in_which_they_run():
    model = torchvision.models.resnet18(num_classes=3)
    assert in_order(model, ["layer4", "layer2"], size=64) == ["layer2", "layer4"]
    with pytest.raises(ModelError, match=r"layer 'layer9' of ResNet is not in it. Did you mean 'layer4'"):
        in_order(model, ["layer9"], size=64)
    with pytest.raises(ModelError, match=r"layer 'layer1.0.relu' of ResNet does not run exactly once"):
        in_order(model, ["layer1.0.relu"], size=64)
