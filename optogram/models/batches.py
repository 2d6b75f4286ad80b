"""Room models: images or texts go through a model in batches, which are halved where the device has no memory left."""

from collections.abc import Callable, Iterator
from functools import cache
from typing import TypeVar

import torch

from optogram.errors import ModelError
from optogram.progress import say

Found = TypeVar("Found")


def in_batches(count: int, size: int | None, work: Callable[[slice], Found]) -> Iterator[tuple[slice, Found]]:
    """`work(rows)` of all rows in order, at most `size` at once (None: all); yields (rows, what it returns).

    A batch that the device has no memory for is done again in halves, and so is the rest. Raises ModelError if it has
    no memory for a single row.
    """
    start, size = 0, min(size or count, count)
    while start < count:
        rows = slice(start, min(start + size, count))
        try:
            found = work(rows)
        except torch.OutOfMemoryError as error:
            lack = str(error).split(" If reserved but")[0]  # the rest is about settings of the allocator
        else:
            yield rows, found
            start = rows.stop
            continue
        # out of the handler, whose traceback would hold on to the batch
        size = (rows.stop - rows.start) // 2
        if not size:
            raise ModelError(
                f"the device has no memory for a batch of 1: {lack} Free it (other processes hold memory too), "
                "take a smaller model or smaller images, or set device to cpu."
            )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        _say_once(f"Out of memory with a batch of {rows.stop - rows.start}: the batch is now {size}.")


@cache
def _say_once(text: str) -> None:
    say(text)
