"""Methods: how many references VITAL needs, strangers among them, and references of another split (Tables 5 and 6)."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from jaxtyping import UInt8

from optogram.errors import DataError, ShapeError
from optogram.methods.visualisation.evaluators import MISSING, Judges
from optogram.metrics.headline import Headline

STRANGERS = "strangers "
"""What a condition with so many strangers among the references is called, before their number."""


def reference_scores(
    drawn: Mapping[str, UInt8[np.ndarray, "class seed y x rgb"]],
    judges: Judges,
    real: xr.Dataset,
    *,
    classes: Sequence[int],
    images: int,
    seed: int = 0,
    batch: int = 64,
) -> xr.Dataset:
    """The artifact reference_sets/<model>: scores of class visualisations for each condition that they were drawn in.

    drawn: condition ("5", "strangers 20", "other split") to the visualisations of all classes, each from every seed.
    classes: their logits, in the order of `drawn`. real: an images artifact; `images` of it are drawn (`Judges.draw`).

    Returns `accuracy`, `fid_own`, `zero_shot_1`, `zero_shot_5` (condition) as `Judges.class_scores` has them, NaN where
    there is none (the attribute `skipped_zero_shot` says why), and `pixels` (condition, class, y, x, rgb) uint8, those
    of the first seed.

    Raises DataError if there is no condition, ShapeError if a condition has other shapes or no seed, and all that
    `Judges.draw` raises.
    """
    if not drawn:
        raise DataError("no condition: there are no visualisations to score. Give at least one.")
    shape = next(iter(drawn.values())).shape
    for condition, pixels in drawn.items():
        if pixels.shape != shape or pixels.ndim != 5 or len(pixels) != len(classes) or 0 in shape:
            raise ShapeError(
                f"condition {condition!r}: pixels have shape {pixels.shape}; expected ({len(classes)}, seed, y, x, 3) "
                "as all others. Draw every class from the same seeds."
            )
    beside = judges.draw(real, classes, images, seed=seed, batch=batch)
    truth = np.repeat(classes, shape[1])
    names = ("accuracy", "fid_own", "zero_shot_1", "zero_shot_5")
    found = [
        judges.class_scores(judges.look(pixels.reshape(-1, *shape[2:]), batch), truth, beside)
        for pixels in drawn.values()
    ]
    lacking = judges.lacking(classes)
    return xr.Dataset(
        {name: ("condition", np.array([scores[name] for scores in found]), MISSING) for name in names}
        | {"pixels": (("condition", "class", "y", "x", "rgb"), np.stack([each[:, 0] for each in drawn.values()]))},
        coords={"condition": list(drawn), "class": [judges.classifier.classes[index] for index in classes]},
        attrs={name: reason for name, reason in lacking.items() if name == "skipped_zero_shot"}
        | {"samples": len(beside.truth), "pictures": len(truth)},
    )


def headline(scores: xr.Dataset) -> Headline:
    """The distance to real images with the most references, beside that with the most strangers among them.

    scores: of `reference_scores`. The yardstick are references of another split.
    """
    distance = dict(
        zip(scores["condition"].values.astype(str).tolist(), scores["fid_own"].values.tolist(), strict=True)
    )
    most = max((int(name) for name in distance if name.isdigit()), default=0)
    others = max((int(name.removeprefix(STRANGERS)) for name in distance if name.startswith(STRANGERS)), default=0)
    return Headline(
        f"FID of classes by {most} references",
        value=distance.get(str(most), math.nan),
        of=int(scores.attrs["pictures"]),
        versus=f"with {others} strangers among them",
        versus_value=distance.get(f"{STRANGERS}{others}", math.nan),
        yardstick=distance.get("other split", math.nan),
    )
