"""The artifact store beside numpy.save and numpy.load on the same disk."""

import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from optogram.store.read import read
from optogram.store.write import Provenance, write_sharded

ROWS, SHARD, WIDTH = 16_384, 2048, 8192
REPEATS = 4


def rows() -> list[dict[str, Any]]:
    """Write and read rates of an uncompressed float32 array of half a gigabyte; best of four, each first in turn."""
    values = np.random.default_rng(0).random((ROWS, WIDTH), np.float32)
    gigabytes = values.nbytes / 1e9
    seconds: dict[str, list[float]] = {"write": [], "save": [], "synced": [], "read": [], "load": []}
    with tempfile.TemporaryDirectory(dir=".") as folder:
        for repeat in range(REPEATS):
            out, plain = Path(folder) / f"out{repeat}", Path(folder) / f"plain{repeat}.npy"

            def compute(start: int, stop: int) -> xr.Dataset:
                return xr.Dataset({"z": (("image", "embed"), values[start:stop])})

            made = Provenance("bench", f"repeat {repeat}")
            scratch = Path(folder) / "scratch"
            works: dict[str, Callable[[], object]] = {
                "write": partial(write_sharded, out, compute, made, total=ROWS, shard=SHARD, scratch=scratch),
                "save": partial(np.save, plain, values),
                "synced": partial(_save_synced, plain.with_suffix(".synced.npy"), values),
                "read": partial(_read_whole, out),
                "load": partial(np.load, plain),
            }
            # the first of a pair was up to eight times slower, likely for memory that the machine had yet to find
            order = ["write", "save", "synced"] if repeat % 2 else ["save", "synced", "write"]
            order += ["read", "load"] if repeat % 2 else ["load", "read"]
            for name in order:
                with _timed(seconds[name]):
                    works[name]()
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
            ("artifact written (fsync, sha256 and marks included) against numpy.save and fsync", "write", "synced"),
            ("the same against numpy.save alone, which leaves the data in memory", "write", "save"),
            ("artifact read whole against numpy.load", "read", "load"),
        )
    ]


def _save_synced(path: Path, values: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, values)
        file.flush()
        os.fsync(file.fileno())


def _read_whole(path: Path) -> None:
    read(path).z.load()


class _timed:
    def __init__(self, into: list[float]) -> None:
        self.into = into

    def __enter__(self) -> None:
        self.started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.into.append(time.perf_counter() - self.started)
