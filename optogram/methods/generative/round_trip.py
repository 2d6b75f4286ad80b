"""Methods, generative: what a codec leaves of images, by those who will look at what is drawn through it.

What does not come through a codec, no diffusion model behind it can draw.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import UInt8

from optogram.methods.generative.fidelity import look
from optogram.metrics.classification import ZeroShotTask
from optogram.metrics.headline import Headline
from optogram.metrics.intervals import share
from optogram.metrics.pictures import psnr
from optogram.models.generative.codecs import Codec
from optogram.models.generative.sampling import to_pixels
from optogram.models.loading.classifiers import Classifier
from optogram.models.loading.clip_folders import Clip, encode_images


@torch.no_grad()
def decoded(
    codec: Codec, pixels: UInt8[np.ndarray, "image y x rgb"], device: torch.device, batch: int = 256
) -> UInt8[np.ndarray, "image y x rgb"]:
    """Images as they come out of a codec."""
    parts = []
    for start in range(0, len(pixels), batch):
        part = torch.from_numpy(np.ascontiguousarray(pixels[start : start + batch])).to(device)
        parts.append(to_pixels(codec.decode(codec.encode(part.permute(0, 3, 1, 2).float() / 255)), "the codec"))
    return np.concatenate(parts)


def round_trip(
    images: xr.Dataset, codec: Codec, clip: Clip, zeroshot: xr.Dataset, classifiers: Mapping[str, Classifier]
) -> xr.Dataset:
    """The artifact round_trip/<model>: how often images are told right before a codec and after it.

    images: labelled ones that nobody was trained on. zeroshot: embeddings of the values' texts in the CLIP, which tells
    each attribute. classifiers: those of them that tell an attribute of the images tell it.

    Returns over `check` (who tells, and what): `before`, `after` and `after_low`, `after_high` (Wilson), of `count`
    images; and `psnr` (image) in dB.
    """
    pixels = images["pixels"].transpose("image", "y", "x", "rgb").values
    there = decoded(codec, pixels, clip.device)
    task = ZeroShotTask.prepare(zeroshot, images["label"], images["value_name"])
    rows = {}
    sides = [encode_images(clip, each).numpy() @ zeroshot["classifier"].values.T for each in (pixels, there)]
    for at, name in enumerate(task.attributes):
        rows[f"CLIP: {name}"] = [task.outcome(logits)[0][:, at] for logits in sides]
    attributes = images["attribute"].values.astype(str).tolist()
    names = images["value_name"].transpose("attribute", "value").values.astype(str)
    labels = images["label"].transpose("image", "attribute").values
    for who, classifier in classifiers.items():
        if classifier.attribute not in attributes:
            continue
        at = attributes.index(str(classifier.attribute))
        place = {value: index for index, value in enumerate(classifier.classes)}
        known = np.array([place.get(value, -1) for value in names[at].tolist()])
        truth = np.where(labels[:, at] >= 0, known[labels[:, at]], -1)
        told = [look(classifier, each)[0].argmax(1) == truth for each in (pixels, there)]
        rows[f"{who}: {classifier.attribute}"] = [np.where(truth >= 0, each, np.nan) for each in told]
    count = np.array([np.isfinite(each[0]).sum() for each in rows.values()])
    hits = np.array([[np.nansum(side) for side in each] for each in rows.values()])
    rates = np.where(count[:, None] > 0, hits / np.maximum(count, 1)[:, None], np.nan)
    interval = share(hits[:, 1], count)
    errors = [torch.from_numpy(each).permute(0, 3, 1, 2).float() / 255 for each in (there, pixels)]
    none = {"missing": "no image is labelled"}
    variables: dict[str, Any] = {
        "before": ("check", rates[:, 0], none),
        "after": ("check", rates[:, 1], none),
        "after_low": ("check", interval.low),
        "after_high": ("check", interval.high),
        "count": ("check", count),
        "psnr": ("image", psnr(*errors).astype(np.float32)),
    }
    return xr.Dataset(variables, {"check": list(rows)})


def headline(found: xr.Dataset) -> Headline:
    """What suffers most."""
    lost = (found["before"] - found["after"]).values
    at = int(np.nanargmax(lost))
    measure = f"{found['check'].values[at]}, told right behind the codec (what suffers most)"
    return Headline(
        measure, float(found["after"][at]), int(found["count"][at]), "before it", float(found["before"][at])
    )
