"""Classifiers of torchvision and timm: what the library itself makes of the same weights, also from a folder."""

import re
from dataclasses import replace

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

from optogram.errors import ModelError
from optogram.models.loading.architectures import told_by_model
from optogram.models.loading.classifier_folders import load_classifier_folder, save_classifier
from optogram.models.loading.classifiers import load_classifier
from optogram.models.loading.libraries import _torchvision_built
from optogram.models.loading.specs import load_model

BUILDERS = torchvision.models


def logits(model, side=80):
    with torch.no_grad():
        return model(torch.linspace(-2, 2, 3 * side * side).reshape(1, 3, side, side).sin())


def reopened(spec, classifier, classes, tmp_path):
    named = replace(classifier, classes=tuple(str(number) for number in range(classes)), attribute="kind")
    arguments = {"num_classes": classes}
    save_classifier(named, tmp_path / "folder", spec=spec, arguments=arguments, dtype=torch.float32)
    return load_classifier_folder(tmp_path / "folder", "cpu").model


@pytest.mark.parametrize("classes", [1000, 3])
def test_googlenet_scales_its_inputs_and_drops_its_auxiliary_heads(tmp_path, classes, capsys):
    own = BUILDERS.googlenet(init_weights=False, transform_input=True, num_classes=classes).eval()
    weights = own.state_dict()
    if classes == 3:  # as fine-tuned from torchvision's own, which has dropped these heads
        weights = {name: w for name, w in weights.items() if not name.startswith("aux")}
    torch.save(weights, tmp_path / "w.pth")
    spec = "torchvision:googlenet"
    found = load_classifier(spec, checkpoint=tmp_path / "w.pth", device="cpu")
    assert found.model.transform_input
    assert found.model.aux1 is None
    assert torch.equal(logits(found.model), logits(own))
    assert ("transform_input" in capsys.readouterr().err) == (classes == 3)
    assert torch.equal(logits(reopened(spec, found, classes, tmp_path)), logits(own))


@pytest.mark.parametrize("auxiliary", [True, False])
def test_inception_has_the_auxiliary_head_that_the_file_has(tmp_path, auxiliary):
    own = BUILDERS.inception_v3(init_weights=False, transform_input=True, aux_logits=auxiliary).eval()
    torch.save(own.state_dict(), tmp_path / "w.pth")
    model, _ = load_model("torchvision:inception_v3/IMAGENET1K_V1", checkpoint=tmp_path / "w.pth", device="cpu")
    assert torch.equal(logits(model), logits(own))
    assert told_by_model("torchvision:inception_v3", {}, model) == {
        "transform_input": True,
        **({} if auxiliary else {"aux_logits": False}),
    }


def test_densenet_with_the_names_of_its_published_files(tmp_path, monkeypatch):
    own = BUILDERS.densenet121().eval()
    old = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)\.", r"\1.\2.", name): w
        for name, w in own.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    file = tmp_path / "checkpoints" / BUILDERS.DenseNet121_Weights.DEFAULT.url.rsplit("/", 1)[1]
    file.parent.mkdir()
    torch.save(old, file)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    for options in ({"checkpoint": file}, {}):
        model, _ = load_model("torchvision:densenet121", device="cpu", **options)
        assert torch.equal(logits(model, 32), logits(own, 32))


@pytest.mark.parametrize("name", ["squeezenet1_1", "mnasnet0_5", "shufflenet_v2_x0_5"])
def test_other_classes_prefixes_and_folders_of_small_builders(tmp_path, name):
    own = BUILDERS.get_model(name, num_classes=5).eval()
    save_file({f"module.{key}": w for key, w in own.state_dict().items()}, tmp_path / "w.safetensors")
    found = load_classifier(f"torchvision:{name}", checkpoint=tmp_path / "w.safetensors", device="cpu")
    assert torch.equal(logits(found.model), logits(own))
    assert torch.equal(logits(reopened(f"torchvision:{name}", found, 5, tmp_path)), logits(own))


def test_a_size_that_the_weights_set():
    chosen = BUILDERS.ViT_B_16_Weights.IMAGENET1K_SWAG_E2E_V1
    with torch.device("meta"):
        weights = BUILDERS.vit_b_16(image_size=384).state_dict()
        model = _torchvision_built("vit_b_16", chosen, weights)
        assert told_by_model("torchvision:vit_b_16", {}, model) == {"image_size": 384}


def test_a_torchvision_file_that_does_not_fit_names_the_tensor(tmp_path):
    weights = BUILDERS.shufflenet_v2_x0_5().state_dict()
    torch.save(weights | {"conv1.0.weight": torch.ones(3, 3, 3, 3)}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"does not fit .*: conv1.0.weight has shape \(3, 3, 3, 3\), expected \(24,"):
        load_model("torchvision:shufflenet_v2_x0_5", checkpoint=tmp_path / "w.pth")
    torch.save(weights | {"fc.bias": torch.full((1000,), torch.nan)}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"NaN in fc\.bias"):
        load_model("torchvision:shufflenet_v2_x0_5", checkpoint=tmp_path / "w.pth")
    torch.save({name: w.to("meta") for name, w in weights.items()}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"no dense values in conv1.0.weight, .* but a tensor on the meta device"):
        load_model("torchvision:shufflenet_v2_x0_5", checkpoint=tmp_path / "w.pth")


def test_a_file_of_the_size_before_that_of_the_weights_names_the_tensor_and_both_shapes(tmp_path):
    torch.save(BUILDERS.vit_b_16().state_dict(), tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"encoder\.pos_embedding: .*197, 768.*577, 768.*\]\)\. Give the spec"):
        load_model("torchvision:vit_b_16/IMAGENET1K_SWAG_E2E_V1", checkpoint=tmp_path / "w.pth")


def test_quantised_builders_are_refused():
    with pytest.raises(ModelError, match=r"quantized_resnet18 is quantised: .* Did you mean 'resnet18'"):
        load_model("torchvision:quantized_resnet18")
    with pytest.raises(ModelError, match="fcn_resnet50 is no image classifier"):
        load_model("torchvision:fcn_resnet50")


class Scaled(torch.nn.Module):
    """Its scale is no tensor, so that a state dict does not tell it."""

    scale = 1.0

    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(3, 2)

    def forward(self, images):
        return self.fc(images.mean((2, 3)) * self.scale)


def test_a_folder_that_would_compute_something_else_is_refused(tmp_path):
    found = load_classifier(f"callable:{__name__}:Scaled", device="cpu")
    named = replace(found, classes=("a", "b"), attribute="kind")
    save = {"spec": f"callable:{__name__}:Scaled", "arguments": {}}
    save_classifier(named, tmp_path / "same", **save)
    found.model.scale = 2.0
    with pytest.raises(ModelError, match="has the tensors of the model to be saved, but makes other logits"):
        save_classifier(named, tmp_path / "other", **save)


def test_tied_layers_are_saved(tmp_path):
    found = load_classifier(f"callable:{__name__}:tied", device="cpu")
    named = replace(found, classes=("a", "b", "c"), attribute="kind")
    save_classifier(named, tmp_path / "tied", spec=f"callable:{__name__}:tied", arguments={}, dtype=torch.float32)
    assert torch.equal(logits(load_classifier_folder(tmp_path / "tied", "cpu").model), logits(found.model))


def tied():
    one = torch.nn.Linear(3, 3)
    return torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), one, torch.nn.ReLU(), one)


# timm


def facebooks(name):
    """A name of timm's ConvNeXt as the authors' own files have it."""
    name = name.replace("stem.", "downsample_layers.0.").replace("conv_dw", "dwconv").replace("mlp.fc", "pwconv")
    name = re.sub(r"stages\.(\d)\.blocks\.(\d+)", r"stages.\1.\2", name)
    name = re.sub(r"stages\.(\d)\.downsample\.(\d)", r"downsample_layers.\1.\2", name)
    return name.replace("head.norm.", "norm.").replace("head.fc.", "head.")


@pytest.mark.parametrize("classes", [1000, 7])
def test_timm_renames_what_other_projects_published(tmp_path, classes):
    own = timm.create_model("test_convnext", num_classes=classes).eval()
    weights = {f"module.{facebooks(name)}": w for name, w in own.state_dict().items()}
    torch.save({"model": weights}, tmp_path / "w.pth")
    model, _ = load_model("timm:test_convnext", checkpoint=tmp_path / "w.pth", device="cpu")
    assert torch.equal(logits(model), logits(own))
    assert "state_dict" not in model.pretrained_cfg
    model.load_state_dict(own.state_dict())
    del weights["module.stages.0.0.norm.weight"]
    torch.save({"model": weights}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match="does not fit timm:test_convnext"):
        load_model("timm:test_convnext", checkpoint=tmp_path / "w.pth")


def test_timm_does_not_stretch_positions_of_another_size(tmp_path):
    own = timm.create_model("test_vit", img_size=96)
    torch.save(own.state_dict() | {"pre_logits.fc.bias": torch.ones(2)}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"pos_embed has shape .*, expected"):
        load_model("timm:test_vit", checkpoint=tmp_path / "w.pth")
