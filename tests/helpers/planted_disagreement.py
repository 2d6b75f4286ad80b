"""An artifact of disagreement whose numbers are known: four pictures a class, and what the judge sees in each."""

import numpy as np
import xarray as xr

from optogram.metrics.planted_values import planted_values

CLASSES, TIES = ("circle", "square", "star"), {"circle": "water", "square": "sand"}
MODELS = ("odd", "even", "third")
BEFORE = ["snow", "water", "snow", "", "grass", "grass", "sand", "grass", "water", "snow", "snow", "snow"]
AFTER = ["water", "water", "water", "water", "sand", "sand", "sand", "grass", "water", "snow", "snow", "snow"]
REAL = 50


def disagreed(before=BEFORE, after=AFTER, *, classes=CLASSES, ties=TIES, near=True):
    """As the stage writes it; the values that the judge sees of the background, and what follows from them."""
    rng = np.random.default_rng(0)
    wanted = [name for name in classes for _ in range(len(before) // len(classes))]
    count = len(wanted)
    says = np.tile(np.array(wanted)[None, :, None], (2, 1, 3))
    says[1, ::2, 1] = "ring"
    disagree = says[..., 1] == "ring"
    confidence = rng.uniform(0, 1, (2, count, 3)).astype(np.float32)
    confidence[:, 0, :] = [[0.1, 0.9, 0.8], [0.96, 0.03, np.nan]]
    judged = np.stack([[[name, value] for name, value in zip(wanted, of, strict=True)] for of in (before, after)])
    found = xr.Dataset(
        {
            "pixels": (
                ("condition", "image", "y", "x", "rgb"),
                rng.integers(0, 256, (2, count, 16, 16, 3), dtype=np.uint8),
            ),
            "wanted": ("image", np.array(wanted)),
            "status": ("image", np.array(["done", "diverged", *["done"] * (count - 2)])),
            "confidence": (("condition", "image", "model"), confidence),
            "says": (("condition", "image", "model"), says),
            "disagree": (("condition", "image"), disagree),
            "judged": (("condition", "image", "attribute"), judged),
            "tied": ("class", np.array([ties.get(name, "") for name in classes])),
        },
        {
            "image": [f"{name} {k % 4}" for k, name in enumerate(wanted)],
            "condition": ["start", "found"],
            "model": [*MODELS],
            "class": [*classes],
            "attribute": ["shape", "background"],
        },
        {"one": MODELS[0], "other": MODELS[1], "of": "logarithms", "cue": "background" if ties else ""},
    )
    if ties:
        found = found.merge(planted_values(before, after, wanted, ties))
    return _with_near(found, rng) if near else found


def _with_near(found, rng):
    """Two real images a picture, image k and the first; on the first the two disagree."""
    count, classes = found.sizes["image"], found.sizes["class"]
    names = np.array([[f"eval/{k + 1:06d}", "eval/000000"] for k in range(count)])
    return found.assign(
        near_image=(("image", "near"), names),
        near_similarity=(("image", "near"), np.stack([np.linspace(0.9, 0.8, count), np.full(count, 0.1)], 1)),
        near_confidence=(("image", "near", "model"), rng.uniform(0, 1, (count, 2, 3)).astype(np.float32)),
        near_disagree=(("image", "near"), np.tile([False, True], (count, 1))),
        near_images=("class", np.full(classes, 5)),
        near_apart=("class", np.full(classes, 1)),
        real_images=((), REAL),
        real_apart=("class", np.full(classes, 3)),
        real_planted=("class", np.array([2, 3, 0][:classes])),
    )
