"""Room models: the moving average of a network's weights, which makes better pictures than the weights themselves."""

from copy import deepcopy

import torch
from torch import nn

from optogram.errors import ParamError


class Average:
    """The exponential moving average (EMA) of a network's parameters, as a network of its own in eval mode.

    decay: in [0, 1), the share of the average that a step keeps. It rises to this as (1 + step) / (10 + step), as in
    TensorFlow's ExponentialMovingAverage: else the weights that a short run started from would stay in it.
    Buffers, such as a batch norm's statistics, are copied, as they are averages already.

    Raises ParamError for another decay.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ParamError(f"training: decay of an average = {decay}, expected 0 to less than 1, say 0.999.")
        self.decay = decay
        self.network = deepcopy(network).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Take in the weights that `network` has after step `step`, from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for mean, now in zip(self.network.parameters(), network.parameters(), strict=True):
            mean.lerp_(now, 1 - decay)
        for kept, now in zip(self.network.buffers(), network.buffers(), strict=True):
            kept.copy_(now)
