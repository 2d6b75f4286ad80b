"""`optogram diff`: two revisions of an artifact."""

import json
import re
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import tiny
import xarray as xr
from typer.testing import CliRunner

from optogram.catalog.compare import compare_datasets
from optogram.cli.main import app
from optogram.errors import ArtifactError
from optogram.pipeline.diff import Compared, diff, write_diff
from optogram.store.read import read
from optogram.store.write import Provenance, write_sharded

HOSTILE = "</script><script>alert(1)</script>"


@pytest.fixture(scope="module")
def changed_once(tiny_made, tmp_path_factory):
    """A tiny repository where source/a and total of the tree differ from HEAD's; only for `changed`."""
    folder = tiny.copy(tiny_made, tmp_path_factory.mktemp("changed") / "repository")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINY_NOISE", "0.25")
        patch.setenv("TINY_WORD", "<b>green")
        tiny.dvc(folder, "repro", "--force", "--no-run-cache", "--single-item", "source@a", "total")
    return folder


@pytest.fixture
def changed(changed_once, tmp_path, monkeypatch):
    """A copy of it, as the working directory."""
    monkeypatch.chdir(tiny.copy(changed_once, tmp_path / "repository"))
    return tmp_path / "repository"


def test_a_table_against_its_revision(changed):
    [part] = diff("source/a@HEAD", "source/a")
    changes = {change.name: change for change in part.changes}
    assert set(changes) == {"z", "word"}
    assert (changes["z"].differing, changes["z"].entries, changes["z"].absolute) == (6, 6, 0.25)
    assert changes["word"].says == "image=j: 'blue' -> '<b>green'"
    assert diff("source/a@HEAD", "source/a@HEAD")[0].changes == []


def test_all_below_a_name_added_and_removed_ones_too(changed):
    shutil.rmtree(changed / "artifacts/source/b")
    shutil.copytree(changed / "artifacts/source/a", changed / "artifacts/source/c")
    found = {part.name: [c.kind for c in part.changes] for part in diff("source@HEAD", "source")}
    assert found == {"source/a": ["values", "values"], "source/b": ["removed"], "source/c": ["added"]}


def test_folders_that_are_no_tables(changed):
    [part] = diff("total@HEAD", "total")
    assert [(change.name, change.kind) for change in part.changes] == [("index.html", "file")]


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ("sources/a", "source/a", "No artifact is called 'sources/a'.*Did you mean 'source/a'"),
        ("source/a@nowhere", "source/a", "nowhere"),
        ("@HEAD", "source/a", "expected NAME or NAME@REV"),
        ("source/a@", "source/a", "expected NAME or NAME@REV"),
    ],
)
def test_names_and_revisions_that_are_not_there(tiny_repository, a, b, message):
    with pytest.raises(ArtifactError, match=message):
        diff(a, b)


def test_data_that_are_nowhere(tiny_repository):
    shutil.rmtree(tiny_repository / ".dvc/cache")
    shutil.rmtree(tiny_repository / "artifacts/total")
    with pytest.raises(ArtifactError):
        diff("total@HEAD", "source/a")


@pytest.mark.parametrize("name", ["z/c/0/0", "word/c/0"])
def test_a_chunk_that_is_nowhere_is_not_taken_for_zeros(tiny_repository, name):
    chunk = tiny_repository / "artifacts/source/a" / name
    for path in (tiny_repository / ".dvc/cache/files").rglob("*"):
        if path.is_file() and path.samefile(chunk):
            path.unlink()
    with pytest.raises(ArtifactError, match=r"source/a: object \w{32} is neither in the cache nor in a remote"):
        diff("source/a@HEAD", "source/a")


def table(values, word="x"):
    return xr.Dataset({HOSTILE: (("image", "embed"), values), "word": ("image", [word] * len(values))})


def test_the_page_draws_what_differs_and_escapes_everything(tmp_path):
    old = np.random.default_rng(0).normal(size=(100, 100))
    new = old.copy()
    new[:50] += 0.5
    new[0, 0] = np.nan
    sides = table(old, HOSTILE), table(new, "y")
    part = Compared(HOSTILE, compare_datasets(*sides), *sides)
    write_diff(tmp_path / "page.html", HOSTILE, "b@v1", [part])
    text = (tmp_path / "page.html").read_text()
    assert "<script>alert" not in text
    assert "alert(1)" in text
    assert not re.search(r'<(script|link|img)[^>]*(src|href)="(https?:|//)', text)
    [scatter, histogram] = re.findall(r'<script type="application/json">(.*?)</script>', text)
    assert 1000 < scatter.count(",") < 12_000, "a sample of the 10,000 entries"
    counts = json.loads(histogram)[0]["data"][0]["y"]
    assert sum(counts) == 4999, "the NaN is no difference that can be drawn"
    assert counts[-1] == 4999


def test_large_arrays_are_not_loaded(tmp_path):
    """64 MB on each side are compared within a fraction of that: what is allocated is watched."""
    for name in ("old", "new"):

        def rows(start, stop, name=name):
            values = np.zeros((stop - start, 2000))
            values[-1, -1] = name == "new"
            return xr.Dataset({"z": (("image", "embed"), values)})

        write_sharded(tmp_path / name, rows, Provenance("s", "t"), total=4000, shard=500, scratch=tmp_path / "s")
    sides = [read(tmp_path / name, chunks={}) for name in ("old", "new")]
    assert sides[0].z.nbytes == 64_000_000
    tracemalloc.start()
    [change] = compare_datasets(*sides)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (change.differing, change.entries) == (8, 8_000_000)
    assert peak < 64_000_000


def test_the_command(changed, tmp_path):
    done = CliRunner().invoke(app, ["diff", "source@HEAD", "source", "--html", str(tmp_path / "d.html")])
    assert done.exit_code == 0, done.stdout
    assert "6 of 6" in done.stdout
    assert "No difference in source/b" in done.stdout
    assert Path(tmp_path / "d.html").stat().st_size > 1e6, "plotly is inside"
