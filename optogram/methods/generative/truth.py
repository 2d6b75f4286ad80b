"""Methods, generative: whether what was asked for is seen in what was drawn, by a CLIP and by a judge.

A judge was trained for judging only, and no method is steered by it. A CLIP knows what captions say, and is what some
methods are steered by. What both see is there.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Int64

from optogram.errors import DataError, ShapeError
from optogram.metrics.drawn import combination_recall, drawn, least, shares_of, value_shares
from optogram.metrics.headline import Headline
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

    samples: a samples/<model> artifact of scenes. Those with the prompt "", and all of a generator, were asked for
        nothing, and tell what the model draws unasked.
    real: an images artifact of scenes that no model was trained on, in which the eyes are tried. trained: that which
        the drawing model was trained on; `held_out` is read from the samples.
    zeroshot: embeddings/<clip>/zeroshot; embedding, real_embedding: that CLIP's unit embeddings of samples and `real`.

    Returns, over `eye` (judge, clip): `seen` (eye, image, attribute), the index of the value that is seen, -1 for
    none; all that `optogram.metrics.drawn.drawn` gives, with the dimension `eye` first; `real_share` (eye, attribute)
    with its interval: how often the eyes are right on real images; `value_name` (attribute, value). `free` is of what
    was asked for nothing, NaN where there is none.
    Of the judge alone: `found` (image), an object is seen; `found_share`, its interval, and `real_found`; and of what
    was asked for nothing `recall`, `expected`, `covered`, `known`, `combinations`, `combinations_drawn` as
    `combination_recall` has them of shape, colour and background, NaN and 0 where there is none.

    Raises DataError if the judge or the CLIP does not know the values of the images.
    """
    names, values = _names(real)
    asked = _asked(samples, real)
    held_out = samples["held_out"].values if "held_out" in samples else None
    parsed = judge.parse(samples["pixels"].values)
    looks = judge.parse(real["pixels"].values)
    seen = {"judge": _indexed(parsed, names, values), "clip": _named(zeroshot, embedding, names, values)}
    known = {"judge": _indexed(looks, names, values), "clip": _named(zeroshot, real_embedding, names, values)}
    unasked = _unasked(samples)
    parts = [_by_eye(seen[eye], asked, real["value_name"], held_out, unasked) for eye in EYES]
    found = xr.concat(parts, "eye").assign_coords(eye=list(EYES))
    there = parsed["found"].values
    return (
        found.merge(_variety(seen["judge"][unasked], trained["label"]))
        .assign(shares_of("real_share", *_right(known, real), ("eye", "attribute")))
        .assign(shares_of("found_share", np.array(there.sum()), np.array(len(there)), ()))
        .assign(found=("image", there), real_found=looks["found"].values.mean(), value_name=real["value_name"])
        .assign_attrs(samples=len(there), unasked=int(unasked.sum()), real=real.sizes["image"])
    )


def headline(found: xr.Dataset) -> Headline:
    """The attribute that is met least, by the judge or the CLIP; of what was asked for nothing, where objects are."""
    place = least(found)
    if place is None:
        measure, share = "share of samples in which the judge sees an object", float(found.found_share)
        return Headline(measure, share, found.attrs["samples"], "real images", float(found.real_found))
    attribute, eye = place
    here = found.sel(attribute=attribute, eye=eye, combination="all")
    measure = f"share of samples with the {attribute} asked for (the least), by the {eye}"
    numbers = (float(here[name]) for name in ("chance", "real_share"))
    return Headline(measure, float(here.share), int(here.asked), "requests shuffled", *numbers)


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
    ours, theirs = (dict(zip(*_names(images), strict=True)) for images in (samples, real))
    if ours != theirs:
        raise DataError(
            f"samples were asked for {_differing(ours, theirs)} of the real images. Take the images that they were "
            "asked for."
        )
    return samples["label"]


def _unasked(samples: xr.Dataset) -> Bool[np.ndarray, " image"]:
    """Which samples were asked for nothing."""
    if "prompt" not in samples:
        return np.full(samples.sizes["image"], True)
    return samples["prompt"].values.astype(str) == ""


def _differing(ours: Mapping[str, Sequence[str]], theirs: Mapping[str, Sequence[str]]) -> str:
    """The first attribute in which two sets of values differ, with both."""
    name = next(name for name in (*ours, *theirs) if ours.get(name) != theirs.get(name))
    mine, other = (", ".join(of[name]) if name in of else "no value" for of in (ours, theirs))
    return f"{name} ({mine}), which is not that ({other})"


def _variety(seen: xr.DataArray, trained: xr.DataArray) -> xr.Dataset:
    """How much of the training images' variety is drawn unasked."""
    found = combination_recall(seen, trained, COMBINED).rename(drawn="combinations_drawn").drop_vars("samples")
    if not len(seen):
        for name in (
            "recall",
            "expected",
            *(f"{of}{end}" for of in ("covered", "known") for end in ("", "_low", "_high")),
        ):
            found[name] = ((), np.nan, {"missing": "no sample was asked for nothing"})
    return found.drop_attrs()


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
    ours, theirs = dict(zip(names, values, strict=True)), dict(zip(*_names(parsed), strict=True))
    if any(theirs.get(name) != ours[name] for name in names):
        raise DataError(f"the judge knows {_differing(theirs, ours)} of the images. Train it on images of this kind.")
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
) -> tuple[Int64[np.ndarray, "eye attribute"], Int64[np.ndarray, "eye attribute"]]:
    """Of real images: how many each eye is right on, of how many."""
    label = real["label"].transpose("image", "attribute").values
    asked = label >= 0
    right = np.stack([((known[eye].values == label) & asked).sum(0) for eye in EYES])
    return right, np.repeat(asked.sum(0)[None], len(EYES), 0)
