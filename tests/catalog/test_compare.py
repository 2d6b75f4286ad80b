"""What differs between two artifacts, and by how much."""

import json
import math

import numpy as np
import pytest
import torch
import xarray as xr
from safetensors.torch import save_file

from optogram.catalog import compare
from optogram.catalog.compare import Change, Tolerance, compare_datasets, compare_paths, compare_values, matched
from optogram.store.write import Provenance, write_dataset

TOLERANCE = Tolerance(absolute=1e-5, relative=1e-4)


def table(values=None, images=("a", "b", "c"), **more):
    values = np.arange(12.0).reshape(3, 4) if values is None else values
    return xr.Dataset({"z": (("image", "embed"), values), **more}, coords={"image": list(images)})


def found(old, new, tolerance=TOLERANCE) -> dict[str, Change]:
    changes = compare_datasets(old, new, tolerance)
    assert len({c.name for c in changes}) == len(changes), "one change a name, in these tests"
    return {change.name: change for change in changes}


def test_equal_tables_do_not_differ():
    holes = table().where(table().z > 2)
    assert np.isnan(holes.z.values).any()
    assert compare_datasets(holes, holes.copy(deep=True)) == []


def test_rounding_is_within_the_tolerance_and_more_is_not():
    small = found(table(), table(table().z.values * (1 + 1e-7)))["z"]
    assert small.within
    assert (small.entries, small.differing, small.beyond) == (12, 11, 0)
    values = table().z.values
    values[1, 2] += 0.5
    large = found(table(), table(values))["z"]
    assert not large.within
    assert (large.differing, large.beyond, large.absolute) == (1, 1, 0.5)
    assert large.relative == pytest.approx(0.5 / 6)
    assert large.says == "largest at image=b, embed=2"


@pytest.mark.parametrize(("old", "new", "within"), [(0.0, 9e-6, True), (0.0, 2e-5, False), (1e6, 1e6 + 50, True)])
def test_a_value_passes_if_either_bound_holds(old, new, within):
    assert found(table(np.full((3, 4), old)), table(np.full((3, 4), new)))["z"].within is within


@pytest.mark.parametrize(("old", "new"), [(math.nan, 1.0), (1.0, math.nan), (math.inf, 1.0), (math.inf, -math.inf)])
def test_a_nan_or_infinity_on_one_side_is_never_within(old, new):
    a, b = np.zeros((3, 4)), np.zeros((3, 4))
    a[0, 0], b[0, 0] = old, new
    a[1, 1] = b[1, 1] = math.nan
    a[1, 2] = b[1, 2] = math.inf
    change = found(table(a), table(b))["z"]
    assert (change.differing, change.beyond, change.absolute) == (1, 1, math.inf)


@pytest.mark.parametrize("dtype", [str, object, np.int16, bool])
def test_words_integers_and_booleans_are_counted_and_never_within(dtype):
    old, new = np.array([0, 1, 1], dtype=dtype), np.array([0, 0, 1], dtype=dtype)
    change = found(table(label=("image", old)), table(label=("image", new)), Tolerance(10.0, 10.0))["label"]
    assert (change.entries, change.differing, change.beyond) == (3, 1, 1)
    assert not change.within
    assert change.says.startswith("image=b: ")


def test_entries_are_matched_by_their_labels():
    new = table().isel(image=[2, 0])
    changes = found(table(), new)
    assert changes["image"].says == "labels: 1 removed ('b')"
    assert list(changes) == ["image"], "the images that both have are the same"
    new["z"].values[0, 0] += 1  # image c
    changes = compare_datasets(table(), new)
    values = next(c for c in changes if c.name == "z" and c.kind == "values")
    assert (values.entries, values.differing, values.says) == (8, 1, "largest at image=c, embed=0")


def test_labels_and_words_cannot_steer_a_terminal():
    old = table(word=("image", ["x", "y", "z"]), images=("a\x1b[2J", "b", "c"))
    new = old.copy(deep=True)
    new["word"].values[0] = "\x1b"
    new["z"].values[0, 0] = 9
    changes = found(old, new)
    assert changes["z"].says == "largest at image=a?[2J, embed=0"
    assert changes["word"].says == r"image=a?[2J: 'x' -> '\x1b'"


def test_labels_in_another_order_alone():
    assert [(c.name, c.kind) for c in compare_datasets(table(), table().isel(image=[1, 0, 2]))] == [("image", "labels")]


def test_repeated_labels_are_matched_by_position():
    old, new = table(images=("a", "a", "b")), table(images=("a", "b", "b"))
    assert list(found(old, new)) == ["image"]
    assert "twice" in found(old, new)["image"].says


def test_layout_variables_and_attributes():
    old = table(gone=("image", [1, 2, 3])).assign_attrs(title="one", params='{"textspan":{"size":8}}', digest="x")
    new = table(come=("image", [1, 2, 3])).assign_attrs(title="two", params='{"textspan":{"size":9}}', digest="y")
    new["z"] = new.z.astype(np.float32).transpose()
    changes = found(old, new)
    assert {name: change.kind for name, change in changes.items()} == {
        "gone": "removed",
        "come": "added",
        "title": "attribute",
        "params.textspan.size": "attribute",
        "z": "layout",
    }
    assert changes["z"].says == "float64 (image 3, embed 4) -> float32 (embed 4, image 3)"
    assert changes["params.textspan.size"].says == "8 -> 9"
    assert not any(change.within for change in changes.values())


def test_large_arrays_are_read_in_blocks(monkeypatch):
    monkeypatch.setattr(compare, "BLOCK_BYTES", 1000)
    old = xr.Dataset({"z": (("image", "y", "x"), np.arange(6000.0).reshape(3, 50, 40))}).chunk(y=7)
    shapes = [a.shape for a, _, _ in matched(old, old, "z")]
    assert max(np.prod(shape) * 8 for shape in shapes) <= 1000
    assert sum(np.prod(shape) for shape in shapes) == 6000
    new = old.copy(deep=True).compute()
    new["z"].values[2, 49, 39] = 0
    assert found(old, new)["z"].says == "largest at image=2, y=49, x=39"
    assert found(old, new)["z"].entries == 6000


def test_json_numbers_have_a_tolerance_and_counts_do_not():
    old = {"accuracy": {"all": 0.5, "by": [0.25, 0.75]}, "heads": 4, "name": "x", "none": None}
    new = {"accuracy": {"all": 0.5000001, "by": [0.25, 0.8]}, "heads": 5, "name": "x", "none": 0.0}
    changes = {change.name: change for change in compare_values(old, new, Tolerance(1e-5, 0.5))}
    assert set(changes) == {"accuracy.all", "accuracy.by.1", "heads", "none"}
    assert changes["accuracy.all"].within
    assert changes["accuracy.by.1"].within, "the relative bound holds"
    assert not changes["heads"].within
    assert not changes["none"].within


def test_folders_by_their_parts(tmp_path):
    for name, scale, page in (("old", 1.0, "<p>1"), ("new", 1 + 1e-7, "<p>2")):
        folder = tmp_path / name
        write_dataset(folder / "words", table(table().z.values * scale), Provenance("s", "t"), scratch=tmp_path / "x")
        weights = torch.linspace(1, 2, 8).reshape(2, 4) * (2 if name == "new" else 1)
        save_file({"weight": weights.bfloat16(), "same": torch.ones(3)}, folder / "model.safetensors")
        (folder / "index.html").write_text(page)
        (folder / "config.json").write_text(json.dumps({"layers": 4}))
        (folder / f"only_{name}").write_text("")
    changes = {change.name: change for change in compare_paths(tmp_path / "old", tmp_path / "new", TOLERANCE)}
    assert {name: change.kind for name, change in changes.items()} == {
        "words: z": "values",
        "model.safetensors: weight": "values",
        "index.html": "file",
        "only_old": "removed",
        "only_new": "added",
    }
    assert changes["words: z"].within
    assert changes["model.safetensors: weight"].relative == 1
    assert compare_paths(tmp_path / "old", tmp_path / "old") == []
