"""Folders of classifiers: what is saved is what is loaded; what does not fit is refused by name."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from optogram.errors import ModelError
from optogram.models.layers import activations, blocks
from optogram.models.loading.architectures import build_architecture, for_classes
from optogram.models.loading.classifier_folders import load_classifier_folder, save_classifier
from optogram.models.loading.classifiers import Classifier, load_classifier
from optogram.models.loading.clip_folders import Preprocess, build_clip, save_clip
from optogram.models.loading.specs import UnitRange, load_clip_spec, load_model

SPEC, ARGUMENTS = "timm:resnet10t", {"channels": [8, 8, 8, 16], "stem_width": 8, "num_classes": 3}
GREY = ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def tiny(width=4):
    """A factory that a spec of this file names; it takes images of any size."""
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 2))


def classifier(spec=SPEC, arguments=ARGUMENTS, preprocess=None, classes=("a", "b", "c")):
    model = build_architecture(spec, arguments, seed=1)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):  # as after some training
            buffer += 0.1
    model.eval().requires_grad_(False)
    preprocess = preprocess or Preprocess(32, *GREY)
    size = (preprocess.image_size,) * 2 if isinstance(preprocess, Preprocess) else None
    return Classifier(model, preprocess, *GREY, size, classes, "shape")


@pytest.fixture
def folder(tmp_path):
    save_classifier(classifier(), tmp_path / "model", spec=SPEC, arguments=ARGUMENTS)
    return tmp_path / "model"


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)


def test_round_trip_in_half_precision(folder, pixels):
    made, loaded = classifier(), load_classifier_folder(folder, "cpu")
    assert not loaded.model.training
    assert all(w.dtype == torch.float32 and not w.requires_grad for w in loaded.model.parameters())
    for name, weight in made.model.state_dict().items():
        expected = weight.half().float() if weight.is_floating_point() else weight
        assert torch.equal(loaded.model.state_dict()[name], expected), name
    assert replace(loaded, model=made.model) == made
    assert torch.allclose(made.model(made.preprocess(pixels)), loaded.model(loaded.preprocess(pixels)), atol=1e-2)
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_single_precision_is_exact_and_saving_what_was_loaded_gives_the_same_bytes(tmp_path):
    save = {"spec": SPEC, "arguments": ARGUMENTS, "dtype": torch.float32}
    save_classifier(classifier(), tmp_path / "a", **save)
    loaded = load_classifier_folder(tmp_path / "a", "cpu")
    for name, weight in classifier().model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], weight), name
    save_classifier(loaded, tmp_path / "b", **save)
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_a_folder_is_a_spec(folder, pixels):
    found, (model, preprocess) = load_classifier(str(folder), device="cpu"), load_model(str(folder), device="cpu")
    assert (found.classes, found.attribute, found.size) == (("a", "b", "c"), "shape", (32, 32))
    assert (found.mean, found.std) == GREY
    assert torch.equal(model(preprocess(pixels)), found.model(found.preprocess(pixels)))
    with pytest.raises(ModelError, match=r"folder with weights of its own. Leave the checkpoint x\.pt out"):
        load_model(str(folder), checkpoint="x.pt")
    with pytest.raises(ModelError, match="folder of a classifier, which has no text encoder"):
        load_clip_spec(str(folder))


def test_the_folder_of_a_clip_has_no_classes(tmp_path):
    architecture = {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 8, "layers": 1, "head_width": 8},
        "text_cfg": {"context_length": 8, "vocab_size": 514, "width": 8, "heads": 1, "layers": 1},
    }
    save_clip(build_clip(architecture, seed=0), tmp_path / "clip")
    with pytest.raises(ModelError, match="is a CLIP and has no classes"):
        load_classifier(str(tmp_path / "clip"))
    with pytest.raises(ModelError, match=r"clip cannot be read: .*'kind'"):
        load_classifier_folder(tmp_path / "clip")


def test_a_factory_with_arguments_and_a_model_of_any_size(tmp_path):
    spec = f"callable:{__name__}:tiny"
    made = classifier(spec, {"width": 6}, UnitRange(*GREY), ("yes", "no"))
    save_classifier(made, tmp_path / "tiny", spec=spec, arguments={"width": 6})
    loaded = load_classifier_folder(tmp_path / "tiny", "cpu")
    assert loaded.model[0].out_channels == 6
    assert (loaded.size, loaded.mean, loaded.std) == (None, *GREY)
    oblong = np.random.default_rng(0).integers(0, 256, (2, 9, 14, 3), np.uint8)
    rgb = torch.from_numpy(oblong).permute(0, 3, 1, 2) / 255
    assert torch.allclose(loaded.preprocess(oblong), loaded.normalise(rgb), atol=1e-6)


def test_nothing_is_overwritten_and_no_part_is_left(folder, tmp_path):
    with pytest.raises(ModelError, match="exists already"):
        save_classifier(classifier(), folder, spec=SPEC, arguments=ARGUMENTS)
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("changed", "arguments", "message"),
    [
        ({}, ARGUMENTS | {"num_classes": 4}, r"fc.bias does not fit config.json: expected shape \(4,\), found \(3,\)"),
        ({"classes": ("a", "b")}, ARGUMENTS, r"has 3 logits, but 2 classes are named \(a, b"),
        ({"size": (32, 48)}, ARGUMENTS, "takes images of 32 x 48"),
    ],
)
def test_what_would_not_load_again_is_not_saved(tmp_path, changed, arguments, message):
    with pytest.raises(ModelError, match=message):
        save_classifier(replace(classifier(), **changed), tmp_path / "model", spec=SPEC, arguments=arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_or_damaged_file_is_named(folder, name):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match=f"{folder} cannot be read"):
        load_classifier_folder(folder)
    (folder / name).unlink()
    with pytest.raises(ModelError, match=f"{folder} is no model folder: {name} is missing"):
        load_classifier_folder(folder)


@pytest.mark.parametrize("changed", [{"kind": "clip"}, {"classes": "a"}, {"preprocess": {"images": 3}}])
def test_a_config_that_says_something_else_is_refused(folder, changed):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changed))
    with pytest.raises(ModelError, match=f"{folder} cannot be read"):
        load_classifier_folder(folder)


def test_a_tensor_that_does_not_fit_or_lacks_is_named(folder):
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"fc.weight": torch.zeros(3, 9)}, folder / "model.safetensors")
    with pytest.raises(ModelError, match=rf"{folder}: tensor fc.weight .* expected shape \(3, 16\), found \(3, 9\)"):
        load_classifier_folder(folder)
    del weights["fc.weight"]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"fc.weight .* found absent"):
        load_classifier_folder(folder)


# Architectures


def test_building_is_seeded_and_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    first, again, other = (build_architecture(SPEC, ARGUMENTS, seed=seed).fc.weight for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_name_of_published_weights_gives_its_architecture_without_them():
    model = build_architecture("torchvision:shufflenet_v2_x0_5/IMAGENET1K_V1", {"num_classes": 3})
    assert model.fc.out_features == 3
    assert build_architecture("timm:resnet10t.c3_in1k", {"num_classes": 3}).fc.out_features == 3


def test_early_convolutions_make_the_tokens_of_a_vit(tmp_path):
    spec, small = "timm:vit_tiny_patch16_224", {"img_size": 32, "embed_dim": 12, "depth": 2, "num_heads": 2}
    arguments = small | {"conv_stem": [4, 6], "num_classes": 3}
    made = classifier(spec, arguments)
    assert blocks(made.model, size=32) == ["patch_embed.backbone.2.conv", "blocks.0", "blocks.1"]
    widths = [conv.out_channels for conv in made.model.modules() if isinstance(conv, nn.Conv2d)]
    assert widths == [4, 6, 12]
    images = torch.rand(2, 3, 32, 32)
    assert activations(made.model, images, ["blocks.1"])["blocks.1"].shape == (2, 12, 4, 4)
    save_classifier(made, tmp_path / "vit", spec=spec, arguments=arguments, dtype=torch.float32)
    assert torch.equal(load_classifier_folder(tmp_path / "vit", "cpu").model(images), made.model(images))
    for wrong in ({"patch_size": 4}, {"embed_dim": None}):
        with pytest.raises(ModelError, match="does not take the arguments"):
            build_architecture(spec, arguments | wrong)


def test_the_number_of_classes_is_added_where_it_has_a_name():
    assert for_classes(SPEC, {"stem_width": 8}, 6) == {"num_classes": 6, "stem_width": 8}
    assert for_classes(SPEC, {"num_classes": 2}, 6) == {"num_classes": 2}
    assert for_classes("callable:a:b", {"width": 2}, 6) == {"width": 2}


@pytest.mark.parametrize(
    ("spec", "arguments", "message"),
    [
        ("timm:resnet10x", {}, "timm has no model 'resnet10x'. Did you mean .*resnet10t"),
        ("torchvision:resnet5", {}, "torchvision has no classifier 'resnet5'. Did you mean"),
        ("timmm:resnet10t", {}, "no architecture of a classifier. Expected timm:NAME.* Did you mean 'timm'"),
        ("artifacts/models/resnet", {}, "no architecture of a classifier"),
        (SPEC, {"depht": 3}, "does not take the arguments {'depht': 3}: TypeError.* Change `arguments`"),
        (SPEC, {"pretrained": True}, "does not take the arguments {'pretrained': True}"),
        (f"callable:{__name__}:GREY", {}, "has no function 'GREY'"),
        (f"callable:{__name__}:for_classes", {"spec": "callable:", "arguments": {}, "count": 1}, "returned dict"),
    ],
)
def test_architectures_that_there_are_not(spec, arguments, message):
    with pytest.raises(ModelError, match=message):
        build_architecture(spec, arguments)
