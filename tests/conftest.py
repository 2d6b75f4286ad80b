"""What all tests share: one thread a process (xdist fills the cores), a folder to work in, and an ssh server."""

# ruff: noqa: I001  the first import settles how sums round, before numpy and torch load their libraries
import stages  # noqa: F401

import pytest
import tiny
import torch

from tests.ssh_server import ssh_server  # noqa: F401

torch.set_num_threads(1)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def tiny_made(tmp_path_factory):
    """A tiny git and DVC repository, run once; only for `tiny_repository`."""
    return tiny.make(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def tiny_repository(tiny_made, tmp_path, monkeypatch):
    """A copy of the tiny repository to do harm to, hardlinks into its cache kept; the working directory."""
    folder = tiny.copy(tiny_made, tmp_path / "repository")
    monkeypatch.setenv("PYTHONPATH", str(tiny.ROOT))
    monkeypatch.chdir(folder)
    return folder
