"""The pipeline as DVC has it."""

import pytest

from flows.graph import plan
from optogram.errors import FlowError
from tests.flows.conftest import Toy

CHAIN = {
    "a": (0, [], {}),
    "b": (0, ["a"], {"pool": "gpu", "retries": 2, "timeout": 60}),
    "c": (0, ["b"], {}),
    "d": (0, [], {}),
}


@pytest.fixture
def toy(tmp_path, monkeypatch):
    made = Toy(tmp_path / "toy", CHAIN)
    monkeypatch.chdir(made.folder)
    return made


def test_stages_edges_and_meta_come_from_dvc(toy):
    found = plan()
    assert list(found.stages) == ["a", "b", "c", "d"] == list(found.order)
    stage = found.stages["b"]
    assert (stage.upstream, stage.outs, stage.desc) == ({"a"}, ("out_b",), "Toy stage b")
    assert (stage.pool, stage.retries, stage.timeout) == ("gpu", 2, 60)
    assert (found.stages["c"].pool, found.stages["c"].retries) == ("cpu", 0)


def test_staleness_is_dvc_s(toy):
    assert plan().doubtful == ["a", "b", "c", "d"]
    toy.dvc("repro")
    assert plan().doubtful == []
    (toy.folder / "out_b").unlink()
    found = plan()
    assert found.changed == {"b": "not made yet", "c": "what it reads changed or is not here, from b"}
    assert found.doubtful == ["b", "c"]


@pytest.mark.parametrize("torn", ["", '{"write": {}, "re'])
def test_what_a_killed_dvc_was_writing_stops_nobody(toy, torn):
    toy.dvc("repro")
    path = toy.folder / ".dvc/tmp/rwlock"
    assert path.exists()
    path.write_text(torn)
    assert plan().doubtful == []
    toy.dvc("repro")


def test_reasons_name_settings_and_files(toy):
    assert plan().changed["d"] == "not made yet"
    path = toy.folder / "dvc.yaml"
    path.write_text(path.read_text().replace("    meta: {}", "    params: [toy]\n    meta: {}", 1))
    (toy.folder / "params.yaml").write_text("toy: {steps: 1, size: 2}\n")
    toy.dvc("repro")
    (toy.folder / "params.yaml").write_text("toy: {steps: 3, size: 2}\n")
    assert plan().changed == {"a": "params changed: toy.steps"}
    (toy.folder / "stage.py").write_text((toy.folder / "stage.py").read_text() + "\n")
    assert plan().changed["d"] == "changed or missing: stage.py"


def test_what_follows_a_constant_stage_is_not_doubted_for_it(toy):
    toy.dvc("repro")
    path = toy.folder / "dvc.yaml"
    path.write_text(path.read_text().replace("meta: {}", 'meta: {"constant": true}', 1))
    (toy.folder / "stage.py").write_text((toy.folder / "stage.py").read_text() + "\n")
    assert plan(["a"]).stages["a"].constant
    path.write_text(
        path.read_text().replace('["stage.py", "out_a"]', "[out_a]").replace('["stage.py", "out_b"]', "[out_b]")
    )
    assert plan(["c"]).doubtful == ["a"]


def test_absent_data_are_not_stale_where_none_need_be_here(toy):
    toy.dvc("repro")
    for name in CHAIN:
        (toy.folder / f"out_{name}").unlink()
    assert plan(data_here=False).doubtful == []
    (toy.folder / "stage.py").write_text((toy.folder / "stage.py").read_text() + "\n")
    assert plan(data_here=False).doubtful == list(CHAIN)


def test_targets_bring_their_upstream(toy):
    assert list(plan(["b"]).stages) == ["a", "b"]
    assert list(plan(["out_b", "d"]).stages) == ["a", "b", "d"]
    assert plan(["b"]).order == ("a", "b", "c", "d")


def test_an_unknown_target_gets_the_nearest(toy):
    with pytest.raises(FlowError, match=r"called 'aa'\. Did you mean 'a'"):
        plan(["aa"])


@pytest.mark.parametrize(
    ("meta", "said"),
    [
        ('"pool": "tpu"', "meta.pool of a is 'tpu', expected one of cpu, gpu"),
        ('"retries": "two"', "meta.retries of a is 'two'"),
        ('"timeout": -1', "meta.timeout of a is -1, expected seconds above 0"),
    ],
)
def test_bad_meta_is_named(toy, meta, said):
    path = toy.folder / "dvc.yaml"
    path.write_text(path.read_text().replace("meta: {}", f"meta: {{{meta}}}", 1))
    with pytest.raises(FlowError, match=said):
        plan()


def test_no_pipeline_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FlowError, match="cannot be read"):
        plan()
