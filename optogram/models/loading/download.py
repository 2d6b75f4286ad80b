"""Room models: published weights from the hub or from an address, or one error that says how to do without them."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from optogram.data.network import hub_access, reachable
from optogram.errors import ModelError


@contextmanager
def quiet() -> Iterator[None]:
    """No log lines: open_clip warns of random weights before ours are loaded, on the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)


@contextmanager
def download(spec: str, address: str = "") -> Iterator[None]:
    """Turn any failure to get published weights into an error that says how to do without; never wait for retries.

    address: of the weights, if they are not on the Hugging Face hub; else the hub is asked whether it answers.
    """
    advice = "Without a network download the weights elsewhere, and give the file as `checkpoint`"
    if address:
        cached = Path(torch.hub.get_dir()) / "checkpoints" / address.rsplit("/", 1)[-1]
        if not cached.exists() and not reachable(address):
            raise ModelError(
                f"{spec}: {address} cannot be reached, and the weights are not in {cached.parent}. {advice}."
            )
    with hub_access() as online:
        try:
            yield
        except ModelError:
            raise
        except Exception as error:  # each library raises its own for a name, a network or a format problem
            reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
            if not online and not address:
                reason = "the hub cannot be reached, and it is not in the cache"
            raise ModelError(f"{spec}: the weights cannot be had: {reason}. {advice}.") from error
