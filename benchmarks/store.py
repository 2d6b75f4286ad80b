"""The artifact store beside numpy.save and numpy.load on the same disk."""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from optogram.store.read import read
from optogram.store.write import Provenance, write_sharded

ROWS, SHARD, WIDTH = 16_384, 2048, 8192
REPEATS = 3


def rows() -> list[dict[str, Any]]:
    """Write and read rates of an uncompressed float32 array of half a gigabyte; best of three, interleaved."""
    values = np.random.default_rng(0).random((ROWS, WIDTH), np.float32)
    gigabytes = values.nbytes / 1e9
    seconds: dict[str, list[float]] = {"write": [], "save": [], "read": [], "load": []}
    with tempfile.TemporaryDirectory(dir=".") as folder:
        for repeat in range(REPEATS):
            out, plain = Path(folder) / f"out{repeat}", Path(folder) / f"plain{repeat}.npy"

            def compute(start: int, stop: int) -> xr.Dataset:
                return xr.Dataset({"z": (("image", "embed"), values[start:stop])})

            with _timed(seconds["write"]):
                made = Provenance("bench", f"repeat {repeat}")
                write_sharded(out, compute, made, total=ROWS, shard=SHARD, scratch=Path(folder) / "scratch")
            with _timed(seconds["save"]):
                np.save(plain, values)
            with _timed(seconds["read"]):
                read(out).z.load()
            with _timed(seconds["load"]):
                np.load(plain)
    common = {"unit": "GB/s", "sizes": f"{ROWS} x {WIDTH} float32", "peak_memory": None, "device": "cpu"}
    return [
        {
            "claim": claim,
            "ours": gigabytes / min(seconds[ours]),
            "theirs": gigabytes / min(seconds[theirs]),
            "ratio": min(seconds[theirs]) / min(seconds[ours]),
            "seconds": min(seconds[ours]),
            **common,
        }
        for claim, ours, theirs in (
            ("artifact written (fsync, sha256 and marks included) against numpy.save", "write", "save"),
            ("artifact read whole against numpy.load", "read", "load"),
        )
    ]


class _timed:
    def __init__(self, into: list[float]) -> None:
        self.into = into

    def __enter__(self) -> None:
        self.started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.into.append(time.perf_counter() - self.started)
