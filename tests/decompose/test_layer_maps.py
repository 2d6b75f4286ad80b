"""Caches of activations: rows are the model's own, in one pass, resumable; a wrong layer is named at once."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

from optogram.data.scenes import Scenes
from optogram.decompose.layer_maps import caching_activations, layer_maps
from optogram.errors import ModelError, ShapeError
from optogram.models.layers import activations
from optogram.models.linear_head import penultimate
from optogram.models.loading.architectures import build_architecture
from optogram.models.loading.classifier_folders import load_classifier_folder, save_classifier
from optogram.models.loading.classifiers import Classifier
from optogram.models.loading.clip_folders import Preprocess
from optogram.store.digests import folder_digest
from optogram.store.read import read
from optogram.store.write import Provenance, write_dataset, write_sharded

SPEC, ARGUMENTS = "timm:resnet10t", {"channels": [8, 8, 12, 16], "stem_width": 8, "num_classes": 3}
LAYERS = ["layer2", "act1"]


def saved(folder, spec=SPEC, arguments=ARGUMENTS, classes=("a", "b", "c")):
    model = build_architecture(spec, arguments, seed=2).eval().requires_grad_(False)
    preprocess = Preprocess(32)
    made = Classifier(model, preprocess, (0.5,) * 3, (0.5,) * 3, (32, 32), classes, "shape")
    save_classifier(made, folder, spec=spec, arguments=arguments, dtype=torch.float32)
    return folder


def convolutional():
    """A factory that a spec of this file names: its logits are the mean of a map."""
    return nn.Sequential(nn.Conv2d(3, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    write_dataset(folder / "images", Scenes("eval", 11, 0, size=32).read(0, 11), Provenance("t", "images"))
    return saved(folder / "model"), folder / "images"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_rows_are_the_model_s_activations_features_and_logits(inputs):
    model, images = inputs
    rows = caching_activations(model, images, LAYERS, batch=2, device="cpu")(3, 8)
    found, part = load_classifier_folder(model, "cpu"), read(images).isel(image=slice(3, 8))
    seen = found.preprocess(part.pixels.values)
    with torch.no_grad():
        expected = activations(found.model, seen, LAYERS)
        logits, features = found.model(seen), penultimate(found.model, seen)
    assert json.loads(rows.attrs["layers"]) == LAYERS
    for k, name in enumerate(LAYERS):
        assert rows[f"maps_{k}"].dims == ("image", f"channel_{k}", f"y_{k}", f"x_{k}")
        maps = layer_maps(rows, name)
        assert maps.dims == ("image", "channel", "y", "x")
        assert maps.dtype == np.float32
        np.testing.assert_allclose(maps.values, expected[name].numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(rows["features"].values, features.numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(rows["logits"].values, logits.numpy(), rtol=1e-5, atol=1e-6)
    assert rows["class"].values.tolist() == ["a", "b", "c"]
    assert rows["image"].values.tolist() == part["image"].values.tolist()


def test_by_default_the_last_block_and_numbers_for_classes_without_names(inputs, tmp_path):
    rows = caching_activations(saved(tmp_path / "model", classes=()), inputs[1], None, batch=4, device="cpu")(0, 2)
    assert json.loads(rows.attrs["layers"]) == ["layer3"]  # layer4 is a point at 32 x 32
    assert rows["class"].values.tolist() == ["0", "1", "2"]


def test_a_killed_run_resumes_to_the_bytes_of_an_uninterrupted_one(inputs):
    compute = caching_activations(*inputs, LAYERS, batch=3, device="cpu")

    def killed(start, stop):
        if start == 8:
            raise KeyboardInterrupt
        return compute(start, stop)

    asked = []

    def noted(start, stop):
        asked.append(start)
        return compute(start, stop)

    made = Provenance("activations", "Activations")
    write_sharded(Path("whole"), compute, made, total=11, shard=4)
    with pytest.raises(KeyboardInterrupt):
        write_sharded(Path("resumed"), killed, made, total=11, shard=4)
    write_sharded(Path("resumed"), noted, made, total=11, shard=4)
    assert asked == [8]
    assert folder_digest(Path("resumed")) == folder_digest(Path("whole"))
    expected = layer_maps(compute(0, 11), "act1")  # other batches round otherwise
    xr.testing.assert_allclose(layer_maps(read(Path("whole")), "act1"), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("layers", "message"),
    [(["layer2", "layr3"], r"no layer 'layr3'. Did you mean .*'layer3'"), (["fc"], r"'fc' gives \(1, 3\)")],
)
def test_a_layer_that_cannot_be_cached_is_named_before_the_first_row(inputs, layers, message):
    with pytest.raises(ModelError, match=message):
        caching_activations(*inputs, layers, batch=2, device="cpu")


def test_a_model_without_a_linear_head_has_no_features(inputs, tmp_path):
    model = saved(tmp_path / "model", f"callable:{__name__}:convolutional", {})
    with pytest.raises(ModelError, match="no features before it"):
        caching_activations(model, inputs[1], ["0"], batch=2, device="cpu")


def test_a_layer_that_the_cache_does_not_hold():
    ds = xr.Dataset(attrs={"layers": json.dumps(["layer3", "layer4"])})
    with pytest.raises(ShapeError, match=r"no activations of layer 'layer5', only of layer3, layer4. Did you mean"):
        layer_maps(ds, "layer5")
    with pytest.raises(ShapeError, match=r"'layer1', only of none"):
        layer_maps(xr.Dataset(), "layer1")
