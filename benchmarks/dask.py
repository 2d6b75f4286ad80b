"""Shards of a contributions cache made by Dask processes, beside one such process and beside the plain loop."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

from optogram.decompose.contributions import contributions
from optogram.store.cluster import Once, on_cluster
from optogram.store.digests import folder_digest
from optogram.store.shards import LAYOUT, Compute, Work
from optogram.store.write import Provenance, Run, Runner, in_turn, write_sharded

SHARD, SHARDS, BATCH, REPEATS = 16, 12, 16, 3
WARM = 8  # shards that are not timed: in them each process starts and builds its model


def rows() -> list[dict[str, Any]]:
    """Rates of two processes against one, and against the loop with two threads; best of three, bytes compared."""
    # in a process of its own: MKL reads its settings once, at its first use
    root = Path(__file__).resolve().parent.parent
    environment = {**os.environ, "MKL_CBWR": "AUTO,STRICT", "PYTHONPATH": str(root)}
    environment.pop("OMP_NUM_THREADS", None)
    command = [sys.executable, "-m", "benchmarks.dask"]
    done = subprocess.run(command, cwd=root, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    rates = json.loads(done.stdout)
    common = {
        "unit": "images/s",
        "sizes": f"ViT-B-32, {SHARDS} shards of {SHARD} images",
        "seconds": SHARD * SHARDS / rates["two"],
        "peak_memory": None,
        "device": "cpu",
    }
    how = f"after the first {WARM} shards, in which processes start; same bytes"
    return [
        {
            "claim": f"cache on 2 Dask processes of 1 thread against {what} ({how}; at least {bar})",
            "ours": rates["two"],
            "theirs": rates[theirs],
            "ratio": rates["two"] / rates[theirs],
            **common,
        }
        for what, theirs, bar in (("1 such process", "one", 1.6), ("the plain loop with 2 threads", "loop", 0.9))
    ]


def computing(size: int) -> Callable[[int, int], xr.Dataset]:
    """A random ViT-B/32 on random images, each drawn from its number."""
    torch.manual_seed(0)
    text = CLIPTextCfg(context_length=8, vocab_size=50, width=32, heads=2, layers=1)
    vision = CLIPVisionCfg(layers=12, width=768, patch_size=32, image_size=size)
    model = CLIP(512, vision, text).eval()

    def compute(start: int, stop: int) -> xr.Dataset:
        images = np.stack(
            [np.random.default_rng(k).standard_normal((3, size, size), np.float32) for k in range(start, stop)]
        )
        return contributions(model, torch.from_numpy(images), batch=BATCH)

    return compute


def _measure() -> dict[str, float]:
    from benchmarks.dask import computing as importable  # not __main__'s, which no worker can import

    runners: dict[str, Runner] = {
        "two": on_cluster(processes=2, threads=1),
        "one": on_cluster(processes=1, threads=1),
        "loop": in_turn,
    }
    torch.set_num_threads(2)
    rates, digests = dict.fromkeys(runners, 0.0), set()
    for repeat in range(REPEATS):
        for name, runner in runners.items():
            moments: list[float] = []
            with tempfile.TemporaryDirectory(dir=".") as folder:
                write_sharded(
                    Path(folder) / "out",
                    Once(importable, 224),
                    Provenance("bench", "dask"),
                    total=SHARD * (WARM + SHARDS),
                    shard=SHARD,
                    scratch=Path(folder) / "scratch",
                    runner=_timed(runner, moments),
                )
                digests.add(folder_digest(Path(folder) / "out"))
            rate = SHARD * SHARDS / (moments[-1] - moments[WARM - 1])
            rates[name] = max(rates[name], rate)
            print(f"{repeat} {name}: {rate:.1f} images/s", file=sys.stderr, flush=True)
    assert len(digests) == 1, "the bytes are the same however they are made"
    return rates


def _timed(runner: Runner, moments: list[float]) -> Runner:
    """The runner, which notes when each shard is finished."""

    @contextmanager
    def timed(work: Work, compute: Compute) -> Iterator[Run]:
        with runner(work, compute) as run:

            def noting(numbers: Iterable[int]) -> Iterator[int]:
                for number in run(numbers):
                    if number != LAYOUT:
                        moments.append(time.perf_counter())
                    yield number

            yield noting

    return timed


if __name__ == "__main__":
    print(json.dumps(_measure()))
