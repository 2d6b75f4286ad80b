import argparse
import json
import logging
import time
import warnings
from pathlib import Path

import numpy as np
import open_clip
import open_clip.factory
import pytest
import timm
import torch
import torchvision
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from optogram.errors import ModelError, ShapeError
from optogram.models.loading.checkpoints import read_checkpoint, select_weights
from optogram.models.loading.clip_folders import build_clip, load_clip, save_clip
from optogram.models.loading.specs import load_clip_spec, load_model

TINY = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 16, "layers": 2, "head_width": 8},
    "text_cfg": {"vocab_size": 600, "context_length": 24, "width": 16, "heads": 2, "layers": 1},
}
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)


# Factories that specs of this file name


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(768, 4), nn.BatchNorm1d(4))


def with_preprocessing():
    return linear(), lambda images: torch.zeros(len(images), 3, 16, 16)


def no_module():
    return "a text"


def failing():
    raise ValueError("no such file")


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """A hub that does not answer, and an empty cache."""
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "torch"))


@pytest.fixture(scope="module")
def tiny_name(tmp_path_factory):
    path = tmp_path_factory.mktemp("configs") / "ViT-tiny-test.json"
    path.write_text(json.dumps(TINY))
    open_clip.add_model_config(path)
    yield "ViT-tiny-test"
    open_clip.factory._MODEL_CONFIG_PATHS.remove(path)
    open_clip.factory._MODEL_CONFIGS.pop("ViT-tiny-test")


@pytest.fixture(scope="module")
def tiny():
    return build_clip(TINY, seed=3)


def saved(tmp_path: Path, weights: dict[str, torch.Tensor], name: str = "weights.safetensors") -> Path:
    path = tmp_path / name
    save_file({key: tensor.contiguous() for key, tensor in weights.items()}, path)
    return path


def same_weights(model: nn.Module, weights: dict[str, torch.Tensor]) -> bool:
    ours = model.state_dict()
    return ours.keys() == weights.keys() and all(torch.equal(ours[name], weights[name]) for name in ours)


# Grammar


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("opn_clip:ViT-B-32", r"unknown kind 'opn_clip'.*Did you mean 'open_clip'"),
        ("diffusers:some/model", r"unknown kind 'diffusers'. Expected open_clip:NAME/TAG, timm:NAME"),
        ("resnet18", r"no such folder, and no kind before a ':'"),
        ("", r"no such folder"),
        ("timm:", r"names no model"),
        ("open_clip:ViT-B-23/openai", r"no architecture 'ViT-B-23'. Did you mean .*'ViT-B-32'"),
        ("open_clip:ViT-B-32/openia", r"no pretrained tag 'openia'. Did you mean 'openai'"),
        ("open_clip:ViT-B-32", r"names no weights. Add a pretrained tag .*openai.* or give a local `checkpoint`"),
        ("timm:resnet81", r"timm has no model 'resnet81'. Did you mean .*'resnet18'"),
        ("timm:resnet18.a1_in2k", r"has no weights 'a1_in2k'. Did you mean 'a1_in1k'"),
        ("torchvision:resnet81", r"torchvision has no classifier 'resnet81'. Did you mean .*'resnet18'"),
        ("torchvision:resnet18/V1", r"resnet18 has no weights 'V1'. .*IMAGENET1K_V1"),
        ("callable:json", r"expected callable:package.module:factory"),
        ("callable:no.such.module:f", r"no.such.module cannot be imported.*PYTHONPATH"),
        ("callable:./mm.py:make", r"the module as Python imports it, not the path of its file"),
        ("callable::make", r"expected callable:package.module:factory"),
        ("x" * 300, r"cannot be reached \(File name too long\). Expected open_clip:NAME/TAG"),
        ("callable:json:dump_", r"json has no function 'dump_'. Did you mean 'dump'"),
        (f"callable:{__name__}:no_module", r"the factory returned str; expected a torch module"),
        (f"callable:{__name__}:failing", r"the factory failed: ValueError: no such file"),
    ],
)
def test_specs_that_name_nothing(spec, message):
    with pytest.raises(ModelError, match=message):
        load_model(spec)


@pytest.mark.parametrize(("code", "why"), [("def make(:", "SyntaxError"), ("1 / 0", "ZeroDivisionError: division by")])
def test_a_module_that_does_not_run_is_named(tmp_path, monkeypatch, code, why):
    (tmp_path / "broken_module.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        ModelError, match=rf"broken_module cannot be imported \({why}.*Mend it, so that `import broken_mod"
    ):
        load_model("callable:broken_module:make")


def test_unknown_folder_names_its_neighbours(tmp_path, tiny):
    save_clip(tiny, tmp_path / "clip_vit")
    with pytest.raises(ModelError, match=r"Did you mean '.*clip_vit'"):
        load_model(str(tmp_path / "clip_vti"))


def test_unusable_device():
    for device in ("gpu", "cuda:99"):
        with pytest.raises(ModelError, match=f"device '{device}' cannot be used"):
            load_model(f"callable:{__name__}:linear", device=device)


# Offline


@pytest.mark.parametrize(
    "spec",
    ["open_clip:ViT-B-32/openai", "open_clip:ViT-B-16-SigLIP/webli", "timm:resnet18", "timm:gcvit_tiny.in1k"],
)
def test_hub_name_offline_fails_at_once_and_says_what_to_do(offline, monkeypatch, spec):
    if "gcvit" in spec:
        monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    started = time.monotonic()
    with pytest.raises(ModelError, match=rf"{spec}: .* reached.*give the file as `checkpoint`"):
        load_model(spec)
    assert time.monotonic() - started < 8
    assert constants.HF_HUB_OFFLINE is False


def test_torchvision_name_offline(offline, monkeypatch):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    started = time.monotonic()
    with pytest.raises(ModelError, match=r"https://download.pytorch.org/.* cannot be reached.*`checkpoint`"):
        load_model("torchvision:shufflenet_v2_x0_5")
    assert time.monotonic() - started < 8


def test_hub_that_answers_but_lacks_the_weights(offline, monkeypatch):
    import http.server
    import threading

    class Empty(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_error(404)

        do_GET = do_HEAD

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Empty)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    try:
        with pytest.raises(ModelError, match=r"timm:resnet18: the weights cannot be had: An error happened"):
            load_model("timm:resnet18")
    finally:
        server.shutdown()
        server.server_close()


# open_clip


@pytest.mark.parametrize("form", ["safetensors", "pt", "wrapped", "parallel", "openai"])
def test_open_clip_checkpoint_in_every_form(tmp_path, tiny_name, tiny, form, capsys, caplog):
    weights = {name: tensor.clone() for name, tensor in tiny.model.state_dict().items()}
    path = tmp_path / "weights.pt"
    if form == "safetensors":
        path = saved(tmp_path, weights)
    elif form == "pt":
        torch.save(weights, path)
    elif form == "wrapped":
        torch.save({"epoch": 3, "name": "x", "state_dict": weights, "optimizer": {}}, path)
    elif form == "parallel":
        torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in weights.items()}}, path)
    elif form == "openai":
        sizes = {"input_resolution": torch.tensor(16), "context_length": torch.tensor(24)}
        torch.save({name: t.half() for name, t in weights.items()} | sizes, path)
        weights = {name: tensor.half().float() for name, tensor in weights.items()}
    state = torch.random.get_rng_state()
    model, preprocess = load_model(f"open_clip:{tiny_name}", checkpoint=path, device="cpu")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert same_weights(model, weights)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(preprocess(PIXELS), tiny.preprocess(PIXELS))
    assert capsys.readouterr() == ("", "")
    assert caplog.records == []
    assert logging.root.manager.disable == 0


def test_preprocessing_is_open_clips(tmp_path, tiny_name, tiny):
    path = saved(tmp_path, tiny.model.state_dict())
    _, preprocess = load_model(f"open_clip:{tiny_name}", checkpoint=path)
    theirs = open_clip.create_model_and_transforms(tiny_name, pretrained_text=False)[2]
    images = [
        Image.fromarray(PIXELS[0]),
        Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 30, 3), np.uint8)),
    ]
    for image in images:
        assert (preprocess([image])[0] - theirs(image)).abs().max() < 1e-5


def test_clip_with_its_tokenizer(tmp_path, tiny_name, tiny):
    path = saved(tmp_path, tiny.model.state_dict())
    clip = load_clip_spec(f"open_clip:{tiny_name}", checkpoint=path, device="cpu")
    texts = ["a red circle", "two stars at night"]
    assert torch.equal(clip.tokenize(texts), tiny.tokenize(texts))
    assert clip.config["spec"] == f"open_clip:{tiny_name}"
    save_clip(clip, tmp_path / "folder", dtype=torch.float32)
    again = load_clip(tmp_path / "folder", "cpu")
    assert same_weights(again.model, clip.model.state_dict())
    assert torch.equal(again.tokenize(texts), clip.tokenize(texts))
    assert torch.equal(again.preprocess(PIXELS), clip.preprocess(PIXELS))


def test_model_folder(tmp_path, tiny):
    save_clip(tiny, tmp_path / "clip", dtype=torch.float32)
    model, preprocess = load_model(str(tmp_path / "clip"))
    assert same_weights(model.cpu(), tiny.model.state_dict())
    assert torch.equal(preprocess(PIXELS), tiny.preprocess(PIXELS))
    assert same_weights(load_clip_spec(str(tmp_path / "clip")).model.cpu(), tiny.model.state_dict())
    with pytest.raises(ModelError, match="weights of its own"):
        load_model(str(tmp_path / "clip"), checkpoint=tmp_path / "clip" / "model.safetensors")
    with pytest.raises(ModelError, match="is no model folder"):
        load_model(str(tmp_path))


def test_a_classifier_is_no_clip():
    with pytest.raises(ModelError, match="a timm model has no text encoder"):
        load_clip_spec("timm:resnet18")


# timm, torchvision, callables


def test_timm_checkpoint_with_other_classes(tmp_path):
    reference = timm.create_model("test_resnet", num_classes=7).eval()
    path = saved(tmp_path, reference.state_dict())
    model, preprocess = load_model("timm:test_resnet", checkpoint=path, device="cpu")
    assert same_weights(model, reference.state_dict())
    images = preprocess([Image.fromarray(PIXELS[0]), Image.fromarray(PIXELS[1]).convert("L")])
    assert images.shape == (2, 3, 160, 160)
    assert torch.equal(preprocess(PIXELS)[0], images[0])
    with torch.no_grad():
        assert torch.equal(model(images), reference(images))


def test_torchvision_checkpoint_with_other_classes(tmp_path):
    reference = torchvision.models.shufflenet_v2_x0_5(weights=None, num_classes=5).eval()
    path = tmp_path / "weights.pth"
    torch.save({"model": reference.state_dict()}, path)
    model, preprocess = load_model("torchvision:shufflenet_v2_x0_5", checkpoint=path, device="cpu")
    assert same_weights(model, reference.state_dict())
    assert preprocess(PIXELS).shape == (3, 3, 224, 224)


def test_torchvision_weights_from_the_cache(offline, tmp_path, monkeypatch):
    weights = torchvision.models.ShuffleNet_V2_X0_5_Weights.DEFAULT
    reference = torchvision.models.shufflenet_v2_x0_5(weights=None)
    cached = tmp_path / "torch" / "checkpoints" / Path(weights.url).name
    cached.parent.mkdir(parents=True)
    torch.save(reference.state_dict(), cached)
    model, _ = load_model("torchvision:shufflenet_v2_x0_5", device="cpu")
    assert same_weights(model, reference.state_dict())


def test_callable_with_and_without_a_checkpoint(tmp_path):
    reference = linear()
    nn.init.normal_(reference[1].bias)
    path = saved(tmp_path, reference.state_dict())
    model, preprocess = load_model(f"callable:{__name__}:linear", checkpoint=path, device="cpu")
    assert same_weights(model, reference.state_dict())
    assert not model.training
    assert torch.equal(preprocess(PIXELS), torch.from_numpy(PIXELS).permute(0, 3, 1, 2) / 255)
    with pytest.raises(ShapeError, match="expected uint8 pixels"):
        preprocess(PIXELS.astype(np.float32))
    assert load_model(f"callable:{__name__}:with_preprocessing")[1](PIXELS).sum() == 0


def test_checkpoint_from_before_batch_counters(tmp_path):
    weights = {name: tensor for name, tensor in linear().state_dict().items() if "num_batches" not in name}
    load_model(f"callable:{__name__}:linear", checkpoint=saved(tmp_path, weights))


# Checkpoints that are refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w | {"1.weight": torch.zeros(4, 9)}, r"1.weight has shape \(4, 9\), expected \(4, 768\)\. Give"),
        (lambda w: {n: torch.zeros(2) for n in w}, r"1.weight has shape \(2,\), expected \(4, 768\) \(\d more tensors"),
        (lambda w: {n: w[n] for n in w if n != "1.bias"}, r"does not fit .*: 1 tensors missing: 1.bias\."),
        (lambda w: w | {"3.bias": torch.zeros(1)}, r"1 tensors unexpected: 3.bias\."),
        (lambda w: {f"{n}_": w[n] for n in w}, r"\d tensors missing: .*; \d tensors unexpected: 1.bias_"),
        (lambda w: w | {"1.weight": torch.zeros(4, 768, dtype=torch.int8)}, "quantised"),
    ],
)
def test_checkpoint_that_does_not_fit(tmp_path, change, message):
    path = saved(tmp_path, change(linear().state_dict()))
    with pytest.raises(ModelError, match=message):
        load_model(f"callable:{__name__}:linear", checkpoint=path)


def test_clip_of_another_size_is_not_stretched(tmp_path, tiny_name):
    vision = TINY["vision_cfg"] | {"image_size": 32}
    other = build_clip(TINY | {"vision_cfg": vision}, seed=0)
    path = saved(tmp_path, other.model.state_dict())
    with pytest.raises(ModelError, match=r"visual.positional_embedding has shape \(17, 16\), expected \(5, 16\)"):
        load_model(f"open_clip:{tiny_name}", checkpoint=path)


class Trap:
    """Runs when it is unpickled, if it is allowed to."""

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


def test_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path):
    trap = Trap()
    trap.path = str(tmp_path / "sprung")
    for number, content in enumerate(({"state_dict": {"a": trap}}, trap, [trap])):
        path = tmp_path / f"trap{number}.pt"
        torch.save(content, path)
        with pytest.raises(ModelError, match=r"is refused: it holds more than tensors.*Convert it once"):
            read_checkpoint(path)
    torch.save({"args": argparse.Namespace(), "state_dict": linear().state_dict()}, path)
    with pytest.raises(ModelError, match=r"first: argparse.Namespace"):
        read_checkpoint(path)
    torch.save(linear(), path)
    with pytest.raises(ModelError, match="is refused"):
        read_checkpoint(path)
    assert not (tmp_path / "sprung").exists()


def test_files_that_are_no_checkpoint(tmp_path):
    good = saved(tmp_path, linear().state_dict())
    torch.save(linear().state_dict(), tmp_path / "good.pt")
    for name, content in {
        "text.pt": b"hello world" * 9,
        "empty.pt": b"",
        "empty.safetensors": b"",
        "cut.safetensors": good.read_bytes()[:500],
        "cut.pt": (tmp_path / "good.pt").read_bytes()[:500],
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ModelError, match=r"is damaged or no checkpoint|is refused"):
            read_checkpoint(tmp_path / name)
    with pytest.raises(ModelError, match=r"does not exist.*Did you mean 'weights.safetensors'"):
        read_checkpoint(tmp_path / "weight.safetensors")
    with pytest.raises(ModelError, match="is a folder"):
        read_checkpoint(tmp_path)
    for content in ([torch.zeros(1)], {}, {"epoch": 3, "lr": 0.1}, torch.zeros(3)):
        torch.save(content, tmp_path / "other.pt")
        with pytest.raises(ModelError, match="expected a state dict"):
            read_checkpoint(tmp_path / "other.pt")


def test_torchscript_is_refused(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "model.pt")
    with pytest.raises(ModelError, match=r"TorchScript program.*torch.jit.load"):
        read_checkpoint(tmp_path / "model.pt")


def test_a_prefix_that_the_model_has_itself_is_kept(tmp_path):
    wrapped = nn.Sequential()
    wrapped.add_module("model", nn.Linear(2, 2))
    weights = {f"module._orig_mod.{name}": tensor for name, tensor in wrapped.state_dict().items()}
    path = saved(tmp_path, weights)
    assert read_checkpoint(path)[""].keys() == weights.keys()
    assert select_weights(read_checkpoint(path), wrapped.state_dict(), path).keys() == wrapped.state_dict().keys()
