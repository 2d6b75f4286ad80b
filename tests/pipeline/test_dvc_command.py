"""dvc.lock written an entry at a time has the bytes that DVC gives it."""

import subprocess
import sys
from pathlib import Path

import pytest
from dvc.utils.serialize import dumps_yaml, loads_yaml

from optogram.pipeline import dvc_command
from optogram.pipeline.dvc_command import HEAD, blocks, with_entries

ROOT = Path(__file__).parents[2]
LOCK = HEAD + "  a@x:\n    cmd: one\n    outs:\n    - path: a\n      md5: 1e5\n  b:\n    cmd: two\n"


@pytest.fixture(scope="module")
def committed():
    return (ROOT / "dvc.lock").read_text()


def test_each_entry_is_written_as_dvc_writes_the_whole(committed):
    entries = loads_yaml(committed)["stages"]
    assert len(blocks(committed)) == len(entries) > 50
    assert HEAD + dumps_yaml({"stages": entries}).removeprefix("stages:\n") == committed
    assert with_entries(committed, dict(reversed(entries.items()))) == committed


def test_an_entry_keeps_its_place_and_a_new_one_comes_last():
    put = with_entries(
        LOCK, {"a@x": {"cmd": "other " * 40, "params": {"k": [1, None, 2.5e-6, "yes", {}]}}, "c": {"cmd": "three"}}
    )
    data = loads_yaml(LOCK)
    data["stages"] |= loads_yaml(put)["stages"]
    assert put == dumps_yaml(data)
    assert list(loads_yaml(put)["stages"]) == ["a@x", "b", "c"]


@pytest.mark.parametrize("text", [LOCK + "# mine\n", LOCK.replace("  b:", "  # mine\n  b:"), LOCK + "datasets: []\n"])
def test_a_file_of_another_layout_is_left_to_dvc(text):
    assert with_entries(text, {"a@x": {"cmd": "other"}}) is None


def test_a_run_gives_the_lock_that_dvc_gives(tiny_repository):
    stage = "source@a"
    lock = Path("dvc.lock")
    before = lock.read_text()
    for command in (["-P", dvc_command.__file__], ["-m", "dvc"]):
        lock.write_text(before.replace("size: ", "size: 1", 1))
        done = subprocess.run(
            [sys.executable, *command, "repro", "--single-item", "--force", stage], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Updating lock file" in done.stdout
        assert lock.read_text() == before
