"""Room models: what a training told, short enough to keep beside its weights."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from optogram.models.training.checkpoint import History


def curves(history: History, points: int = 500) -> dict[str, Any]:
    """What a training told as JSON types: losses as means over at most `points` stretches of steps, and evaluations.

    `steps`: those done at the end of each stretch.
    """
    ends = np.linspace(0, history.steps, min(points, history.steps) + 1).round().astype(int)
    losses = {
        name: [float(f"{np.mean(values[start:stop]):.6g}") for start, stop in pairwise(ends)]
        for name, values in history.losses.items()
    }
    metrics = {str(step): found for step, found in history.metrics.items()}
    return {"steps": ends[1:].tolist(), "losses": losses, "metrics": metrics}


def read_curves(folder: Path) -> xr.Dataset:
    """The losses that a model's folder keeps: `loss` (curve, stretch) float32, `steps` (stretch) int64, those done.

    Of a folder without them, of a model that was loaded, an empty Dataset.
    """
    path = folder / "history.json"
    if not path.is_file():
        return xr.Dataset()
    told = json.loads(path.read_text())
    losses = np.array([*told["losses"].values()], np.float32)
    steps = np.array(told["steps"], np.int64)
    return xr.Dataset(
        {"loss": (("curve", "stretch"), losses), "steps": ("stretch", steps)}, {"curve": [*told["losses"]]}
    )
