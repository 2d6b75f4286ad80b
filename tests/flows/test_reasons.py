"""Why a stage runs, in plain words."""

import pytest

from flows.reasons import few, why

ENTRY = {"params": {"params.yaml": {"vital": {"steps": 64, "lr": 0.1}, "seed": 0}}}
MAKERS = {"artifacts/targets/vit": "targets@vit", "artifacts/vital/vit": "vital@vit", "made": "maker"}
PARAMS = {"vital": {"steps": 8, "lr": 0.1}, "seed": 0}
OUT = "artifacts/vital/vit"
NOT_HERE = {"changed outs": {OUT: "not in cache"}}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ([NOT_HERE], "not made yet"),
        ([{"changed deps": {"artifacts/targets/vit": "deleted"}}, NOT_HERE], "not made yet"),
        ([{"changed deps": {"params.yaml": {"vital": "modified"}}}], "params changed: vital.steps"),
        ([{"changed deps": {"params.yaml": {"seed": "modified"}}}], "params changed: seed"),
        ([{"changed deps": {"optogram/data/scenes.py": "modified"}}], "code changed: optogram/data/scenes.py"),
        ([{"changed deps": {"photos": "deleted"}}], "changed or missing: photos"),
        (
            [{"changed deps": {"artifacts": "modified"}}],
            "what it reads changed or is not here, from targets@vit",
        ),
        (["changed command"], "its command changed"),
        (["always changed"], "it runs every time"),
        (
            [{"changed deps": {"params.yaml": {"vital": "new"}, "stages/vital.py": "modified", "made": "modified"}}],
            "params changed: vital.steps; code changed: stages/vital.py",
        ),
    ],
)
def test_it_is_said_in_plain_words(changes, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert why(changes, entry=ENTRY, makers=MAKERS, params=PARAMS).startswith(said)


def test_what_was_edited_by_hand_is_not_called_missing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "made").touch()
    found = why([{"changed outs": {"made": "modified"}}], entry=ENTRY, makers=MAKERS, params=PARAMS)
    assert found == "changed since it was made: made"


def test_what_only_the_cache_lacks_is_not_called_changed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "made").touch()
    found = why([{"changed outs": {"made": "not in cache"}}], entry=ENTRY, makers=MAKERS, params=PARAMS)
    assert found == "here, but no longer in DVC's cache: made"


def test_without_a_lock_nothing_is_made():
    assert why(["changed checksum"], entry={}, makers=MAKERS, params=PARAMS) == "not made yet"


def test_few_names_are_shown():
    assert few("abcab") == "a, b, c"
    assert few("abcde") == "a, b, c and 2 more"
