"""Room models: what a training told, short enough to keep beside its weights."""

from itertools import pairwise
from typing import Any

import numpy as np

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
