"""The stages of neurons: what users do with their artifacts, and what they are told when something cannot be."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from micro import run_stage

import optogram
from optogram.errors import ArtifactError, ModelError, ParamError
from optogram.store.digests import folder_digest
from optogram.store.read import read


@pytest.fixture
def done(workspace, tmp_path, monkeypatch):
    """A copy of the micro workspace with everything before `concepts` done."""
    shutil.copytree(workspace("neuron_ablation", itself=True), tmp_path / "w")
    monkeypatch.chdir(tmp_path / "w")
    return tmp_path / "w"


def test_neurons_join_with_heads_on_text_layer_and_head(done):
    neurons, spans = optogram.open("neurons/smoke/0"), optogram.open("textspan/smoke")
    assert neurons.through.dims == ("layer", "head", "neuron")
    joined = spans.merge(neurons[["through"]], join="inner", compat="override")
    assert joined.layer.values.tolist() == [1, 2]
    assert joined.through.sel(layer=2, head=1).sizes == {"neuron": neurons.sizes["neuron"]}
    # by text: the heads and the neurons that the same description names
    heads = spans[["text"]].sel(pool="descriptions").to_dataframe().reset_index()
    told = neurons[["text", "weight"]].sel(pool="descriptions").to_dataframe().reset_index()
    both = heads.merge(told[told.text != ""], on="text", suffixes=("_head", "_neuron"))
    assert len(both)
    assert {"layer", "head", "neuron", "weight"} <= set(both.columns)


def test_a_stored_cache_gives_what_the_model_gives(done):
    stored = optogram.open("second_order/smoke/eval/1")
    assert stored.attrs["mlp_layer"] == 1
    clip = optogram.models.loading.clip_folders.load_clip(Path("artifacts/models/smoke"))
    images = optogram.open("images/eval").isel(image=slice(30, 40))
    found = optogram.decompose.second_order(clip.model, clip.preprocess(images.pixels.values), 1)
    np.testing.assert_allclose(stored.c[30:40], found.c, rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(stored.D, found.D)
    assert stored.image[30:40].values.tolist() == images.image.values.tolist()
    effects = optogram.decompose.effects(stored.isel(neuron=[3], image=[30]))
    assert effects.chunks is not None, "expanded lazily"


def test_the_last_layer_has_no_second_order_effect(done):
    values = {"model": "smoke", "split": "eval", "layer": "2"}
    with pytest.raises(ParamError, match=r"layer = 2 is the last one .* no second-order effect\. Choose from layers 0"):
        run_stage("second_order", values)
    assert not Path("artifacts/second_order/smoke/eval/2").exists()
    with pytest.raises(ParamError, match="layer = 7, but this model has MLPs 0 to 2"):
        run_stage("second_order", values | {"layer": "7"})


def test_a_cut_off_cache_resumes_to_the_same_bytes(done, monkeypatch):
    out = Path("artifacts/second_order/smoke/reference/0")
    digest = folder_digest(out)
    shutil.rmtree(out)
    from optogram.store import write

    def only_the_first(work, compute, number, made=write.make):
        if number > 0:
            raise KeyboardInterrupt
        return made(work, compute, number)

    values = {"model": "smoke", "split": "reference", "layer": "0"}
    with monkeypatch.context() as patch:
        patch.setattr(write, "make", only_the_first)
        with pytest.raises(KeyboardInterrupt):
            run_stage("second_order", values)
    assert not out.exists()
    run_stage("second_order", values)
    assert folder_digest(out) == digest


def test_a_neuron_s_nan_is_named_and_nothing_is_written(done):
    from safetensors.torch import load_file, save_file

    path = Path("artifacts/models/smoke/model.safetensors")
    weights = load_file(path)
    weights["visual.transformer.resblocks.0.mlp.c_fc.bias"][5] = float("nan")
    save_file(weights, path)
    shutil.rmtree("artifacts/second_order/smoke/eval/0")
    with pytest.raises(ModelError, match="neuron 5 of layer 0 has activation nan at token 0 of image 0"):
        run_stage("second_order", {"model": "smoke", "split": "eval", "layer": "0"})
    assert not Path("artifacts/second_order/smoke/eval/0").exists()


def test_neurons_of_another_run_are_refused(done):
    text = Path("params.yaml").read_text()
    assert "separation: 0.3" in text
    Path("params.yaml").write_text(text.replace("separation: 0.3", "separation: 0.5"))
    with pytest.raises(ArtifactError, match=r"was made with neurons = .*'separation': 0\.3.* but params\.yaml now has"):
        run_stage("concepts", {"model": "smoke"})


def test_the_form_of_the_artifact_goes_into_the_ablations(done):
    evaluated, form = optogram.open("second_order/smoke/eval/0"), optogram.open("neurons/smoke/0")
    replaced = optogram.methods.replace_effects(evaluated, form)
    ablated = optogram.methods.ablate_effects(evaluated, form)
    assert replaced.shape == ablated.shape == evaluated.embedding.shape
    away = [np.linalg.norm(one - evaluated.embedding.values) for one in (replaced, ablated)]
    assert away[0] < away[1]
    stored = read(Path("artifacts/neuron_ablation/smoke"))
    assert stored.condition.values.tolist() == [
        "none", "all", "small", "large", "rank_one", "first_order", "indirect"
    ]  # fmt: skip
