"""Room models: gradients of a batch in two parts, and steps of optimisers, each by a thread of its own.

Small networks leave a second core idle: most of a step are products too small to be split. Halves of a batch are not.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

PARTS = 2
"""Whatever number of threads there is, so that sums are taken in one order."""

Losses = Mapping[str, Float[Tensor, ""]]


class Parts:
    """Threads that take gradients of parts of a batch at the same time; a part's products are one thread's."""

    def __init__(self, device: torch.device) -> None:
        self.count = PARTS if device.type == "cpu" else 1
        before = torch.get_num_threads()
        workers = min(self.count, before)
        self._pool = ThreadPoolExecutor(workers, initializer=_one_thread) if self.count > 1 else None
        if self._pool is not None:
            list(self._pool.map(lambda _: torch.get_num_threads(), range(workers)))
            torch.set_num_threads(before)  # the initializer's call sets what later threads start with

    def backward(self, loss_of: Callable[[slice], Losses], size: int, networks: Sequence[nn.Module]) -> Losses:
        """Set the gradients of the networks' weights to those of the sum of mean losses over a batch of `size` images.

        loss_of: the losses of a slice of the batch, means over its images. Returns those of the whole batch.
        """
        weights = [w for network in networks for w in network.parameters() if w.requires_grad]
        edges = [size * at // self.count for at in range(self.count + 1)]
        slices = [slice(*pair) for pair in pairwise(edges)]

        def take(part: slice) -> tuple[Losses, tuple[Tensor, ...]]:
            losses = loss_of(part)
            total = torch.stack([*losses.values()]).sum() * ((part.stop - part.start) / size)
            return losses, torch.autograd.grad(total, weights)

        found = [*(map if self._pool is None else self._pool.map)(take, slices)]
        for w, *gradients in zip(weights, *(gradients for _, gradients in found), strict=True):
            w.grad = gradients[0]
            for more in gradients[1:]:
                w.grad += more
        shares = [(part.stop - part.start) / size for part in slices]
        return {
            name: torch.stack(
                [losses[name].detach() * share for (losses, _), share in zip(found, shares, strict=True)]
            ).sum()
            for name in found[0][0]
        }

    def step(self, optimizers: Sequence[Optimizer]) -> None:
        """Take the step of each optimiser; none may share weights with another."""
        list((map if self._pool is None else self._pool.map)(lambda one: one.step(), optimizers))


def _one_thread() -> None:
    torch.set_num_threads(1)
