"""Checkpoints as others save them: told by their content, opened from wrappers and prefixes, or refused by name."""

import gzip
import io
import json
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from optogram.errors import ModelError
from optogram.models.loading.checkpoints import fit_weights, read_checkpoint, select_weights
from optogram.models.loading.file_kinds import file_kind


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


@pytest.fixture
def model():
    return small()


def loaded(content, path):
    """A model with the weights of what was saved, or the error."""
    torch.save(content, path)
    model = small()
    fit_weights(model, select_weights(read_checkpoint(path), model.state_dict(), path), path, "a model")
    return model.state_dict()


def prefixed(weights, prefix):
    return {prefix + name: weight for name, weight in weights.items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda w: w,
        lambda w: {"state_dict": prefixed(w, "module."), "optimizer": {"state": {0: {"step": torch.ones(1)}}}},
        lambda w: {"model_ema": w, "epoch": 3},
        lambda w: {"state_dict_ema": w},
        lambda w: {"net": w, "acc": 0.9},
        lambda w: {"params_ema": w},
        lambda w: {"checkpoint": {"ema": {"shadow": prefixed(w, "_orig_mod.module.")}}},
        lambda w: prefixed(w, "module._orig_mod."),
        lambda w: prefixed(w, "model.") | {"n_averaged": torch.tensor(3)},
        lambda w: {
            "state_dict": prefixed(w, "net.") | {"criterion.weight": torch.ones(2)},
            "hyper_parameters": {"lr": 1},
        },
        lambda w: prefixed(w, "backbone.") | {"head.weight": torch.ones(2, 2)},
        lambda w: {"state_dict": w, "model_ema": {name: weight.clone() for name, weight in w.items()}},
        lambda w: {"model": w, "discriminator": {"0.weight": torch.ones(1)}},
        lambda w: {name: weight for name, weight in w.items() if "num_batches" not in name},
    ],
)
def test_the_model_is_found_under_wrappers_and_prefixes(tmp_path, model, wrap):
    assert same(loaded(wrap(model.state_dict()), tmp_path / "c.pt"), model.state_dict())


def test_an_averaged_model(tmp_path, model):
    assert same(loaded(AveragedModel(model).state_dict(), tmp_path / "c.pt"), model.state_dict())


def test_what_lies_beside_the_model_is_said(tmp_path, model, capsys):
    loaded(prefixed(model.state_dict(), "backbone.") | {"head.weight": torch.ones(2, 2)}, tmp_path / "c.pt")
    assert "the model is backbone.*. Not used, beside it: head.weight." in capsys.readouterr().err
    loaded({"state_dict": model.state_dict()}, tmp_path / "c.pt")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("join", "places", "choice"),
    [
        (lambda a, b: {"model": a, "model_ema": b}, r"\['model'\], \['model_ema'\]", "['model_ema'].items()"),
        (lambda a, b: prefixed(a, "student.") | prefixed(b, "teacher."), r"student\.\*, teacher\.\*", "teacher."),
        (lambda a, b: a | prefixed(b, "ema."), r"at its top, ema\.\*", "ema."),
    ],
)
def test_several_models_are_not_chosen_from_in_silence(tmp_path, monkeypatch, model, join, places, choice):
    other = small().state_dict()
    path = tmp_path / "c.pt"
    with pytest.raises(ModelError, match=f"2 models of this kind with different weights: {places}. Choose one: ") as e:
        loaded(join(model.state_dict(), other), path)
    advice = str(e.value).partition("Choose one: ")[2].rstrip(".")
    assert choice in advice
    monkeypatch.chdir(tmp_path)
    eval(advice, {"torch": torch})  # what the message says to do can be done
    assert same(loaded(torch.load("chosen.pt", weights_only=True), path), other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: prefixed(w, "net.") | {"net.2.bias": torch.ones(1)}, "1 tensors unexpected: 2.bias"),
        (lambda w: {"a": {"x": torch.ones(1)}, "b": {"y": torch.ones(1)}}, r"2 state dicts \(\['a'\], \['b'\]\)"),
        (lambda w: w | {"0.bias": torch.tensor([1.0, torch.nan])}, "NaN in 0.bias. Training had diverged"),
        (lambda w: w | {"0.bias": torch.tensor([1.0, -torch.inf])}, "infinity in 0.bias. Training had diverged"),
        (
            lambda w: w | {"0.bias": torch.ones(2).to_sparse()},
            r"in 0.bias, but a torch.sparse_coo one.*with its values",
        ),
        (
            lambda w: w | {"0.bias": torch.ones(2, device="meta")},
            r"0.bias, but a tensor on the meta device.*its values",
        ),
        (lambda w: {}, r"found a dict without entries\. Save model\.state_dict\(\)"),
        (lambda w: {"vision_model.encoder.x": torch.ones(1)}, "names as Hugging Face transformers has for a CLIP"),
        (lambda w: {"0.lora_A.weight": torch.ones(1)}, r"adapter \(LoRA\)"),
    ],
)
def test_weights_of_something_else_are_refused(tmp_path, model, change, message):
    with pytest.raises(ModelError, match=message):
        loaded(change(model.state_dict()), tmp_path / "c.pt")


def test_masks_may_be_infinite():
    model = nn.Linear(2, 2)
    model.register_buffer("mask", torch.zeros(2))
    fit_weights(model, model.state_dict() | {"mask": torch.tensor([0.0, -torch.inf])}, Path("c.pt"), "a model")
    assert model.mask.isinf().any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn])
def test_other_floats_are_converted(tmp_path, model, dtype):
    weights = {n: w.to(dtype) if w.is_floating_point() else w for n, w in model.state_dict().items()}
    expected = {n: w.float() if w.is_floating_point() else w for n, w in weights.items()}
    assert same(loaded(weights, tmp_path / "c.pt"), expected)


# Files that are something else


def zipped(**entries: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return out.getvalue()


def tarred() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("weights.pt"))
    return out.getvalue()


def npz() -> bytes:
    out = io.BytesIO()
    np.savez(out, a=np.ones(2))
    return out.getvalue()


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "empty"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 46830571\n",
            "a Git-LFS pointer.*git lfs pull",
        ),
        (b"outs:\n- md5: 0\n  path: weights.pt\n", "a DVC pointer.*dvc pull"),
        (b"\n<!DOCTYPE html><title>404</title>", "a web page"),
        (b"<html><body>Sign in</body></html>", "a web page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "an XML answer"),
        (b'{"error": "Repository not found"}', "a JSON text"),
        (
            json.dumps({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}).encode(),
            r"index of weights in 2 files.*safetensors.torch: save_file\(.*load_file\(f\).*'whole.safetensors'",
        ),
        (
            json.dumps({"weight_map": {"a": "1.bin", "b": "2.bin"}}).encode(),
            r"with torch: torch.save\(.*torch.load\(f, weights_only=True\).*'whole.pt'",
        ),
        (b"hello world" * 9, "a text that begins with 'hello world"),
        ("Gr\u00fc\u00dfe".encode() * 400, "a text that begins with 'Gr\u00fc\u00dfe"),
        (zipped(**{"weights/model.pt": b"x"}), "a zip archive of weights/model.pt.*Unpack"),
        (zipped(**{"model.weights.h5": b"x", "config.json": b"{}"}), "a Keras model"),
        (npz(), "a NumPy archive"),
        (tarred(), "a tar archive"),
        (gzip.compress(b"x" * 99, mtime=0), "compressed with gzip"),
        (b"\x89HDF\r\n\x1a\n" + bytes(99), "an HDF5 file"),
        (b"\x93NUMPY" + bytes(99), "a NumPy array"),
        (b"GGUF" + bytes(99), "a GGUF file"),
        (b"\x80\x04\x95" + bytes(99), "a Python pickle that torch.save did not write"),
        (b"\x08\x07\x12\x07pytorch", "damaged or no checkpoint. Download or save it again"),
        (bytes(range(256)) * 9, "damaged or no checkpoint. Download or save it again"),
    ],
)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_file_that_is_something_else_is_named(tmp_path, content, what, suffix):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(
        ModelError, match=rf"(?s)^checkpoint {path} is damaged or no checkpoint.*{what}|{what}"
    ) as error:
        read_checkpoint(path)
    assert "weights_only=False" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "what"),
    [("m.onnx", "ONNX"), ("flax_model.msgpack", "msgpack"), ("model.ckpt.data-00000-of-00001", "part of a TensorFlow")],
)
def test_formats_known_by_their_names(tmp_path, name, what):
    (tmp_path / name).write_bytes(b"\x08\x07\x12\x07pytorch\xff\x00")
    with pytest.raises(ModelError, match=what):
        read_checkpoint(tmp_path / name)


def test_the_suffix_does_not_matter(tmp_path, model):
    save_file(model.state_dict(), tmp_path / "weights.bin")
    torch.save(model.state_dict(), tmp_path / "weights.safetensors")
    torch.save(model.state_dict(), tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    options = {"_use_new_zipfile_serialization": False, "pickle_protocol": 3}
    torch.save(model.state_dict(), tmp_path / "old3.ckpt", **options)
    for name in ("weights.bin", "weights.safetensors", "old.ckpt", "old3.ckpt"):
        assert same(read_checkpoint(tmp_path / name)[""], model.state_dict())
    torch.save(model.state_dict(), tmp_path / "new.pt", pickle_protocol=4)
    with pytest.raises(ModelError, match="or saved with a pickle protocol above 3"):
        read_checkpoint(tmp_path / "new.pt")


def test_cut_downloads(tmp_path, model):
    torch.save(model.state_dict(), tmp_path / "good.pt")
    torch.save(model.state_dict(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    save_file(model.state_dict(), tmp_path / "good.safetensors")
    for name in ("good.pt", "old.pt", "good.safetensors"):
        content = (tmp_path / name).read_bytes()
        for length in (9, 60, len(content) // 2, len(content) - 5):
            (tmp_path / "cut").write_bytes(content[:length])
            with pytest.raises(ModelError, match="is damaged or no checkpoint"):
                read_checkpoint(tmp_path / "cut")


def test_paths_that_are_no_file(tmp_path, model):
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "link.pt").symlink_to(tmp_path / "blob")
    (tmp_path / "pipes").mkdir()
    os.mkfifo(tmp_path / "pipes/pipe.pt")
    for path, message in (
        (tmp_path, r"is a folder; .* Give one in it: link.pt, model\.safetensors"),
        (tmp_path / "link.pt", "is a link to .*blob, which is not there"),
        (tmp_path / "pipes/pipe.pt", "is a pipe or a device; expected a .safetensors or .pt file"),
        (
            tmp_path / f"{'x' * 300}.pt",
            r"cannot be reached \(File name too long\)\. .* permissions of the folders above",
        ),
        (tmp_path / "models.safetensors", r"does not exist.*Did you mean 'model\.safetensors'"),
    ):
        with pytest.raises(ModelError, match=message):
            read_checkpoint(path)


def test_kinds_that_are_read(tmp_path, model):
    torch.save(model.state_dict(), tmp_path / "a")
    save_file(model.state_dict(), tmp_path / "b")
    assert [file_kind(tmp_path / name)[0] for name in "ab"] == ["torch", "safetensors"]
