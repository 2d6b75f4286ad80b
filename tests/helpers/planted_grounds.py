"""A classifier in which one unit reads the object alone, one the background alone, and images that show it."""

from dataclasses import replace

import numpy as np
import xarray as xr
from planted_classifiers import classifier, colour_net

from optogram.models.loading.specs import UnitRange

SIDE, SQUARE = 16, 6
CLASSES, GROUNDS = ("red", "blue"), ("grey", "green")


def grounded(count=80, *, seed=0):
    """A square, red or blue, on a grey or a green ground, as an images artifact; all four equally often."""
    rng = np.random.default_rng(seed)
    label = np.stack([np.arange(count) % 2, np.arange(count) // 2 % 2], 1).astype(np.int16)
    pixels, mask = np.empty((count, SIDE, SIDE, 3), np.uint8), np.zeros((count, SIDE, SIDE), np.uint8)
    for at, (colour, ground) in enumerate(label):
        shade = int(rng.integers(120, 200))
        pixels[at] = (0, shade, 0) if ground else (shade, shade, shade)
        top, left = rng.integers(0, SIDE - SQUARE + 1, 2)
        strength = int(rng.integers(150, 256))
        pixels[at, top : top + SQUARE, left : left + SQUARE] = (0, 0, strength) if colour else (strength, 0, 0)
        mask[at, top : top + SQUARE, left : left + SQUARE] = 1
    names = np.array([CLASSES, GROUNDS])
    return xr.Dataset(
        {
            "pixels": (("image", "y", "x", "rgb"), pixels),
            "mask": (("image", "y", "x"), mask),
            "label": (("image", "attribute"), label),
            "value_name": (("attribute", "value"), names),
        },
        {"image": [f"eval/{k:06d}" for k in range(count)], "attribute": ["shape", "background"]},
        {"class_attribute": "shape"},
    )


def biased():
    """Reads the square's colour, and takes a green ground for a sign of red: units are red, green, blue, by a mean."""
    made = classifier(colour_net([[1.0, 0.5, -1.0], [-1.0, -0.5, 1.0]], np.eye(3)), CLASSES, attribute="shape")
    return replace(made, preprocess=UnitRange())
