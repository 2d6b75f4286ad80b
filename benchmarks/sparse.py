"""Sparse decomposition beside scikit-learn's orthogonal matching pursuit: the same supports, time and memory."""

import resource
import subprocess
import sys
import time
import warnings
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import orthogonal_mp

from optogram.methods.neurons.sparse import omp
from optogram.methods.neurons.text_dictionary import prepare_texts

# The thesis's pool of 30k common words, the embedding of ViT-B-32, its largest m, and a part of a layer's neurons.
TEXTS, EMBED, SPARSITY, NEURONS = 30_000, 512, 128, 384
# scikit-learn takes neurons one by one, so that a few show its time.
THEIRS, ROUNDS = 4, 3


def rows() -> list[dict[str, Any]]:
    """One row for each precision; supports are compared before a time is reported."""
    texts, targets = _pool(), _targets()
    timed: dict[str, list[float]] = {"ours": [], "float32": [], "float64": []}
    for _ in range(ROUNDS):  # in turn, so that what else the machine does slows both
        ours, seconds = _timed(lambda: omp(texts, targets, SPARSITY))
        timed["ours"].append(seconds / NEURONS)
        for dtype in ("float32", "float64"):
            theirs, seconds = _timed(lambda dtype=dtype: _scikit_learn(texts.astype(dtype), targets.astype(dtype)))
            timed[dtype].append(seconds / THEIRS)
        for neuron in range(THEIRS):
            expected = set(np.flatnonzero(theirs[neuron]).tolist())
            assert set(ours.indices[neuron].tolist()) == expected, f"neuron {neuron}: supports differ"
    peak, each = _peak(), float(np.median(timed["ours"]))
    result = []
    for dtype in ("float32", "float64"):
        slow = float(np.median(timed[dtype]))
        result.append(
            {
                "claim": "orthogonal matching pursuit, all neurons at once, the picks of float64 from float32 inputs, "
                f"against scikit-learn in {dtype} without a Gram matrix (to be over 12 times)",
                "ours": each,
                "theirs": slow,
                "ratio": slow / each,
                "unit": "seconds a neuron",
                "sizes": {
                    "texts": TEXTS,
                    "embed": EMBED,
                    "sparsity": SPARSITY,
                    "neurons": NEURONS,
                    "neurons of scikit-learn": THEIRS,
                },
                "seconds": each * NEURONS,
                "peak_memory": {"ours": peak, "theirs": None},
                "device": f"cpu, {torch.get_num_threads()} threads",
            }
        )
    return result


def _pool() -> np.ndarray:
    """Texts as an encoder gives them: a large common part, themes, and a spectrum that decays."""
    rng = np.random.default_rng(0)
    themes = rng.standard_normal((600, EMBED), dtype=np.float32)
    texts = themes[rng.integers(0, 600, TEXTS)] + rng.standard_normal((TEXTS, EMBED), dtype=np.float32)
    return prepare_texts(texts * _spectrum() + 2)


def _targets() -> np.ndarray:
    rng = np.random.default_rng(1)
    return rng.standard_normal((NEURONS, EMBED), dtype=np.float32) * _spectrum()


def _spectrum() -> np.ndarray:
    return (1 / np.sqrt(1 + np.arange(EMBED) / 32)).astype(np.float32)


def _scikit_learn(texts: np.ndarray, targets: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # in float32 it may stop early
        return np.asarray(orthogonal_mp(texts.T, targets[:THEIRS].T, n_nonzero_coefs=SPARSITY)).T


def _timed(call: Any) -> tuple[Any, float]:
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


def _peak() -> int:
    """Peak resident bytes of a process of its own that makes the pool and runs ours, libraries and all."""
    run = [sys.executable, "-c", "from benchmarks import sparse; sparse.alone()"]
    return int(subprocess.run(run, check=True, capture_output=True, text=True).stdout)


def alone() -> None:
    """Print the peak resident bytes of this process after a run of ours."""
    omp(_pool(), _targets(), SPARSITY)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
