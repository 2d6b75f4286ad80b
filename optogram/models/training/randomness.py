"""Room models: what a training draws from, and kernels that give the same bytes twice."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def epoch_draw(seed: int, epoch: int) -> torch.Generator:
    """What an epoch's random choices are drawn from: a function of the seed and the epoch alone."""
    return _generator(seed, epoch)


def step_draw(seed: int, step: int) -> torch.Generator:
    """What a step's random choices are drawn from, likewise; no epoch of the same seed draws the same numbers."""
    return _generator(seed, step, 1)


def _generator(*entropy: int) -> torch.Generator:
    state = np.random.SeedSequence(entropy).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0] >> 1))


@contextmanager
def deterministic() -> Iterator[None]:
    """Deterministic kernels inside, whatever was set before outside."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    settings: Any = torch.utils.deterministic  # a module with properties, which pyright does not see
    fill = settings.fill_uninitialized_memory
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    settings.fill_uninitialized_memory = False  # it only helps to find reads of what was never written
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        settings.fill_uninitialized_memory = fill
