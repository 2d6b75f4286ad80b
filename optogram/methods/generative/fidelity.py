"""Methods, generative: how far what is drawn is from real images, whether it is copied, and of which class it is."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Float32, Int64, UInt8

from optogram.errors import DataError, ShapeError
from optogram.metrics.fidelity import kernel_distance, nearest_rows
from optogram.metrics.headline import Headline
from optogram.metrics.intervals import share
from optogram.metrics.visualisations import frechet_distance
from optogram.models.batches import in_batches
from optogram.models.linear_head import catching_head
from optogram.models.loading.classifiers import Classifier

MOST = 2000
"""Real images that samples are compared with, at most; and those of which the nearest other one is looked for."""
BLOCK = 4
"""Pixels a side of the blocks whose means are compared to find copies."""
NEAR = 0.01
"""The quantile of training images' distances to the nearest other one, up to which a sample counts as a copy."""


class Compared(NamedTuple):
    """Rows of training images: those that samples are compared with, as many others, and the control of copies."""

    real: Int64[np.ndarray, " image"]
    other: Int64[np.ndarray, " image"]
    control: Int64[np.ndarray, " control"]


def draw_real(samples: int, trained: int, *, seed: int) -> Compared:
    """Rows of training images, drawn from the seed, each part in the order of the images.

    real, other: as many each as there are samples, but at most half of the training images and 2,000. control: at most
    2,000, whatever the number of samples.

    Raises DataError for fewer than two samples or four training images.

    >>> from optogram.methods.generative.fidelity import draw_real
    >>> len(draw_real(100, 50, seed=0).real)
    25
    """
    count = min(samples, trained // 2, MOST)
    if count < 2:
        raise DataError(f"{samples} samples and {trained} training images; expected at least 2 and 4. Draw more.")
    rows = np.random.default_rng(seed).permutation(trained)
    return Compared(*(np.sort(rows[part]) for part in (slice(count), slice(count, 2 * count), slice(MOST))))


def look(
    classifier: Classifier, pixels: UInt8[np.ndarray, "image y x rgb"], batch: int = 64
) -> tuple[Float32[np.ndarray, "image class"], Float32[np.ndarray, "image channel"]]:
    """A classifier's logits of images, and its penultimate features. Raises ModelError as `catching_head`."""
    where = next(classifier.model.parameters()).device

    def see(rows: slice) -> tuple[np.ndarray, np.ndarray]:
        with torch.no_grad(), catching_head(classifier.model) as head:
            classifier.model(classifier.preprocess(pixels[rows]).to(where))
        return head.logits.float().cpu().numpy(), head.features.float().cpu().numpy()

    parts = [found for _, found in in_batches(len(pixels), batch, see)]
    logits, features = (np.concatenate(each) for each in zip(*parts, strict=True))
    return logits, features


def distances(
    ours: Mapping[str, Float[np.ndarray, "image _channel"]],
    real: Mapping[str, Float[np.ndarray, "real _channel"]],
    other: Mapping[str, Float[np.ndarray, "other _channel"]],
) -> xr.Dataset:
    """`fid` and `kid` (space) of samples to real images, and `fid_real`, `kid_real`: those of real ones to others.

    ours, real, other: features by space, such as "clip". As many samples are used as there are real images, the first.
    Part of the distance is what was asked for, where that is not as frequent as in the real images. The numbers cannot
    be set beside published ones, which are in features of an Inception network.
    """
    found: dict[str, list[float]] = {name: [] for name in ("fid", "kid", "fid_real", "kid_real")}
    for space, features in ours.items():
        for end, these in (("", features[: len(real[space])]), ("_real", other[space])):
            found[f"fid{end}"].append(frechet_distance(these, real[space]))
            found[f"kid{end}"].append(kernel_distance(these, real[space]))
    return xr.Dataset({name: ("space", values) for name, values in found.items()}, {"space": list(ours)})


def copies(
    samples: UInt8[np.ndarray, "image y x rgb"], trained: xr.Dataset, control: Int64[np.ndarray, " control"]
) -> xr.Dataset:
    """The training image that each sample is nearest to, in the means of 4 x 4 pixels, and whether it is a copy.

    control: rows of training images, whose nearest other training image is looked for.

    Returns `nearest` (image) str, ids of training images; `distance` (image) and `real_distance` (control) float32,
    root mean squares of intensities in [0, 1]; `copied`, the share of the samples that are no farther from a training
    image than 1 % of the control images are, with Wilson's interval; `copied_real`, that share of the control itself,
    more than 1 % where training images occur twice. A model that copies has nearly 1. Smooth pictures are near to many,
    and have more than the control without being copies: look at them beside their nearest ones.

    Raises ShapeError for samples of another size than the training images.
    """
    sides = samples.shape[1:3], (trained.sizes["y"], trained.sizes["x"])
    if sides[0] != sides[1]:
        raise ShapeError(
            f"samples are {sides[0][0]} x {sides[0][1]} pixels, the training images {sides[1][0]} x {sides[1][1]}. "
            "Compare with the images that the model was trained on."
        )
    known = _coarse(trained["pixels"].transpose("image", "y", "x", "rgb").values)
    ours, theirs = nearest_rows(_coarse(samples), known), nearest_rows(known[control], known, control)
    threshold = np.quantile(theirs.distance, NEAR)
    hits, control_hits = (int((found.distance <= threshold).sum()) for found in (ours, theirs))
    low, high = share(hits, len(samples))
    return xr.Dataset(
        {
            "nearest": ("image", trained["image"].values.astype(str)[ours.index]),
            "distance": ("image", ours.distance.astype(np.float32)),
            "real_distance": ("control", theirs.distance.astype(np.float32)),
            "copied": hits / len(samples),
            "copied_low": low,
            "copied_high": high,
            "copied_real": control_hits / len(control),
        }
    )


def class_accuracy(
    logits: Float32[np.ndarray, "image class"], samples: xr.Dataset, classifier: Classifier
) -> xr.Dataset:
    """`class_accuracy`: the share of the samples that a classifier takes for the class that they were asked for.

    With Wilson's interval, `class_asked`, of how many, and `class_chance`: that share if the samples were shuffled
    among the requests. NaN where nothing was asked for that the classifier tells apart.
    """
    predicted, asked, classes = logits.argmax(1), _asked(samples, classifier), logits.shape[1]
    rows = asked >= 0
    predicted, asked = predicted[rows], asked[rows]
    hits, total = int((predicted == asked).sum()), len(asked)
    low, high = share(hits, total)
    ours, theirs = (np.bincount(each, minlength=classes) / max(total, 1) for each in (predicted, asked))
    numbers = (hits / max(total, 1), float(low), float(high), float(ours @ theirs))
    names = ("class_accuracy", "class_accuracy_low", "class_accuracy_high", "class_chance")
    missing = {"missing": "nothing was asked for that the classifier tells apart"}
    told = {name: ((), value if total else np.nan, missing) for name, value in zip(names, numbers, strict=True)}
    return xr.Dataset({**told, "class_asked": total})


def _asked(samples: xr.Dataset, classifier: Classifier) -> Int64[np.ndarray, " image"]:
    """The logit of the class that each sample was asked for; -1 where there is none."""
    nothing = np.full(samples.sizes["image"], -1, np.int64)
    names = samples["attribute"].values.astype(str).tolist() if "label" in samples else []
    if classifier.attribute not in names:
        return nothing
    at = names.index(classifier.attribute)
    values = samples["value_name"].transpose("attribute", "value").values[at].astype(str).tolist()
    logit = np.array([classifier.classes.index(name) if name in classifier.classes else -1 for name in values])
    label = samples["label"].transpose("image", "attribute").values[:, at]
    return np.where(label >= 0, logit[label], nothing)


def headline(found: xr.Dataset) -> Headline:
    """The Fréchet distance in the first space, beside that of real images."""
    space = found["space"].values.astype(str).tolist()[0]
    first = found.isel(space=0)
    measure = f"FID of samples in features of the {space}"
    return Headline(measure, float(first.fid), found.sizes["control"], "real images", float(first.fid_real))


def _coarse(pixels: UInt8[np.ndarray, "image y x rgb"]) -> Float32[np.ndarray, "image feature"]:
    """Means over blocks, in [0, 1]; what is left over at the rim is cut off."""
    images, y, x, _ = pixels.shape
    whole = pixels[:, : y - y % BLOCK, : x - x % BLOCK]
    parts = whole.reshape(images, y // BLOCK, BLOCK, x // BLOCK, BLOCK, 3)
    return (parts.mean((2, 4), dtype=np.float32) / 255).reshape(images, -1)
