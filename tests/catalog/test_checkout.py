"""The checkout around the current folder."""

import pytest

from optogram.catalog.checkout import find_checkout
from optogram.errors import ArtifactError, CheckoutError


@pytest.fixture
def checkout(tmp_path):
    root = tmp_path / "a checkout"
    (root / ".dvc").mkdir(parents=True)
    (root / "dvc.yaml").write_text("stages: {}\n")
    (root / "docs/deep er").mkdir(parents=True)
    return root


@pytest.mark.parametrize("below", [".", "docs", "docs/deep er", ".dvc", "docs/deep er/.."])
def test_it_is_found_from_every_folder_below(checkout, below, monkeypatch):
    assert find_checkout(checkout / below) == checkout
    monkeypatch.chdir(checkout / below)
    assert find_checkout() == checkout


def test_the_nearest_one_counts_and_half_a_one_does_not(checkout):
    inner = checkout / "docs/deep er"
    (inner / "dvc.yaml").write_text("stages: {}\n")  # a pipeline of the user's own, in the same DVC repository
    assert find_checkout(inner) == checkout
    (inner / ".dvc").mkdir()
    assert find_checkout(inner) == inner


def test_outside_of_any_it_is_said_where_the_search_began(tmp_path):
    with pytest.raises(CheckoutError, match=rf"^{tmp_path} is in no checkout of Optogram: .*`git clone`"):
        find_checkout(tmp_path)
    assert issubclass(CheckoutError, ArtifactError)  # what `open` raised before


def test_a_folder_that_is_gone_is_said(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(CheckoutError, match="current folder cannot be entered"):
        find_checkout()
