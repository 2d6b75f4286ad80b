"""Methods, guidance: the artifact counterfactuals/<group>: pictures of all conditions, and what models see in them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int64, Integer, UInt8
from torch import Tensor

from optogram.errors import DataError
from optogram.guidance.engine import BATCH as ENGINE
from optogram.guidance.inversion import Exact, NullText, invert
from optogram.guidance.options import Guidance
from optogram.methods.guidance.asked import Asked, Kind, ask
from optogram.methods.guidance.conditions import CONDITIONS, FOUND, SWAPPED, agreed_flips
from optogram.methods.guidance.counterfactuals import Candidates, Kept, Scene, counterfactuals
from optogram.methods.guidance.masked import Masking
from optogram.methods.guidance.seers import probabilities
from optogram.methods.image_objectives import taken_by
from optogram.metrics import counterfactuals as metrics
from optogram.metrics.headline import Headline
from optogram.models.generative.diffusion import Diffusion
from optogram.models.generative.sampling import image_seeds, to_pixels
from optogram.models.judging.judge import Judge
from optogram.models.loading.classifiers import Classifier
from optogram.progress import say


@dataclass(frozen=True)
class Search:
    """How counterfactuals are searched for. The parts are what their classes say.

    of, images, captions: as `ask` takes them. below, repeats: of the inversion (`invert`, `Exact`), whose null states
    are optimised as `null_text` says. least: the PSNR in dB below which an inversion is said to have failed, and its
    image not used.
    """

    guidance: Guidance = field(default_factory=Guidance)
    masking: Masking = field(default_factory=Masking)
    kept: Kept = field(default_factory=Kept)
    candidates: Candidates = field(default_factory=Candidates)
    of: Kind = "classes"
    images: int = 16
    captions: str = "labels"
    below: int = 0
    repeats: int = 5
    null_text: NullText | None = None
    least: float = 18.0


@dataclass(frozen=True)
class Seers:
    """Who looks: the classifier that is to be led, others of the same classes that have no part, and a judge."""

    classifier: Classifier
    others: Mapping[str, Classifier]
    judge: Judge | None = None


def measured(
    diffusion: Diffusion,
    images: xr.Dataset,
    seers: Seers,
    search: Search,
    *,
    seed: int,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
    """The artifact counterfactuals/<group>, docs/artifacts/guidance.md.

    images: of an images/<split> artifact, at the size that the model draws.

    Raises DataError if no inversion is good enough, and as `ask`, `Masking` and `counterfactuals`.
    """
    classifier, pixels = seers.classifier, images["pixels"].values
    asked = ask(
        images,
        classifier.classes,
        probabilities(classifier, pixels),
        of=search.of,
        count=search.images,
        captions=search.captions,
        seed=seed,
        device=device,
    )
    scene = inverted(diffusion, images, asked, search, seed, device)
    pictures, found, mask = counterfactuals(
        diffusion,
        classifier,
        scene,
        search.guidance,
        kept=search.kept,
        candidates=search.candidates,
        progress=progress,
    )
    rows = scene.asked.rows
    original, drawn = pixels[rows], {name: to_pixels(_whole(each), name) for name, each in pictures.items()}
    told = {name: looked(original, each, scene, seers) for name, each in drawn.items()}
    joined = xr.concat([told[name] for name in CONDITIONS], "condition").assign_coords(condition=list(CONDITIONS))
    ended = {"missing": "the search had ended"}
    variables: dict[str, Any] = {
        "original": (("image", "y", "x", "rgb"), original),
        "inverted": (("image", "y", "x", "rgb"), to_pixels(scene.inversion.images, "inversion")),
        "inversion_psnr": ("image", _decibels(scene.inversion.error).astype(np.float32)),
        "mask": (("image", "y", "x"), mask.cpu().numpy()),
        "pixels": (("condition", "image", "y", "x", "rgb"), np.stack([drawn[name] for name in CONDITIONS])),
        "loss": (("iterate", "image"), found.loss, ended),
        "distance": (("iterate", "image"), found.distance, ended),
        "best": ("image", found.best),
        "status": ("image", np.array(found.status)),
        "caption": ("image", np.array(list(scene.asked.captions))),
        "changed_caption": ("image", np.array(list(scene.asked.changed))),
        **{name: ("image", getattr(scene.asked, name)) for name in ("source", "target", "other")},
        "class_name": ("class", np.array(classifier.classes)),
    }
    every = joined.assign({name: xr.Variable(*value) for name, value in variables.items()})
    every = every.assign_coords(image=images["image"].values[rows].astype(str))
    return every.assign_attrs(attribute=classifier.attribute, kind=search.of, chosen=len(asked.rows))


def as_classes(
    labels: Integer[np.ndarray, " image"], names: Sequence[str], classes: Sequence[str], model: str
) -> Int64[np.ndarray, " image"]:
    """What a model says, as numbers of another's classes of the same names; -1 for one that the other lacks.

    Raises DataError if they have no class in common.
    """
    if not {*names} & {*classes}:
        raise DataError(
            f"counterfactuals: {model} has the classes {', '.join(names)}, none of which is among "
            f"{', '.join(classes)}. Name a model of the same classes."
        )
    numbers = np.array([*(classes.index(name) if name in classes else -1 for name in names), -1])
    return numbers[labels]


def headline(found: xr.Dataset) -> Headline:
    """The share that at least one model without a part agrees is flipped, beside that of the changed caption alone."""
    agreed = agreed_flips(found).mean("image")
    of = found.sizes["image"]
    told = "flipped by the classifier and by all that had no part"
    return Headline(told, float(agreed.sel(condition=FOUND)), of, SWAPPED, float(agreed.sel(condition=SWAPPED)))


def inverted(diffusion: Diffusion, images: xr.Dataset, asked: Asked, search: Search, seed: int, device: str) -> Scene:
    """The images whose inversion is good enough; how many are not is said."""
    guidance, chosen = search.guidance, images.isel(image=asked.rows)
    pictures = torch.from_numpy(chosen["pixels"].values).permute(0, 3, 1, 2).float() / 255
    inversion = invert(
        diffusion,
        pictures,
        diffusion.states(list(asked.captions)),
        steps=guidance.steps,
        scale=guidance.scale,
        below=search.below,
        null_text=search.null_text,
        exact=Exact(image_seeds(seed, len(pictures)), search.repeats),
        batch=ENGINE,
    )
    decibels = _decibels(inversion.error)
    good = np.flatnonzero(decibels >= search.least)  # NaN is not
    if len(good) < len(decibels):
        said = ", ".join(f"{value:.1f}" for value in np.delete(decibels, good)[:5])
        say(
            f"{len(decibels) - len(good)} of {len(decibels)} inversions have a PSNR below {search.least:g} dB ({said}) "
            "and are not used."
        )
    if not len(good):
        raise DataError(
            f"counterfactuals: no inversion has a PSNR of {search.least:g} dB; the best has {np.nanmax(decibels):.1f}. "
            "Take more steps, leave out noisy ones (below), or lower least."
        )
    kept = replace(
        inversion,
        **{name: getattr(inversion, name)[good] for name in ("latents", "images", "error")},
        **{name: getattr(inversion, name)[:, good] for name in ("trajectory", "null", "inner")},
    )
    left = replace(
        asked,
        **{name: getattr(asked, name)[good] for name in ("rows", "source", "target", "other")},
        **{name: [getattr(asked, name)[k] for k in good] for name in ("captions", "changed", "elsewhere")},
    )
    seeds = [image_seeds(seed, len(pictures))[row] for row in good]
    masks = search.masking.of(
        diffusion, chosen.isel(image=good), left.captions, kept, guidance, seeds=seeds, device=device
    )
    return Scene(pictures[good], kept, masks, left, seeds)


def looked(
    original: UInt8[np.ndarray, "image y x rgb"],
    drawn: UInt8[np.ndarray, "image y x rgb"],
    scene: Scene,
    seers: Seers,
) -> xr.Dataset:
    """All metrics of pictures as they are stored, in 8 bits."""
    before, after = (torch.from_numpy(each).permute(0, 3, 1, 2).float() / 255 for each in (original, drawn))
    classes, where = seers.classifier.classes, next(seers.classifier.model.parameters()).device
    labels = {
        name: as_classes(probabilities(each, drawn).argmax(1), each.classes, classes, name)
        for name, each in seers.others.items()
    }
    seen = None
    if seers.judge is not None:
        parsed, asked = (seers.judge.parse(original), seers.judge.parse(drawn)), seers.classifier.attribute
        known = asked in seers.judge.attributes
        seen = metrics.Seen(*parsed, asked if known else None)
        if known:
            told = parsed[1]["value"].sel(attribute=asked).values
            labels["judge"] = as_classes(told, seers.judge.attributes[asked], classes, "the judge")
    found = metrics.counterfactuals(
        before,
        after,
        scene.mask,
        lambda shown: seers.classifier.model(taken_by(seers.classifier, shown.to(where))).softmax(1).cpu(),
        source=scene.asked.source,
        target=scene.asked.target,
        seen=seen,
        others=labels,
    )
    if labels:
        found["other_label"] = ("image", "model"), np.stack(list(labels.values()), 1)
    return found


def _decibels(error: Float[Tensor, " image"]) -> Float[np.ndarray, " image"]:
    return (-10 * error.clamp_min(1e-10).log10()).cpu().numpy()


def _whole(images: Float[Tensor, "image rgb y x"]) -> Float[Tensor, "image rgb y x"]:
    """Pictures of a search that failed from the start are black."""
    return images.nan_to_num(0.0)
