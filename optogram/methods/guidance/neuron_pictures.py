"""Methods, guidance: the artifact neuron_pictures/<group>: what excites the units that a classifier's logits add up.

A unit is an entry of phi, the input of the last linear layer. The captions of the real images that activate it most are
drawn as they are, and the caption whose pictures activate it most is where the search begins: what the diffusion model
starts from and is told is then optimised until the unit is as large as it gets.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float32, Float64, Int64, UInt8

from optogram.errors import DataError, ParamError
from optogram.guidance.captions import label_captions
from optogram.guidance.engine import BATCH, guide
from optogram.guidance.options import Guidance
from optogram.guidance.trajectory import Start
from optogram.methods.guidance.portraits import CONDITIONS, FOUND, OTHER, TEXT, recognised
from optogram.methods.guidance.readout import features_of, pixels_of, readout
from optogram.methods.guidance.seers import probabilities
from optogram.methods.image_objectives import Features, Unit
from optogram.metrics.headline import Headline
from optogram.models.generative.diffusion import Diffusion
from optogram.models.generative.sampling import image_seeds, sample, to_pixels
from optogram.models.judging.judge import Judge
from optogram.models.loading.classifiers import Classifier

LOOKED = 512
"""Real images in which the judge counts values: a share is then off by 2 points, as a standard error."""


@dataclass(frozen=True)
class Portrayal:
    """What is drawn, and how.

    units: of each class, those that raise its logit most. samples: pictures a text, and a unit. top: real images that
    are named, and whose captions are tried. batch: real images a forward pass.

    Raises ParamError for a number below 1.
    """

    guidance: Guidance = field(default_factory=Guidance)
    units: int = 1
    samples: int = 8
    top: int = 5
    batch: int = 64

    def __post_init__(self) -> None:
        for name in ("units", "samples", "top", "batch"):
            if getattr(self, name) < 1:
                raise ParamError(f"neuron pictures: {name} = {getattr(self, name)}, expected 1 or more.")


@dataclass(frozen=True)
class _Texts:
    """The texts of each unit: all that are tried, their mean activations, the best of them, and one of another image.

    seeds: (unit, sample), the same for all texts of a unit.
    """

    tried: list[list[str]]
    means: list[list[float]]
    best: list[str]
    other: list[str]
    seeds: Int64[np.ndarray, "unit sample"]


def neuron_pictures(
    diffusion: Diffusion,
    classifier: Classifier,
    images: xr.Dataset,
    how: Portrayal,
    *,
    seed: int,
    judge: Judge | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
    """The artifact neuron_pictures/<group> of docs/artifacts/guidance.md.

    images: an images artifact with the class of each; activations are over all of them. A unit's pictures follow from
    the unit and their number alone, whatever other units there are. judge: who tells what pictures show, without a part
    in the search. progress: called with (iterations done, in all).

    Raises DataError for fewer images than `how.top` or if no unit changes over them, ModelError as `penultimate` and
    for a classifier of images of any size, and as `label_captions` and `guide`.

    Source: Augustin et al., sections 6 and F.1, eq. 6.
    """
    _check(images, how)
    features = features_of(classifier, images, batch=how.batch)
    weight = readout(classifier, side=images.sizes["x"]).weight.cpu().double().numpy()
    numbers, classes, raised = chosen_units(weight, features, how.units)
    order = np.argsort(-features[:, numbers].T, 1, kind="stable")[:, : how.top].copy()
    seeds = _seeds(seed, weight.shape[1], numbers, how.samples)
    texts = _texts(diffusion, classifier, images, how, numbers, order, seeds, seed)
    drawn, searched = _drawn(diffusion, classifier, how, numbers, texts, progress)
    side = (len(CONDITIONS), len(numbers), how.samples)
    flat = np.concatenate([drawn[name] for name in CONDITIONS])
    reached = _activation(classifier, flat, np.tile(np.repeat(numbers, how.samples), 3), how.batch).reshape(side)
    confidence, says = _says(classifier, flat, np.tile(np.repeat(classes, how.samples), 3))
    real = np.take_along_axis(features[:, numbers].T, order, 1)
    picture = ("condition", "unit", "sample")
    variables: dict[str, Any] = {
        "number": ("unit", numbers),
        "of_class": ("unit", np.array(classifier.classes)[classes]),
        "weight": ("unit", weight[classes, numbers]),
        "raised": ("unit", raised),
        "image": (("unit", "rank"), images["image"].values.astype(str)[order]),
        "real_activation": (("unit", "rank"), real),
        "mean_activation": ("unit", features[:, numbers].mean(0)),
        "prompt": (("unit", "prompt"), _filled(texts.tried, "")),
        "prompt_activation": (("unit", "prompt"), _filled(texts.means, np.nan), {"missing": "there are fewer prompts"}),
        "caption": ("unit", np.array(texts.best)),
        "other_caption": ("unit", np.array(texts.other)),
        "seed": (("unit", "sample"), texts.seeds),
        "pixels": ((*picture, "y", "x", "rgb"), flat.reshape(*side, *flat.shape[1:])),
        "activation": (picture, reached),
        "exceeds": (("condition", "unit"), reached.max(2) > real[None, :, 0]),
        "confidence": (picture, confidence.reshape(side)),
        "says": (picture, says.reshape(side)),
        **searched,
    }
    names = [f"{classifier.classes[of]}, unit {number}" for of, number in zip(classes, numbers, strict=True)]
    found = xr.Dataset(variables, {"unit": names, "condition": [*CONDITIONS]})
    if judge is not None:
        found = found.merge(_judged(judge, images, order, flat.reshape(*side, *flat.shape[1:]), reached.argmax(2)))
    return found.assign_attrs(images=images.sizes["image"])


def chosen_units(
    weight: Float64[np.ndarray, "class embed"], features: Float32[np.ndarray, "image embed"], count: int
) -> tuple[Int64[np.ndarray, " unit"], Int64[np.ndarray, " unit"], Float64[np.ndarray, " unit"]]:
    """Of each class the `count` units that raise its logit most, each once: their numbers, classes, and how far.

    How far is w_kj, where it is positive, times the deviation of phi_j over all images. Classes come in turn, first
    each with its first unit; one that an earlier class has is passed over, and so is one that never changes.

    weight: of the last linear layer. Raises DataError if no unit that raises a logit changes.
    """
    moves = weight * features.astype(np.float64).std(0)
    taken: dict[int, int] = {}
    for _ in range(count):
        for of in range(len(moves)):
            free = [int(unit) for unit in np.argsort(-moves[of], kind="stable") if unit not in taken]
            if free and moves[of, free[0]] > 0:
                taken[free[0]] = of
    if not taken:
        raise DataError(
            "neuron pictures: no unit that raises a logit changes over the images. Give other images, or another "
            "classifier."
        )
    pairs = sorted(taken.items(), key=lambda pair: pair[1])  # stable: the first of a class stays first
    numbers, classes = (np.array(each, np.int64) for each in zip(*pairs, strict=True))
    return numbers, classes, moves[classes, numbers]


def headline(found: xr.Dataset) -> Headline:
    """The share of units whose picture activates them more than any real image, beside texts alone."""
    value, text = (float(found["exceeds"].sel(condition=name).mean()) for name in (FOUND, TEXT))
    told = "units that a drawn picture activates more than any real image"
    return Headline(told, value, found.sizes["unit"], "drawn by text alone", text)


def _check(images: xr.Dataset, how: Portrayal) -> None:
    if images.sizes["image"] < how.top + 1:
        raise DataError(
            f"neuron pictures: {images.sizes['image']} images, but the {how.top} that activate a unit most are named, "
            "beside one other. Lower top, or give a larger split."
        )


def _seeds(seed: int, width: int, numbers: np.ndarray, samples: int) -> Int64[np.ndarray, "unit sample"]:
    """One a picture: it follows from its unit, of `width`, and its number among the pictures of the unit."""
    return np.array(image_seeds(seed, width * samples), np.int64).reshape(samples, width)[:, numbers].T.copy()


def _texts(
    diffusion: Diffusion,
    classifier: Classifier,
    images: xr.Dataset,
    how: Portrayal,
    numbers: Int64[np.ndarray, " unit"],
    order: Int64[np.ndarray, "unit rank"],
    seeds: Int64[np.ndarray, "unit sample"],
    seed: int,
) -> _Texts:
    """Draws pictures of the captions of each unit's top images, without optimisation."""
    labels = images[[name for name in ("label", "value_name") if name in images]]
    tried = [[*dict.fromkeys(label_captions(labels.isel(image=row)))] for row in order]
    means = []
    for number, of, own in zip(numbers, tried, seeds, strict=True):
        # the same noise for all texts
        pixels = _sampled(diffusion, [text for text in of for _ in own], [*own.tolist()] * len(of), how.guidance)
        reached = _activation(classifier, pixels, np.full(len(pixels), number), how.batch)
        means.append(reached.reshape(len(of), -1).mean(1).tolist())
    best = [of[int(np.argmax(values))] for of, values in zip(tried, means, strict=True)]
    other = [_another(labels, of, [seed, int(number)]) for of, number in zip(tried, numbers, strict=True)]
    return _Texts(tried, means, best, other, seeds)


def _another(labels: xr.Dataset, tried: Sequence[str], seed: Sequence[int]) -> str:
    """The caption of a random image which none of a unit's top images has."""
    for row in np.random.default_rng(seed).permutation(labels.sizes["image"]):
        if (text := label_captions(labels.isel(image=[row]))[0]) not in tried:
            return text
    raise DataError(
        f"neuron pictures: all images have one of the captions {', '.join(tried)}, so that there is no other text to "
        "compare with. Give images of more kinds."
    )


def _drawn(
    diffusion: Diffusion,
    classifier: Classifier,
    how: Portrayal,
    numbers: Int64[np.ndarray, " unit"],
    texts: _Texts,
    progress: Callable[[int, int], None] | None,
) -> tuple[dict[str, UInt8[np.ndarray, "image y x rgb"]], dict[str, Any]]:
    """Pictures of each condition, unit by unit, and how the search went."""
    seeds, shape = texts.seeds.ravel().tolist(), texts.seeds.shape
    captions = [text for text in texts.best for _ in range(how.samples)]
    of = torch.from_numpy(np.repeat(numbers, how.samples))
    found = guide(
        diffusion,
        Start(diffusion.noise(seeds), diffusion.states(captions)),
        Unit(classifier, Features(classifier.model), of, torch.ones(len(of))),
        how.guidance,
        seeds=seeds,
        progress=progress,
    )
    others = [text for text in texts.other for _ in range(how.samples)]
    # pictures of a search that failed from the start are black
    first, images = (to_pixels(each.nan_to_num(0.0), "neuron pictures") for each in (found.first, found.images))
    drawn = {TEXT: first, FOUND: images, OTHER: _sampled(diffusion, others, seeds, how.guidance)}
    searched = {
        "loss": (("iterate", "unit", "sample"), found.loss.reshape(-1, *shape), {"missing": "the search had ended"}),
        "best": (("unit", "sample"), found.best.reshape(shape)),
        "status": (("unit", "sample"), np.array(found.status).reshape(shape)),
    }
    return drawn, searched


def _sampled(
    diffusion: Diffusion, captions: Sequence[str], seeds: Sequence[int], options: Guidance
) -> UInt8[np.ndarray, "image y x rgb"]:
    states = diffusion.states([*captions])
    images = sample(diffusion, states, seeds=seeds, steps=options.steps, scale=options.scale, batch=BATCH)
    return to_pixels(images.nan_to_num(0.0), "neuron pictures")


def _activation(
    classifier: Classifier, pixels: UInt8[np.ndarray, "image y x rgb"], numbers: np.ndarray, batch: int
) -> Float32[np.ndarray, " image"]:
    """Of each picture, as it is stored, the activation of its unit, in the way that real images are measured."""
    features = features_of(classifier, xr.Dataset({"pixels": (("image", "y", "x", "rgb"), pixels)}), batch=batch)
    return features[np.arange(len(pixels)), numbers]


def _says(
    classifier: Classifier, pixels: UInt8[np.ndarray, "image y x rgb"], classes: np.ndarray
) -> tuple[Float32[np.ndarray, " image"], np.ndarray]:
    """The confidence in the class of each picture's unit, and the most probable class."""
    said = probabilities(classifier, pixels)
    return said[np.arange(len(pixels)), classes].astype(np.float32), np.array(classifier.classes)[said.argmax(1)]


def _judged(
    judge: Judge, images: xr.Dataset, order: np.ndarray, pixels: np.ndarray, strongest: np.ndarray
) -> xr.Dataset:
    """What the judge sees in top images and pictures, and how often it is the same."""
    some = np.unique(np.linspace(0, images.sizes["image"] - 1, LOOKED).astype(int))
    real, data = (_values(judge, pixels_of(images, rows)) for rows in (order.ravel(), some))
    seen = _values(judge, pixels.reshape(-1, *pixels.shape[3:])).reshape(*pixels.shape[:3], -1)
    real = real.reshape(*order.shape, -1)
    found = recognised(real, seen, data, strongest, [*judge.attributes])
    return found.assign(
        judged=(("condition", "unit", "sample", "attribute"), seen),
        judged_real=(("unit", "rank", "attribute"), real),
    )


def _values(judge: Judge, pixels: UInt8[np.ndarray, "image y x rgb"]) -> np.ndarray:
    """(image, attribute): what the judge sees by name, "" for nothing."""
    numbers = judge.parse(pixels)["value"].transpose("image", "attribute").values
    names = [np.array([*of, ""]) for of in judge.attributes.values()]
    return np.stack([of[column] for of, column in zip(names, numbers.T, strict=True)], 1)


def _filled(rows: Sequence[Sequence[Any]], fill: Any) -> np.ndarray:
    """Rows of different lengths as an array, the shorter ones filled up."""
    width = max(len(row) for row in rows)
    return np.array([[*row, *[fill] * (width - len(row))] for row in rows])
