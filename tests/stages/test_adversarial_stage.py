"""The stage adversarial on a tiny random CLIP: its schema, bytes, table, refusals, and what it says of photographs."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from micro import ROOT, SETTINGS

from optogram.errors import OptogramError
from optogram.methods.neurons.adversarial import METHODS
from optogram.params.profiles import profile_text
from optogram.store.digests import folder_digest
from optogram.store.read import read
from optogram.store.write import Provenance, write_dataset
from stages import adversarial

TASKS = ["circle taken for square", "star taken for cross"]
FEW = [
    "pairs=[[circle, square], [star, cross]]",
    "neurons=20",
    "phrases=6",
    "descriptions=8",
    "chosen=3",
    "images=4",
    "repeats=3",
]


def set_params(*settings):
    keys = {setting.partition("=")[0] for setting in settings}
    few = [setting for setting in FEW if setting.partition("=")[0] not in keys]
    every = [*SETTINGS, *(f"adversarial.{setting}" for setting in [*few, *settings])]
    Path("params.yaml").write_text(profile_text("smoke", every, ROOT / "profiles"))


def main(**replaced):
    paths = {
        "model": "artifacts/models/smoke",
        "embeddings": "artifacts/embeddings/smoke",
        "neurons": "artifacts/neurons/smoke",
        "indirect": "artifacts/indirect/smoke",
        "images": "artifacts/images/eval",
        "out": "artifacts/adversarial/smoke",
        "metrics": "artifacts/metrics/adversarial_smoke.json",
    } | replaced
    adversarial.main([word for name, path in paths.items() for word in (f"--{name}", path)])
    return Path(paths["out"]), Path(paths["metrics"])


@pytest.fixture
def trained(workspace, tmp_path, monkeypatch):
    """A copy of the micro workspace, with random directions where neurons and indirect effects go."""
    shutil.copytree(workspace("ablation"), tmp_path / "w")
    monkeypatch.chdir(tmp_path / "w")
    for layer in range(3):
        for name, neurons in (("neurons", 64), ("indirect", 16)):
            shutil.rmtree(f"artifacts/{name}/smoke/{layer}", ignore_errors=True)
            r = np.random.default_rng(layer).standard_normal((neurons, 32)).astype(np.float32)
            r /= np.linalg.norm(r, axis=1, keepdims=True)
            dataset = xr.Dataset({"r": (("neuron", "embed"), r)})
            write_dataset(Path(f"artifacts/{name}/smoke/{layer}"), dataset, Provenance(name, "random", {}))
    set_params()


def test_schema_bytes_and_table(trained):
    out, metrics = main()
    found, written = read(out), json.loads(metrics.read_text())
    assert dict(found.sizes) == {
        "task": 2, "method": 5, "repeat": 3, "phrase": 6, "shown": 3, "y": 64, "x": 64, "rgb": 3
    }  # fmt: skip
    assert found["task"].values.tolist() == TASKS
    assert found["method"].values.tolist() == list(METHODS)
    assert (found["images"] == 12).all()
    assert ((found["fooled"] >= 0) & (found["fooled"] <= 12)).all()
    assert ((found["accuracy"] >= 0) & (found["accuracy"] <= 1)).all()
    for name, kind in (("fooled", "int32"), ("images", "int32"), ("score", "float32"), ("pixels", "uint8")):
        assert found[name].dtype == kind
    said = " ".join(found["phrase"].values.astype(str).ravel())
    assert re.search(r"\bobject", said)
    assert not re.search("circle|disc|square|triangle|star|cross|plus|ring|hoop", said.replace("stri", "")), said
    for text, margin, pixels in zip(
        *(found[name].values.reshape(30, *found[name].shape[3:]) for name in ("description", "margin", "pixels")),
        strict=True,
    ):
        assert bool(text) == bool(margin > 0) == (not np.isnan(margin)) == bool(pixels.any())
        assert not text or re.search("circle|star", text)
    # 12 images a task and repeat
    share = {method: 100 * float(found["fooled"].sel({"method": method}).mean()) / 12 for method in METHODS}
    assert written == {
        "measure": "of 100 images, those that phrases of neurons mislead",
        "of": 2 * 3 * 12,
        "value": pytest.approx(share["second_order"], rel=1e-5),
        "versus": "of random neurons",
        "versus_value": pytest.approx(share["random"], rel=1e-5),
        "yardstick": pytest.approx(share["plain"], rel=1e-5),
    }
    digest, text = folder_digest(out), metrics.read_text()
    shutil.rmtree(out)
    main()
    assert (folder_digest(out), metrics.read_text()) == (digest, text)
    recorded = json.loads(read(out).attrs["params"])
    assert recorded.keys() == {"seed", "threads", "second_order.layers", "adversarial"}


def test_photographs_and_unknown_attributes_are_skipped(trained):
    photos = read(Path("artifacts/images/eval"))[["pixels", "label", "value_name"]].load()
    write_dataset(Path("photos"), photos.drop_attrs(), Provenance("photos", "photos", {}))
    out, metrics = main(images="photos")
    assert "without a text-to-image model" in read(out).attrs["skipped"]
    assert json.loads(metrics.read_text()).keys() == {"skipped"}
    shutil.rmtree(out)
    set_params("attribute=class")
    assert "skipped" in read(main()[0]).attrs


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("pairs=[[circle, squares]]", "Did you mean 'square'"),
        ("attribute=colour", "colour 'circle' is unknown"),
        ("generator=nobody", "grammar, or transformers:"),
    ],
)
def test_what_cannot_be_done_is_named_before_anything_is_written(trained, setting, message):
    set_params(setting)
    with pytest.raises(OptogramError, match=message):
        main()
    assert not Path("artifacts/adversarial").exists()


def test_another_attribute_can_be_the_class(trained):
    set_params("attribute=background", "pairs=[[water, grass]]")
    found = read(main()[0])
    assert found["task"].values.tolist() == ["water taken for grass"]
    assert not re.search("grass|water|snow|sand|brick|night", " ".join(found["phrase"].values.astype(str).ravel()))
