"""Methods, generative: whether what was asked for is seen in what was drawn, by a CLIP and by a judge.

A judge was trained for judging only, and no method is steered by it. A CLIP knows what captions say, and is what some
methods are steered by. What both see is there.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Int16

from optogram.errors import DataError, ShapeError
from optogram.metrics.drawn import combination_recall, drawn, value_shares
from optogram.metrics.headline import Headline
from optogram.metrics.intervals import share
from optogram.models.judging.judge import Judge

EYES = ("judge", "clip")
COMBINED = ("shape", "colour", "background")
"""The attributes whose combinations are held out of the training splits."""


def truth(
    samples: xr.Dataset,
    real: xr.Dataset,
    trained: xr.Dataset,
    *,
    judge: Judge,
    zeroshot: xr.Dataset,
    embedding: Float[np.ndarray, "image embed"],
    real_embedding: Float[np.ndarray, "real embed"],
) -> xr.Dataset:
    """What is seen in each sample, how often it is what was asked for, and how much of the data's variety is drawn.

    samples: a samples/<model> artifact of scenes. Those that were asked for nothing tell what the model draws unasked;
        where there are none all are taken for that.
    real: an images artifact of scenes that no model was trained on, in which the eyes are tried. trained: that which
        the drawing model was trained on; `held_out` is read from the samples.
    zeroshot: embeddings/<clip>/zeroshot; embedding, real_embedding: that CLIP's unit embeddings of samples and `real`.

    Returns, over `eye` (judge, clip): `seen` (eye, image, attribute), the index of the value that is seen, -1 for
    none; all that `optogram.metrics.drawn.drawn` gives, with the dimension `eye` first; `real_share` (eye, attribute)
    with its interval: how often the eyes are right on real images. `free` is of what was asked for nothing.
    Of the judge alone: `found` (image), an object is seen; `found_share`, its interval, and `real_found`; `recall`,
    `expected`, `covered`, `known`, `combinations`, `combinations_drawn` as `combination_recall` has them of shape,
    colour and background.

    Raises DataError if the judge or the CLIP does not know the values of the images.
    """
    names, values = _names(real)
    asked = _asked(samples, real)
    held_out = samples["held_out"].values if "held_out" in samples else None
    parsed = judge.parse(samples["pixels"].values)
    looks = judge.parse(real["pixels"].values)
    seen = {"judge": _indexed(parsed, names, values), "clip": _named(zeroshot, embedding, names, values)}
    known = {"judge": _indexed(looks, names, values), "clip": _named(zeroshot, real_embedding, names, values)}
    unasked = np.asarray((asked.values < 0).all(1))
    unasked = unasked if unasked.any() else np.full(len(unasked), True)
    parts = [_by_eye(seen[eye], asked, real["value_name"], held_out, unasked) for eye in EYES]
    found = xr.concat(parts, "eye").assign_coords(eye=list(EYES))
    found = found.assign(_shares("real_share", *_right(known, real)))
    there = parsed["found"].values
    total = np.array(len(there))
    data = trained["label"].assign_coords(attribute=names)
    recalled = combination_recall(seen["judge"][unasked], data, COMBINED)
    recalled = recalled.rename(drawn="combinations_drawn").drop_vars("samples")
    return (
        found.merge(recalled)
        .assign(found=("image", there), **_shares("found_share", np.array(there.sum()), total, ()))
        .assign(real_found=looks["found"].values.mean())
        .assign_attrs(samples=int(total), unasked=int(unasked.sum()), real=real.sizes["image"])
    )


def headline(found: xr.Dataset) -> Headline:
    """The attribute that is met least, by the judge or the CLIP; of what was asked for nothing, where objects are."""
    shares = found["share"].sel(combination="all")
    if not bool(np.isfinite(shares).any()):
        measure = "share of samples in which the judge sees an object"
        return Headline(
            measure, float(found.found_share), found.attrs["samples"], "real images", float(found.real_found)
        )
    worst = shares.where(shares == shares.min(), drop=True)
    eye, attribute = str(worst["eye"].values[0]), str(worst["attribute"].values[0])
    chance = found["chance"].sel(combination="all", eye=eye, attribute=attribute)
    real = found["real_share"].sel(eye=eye, attribute=attribute)
    asked = found["asked"].sel(combination="all", eye=eye, attribute=attribute)
    measure = f"share of samples with the {attribute} asked for (the least), by the {eye}"
    return Headline(measure, float(shares.min()), int(asked), "requests shuffled", float(chance), float(real))


def _names(images: xr.Dataset) -> tuple[list[str], list[list[str]]]:
    """Attributes, and the values of each."""
    names = images["attribute"].values.astype(str).tolist()
    rows = images["value_name"].transpose("attribute", "value").values.astype(str)
    return names, [[value for value in row if value] for row in rows.tolist()]


def _asked(samples: xr.Dataset, real: xr.Dataset) -> xr.DataArray:
    """What each sample was asked for, in the images' attributes; -1 where it was not."""
    names = real["attribute"].values.astype(str)
    if "label" not in samples:
        nothing = np.full((samples.sizes["image"], len(names)), -1, np.int16)
        return xr.DataArray(nothing, {"attribute": names}, ("image", "attribute"))
    if not np.array_equal(samples["value_name"].values, real["value_name"].values):
        raise DataError("samples and real images do not have the same values. Take the images that were asked for.")
    return samples["label"].assign_coords(attribute=names)


def _by_eye(
    seen: xr.DataArray,
    asked: xr.DataArray,
    value_name: xr.DataArray,
    held_out: Bool[np.ndarray, " image"] | None,
    unasked: Bool[np.ndarray, " image"],
) -> xr.Dataset:
    """The numbers of one eye."""
    free = value_shares(seen[unasked], value_name).rename(share="free", low="free_low", high="free_high")
    found = drawn(asked, seen, value_name, held_out).drop_vars(["free", "free_low", "free_high"])
    return found.merge(free).assign(seen=(("image", "attribute"), seen.values.astype(np.int16)))


def _indexed(parsed: xr.Dataset, names: Sequence[str], values: Sequence[Sequence[str]]) -> xr.DataArray:
    """What a judge sees, (image, attribute), in the images' own order of attributes and values."""
    theirs, known = _names(parsed)
    ours = dict(zip(names, values, strict=True))
    if lacking := [name for name in names if dict(zip(theirs, known, strict=True)).get(name) != ours[name]]:
        raise DataError(
            f"the judge does not know the values of {lacking[0]!r} that the images have; it knows {', '.join(theirs)}. "
            "Train it on images of this kind."
        )
    return parsed["value"].sel(attribute=list(names)).transpose("image", "attribute")


def _named(
    zeroshot: xr.Dataset,
    embedding: Float[np.ndarray, "image embed"],
    names: Sequence[str],
    values: Sequence[Sequence[str]],
) -> xr.DataArray:
    """What a CLIP sees: of each attribute the value whose texts are nearest, (image, attribute)."""
    weights = zeroshot["classifier"].transpose("class", "embed").values
    if weights.shape[1] != embedding.shape[1]:
        raise ShapeError(
            f"zero-shot rows have {weights.shape[1]} dimensions, the CLIP's images {embedding.shape[1]}. Take both of "
            "one model."
        )
    of, value = (zeroshot[name].values.astype(str) for name in ("attribute", "value"))
    found = np.empty((len(embedding), len(names)), np.int16)
    for column, (name, known) in enumerate(zip(names, values, strict=True)):
        rows = [np.flatnonzero((of == name) & (value == one)) for one in known]
        if lacking := [one for one, row in zip(known, rows, strict=True) if len(row) != 1]:
            raise DataError(
                f"the CLIP has no zero-shot row of {name} {lacking[0]!r}. Embed the classes of these images."
            )
        found[:, column] = (embedding @ weights[np.concatenate(rows)].T).argmax(1)
    return xr.DataArray(found, {"attribute": list(names)}, ("image", "attribute"))


def _right(
    known: dict[str, xr.DataArray], real: xr.Dataset
) -> tuple[Int16[np.ndarray, "..."] | Any, Any, tuple[str, ...]]:
    """Of real images: how many each eye is right on, of how many."""
    label = real["label"].transpose("image", "attribute").values
    asked = label >= 0
    right = np.stack([((known[eye].values == label) & asked).sum(0) for eye in EYES])
    return right, np.broadcast_to(asked.sum(0), right.shape), ("eye", "attribute")


def _shares(name: str, hits: Any, total: Any, dims: tuple[str, ...]) -> dict[str, Any]:
    low, high = share(hits, total)
    return {name: (dims, hits / np.maximum(total, 1)), f"{name}_low": (dims, low), f"{name}_high": (dims, high)}
