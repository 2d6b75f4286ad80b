"""Room models: gradients of a batch in parts at the same time, a thread each.

Small networks leave a second core idle: most of a step are products too small to be split. Halves of a batch are not.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Parts:
    """Threads that take gradients of parts of a batch; the products of a part are one thread's.

    count: parts. With one, and on a GPU, a batch is taken whole, with as many threads as torch has. How many threads
    there are does not change what is found with more.
    """

    def __init__(self, count: int, device: torch.device) -> None:
        self._count = count if device.type == "cpu" else 1
        self._pool = None
        if self._count > 1:
            before = torch.get_num_threads()
            workers = min(self._count, before)
            self._pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
            list(self._pool.map(int, range(workers)))
            torch.set_num_threads(before)  # the workers keep their own number; others that start take this one

    def alone(self, work: Callable[[], object]) -> None:
        """Do `work` by one thread, as small products are faster so. With one part it is done as it is."""
        if self._pool is None:
            work()
        else:
            self._pool.submit(work).result()

    def backward(
        self, loss_of: Callable[[slice], Float[Tensor, ""]], size: int, network: nn.Module
    ) -> Float[Tensor, ""]:
        """Set the gradients of a network's weights to those of a mean loss over a batch of `size` images.

        loss_of: the mean loss over a slice of the batch. Returns that over the batch.
        """
        weights = [w for w in network.parameters() if w.requires_grad]
        slices = [slice(*edges) for edges in pairwise(size * at // self._count for at in range(self._count + 1))]

        def take(part: slice) -> tuple[Tensor, Sequence[Tensor]]:
            loss = loss_of(part)
            if len(slices) > 1:
                loss = loss * ((part.stop - part.start) / size)
            return loss.detach(), torch.autograd.grad(loss, weights)

        (loss, total), *others = [*(map if self._pool is None else self._pool.map)(take, slices)]
        for more, gradients in others:
            loss = loss + more
            total = [one.add_(other) for one, other in zip(total, gradients, strict=True)]
        for w, gradient in zip(weights, total, strict=True):
            w.grad = gradient
        return loss
