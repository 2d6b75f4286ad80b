"""Relevance: conserved in all sorts of networks, beside slow literal forms and zennit, and on a planted truth."""

import copy
import warnings
from collections import OrderedDict

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from open_clip.transformer import QuickGELU
from open_clip.transformer import VisionTransformer as ClipTower
from torch import nn
from torchvision.models import ConvNeXt, DenseNet, VisionTransformer
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.models.vgg import make_layers
from zennit.composites import LayerMapComposite
from zennit.layer import Sum
from zennit.rules import Epsilon, Gamma, Norm, Pass, ZPlus
from zennit.torchvision import ResNetCanonizer, VGGCanonizer
from zennit.types import AvgPool, Convolution

from examples.resnet56 import ResNet56
from optogram.decompose.relevance import RULES, Attributor, Start
from optogram.errors import ModelError, ParamError, ShapeError
from optogram.models.layers import activations


def made(factory, *args, **options):
    """The model in float64, every parameter and statistic random."""
    with torch.random.fork_rng(), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(1)
        model = factory(*args, **options).double().eval()
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2)
            elif name.endswith("running_mean"):
                tensor.normal_(0, 0.2)
            elif tensor.ndim == 1:
                tensor.normal_(1 if name.endswith(("weight", "gamma")) else 0, 0.3)
    return model


def without(model, *kinds):
    """Biases of modules of these kinds set to zero, and the means that batch norms take off."""
    for module in model.modules():
        if isinstance(module, kinds):
            for name in ("bias", "in_proj_bias", "running_mean"):
                if getattr(module, name, None) is not None:
                    getattr(module, name).data.zero_()
    return model


def vgg():
    head = nn.Sequential(nn.Flatten(), nn.Linear(48, 9), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(9, 5))
    features = make_layers([8, "M", 12, 12, "M"], batch_norm=False)
    return nn.Sequential(OrderedDict(features=features, avgpool=nn.AdaptiveAvgPool2d(2), classifier=head))


def convnext():
    stages = [CNBlockConfig(8, 12, 2), CNBlockConfig(12, 16, 2), CNBlockConfig(16, None, 1)]
    return ConvNeXt(stages, layer_scale=0.5, num_classes=5)


def densenet():
    return DenseNet(4, (2, 2), 8, bn_size=2, num_classes=5)


def resnet():
    return ResNet(BasicBlock, [1, 1, 1, 1], num_classes=5)


def timm_resnet(**options):
    """Bottlenecks with squeeze-and-excitation, whose gates are constants."""
    block, channels = timm.models.resnet.Bottleneck, (8, 8, 16, 16)
    return timm.models.resnet.ResNet(
        block, (1, 1, 2, 1), 5, channels=channels, block_args={"attn_layer": "se"}, avg_down=True, **options
    )


def timm_vit(**options):
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2, "num_classes": 5} | options
    return timm.create_model("vit_tiny_patch16_224", **options)


def vit():
    model = VisionTransformer(32, 8, 3, 2, 16, 32, num_classes=5)
    nn.init.normal_(model.heads.head.weight)
    return model


def resnet56():
    """The example with two blocks a stage."""
    model = ResNet56()
    model.layer1, model.layer2, model.layer3 = model.layer1[:2], model.layer2[:2], model.layer3[:2]
    return model


def unplaced(model):
    """No position or class embeddings, which would hold relevance."""
    for name, parameter in model.named_parameters():
        if any(part in name for part in ("pos_", "positional_", "class_", "cls_token", "reg_token")):
            parameter.data.zero_()
    return model


def images(count=2, size=32, seed=0):
    return torch.randn(count, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def directions(count, channels, seed=5):
    return torch.randn(count, channels, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def total(relevance):
    return relevance.sum((1, 2, 3))


STAGES = ["layer1", "layer2", "layer3", "layer4"]
CNNS = {
    # functional residual sums and ReLUs, a shortcut that pads
    "resnet56": (resnet56, (), ["layer1.0", "layer1", "layer2.0", "layer2", "layer3.1"], (nn.Linear,)),
    "torchvision resnet": (resnet, (), ["relu", *STAGES], (nn.Linear,)),
    "timm resnet": (timm_resnet, (), ["act1", *STAGES], (nn.Linear, nn.BatchNorm2d)),
    "vgg": (vgg, (), ["features.1", "features.4", "features.6"], (nn.Linear,)),
    # batch norms before convolutions stay, and so do LayerNorms: their biases hold relevance
    "densenet": (densenet, (), ["features.conv0", "features.denseblock1"], (nn.Linear, nn.BatchNorm2d)),
    "convnext": (convnext, (), ["features.1", "features.3", "features.5"], (nn.Linear, nn.LayerNorm, nn.Conv2d)),
}


@pytest.mark.parametrize("name", CNNS)
def test_cnns_conserve_relevance_at_every_block(name):
    factory, args, layers, unbiased = CNNS[name]
    model, x = without(made(factory, *args), *unbiased), images()
    logits = model(x)
    direction = directions(2, logits.shape[1])
    found = Attributor(model)(x, layers, Start(direction))
    assert list(found) == layers
    for layer, each in found.items():
        assert torch.allclose(total(each), (logits * direction).sum(1), rtol=1e-6), layer
    # from an inner layer
    last = activations(model, x, layers[-1:])[layers[-1]]
    direction = directions(2, last.shape[1])
    found = Attributor(model)(x, layers, Start(direction, layers[-1]))
    assert torch.allclose(found[layers[-1]], last * direction[:, :, None, None])
    for layer, each in found.items():
        assert each.shape == activations(model, x, [layer])[layer].shape
        assert torch.allclose(total(each), total(found[layers[-1]]), rtol=1e-6), layer


VITS = {
    "timm": (timm_vit, {"class_token": False, "global_pool": "avg"}, ["patch_embed.proj", "blocks.0", "blocks.2"]),
    "timm swiglu": (
        timm_vit,
        {"class_token": False, "global_pool": "avg", "mlp_layer": timm.layers.SwiGLU, "init_values": 0.5},
        ["patch_embed.proj", "blocks.0", "blocks.1"],
    ),
    # with a class token, all of the input's relevance is on the map, but not that between
    "timm class token": (timm_vit, {"reg_tokens": 2}, ["patch_embed.proj"]),
    "torchvision": (vit, {}, ["conv_proj"]),
    "open_clip": (lambda: ClipTower(32, 8, 32, 3, 4, 2.0, ls_init_value=0.8, output_dim=20), {}, ["conv1"]),
    "openai": (lambda: ClipTower(32, 8, 32, 2, 4, 2.0, act_layer=QuickGELU, output_dim=20), {}, ["conv1"]),
}


@pytest.mark.parametrize("name", VITS)
def test_vits_conserve_relevance(name):
    factory, options, layers = VITS[name]
    model, x = made(factory, **options), images()
    # a class token that is zero has no input for the biases of its values to be shared among
    unplaced(without(model, nn.LayerNorm, *([nn.Linear, nn.MultiheadAttention] if len(layers) == 1 else [])))
    without(getattr(model, "head", model), nn.Linear)
    logits = model(x)
    direction = directions(2, logits.shape[1])
    found = Attributor(model)(x, layers, Start(direction))
    for layer, each in found.items():
        assert each.shape[2:] == (4, 4)
        assert torch.allclose(total(each), (logits * direction).sum(1), rtol=1e-6), layer
        assert each.abs().sum() > 0


def test_inner_tokens_pass_on_what_they_start_with():
    model = unplaced(without(made(vit), nn.LayerNorm, nn.MultiheadAttention))
    layer = "encoder.layers.encoder_layer_1"
    found = Attributor(model)(images(), ["conv_proj", layer], Start(directions(2, 16), layer))
    assert torch.allclose(total(found["conv_proj"]), total(found[layer]), rtol=1e-6)
    # from the logits, all that the last block gives relevance is the class token
    last = "encoder.layers.encoder_layer_2"
    assert not Attributor(model)(images(), [last], Start(directions(2, 5)))[last].any()


def test_biases_keep_their_share():
    """What is lost in a network with biases is just what the head's bias adds to the logit."""
    model, x = made(resnet56), images()
    direction = directions(2, 10)
    found = Attributor(model)(x, ["layer1"], Start(direction))["layer1"]
    expected = ((model(x) - model.linear.bias) * direction).sum(1)
    assert torch.allclose(total(found), expected, rtol=1e-6)


# Literal forms


class Plain(nn.Module):
    """Convolutions with biases, a functional ReLU, a residual sum whose outputs may be negative, and a head."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, 2, 1)
        self.second = nn.Conv2d(4, 4, 3, padding="same")
        self.third = nn.Conv2d(4, 3, 1, bias=False)
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        x = self.first(x).relu()
        x = self.third(x + self.second(x))
        return self.head(F.relu(x, inplace=True).mean((2, 3)))


def literal_conv(x, weight, bias, stride, padding, relevance):
    """The rule of each output in turn: R_i = R_j * (x_i w_ij)^s / sum_i (x_i w_ij)^s, s the sign of output j."""
    padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    found = np.zeros_like(padded)
    size = weight.shape[2]
    for channel, row, column in np.ndindex(relevance.shape):
        window = (slice(None), *(slice(at * stride, at * stride + size) for at in (row, column)))
        contributed = padded[window] * weight[channel]
        output = contributed.sum() + bias[channel]
        chosen = np.clip(contributed, 0, None) if output > 0 else np.clip(contributed, None, 0)
        if chosen.sum() != 0:
            found[window] += relevance[channel, row, column] * chosen / chosen.sum()
    return found[:, padding:-padding, padding:-padding] if padding else found


def literal_lrp(model, image, direction):
    """Relevance at the outputs of `third`, `second` and the ReLU after `first`, from the logits."""
    w = {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}
    with torch.no_grad():
        a = model.first(image[None]).relu()
        b = model.second(a)
        z = model.third(a + b)
    a, b, z = a[0].numpy(), b[0].numpy(), z[0].numpy()
    pooled = z.clip(0).mean((1, 2))
    to_pooled = np.zeros(3)
    for unit in range(2):
        logit = w["head.weight"][unit] @ pooled + w["head.bias"][unit]
        for channel in range(3):
            to_pooled[channel] += w["head.weight"][unit, channel] * pooled[channel] / logit * (direction[unit] * logit)
    third = np.zeros_like(z)
    for channel, row, column in np.ndindex(z.shape):
        if z[channel, row, column] > 0:
            share = z[channel, row, column] / z[channel].clip(0).sum()
            third[channel, row, column] = to_pooled[channel] * share
    summed = literal_conv(a + b, w["third.weight"], np.zeros(3), 1, 0, third)
    second = summed * b / (a + b)
    first = summed * a / (a + b) + literal_conv(a, w["second.weight"], w["second.bias"], 1, 1, second)
    return {"third": third, "second": second, "first": first}


def test_lrp_matches_the_literal_form():
    model, x = made(Plain), images(3, size=9)
    direction = directions(3, 2)
    found = Attributor(model)(x, ["first", "second", "third"], Start(direction))
    for index in range(3):
        expected = literal_lrp(model, x[index], direction[index].numpy())
        assert all(np.abs(each).max() > 1e-3 for each in expected.values())
        for layer, each in expected.items():
            assert np.allclose(found[layer][index], each, rtol=1e-6, atol=1e-12), layer


@pytest.mark.parametrize("kind", ["resnet", "vgg"])
def test_lrp_is_zennits(kind):
    """zennit's own rules and canonizers: ZPlus in a chain; with residual sums Gamma, its gamma very large."""
    if kind == "vgg":
        model, layers, canonizer = made(vgg), ["features.1", "features.4"], VGGCanonizer()
        rule = ZPlus(stabilizer=1e-12, zero_params="bias")
    else:
        model, layers, canonizer = made(resnet), ["relu", *STAGES], ResNetCanonizer()
        rule = Gamma(1e9, stabilizer=1e-12, zero_params="bias")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-15
    x, direction = images(), directions(2, 5)
    found = Attributor(model)(x, layers, Start(direction))
    kinds = [(Convolution, rule), (nn.ReLU, Pass()), ((AvgPool, Sum), Norm(1e-12)), (nn.Linear, Epsilon(1e-12))]
    theirs = {}
    with LayerMapComposite(layer_map=kinds, canonizers=[canonizer]).context(copy.deepcopy(model)) as hooked:
        for layer in layers:
            hooked.get_submodule(layer).register_forward_hook(
                lambda *each, layer=layer: theirs.update({layer: each[2]})
            )
        x = x.clone().requires_grad_()
        logits = hooked(x)
        gradients = torch.autograd.grad(logits, [theirs[layer] for layer in layers], direction * logits.detach())
    for layer, expected in zip(layers, gradients, strict=True):
        assert torch.allclose(found[layer], expected, rtol=1e-5, atol=1e-8), layer


class Acts(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.act, self.head = kind, nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.act(self.second(self.act(self.first(x)))).mean((2, 3)))


@pytest.mark.parametrize(
    ("kind", "slope"),
    [
        (nn.ReLU(inplace=True), lambda z: (z > 0).double()),
        (F.relu, lambda z: (z > 0).double()),
        (torch.Tensor.relu_, lambda z: (z > 0).double()),
        (nn.GELU(), lambda z: torch.special.ndtr(z) + z * torch.exp(-z * z / 2) / (2 * torch.pi) ** 0.5),
        (F.silu, lambda z: z.sigmoid() * (1 + z * (1 - z.sigmoid()))),
    ],
)
def test_guided_backprop_by_hand(kind, slope):
    model, x = made(Acts, kind), images(2, size=12)
    direction = directions(2, 3)
    found = Attributor(model, "guided_backprop")(x, ["first", "second"], Start(direction))
    with torch.no_grad():
        first = model.first(x)
        second = model.second(kind(first.clone()))
        gradient = (direction @ model.head.weight)[:, :, None, None] / 64
        gradient = gradient.clamp(min=0) * slope(second) * (second > 0)
        assert gradient.any()
        assert torch.allclose(found["second"], gradient)
        gradient = F.conv_transpose2d(gradient, model.second.weight).clamp(min=0) * slope(first) * (first > 0)
        assert torch.allclose(found["first"], gradient)


@pytest.mark.parametrize("factory", [resnet56, timm_vit])
def test_gradient_x_input_is_autograds(factory):
    model, x = made(factory), images()
    layer, layers = ("layer2", ["layer1", "layer2"]) if factory is resnet56 else ("blocks.1", ["blocks.0", "blocks.1"])
    caught = {}
    handles = [
        model.get_submodule(each).register_forward_hook(lambda *got, each=each: caught.update({each: got[2]}))
        for each in layers
    ]
    model(x)
    for handle in handles:
        handle.remove()
    vit = factory is not resnet56
    at = caught[layer][:, 1:].mT.unflatten(2, (4, 4)) if vit else caught[layer]
    direction = directions(2, at.shape[1])
    value = (at * direction[:, :, None, None]).sum()
    found = Attributor(model, "gradient_x_input")(x, layers, Start(direction, layer))
    for each in layers:
        (gradient,) = torch.autograd.grad(value, caught[each], retain_graph=True)
        expected = caught[each] * gradient
        expected = expected[:, 1:].mT.unflatten(2, (4, 4)) if vit else expected
        assert torch.allclose(found[each], expected)


# Where it starts


@pytest.mark.parametrize("rule", RULES)
def test_starts_at_the_best_place(rule):
    model, x = made(resnet56), images(3)
    features = activations(model, x, ["layer3"])["layer3"]
    direction = directions(3, 64).abs()
    found = Attributor(model, rule)(x, ["layer2", "layer3"], Start(direction, "layer3", "best"))
    for image, vector, relevance in zip(features, direction, found["layer3"], strict=True):
        best, at = -2, (0, 0)
        for row in range(8):
            for column in range(8):
                similar = F.cosine_similarity(image[:, row, column], vector, dim=0)
                best, at = (similar, (row, column)) if similar > best else (best, at)
        expected = torch.zeros_like(image)
        values = image[:, *at]
        expected[:, *at] = {"lrp": vector * (values != 0), "guided_backprop": vector}.get(rule, vector * values)
        assert torch.allclose(relevance, expected)
    if rule == "lrp":
        assert torch.allclose(total(found["layer2"]), total(found["layer3"]), rtol=1e-6)


class TwoTales(nn.Module):
    """Channel 0 sees red, channel 1 blue; unit 0 of the last layer reads only channel 0, and the one beside it."""

    def __init__(self):
        super().__init__()
        self.colours, self.units, self.head = nn.Conv2d(3, 2, 1), nn.Conv2d(2, 2, 3, padding=1), nn.Linear(2, 2)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.zero_()
            self.colours.weight[0, 0], self.colours.weight[1, 2] = 1, 1
            self.units.weight[0, 0], self.units.weight[1, 1] = 1, 1
            self.head.weight += torch.eye(2)

    def forward(self, x):
        return self.head(self.units(self.colours(x).relu()).relu().mean((2, 3)))


@pytest.mark.parametrize("rule", RULES)
def test_finds_the_channel_and_the_place_that_a_unit_reads(rule):
    x = torch.zeros(1, 3, 8, 8)
    x[0, 0, 2, 5], x[0, 2, 6, 1] = 2, 3  # a red dot, a blue dot
    for unit, place in ((0, (2, 5)), (1, (6, 1))):
        for start in (Start(torch.eye(2)[[unit]]), Start(torch.eye(2)[[unit]], "units")):
            found = Attributor(TwoTales().eval(), rule)(x, ["colours"], start)["colours"][0]
            assert found[unit, *place] > 0
            expected = torch.zeros_like(found)
            expected[unit, *place] = found[unit, *place]
            if rule == "lrp":
                level = x[0, 2 * unit, *place]
                assert found.sum() == pytest.approx(float(level * 9 / (64 if start.layer is None else 1)))
            # the gradient alone does not say what is in the image
            assert not found[1 - unit].any()
            assert torch.equal(found, expected) or rule == "guided_backprop"


# The rest


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("factory", [resnet56, timm_vit])
def test_each_image_by_itself(rule, factory):
    model, x = made(factory), images(3)
    layer = "layer2.0" if factory is resnet56 else "blocks.0"
    direction = directions(3, len(model(x)[0]))
    attribute = Attributor(model, rule)
    found = attribute(x, [layer], Start(direction))[layer]
    assert not found.requires_grad
    for index in (2, 0, 1):
        part = slice(index, index + 1)
        assert torch.allclose(attribute(x[part], [layer], Start(direction[part]))[layer], found[part], rtol=1e-8)


@pytest.mark.parametrize("rule", RULES)
def test_leaves_the_model_as_it_was(rule):
    model, x = made(resnet), images()
    model.layer1.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    needs = [parameter.requires_grad for parameter in model.parameters()]
    with torch.inference_mode():
        found = Attributor(model, rule)(x, ["relu", "layer4"], Start(directions(2, 5)))
    assert not found["relu"].is_inference()
    with pytest.raises(ModelError):
        Attributor(model, rule)(x, ["layer5"], Start(directions(2, 5)))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert needs == [parameter.requires_grad for parameter in model.parameters()]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks for module in model.modules()
    )
    assert not model.training
    assert model.bn1.eps == 1e-5


@pytest.mark.parametrize("factory", [resnet56, resnet, densenet, timm_resnet])
def test_merging_batch_norms_changes_no_output(factory):
    model, x = made(factory), images()
    attribute = Attributor(model)
    layer = "features.denseblock1" if factory is densenet else "layer1"
    attribute(x, [layer], Start(directions(2, model(x).shape[1])))
    assert torch.allclose(attribute._model(x), model(x))
    merged = [m for m in attribute._model.modules() if isinstance(m, nn.BatchNorm2d) and (m.running_var == 1).all()]
    every = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(merged) == (5 if factory is densenet else len(every))


class PreActivation(nn.Module):
    """Its first convolution is read twice: by a batch norm, and by the shortcut around it."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.body, self.head = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 5)
        self.norm.running_mean += 1.0
        self.norm.running_var += 2.0

    def forward(self, x):
        x = self.stem(x)
        return self.head((x + self.body(F.relu(self.norm(x)))).mean((2, 3)))


def test_a_convolution_that_something_else_reads_is_not_merged():
    torch.manual_seed(0)
    model, x = PreActivation().double().eval(), images()
    attribute = Attributor(model)
    attribute(x, ["stem"], Start(directions(2, 5)))
    assert torch.allclose(attribute._model(x), model(x))
    assert attribute._model.norm.eps == model.norm.eps


@pytest.mark.misfits
def test_refusals():
    model, x = made(resnet), images()
    start = Start(directions(2, 5))
    with pytest.raises(ParamError, match=r"relevance rule = 'lrq', expected one of lrp, .*Did you mean 'lrp'"):
        Attributor(model, "lrq")
    with pytest.raises(ParamError, match="place = 'first', expected all or best"):
        Start(directions(2, 5), "layer1", "first")
    with pytest.raises(ModelError, match=r"training mode: call model\.eval"):
        Attributor(made(resnet).train())
    attribute = Attributor(model)
    with pytest.raises(ModelError, match=r"no layer 'layer7'. Did you mean"):
        attribute(x, ["layer7"], start)
    with pytest.raises(ModelError, match=r"no layer 'layr3'. Did you mean 'layer3'"):
        attribute(x, ["layer1"], Start(directions(2, 5), "layr3"))
    with pytest.raises(ModelError, match=r"layer2 does not depend on layer 'layer3'. Ask for layers at or before"):
        attribute(x, ["layer1", "layer3"], Start(directions(2, 128), "layer2"))
    with pytest.raises(ShapeError, match=r"direction has shape \(2, 4\), but the output has \(2, 5\)"):
        attribute(x, ["layer1"], Start(directions(2, 4)))
    with pytest.raises(ShapeError, match=r"direction has shape \(3, 128\), but layer2 has \(2, 128\)"):
        attribute(x, ["layer1"], Start(directions(3, 128), "layer2"))
    with pytest.raises(ModelError, match=r"Sequential gives \(2, 4, 30, 30\); expected logits"):
        Attributor(made(lambda: nn.Sequential(nn.Conv2d(3, 4, 3))))(x, ["0"], Start(directions(2, 4)))
    grouped = made(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(3600, 2)))
    with pytest.raises(ModelError, match=r"no relevance rule for group_norm\. Use guided_backprop"):
        Attributor(grouped)(x, ["0"], Start(directions(2, 2)))
