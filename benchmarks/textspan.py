"""TextSpan beside Algorithm 1 written out: the same picks, from expanded contributions and from the compact store."""

import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import xarray as xr

from optogram.decompose.expand import heads
from optogram.methods.heads.textspan import textspan, textspan_heads

# A head of ViT-L-14 over a part of ImageNet's validation set, with the thesis's pool of descriptions.
IMAGES, TEXTS, EMBED, HEAD_DIM, SIZE = 20_000, 3_498, 768, 64, 20


def rows() -> list[dict[str, Any]]:
    """One row a claim; every picks-to-picks comparison is asserted before its time is reported."""
    store, texts = _store(), _texts()
    expanded = np.ascontiguousarray(heads(store).isel(layer=0, head=0).values)
    theirs, literal_seconds = _timed(lambda: _literal_algorithm_1(expanded, texts, SIZE), repeat=1)
    literal_bytes = _literal_bytes()
    result = []
    for claim, ours in (
        ("TextSpan of one head, expanded contributions to picks", lambda: textspan(expanded, texts, SIZE).indices),
        (
            "TextSpan of one head, compact store to picks",
            lambda: textspan_heads(store, texts, SIZE)["index"].values[0, 0],
        ),
    ):
        picks, seconds = _timed(ours, repeat=5)
        assert picks.tolist() == theirs, f"{claim}: picks differ from Algorithm 1's"
        result.append(
            {
                "claim": f"{claim}, against Algorithm 1",
                "ours": seconds,
                "theirs": literal_seconds,
                "ratio": literal_seconds / seconds,
                "unit": "seconds a head",
                "sizes": {
                    "images": IMAGES,
                    "texts": TEXTS,
                    "embed": EMBED,
                    "head_dim": HEAD_DIM,
                    "size": SIZE,
                },
                "seconds": seconds,
                "peak_memory": {"ours": _peak(ours), "theirs": literal_bytes},
                "device": f"cpu, {torch.get_num_threads()} threads",
            }
        )
    return result


def _store() -> xr.Dataset:
    """One head's contributions with the spectrum of a trained head: a few strong directions and a long tail."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32)

    z = normal(IMAGES, 1, 1, HEAD_DIM) * np.linspace(1, 0.05, HEAD_DIM, dtype=np.float32) + 0.5
    return xr.Dataset(
        {
            "z": (("image", "layer", "head", "head_dim"), z),
            "basis": (("layer", "head", "head_dim", "embed"), normal(1, 1, HEAD_DIM, EMBED) / 30),
            "scale": (("image",), rng.uniform(0.5, 1.5, IMAGES).astype(np.float32)),
            "mean": (("image",), normal(IMAGES)),
            "bias": (("layer", "embed"), normal(1, EMBED) / 30),
            "gain": (("embed",), normal(EMBED) / 30),
            "offset": (("embed",), normal(EMBED) / 30),
        }
    )


def _texts() -> np.ndarray:
    rng = np.random.default_rng(1)
    texts = rng.standard_normal((TEXTS, EMBED), dtype=np.float32) + 0.7
    return texts / np.linalg.norm(texts, axis=1, keepdims=True)


def _literal_algorithm_1(contributions: np.ndarray, texts: np.ndarray, size: int) -> list[int]:
    """Algorithm 1 of Gandelsman (2025) step by step in float32, products through torch's BLAS, updates in place."""
    c, r = torch.tensor(contributions), torch.tensor(texts)
    axes = torch.linalg.svd(c, full_matrices=False)[2][: HEAD_DIM + 3]
    r = (r @ axes.T) @ axes
    c = c - c.mean(0)
    picks = []
    for _ in range(size):
        spread = (r @ c.T).var(dim=1)
        pick = int(spread.argmax())
        direction = r[pick] / r[pick].norm()
        c.addr_(c @ direction, direction, alpha=-1)
        r.addr_(r @ direction, direction, alpha=-1)
        picks.append(pick)
    return picks


def _literal_bytes() -> int:
    """What a step of Algorithm 1 must hold at once: C, R, their product and C'."""
    return 4 * (2 * IMAGES * EMBED + TEXTS * EMBED + IMAGES * TEXTS)


def _timed(call: Callable[[], Any], repeat: int) -> tuple[Any, float]:
    """The result and the median seconds of `repeat` calls."""
    seconds = []
    for _ in range(repeat):
        start = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - start)
    return result, float(np.median(seconds))


def _peak(call: Callable[[], Any]) -> int:
    """Most bytes allocated at once during a call."""
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak
