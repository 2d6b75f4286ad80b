"""Each stage alone on micro-inputs: its outs against ARCHITECTURE.md, its bytes twice, its bad inputs."""

import json
import re
import shutil
from pathlib import Path

import pytest
from micro import BY_CLASSIFIER, BY_MODEL, INSTANCES, PIPELINE, ROOT, command, run_stage

from optogram.errors import OptogramError
from optogram.store.digests import folder_digest
from optogram.store.read import read

STAGES = list(INSTANCES)


def schemas():
    """{artifact pattern: {variable: dims}} from the tables of ARCHITECTURE.md."""
    found, name = {}, None
    for line in (ROOT / "ARCHITECTURE.md").read_text().splitlines():
        if heading := re.match(r"### `(\S+)`", line):
            name = heading.group(1)
            found[name] = {}
        elif name and (row := re.match(r"\| `(\w+)` \| ([\w, ]*) \|", line)):
            found[name][row.group(1)] = tuple(d for d in row.group(2).replace(" ", "").split(",") if d)
    return found


SCHEMAS = schemas()
SCHEMA_OF = {
    "scenes": "images/<split>",
    "texts": "texts/<pool>",
    "activations": "activations/<model>/<split>",
    "contributions": "contributions/<model>/<split>",
    "second_order": "second_order/<model>/<split>/<layer>",
    **{name: f"{name}/<model>/<layer>" for name in ("neurons", "indirect")},
    **{name: f"{name}/<model>" for name in (*BY_MODEL, *BY_CLASSIFIER, "reference_sets")},
}


@pytest.fixture
def stage_folder(request, workspace, monkeypatch, tmp_path):
    """A copy of the workspace in which everything before the stage is done."""
    stage = request.node.callspec.params["stage"]
    shutil.copytree(workspace(stage), tmp_path / "w")
    monkeypatch.chdir(tmp_path / "w")
    shutil.rmtree(out_of(stage), ignore_errors=True)
    return tmp_path / "w"


@pytest.fixture
def ran_folder(request, workspace, monkeypatch, tmp_path):
    """A copy of the workspace in which the stage too has run, once."""
    shutil.copytree(workspace(request.node.callspec.params["stage"], itself=True), tmp_path / "w")
    monkeypatch.chdir(tmp_path / "w")
    return tmp_path / "w"


def out_of(stage):
    _, argv = command(stage, INSTANCES[stage][0])
    return Path(argv[argv.index("--out") + 1])


def metrics_of(stage):
    _, argv = command(stage, INSTANCES[stage][0])
    return Path(argv[argv.index("--metrics") + 1]) if "--metrics" in argv else None


@pytest.mark.parametrize("stage", STAGES)
def test_outs_follow_the_schema_and_two_runs_give_the_same_bytes(stage, ran_folder):
    out = out_of(stage)
    digest = folder_digest(out)
    if stage in SCHEMA_OF:
        dataset, wanted = read(out), SCHEMAS[SCHEMA_OF[stage]]
        # one layer stands for all in the table of prototypes
        optional = {"scenes": {"group", "held_out"}, "prototypes": {f"prototype_{k}" for k in range(1, 5)}}.get(
            stage, set()
        )
        got = {name: dataset[name].dims for name in map(str, dataset.variables) if name not in dataset.indexes}
        assert {k: v for k, v in got.items() if k not in optional} == {
            k: v for k, v in wanted.items() if k not in optional
        }
    metrics = metrics_of(stage)
    first = metrics.read_bytes() if metrics else b""
    if metrics:
        assert json.loads(first)
        metrics.unlink()
    shutil.rmtree(out)
    run_stage(stage, INSTANCES[stage][0])
    assert folder_digest(out) == digest
    assert (metrics.read_bytes() if metrics else b"") == first
    assert not [p for p in Path(".scratch").iterdir() if p.is_dir()]


@pytest.mark.parametrize("stage", STAGES)
def test_records_just_the_params_that_dvc_yaml_declares(stage, workspace, monkeypatch):
    monkeypatch.chdir(workspace(stage, itself=True))
    stores = sorted(out_of(stage).rglob("zarr.json"), key=lambda p: len(p.parts))
    if not stores:
        return  # a model folder or a report
    recorded = set(json.loads(read(stores[0].parent).attrs["params"]))
    body = PIPELINE[stage].get("do", PIPELINE[stage])
    declared = set()
    for param in body["params"]:
        for key, value in INSTANCES[stage][0].items():
            param = param.replace("${" + key + "}", value)
        declared.add(param)
    # the split train, which is looked at here, is not drawn with the bias of train_biased
    assert recorded == declared - ({"scenes.strong_bias"} if stage == "scenes" else set())


@pytest.mark.parametrize("stage", STAGES)
def test_a_missing_input_is_named(stage, stage_folder):
    body = PIPELINE[stage].get("do", PIPELINE[stage])
    inputs = [word[2:] for word in body["cmd"].split() if word in ("--images", "--contributions", "--model", "--texts")]
    inputs = [name for name in inputs if not (name == "model" and stage.startswith("train_"))]
    for name in inputs:
        with pytest.raises(OptogramError, match="nowhere"):
            run_stage(stage, INSTANCES[stage][0], **{name: "artifacts/nowhere"})
        assert not out_of(stage).exists()


@pytest.mark.parametrize("stage", STAGES)
def test_an_out_is_never_overwritten(stage, ran_folder):
    digest = folder_digest(out_of(stage))
    with pytest.raises(OptogramError, match="exist"):
        run_stage(stage, INSTANCES[stage][0])
    assert folder_digest(out_of(stage)) == digest


@pytest.mark.parametrize("stage", STAGES)
def test_a_misspelt_param_stops_it_before_anything_is_written(stage, stage_folder):
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("permutations:", "permutatoins:"))
    with pytest.raises(OptogramError, match="Did you mean 'permutations'"):
        run_stage(stage, INSTANCES[stage][0])
    assert not out_of(stage).exists()


@pytest.mark.parametrize("stage", ["contributions", "textspan", "roles"])
def test_an_artifact_from_other_params_is_refused(stage, stage_folder):
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("seed: 0", "seed: 1"))
    with pytest.raises(OptogramError, match=r"was made with seed = 0, but params\.yaml now has 1"):
        run_stage(stage, INSTANCES[stage][0])
    assert not out_of(stage).exists()


@pytest.mark.parametrize(("stage", "pool", "size"), [("texts", "words", 40), ("texts", "words_10k", 10_000)])
def test_a_pool_of_words_has_the_size_in_the_params_or_in_its_name(stage, pool, size, stage_folder):
    run_stage(stage, {"item": pool}, out="pool")
    assert read(Path("pool")).sizes == {"text": size}
