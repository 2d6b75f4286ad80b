"""params.yaml: the defaults are the demo, mistakes are named with their place."""

import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from optogram.errors import ParamError
from optogram.params.profiles import profile_text
from optogram.params.root import Params, load_params, validated

ROOT = Path(__file__).parent.parent.parent
PROFILES = sorted(p.stem for p in (ROOT / "profiles").glob("*.yaml"))


def test_the_committed_params_are_the_demo():
    assert (ROOT / "params.yaml").read_text() == profile_text("demo", [])
    assert load_params(ROOT / "params.yaml") == Params()


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_is_valid(name):
    text = profile_text(
        name, ["photos.path=x.zip"] if name in ("photos", "resnet56", "photo_prior", "faces") else [], ROOT / "profiles"
    )
    assert validated(YAML(typ="safe").load(text), name) != Params()


def test_settings_lie_on_top_and_leave_the_rest():
    text = profile_text("demo", ["textspan.size=8", "textspan.sizes=[2, 8]", "scenes.splits.eval.count=7"])
    params = validated(YAML(typ="safe").load(text), "test")
    assert params.textspan.size == 8
    assert params.textspan.sizes == [2, 8]
    assert params.scenes.splits["eval"].count == 7
    assert params.scenes.splits["train"] == Params().scenes.splits["train"]


def test_the_paper_uses_the_thesis_s_two_pools_of_words_beside_those_of_textspan():
    params = validated(YAML(typ="safe").load(profile_text("paper", [], ROOT / "profiles")), "test")
    assert params.texts.names == ["descriptions", "words", "words_10k", "words_30k", "class", "random"]
    assert (params.texts.words, params.texts.random) == (3498, 3498)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("textspan.sizze=3", "textspan.sizze is not a known key. Did you mean 'size'"),
        ("train_clip.models.demo.widdth=3", "train_clip.models.demo.widdth is not a known key. Did you mean 'width'"),
        ("seed=-1", "seed: Input should be greater than or equal to 0 (found -1)"),
        ("textspan.size=0", "textspan.size: Input should be greater than 0 (found 0)"),
        ("clips=[nobody]", "clips names 'nobody', but train_clip.models and load_clip.models have ['demo']"),
        ("threads=3000000000", "Input should be less than or equal to 1024 (found '3000000000')"),
        ("device=tpu", "device: Input should be 'auto', 'cpu' or 'cuda' (found 'tpu')"),
        ("spurious.split=nowhere", "split 'nowhere' is used"),
        (
            "classifiers=[nobody]",
            "classifiers names 'nobody', but train_classifier.models and load_classifier.models have",
        ),
        (
            "load_classifier.models={demo: {spec: x}}",
            "'demo' is both in train_clip.models and in load_classifier.models",
        ),
        ("load_clip.models={vit: {spec: x}}", "'vit' is both in load_clip.models and in train_classifier.models"),
        ("train_classifier.models.vit.epoch=1", "train_classifier.models.vit.epoch is not a known key. Did you mean"),
        ("train_classifier.models.vit.split=tran", "split 'tran' is used"),
        ("activations.splits=[nowhere]", "split 'nowhere' is used"),
        ("activations.layers={vti: [norm]}", "activations.layers names 'vti', but classifiers are ['resnet', 'vit'"),
        ("load_clip.models={demo: {spec: x}}", "'demo' is both in train_clip.models and in load_clip.models"),
        ("texts.files={words: a.txt}", "'words' is both a built-in pool and in files"),
        ("texts.pools=[words_20k]", "texts.pools.0: Input should be 'descriptions', 'words', 'words_10k', 'words_30k'"),
        ("photos.splits={eval: {}}", "photos.path = '', expected a folder or zip"),
        ("texts.files={zeroshot: a.txt}", "'zeroshot' cannot name a pool"),
        ("scenes.bias=.nan", "scenes.bias"),
        ("no equals sign", "is no setting"),
    ],
)
def test_a_mistake_is_named_with_its_place_and_the_fix(setting, message):
    with pytest.raises(ParamError, match=re.escape(message)):
        profile_text("demo", [setting])


def test_unknown_profile_names_the_known():
    with pytest.raises(ParamError, match=r"No profile 'smok'; there are demo, .*Did you mean 'smoke'"):
        profile_text("smok", [], ROOT / "profiles")


@pytest.mark.parametrize("text", ["a: [", "\ta: 1", "a: !!python/object:os.system {}"])
def test_what_is_not_yaml_is_said(tmp_path, text):
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ParamError, match=r"params\.yaml"):
        load_params(tmp_path / "params.yaml")


def test_no_params_file(tmp_path):
    with pytest.raises(ParamError, match="optogram profile demo"):
        load_params(tmp_path / "params.yaml")


def test_no_classifier_need_have_reference_sets():
    assert validated({"reference_sets": {"models": []}}, "params.yaml").reference_sets.models == []


def test_what_the_report_depends_on_is_there_though_no_model_made_it():
    stages = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
    for stage in ("report", "figures"):
        folders = [Path(path) for path in stages[stage]["deps"] if path.startswith("artifacts/")]
        kept = [path for path in folders if path.parent.name == "artifacts" and path.name != "images"]
        assert len(kept) > 8
        for path in kept:
            assert (ROOT / path / ".keep").is_file(), path
