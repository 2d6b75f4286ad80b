"""Whether a download host answers, asked once and quickly: offline, a hub name must fail at once, not after retries."""

import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SECONDS = 4.0


def reachable(address: str, seconds: float = SECONDS) -> bool:
    """Whether anything answers at the address (through the proxy, if one is set) within `seconds`."""
    answered = threading.Event()

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=seconds).close()
        except urllib.error.HTTPError as answer:  # an HTTP error is an answer too
            answer.close()
        except (OSError, ValueError):
            return finished.set()
        answered.set()
        finished.set()

    # in a thread of its own, because no timeout bounds the look-up of a name
    finished = threading.Event()
    threading.Thread(target=ask, daemon=True).start()
    finished.wait(seconds)
    return answered.is_set()


@contextmanager
def hub_access() -> Iterator[bool]:
    """Yield whether the Hugging Face hub can be asked; where it cannot, its libraries look in their cache only.

    Measured without this: huggingface_hub and datasets each retry five times and take 23 s to fail.
    """
    from huggingface_hub import constants

    online = not constants.HF_HUB_OFFLINE and reachable(constants.ENDPOINT)
    settings: list[Any] = [constants, *([sys.modules["datasets.config"]] if "datasets.config" in sys.modules else [])]
    before = [setting.HF_HUB_OFFLINE for setting in settings]
    try:
        if not online:
            for setting in settings:
                setting.HF_HUB_OFFLINE = True
        yield online
    finally:
        for setting, value in zip(settings, before, strict=True):
            setting.HF_HUB_OFFLINE = value
