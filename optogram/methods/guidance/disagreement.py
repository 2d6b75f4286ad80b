"""Methods, guidance: the artifact disagreement/<group>: pictures of a class that one classifier sees and another not.

A picture is drawn from a caption that names the class alone. What the diffusion model starts from and is told is then
optimised until the two disagree: what comes up is what the one takes for the class and the other does not.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float32, UInt8

from optogram.errors import DataError, ParamError, nearest
from optogram.guidance.engine import guide
from optogram.guidance.options import Guidance
from optogram.guidance.trajectory import Start
from optogram.methods.guidance.seers import probabilities
from optogram.methods.image_objectives import Disagreement
from optogram.metrics.headline import Headline
from optogram.metrics.planted_values import TIED, planted_values, real_share
from optogram.models.generative.diffusion import Diffusion
from optogram.models.generative.sampling import image_seeds, to_pixels
from optogram.models.judging.judge import Judge
from optogram.models.loading.classifiers import Classifier
from optogram.models.loading.clip_folders import Clip, encode_images
from optogram.progress import say

START, FOUND = "start", "found"
CONDITIONS = (START, FOUND)


@dataclass(frozen=True)
class Lookers:
    """Who looks, by name: `one` is to see what `other` does not; `others` and the judge have no part.

    Raises ParamError if two have one name.
    """

    one: tuple[str, Classifier]
    other: tuple[str, Classifier]
    others: Mapping[str, Classifier] = field(default_factory=dict)
    judge: Judge | None = None

    def __post_init__(self) -> None:
        if len({self.one[0], self.other[0], *self.others}) < 2 + len(self.others):
            raise ParamError(
                f"disagreement: {', '.join([self.one[0], self.other[0], *self.others])} look, and a name is there "
                "twice. Name each once."
            )

    @property
    def every(self) -> dict[str, Classifier]:
        """All classifiers, the two first."""
        return dict((self.one, self.other)) | dict(self.others)


@dataclass(frozen=True)
class Hunt:
    """What is searched for, and how.

    of: as `Disagreement` of image_objectives has it. classes: by name; none is all that the two have in common.
    samples: pictures a class. caption: what they are drawn from, {} being the class. cue: an attribute that the judge
    sees, and ties: class -> the value of it that was planted with it in somebody's training.
    """

    guidance: Guidance = field(default_factory=Guidance)
    of: Literal["logarithms", "confidences", "margins"] = "logarithms"
    classes: tuple[str, ...] = ()
    samples: int = 8
    caption: str = "a picture of a {}"
    cue: str | None = None
    ties: Mapping[str, str] = field(default_factory=dict)


def disagreement(
    diffusion: Diffusion,
    lookers: Lookers,
    hunt: Hunt,
    *,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
    """The artifact disagreement/<group> without `near_` and `real_` variables, docs/artifacts/guidance.md.

    Pictures of a class are the same however many there are of it and whatever else is asked, and start alike if `one`
    and `other` are exchanged. progress: called with (iterations done, in all).

    Raises DataError for classifiers without a class in common, ParamError for a class, caption or cue that cannot be
    used, and as `guide`.

    Source: Augustin et al., section 4, eq. 3 and B.
    """
    one, other = lookers.one[1], lookers.other[1]
    classes = _classes(lookers, hunt)
    _check(lookers, hunt, [*{*one.classes} & {*other.classes}])
    wanted = [name for name in classes for _ in range(hunt.samples)]
    captions = [hunt.caption.replace("{}", name) for name in wanted]
    seeds = _seeds(seed, one.classes, other.classes, classes, hunt.samples)
    numbers = torch.tensor([[each.classes.index(name) for each in (one, other)] for name in wanted])
    found = guide(
        diffusion,
        Start(diffusion.noise(seeds), diffusion.states(captions)),
        Disagreement(one, other, numbers, hunt.of),
        hunt.guidance,
        seeds=seeds,
        progress=progress,
    )
    # pictures of a search that failed from the start are black
    drawn = [to_pixels(each.nan_to_num(0.0), "disagreement") for each in (found.first, found.images)]
    looked = [_looked(pixels, wanted, lookers.every) for pixels in drawn]
    variables: dict[str, Any] = {
        "pixels": (("condition", "image", "y", "x", "rgb"), np.stack(drawn)),
        "wanted": ("image", np.array(wanted)),
        "caption": ("image", np.array(captions)),
        "seed": ("image", np.array(seeds, np.int64)),
        "loss": (("iterate", "image"), found.loss, {"missing": "the search of the image had ended"}),
        "best": ("image", found.best),
        "status": ("image", np.array(found.status)),
        "confidence": (("condition", "image", "model"), np.stack([each[0] for each in looked]), LACKS),
        "says": (("condition", "image", "model"), np.stack([each[1] for each in looked])),
        "disagree": (("condition", "image"), np.stack([_disagree(each[1], wanted) for each in looked])),
        "tied": ("class", np.array([hunt.ties.get(name, "") for name in classes])),
    }
    ids = [f"{name} {k}" for name in classes for k in range(hunt.samples)]
    coordinates = {"image": ids, "condition": [*CONDITIONS], "model": [*lookers.every], "class": classes}
    made = xr.Dataset(variables, coordinates)
    if lookers.judge is not None:
        made = made.merge(_judged(lookers.judge, drawn, wanted, hunt))
    names = {"one": lookers.one[0], "other": lookers.other[0], "of": hunt.of, "cue": hunt.cue or ""}
    return made.assign_attrs(names)


LACKS = {"missing": "the model has no class of this name"}


def similar_images(found: xr.Dataset, lookers: Lookers, clip: Clip, images: xr.Dataset, *, near: int = 4) -> xr.Dataset:
    """The real images that look most like the found pictures, and what the models say of them: `found` with more.

    found: what `disagreement` returned. images: of an images/<split> artifact. near: images a picture, by the cosine of
    the CLIP's embeddings. How often the two disagree on them stands beside how often they do on all images; and where
    the images are labelled with the cue, how often those on which they do have what was planted: what there is to find.

    Raises DataError for fewer images than `near`.

    Source: Augustin et al., section C, which searches LAION for them by a text.
    """
    ids, pixels = images["image"].values.astype(str), images["pixels"].values
    if len(ids) < near:
        raise DataError(f"disagreement: {len(ids)} real images, but near = {near}. Lower it, or give a larger split.")
    of = found["pixels"].sel(condition=FOUND).transpose("image", "y", "x", "rgb").values
    cosine = (encode_images(clip, of).double() @ encode_images(clip, pixels).double().T).numpy()
    rows = np.argsort(-cosine, 1, kind="stable")[:, :near]
    wanted, classes = found["wanted"].values.astype(str), found["class"].values.astype(str).tolist()
    said = {name: probabilities(each, pixels) for name, each in lookers.every.items()}
    confidence = np.stack([_of_class(said[name], each, wanted, rows) for name, each in lookers.every.items()], 2)
    told = {name: np.array(each.classes)[said[name].argmax(1)] for name, each in lookers.every.items()}
    one, other = told[lookers.one[0]], told[lookers.other[0]]
    apart = {name: (one == name) & (other != name) for name in classes}
    unique = {name: np.unique(rows[wanted == name]) for name in classes}
    return found.assign(
        near_image=(("image", "near"), ids[rows]),
        near_similarity=(("image", "near"), np.take_along_axis(cosine, rows, 1)),
        near_confidence=(("image", "near", "model"), confidence, LACKS),
        near_disagree=(("image", "near"), np.stack([apart[name][row] for name, row in zip(wanted, rows, strict=True)])),
        near_images=("class", np.array([len(unique[name]) for name in classes])),
        near_apart=("class", np.array([int(apart[name][unique[name]].sum()) for name in classes])),
        real_images=((), len(ids)),
        real_apart=("class", np.array([int(apart[name].sum()) for name in classes])),
        **_planted_among(found, images, apart),
    )


def _planted_among(found: xr.Dataset, images: xr.Dataset, apart: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Of the real images of each class that the two disagree on, how many are labelled with what was planted."""
    cue, attributes = str(found.attrs["cue"]), images["attribute"].values.tolist() if "attribute" in images else []
    if not cue or cue not in attributes:
        return {}
    column = attributes.index(cue)
    names = np.array([*images["value_name"].values[column].tolist(), ""])
    seen = names[images["label"].values[:, column]]
    tied = dict(zip(apart, found["tied"].values.tolist(), strict=True))
    planted = [name for name in tied.values() if name]
    counts = [int(np.isin(seen[rows], [tied[name]] if tied[name] else planted).sum()) for name, rows in apart.items()]
    return {"real_planted": ("class", np.array(counts))}


def headline(found: xr.Dataset) -> Headline:
    """The share of pictures of tied classes with what was planted, after and before; without ties, of disagreement."""
    if "planted" in found and TIED in found["group"]:
        here = found.sel(group=TIED)
        start, after = (float(here["planted"].sel(condition=name)) for name in CONDITIONS)
        told, of = f"pictures of tied classes with the planted {found.attrs['cue']}", int(here["pictures"])
        return Headline(told, after, of, "at the start", start, real_share(found), float(here["gain_p"]))
    start, after = (float(found["disagree"].sel(condition=name).mean()) for name in CONDITIONS)
    told = f"pictures of which {found.attrs['one']} sees the class and {found.attrs['other']} does not"
    return Headline(told, after, found.sizes["image"], "at the start", start)


def _classes(lookers: Lookers, hunt: Hunt) -> list[str]:
    """Those that are asked for, in the order of the first classifier, or all that both have; what is left out is said.

    Raises DataError if there is none in common, ParamError for one that either lacks.
    """
    (one, mine), (other, theirs) = lookers.one, lookers.other
    common = [name for name in mine.classes if name in theirs.classes]
    if not common:
        raise DataError(
            f"disagreement: {one} has the classes {', '.join(mine.classes)}, and {other} has "
            f"{', '.join(theirs.classes)}; none is in both. Name models with classes of the same names."
        )
    for name in hunt.classes:
        if name not in common:
            raise ParamError(
                f"disagreement: class {name!r}, expected one that both {one} and {other} have: {', '.join(common)}."
                f"{nearest(name, common)}"
            )
    if hunt.classes:
        return [name for name in common if name in hunt.classes]
    if left := [name for name in dict.fromkeys([*mine.classes, *theirs.classes]) if name not in common]:
        say(f"{len(left)} classes are not in both {one} and {other}, and are left out: {', '.join(left[:10])}.")
    return common


def _check(lookers: Lookers, hunt: Hunt, common: Sequence[str]) -> None:
    """Raises ParamError for a caption, a number or a cue that cannot be used."""
    if "{}" not in hunt.caption:
        raise ParamError(f"disagreement: caption = {hunt.caption!r}, expected one with {{}} where the class stands.")
    if hunt.samples < 1:
        raise ParamError(f"disagreement: samples = {hunt.samples}, expected at least 1.")
    if hunt.cue is None and not hunt.ties:
        return
    known, cue = {} if lookers.judge is None else lookers.judge.attributes, hunt.cue or ""
    if cue not in known:
        raise ParamError(
            f"disagreement: cue = {hunt.cue!r}, expected an attribute that a judge sees: "
            f"{', '.join(known) or 'there is no judge'}.{nearest(cue, list(known))}"
        )
    for name, value in hunt.ties.items():
        for given, those, what in ((name, common, "class of both"), (value, known[cue], f"value of {cue}")):
            if given not in those:
                raise ParamError(
                    f"disagreement: tied has {given!r}, expected a {what}: {', '.join(those)}."
                    f"{nearest(given, list(those))}"
                )


def _seeds(seed: int, mine: Sequence[str], theirs: Sequence[str], classes: Sequence[str], samples: int) -> list[int]:
    """One a picture: it follows from its class' place among all of both models' names, and its number in the class."""
    names = sorted({*mine, *theirs})
    every = image_seeds(seed, len(names) * samples)
    return [every[k * len(names) + names.index(name)] for name in classes for k in range(samples)]


def _looked(
    pixels: UInt8[np.ndarray, "image y x rgb"], wanted: Sequence[str], models: Mapping[str, Classifier]
) -> tuple[Float32[np.ndarray, "image model"], np.ndarray]:
    """The confidence of each model in the class that each picture is to be of, and the class that it sees."""
    said = {name: probabilities(each, pixels) for name, each in models.items()}
    rows = np.arange(len(pixels))[:, None]
    of_class = [_of_class(said[name], each, np.array(wanted), rows)[:, 0] for name, each in models.items()]
    return np.stack(of_class, 1), np.stack([np.array(each.classes)[said[n].argmax(1)] for n, each in models.items()], 1)


def _of_class(said: np.ndarray, model: Classifier, wanted: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(picture, near): a model's confidence in the class of each picture, of the images in its row; NaN without it."""
    number = {name: k for k, name in enumerate(model.classes)}
    found = [
        said[row, number[name]] if name in number else np.full(len(row), np.nan)
        for name, row in zip(wanted, rows, strict=True)
    ]
    return np.stack(found).astype(np.float32)


def _disagree(says: np.ndarray, wanted: Sequence[str]) -> Bool[np.ndarray, " image"]:
    return (says[:, 0] == np.array(wanted)) & (says[:, 1] != np.array(wanted))


def _judged(
    judge: Judge, drawn: Sequence[UInt8[np.ndarray, "image y x rgb"]], wanted: Sequence[str], hunt: Hunt
) -> xr.Dataset:
    """What the judge sees in pictures before and after, and how often it is what was planted with their classes."""
    values = []
    for pixels in drawn:
        numbers = judge.parse(pixels)["value"].transpose("image", "attribute").values
        of = [np.array([*judge.attributes[name], ""]) for name in judge.attributes]
        values.append(np.stack([names[column] for names, column in zip(of, numbers.T, strict=True)], 1))
    seen = xr.Dataset(
        {"judged": (("condition", "image", "attribute"), np.stack(values))}, {"attribute": [*judge.attributes]}
    )
    if hunt.cue is None or not hunt.ties:
        return seen
    before, after = (each[:, [*judge.attributes].index(hunt.cue)].tolist() for each in values)
    return seen.merge(planted_values(before, after, wanted, hunt.ties))
