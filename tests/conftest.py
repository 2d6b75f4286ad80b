"""What all tests share: one thread a process (xdist fills the cores), and a folder of their own to work in."""

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
