"""The scene renderer beside one that visits every pixel of every image in turn."""

import math
import time
from typing import Any

import numpy as np

from optogram.data.captions import captions
from optogram.data.scenes import ATTRIBUTES, Scenes

COUNT = 4096
LITERAL = 12
SIZE = 64


def rows() -> list[dict[str, Any]]:
    """Scenes a second on one thread, labels, masks and captions included; the best of three for ours."""
    source = Scenes("eval", COUNT, 0)
    ours = min(_seconds(lambda: source.read(0, COUNT)) for _ in range(3)) / COUNT
    label = source.read(0, LITERAL)["label"].values
    theirs = _seconds(lambda: [_literal(row, k) for k, row in enumerate(label.tolist())]) / LITERAL
    return [
        {
            "claim": "scenes rendered per second",
            "ours": 1 / ours,
            "theirs": 1 / theirs,
            "ratio": theirs / ours,
            "unit": "images/s",
            "sizes": f"{SIZE} x {SIZE} rgb, {COUNT} images ours, {LITERAL} theirs",
            "seconds": ours * COUNT,
            "peak_memory": None,
            "device": "cpu, 1 thread",
        }
    ]


def _seconds(work: Any) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _literal(label: list[int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """One scene as a textbook draws it: loop over pixels, then objects. Plain discs and noise stand for all shapes and
    backgrounds, so it does less than ours for each pixel."""
    rng = np.random.default_rng(seed)
    count, radius = label[list(ATTRIBUTES).index("count")] + 1, 6 + 3 * label[list(ATTRIBUTES).index("size")]
    centres = [(32 + (k - (count - 1) / 2) * 20, 32) for k in range(count)]
    noise = rng.integers(0, 256, (SIZE, SIZE)).tolist()
    pixels, mask = np.zeros((SIZE, SIZE, 3), np.uint8), np.zeros((SIZE, SIZE), np.uint8)
    for y in range(SIZE):
        for x in range(SIZE):
            colour = [40 + noise[y][x] * light // 256 for light in (60, 80, 40)]
            for k, (cx, cy) in enumerate(centres):
                distance = math.hypot(x - cx, y - cy) - radius
                cover = min(1.0, max(0.0, 0.5 - distance))
                if cover > 0:
                    inner = min(1.0, max(0.0, 0.5 - distance - 0.75))
                    ink = [18 + (c - 18) * inner for c in (214, 38, 40)]
                    colour = [under + (over - under) * cover for under, over in zip(colour, ink, strict=True)]
                    mask[y, x] = k + 1 if cover >= 0.5 else mask[y, x]
            pixels[y, x] = colour
    captions(np.array([label], np.int16), 8, rng)
    return pixels, mask
