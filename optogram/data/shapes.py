"""Room data: shapes and textures of the objects in scenes, as functions of the place in an object's own frame.

Only float operations that IEEE 754 rounds exactly, so that scenes have the same bytes on every machine.
"""

import numpy as np

# Signed distances to the rim in units of the radius, negative inside; every shape keeps within 1.08 radii.


def _circle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.sqrt(u * u + v * v) - np.float32(0.92)


def _square(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(u), np.abs(v)) - np.float32(0.78)


def _triangle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    slope = np.abs(u) * np.float32(0.866) - v * np.float32(0.5)
    return np.maximum(slope - np.float32(0.54), v - np.float32(0.54))


def _star(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Five half-planes; a point in at least four of them is in the star: the second largest distance decides."""
    u, first = np.abs(u), np.full_like(u, -9)
    second = first.copy()
    for nx, ny in ((0, 1), (0.9511, 0.309), (0.5878, -0.809), (-0.9511, 0.309), (-0.5878, -0.809)):
        d = u * np.float32(nx) + v * np.float32(ny)
        second = np.maximum(second, np.minimum(first, d))
        first = np.maximum(first, d)
    return second - np.float32(0.32)


def _cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    u, v = np.abs(u), np.abs(v)
    return np.maximum(np.maximum(u, v) - np.float32(0.98), np.minimum(u, v) - np.float32(0.38))


def _ring(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.abs(np.sqrt(u * u + v * v) - np.float32(0.66)) - np.float32(0.34)


DISTANCES = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "ring": _ring,
}


# How much of the second ink is seen at a point of the object, in pixels of a 64 x 64 frame.


def _striped(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    t = (u + v) / np.float32(5.4)
    return (t - np.floor(t) < np.float32(0.45)).astype(np.float32)


def _dotted(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    u, v = (t / np.float32(4.5) for t in (u, v))
    u, v = (t - np.floor(t) - np.float32(0.5) for t in (u, v))
    return (u * u + v * v < np.float32(0.09)).astype(np.float32)


def _checkered(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return ((np.floor(u / np.float32(3)) + np.floor(v / np.float32(3))).astype(np.int16) & 1).astype(np.float32)


PATTERNS = {"plain": lambda u, v: np.zeros_like(u), "striped": _striped, "dotted": _dotted, "checkered": _checkered}
