"""An artifact of pictures of units whose numbers are known: two units, two pictures of each kind."""

import numpy as np
import xarray as xr

from optogram.methods.guidance.portraits import recognised

UNITS = ("circle, unit 3", "square, unit 5")
REAL = np.array([[2.0, 1.5], [4.0, 3.0]], np.float32)
TEXT, FOUND, OTHER = [[1.0, 1.25], [0.0, 2.0]], [[3.0, 2.5], [0.0, 3.5]], [[0.5, 0.25], [0.0, 0.0]]
TOP = np.array([[["circle", "red"], ["circle", "blue"]], [["star", "red"], ["star", "red"]]])
DATA = np.array([["circle", "red"], ["star", "red"], ["ring", "red"], ["star", "red"]])
SEES = {
    "text": [[["circle", "red"], ["star", "red"]], [["star", "red"], ["ring", "red"]]],
    "found": [[["circle", "red"], ["circle", ""]], [["ring", "red"], ["star", "red"]]],
    "other": [[["ring", "red"], ["ring", "red"]], [["ring", "red"], ["ring", "red"]]],
}


def drawn_units(text=TEXT, found=FOUND, other=OTHER, *, sees=SEES, judged=True):
    """As the stage writes it."""
    rng = np.random.default_rng(0)
    activation = np.array([text, found, other], np.float32)
    of = ("condition", "unit", "sample")
    made = xr.Dataset(
        {
            "number": ("unit", np.array([3, 5])),
            "of_class": ("unit", np.array(["circle", "square"])),
            "weight": ("unit", np.array([0.5, 0.25])),
            "image": (("unit", "rank"), np.array([["eval/000000", "eval/000001"], ["eval/000002", "eval/000003"]])),
            "real_activation": (("unit", "rank"), REAL),
            "mean_activation": ("unit", np.array([0.75, 0.5], np.float32)),
            "prompt": (("unit", "prompt"), np.array([["an image of a circle", "an image of a disc"], ["a star", ""]])),
            "prompt_activation": (("unit", "prompt"), np.array([[1.125, 0.5], [1.0, np.nan]], np.float32)),
            "caption": ("unit", np.array(["an image of a circle", "a star"])),
            "pixels": ((*of, "y", "x", "rgb"), rng.integers(0, 256, (3, 2, 2, 16, 16, 3), dtype=np.uint8)),
            "activation": (of, activation),
            "exceeds": (("condition", "unit"), activation.max(2) > REAL[:, 0]),
            "confidence": (of, rng.uniform(0, 1, (3, 2, 2)).astype(np.float32)),
            "says": (of, np.full((3, 2, 2), "circle")),
            "status": (("unit", "sample"), np.array([["done", "done"], ["done", "diverged"]])),
        },
        {"unit": [*UNITS], "condition": ["text alone", "optimised", "another text"]},
        {"images": 40, "classifier": "seer", "split": "eval"},
    )
    if judged:
        seen = np.array([sees[name] for name in ("text", "found", "other")])
        made = made.merge(recognised(TOP, seen, DATA, activation.argmax(2), ["shape", "colour"]))
        made = made.assign(judged=((*of, "attribute"), seen), judged_real=(("unit", "rank", "attribute"), TOP))
    return made
