"""Pictures that a tiny judge learns in seconds: one or two bars, upright or lying, on a dark or light ground."""

import numpy as np
import xarray as xr

from optogram.models.training.damage import Damage
from optogram.models.training.judge import JudgeTraining
from optogram.models.training.strangers import Strangers

SIDE = 32
VALUES = {
    "shape": ("upright", "lying", ""),
    "colour": ("red", "green", "blue"),
    "count": ("one", "two", ""),
    "position": ("left", "right", ""),
    "background": ("dark", "light", ""),
}
TINY = JudgeTraining(
    far=(16, 24, 32),
    near=(16, 24, 32),
    hidden=48,
    steps=200,
    batch=16,
    learning_rate=5e-3,
    weight_decay=0.01,
    warmup=5,
    average=0.8,
    damage=Damage(share=0.25, blur=0.5, noise=0.02, shade=0.02),
    strangers=Strangers(grounds=0.1, clouds=0.06, blobs=0.06),
)


def bars(count, seed=0):
    """An images artifact with pixels, labels and masks; bars are 9 x 5 pixels, in one half of the picture."""
    rng = np.random.default_rng(seed)
    label = np.stack([rng.integers(0, sum(map(bool, names)), count) for names in VALUES.values()], 1).astype(np.int16)
    pixels = np.zeros((count, SIDE, SIDE, 3), np.uint8)
    mask = np.zeros((count, SIDE, SIDE), np.uint8)
    for at, (shape, colour, number, position, ground) in enumerate(label):
        pixels[at] = (40, 190)[ground] + rng.integers(-12, 13, (SIDE, SIDE, 1))
        high, wide = ((9, 5), (5, 9))[shape]
        for k in range(number + 1):
            top = rng.integers(1, 6) + 15 * k
            left = rng.integers(1, 6) + 16 * position
            mask[at, top : top + high, left : left + wide] = k + 1
        pixels[at][mask[at] > 0] = np.where(np.arange(3) == colour, 230, 20)
    variables = {
        "pixels": (("image", "y", "x", "rgb"), pixels),
        "label": (("image", "attribute"), label),
        "value_name": (("attribute", "value"), np.array([*VALUES.values()])),
        "mask": (("image", "y", "x"), mask),
    }
    return xr.Dataset(variables, {"attribute": [*VALUES]})
