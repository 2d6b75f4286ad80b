"""Methods: the models that judge pictures of classes, the real images beside these, and their scores (Tables 1, 2)."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from optogram.decompose.patches import as_input
from optogram.errors import DataError, ModelError, ParamError, ShapeError, nearest
from optogram.metrics.visualisations import frechet_distance, top_k_accuracy
from optogram.models.batches import in_batches
from optogram.models.linear_head import catching_head
from optogram.models.loading.classifiers import Classifier
from optogram.models.loading.clip_folders import Clip, encode_images

SCORES: tuple[str, ...] = ("accuracy", "zero_shot_1", "zero_shot_5", "fid_own", "fid_second")

MISSING = {"missing": "no such score: the attributes `skipped_…` say why, or there are too few pictures or values"}
"""The attribute of variables of SCORES, which are NaN where there is none."""


class Views(NamedTuple):
    """What the models make of a row of images, on the CPU; of width 0 by a model that is not there."""

    logits: Float[np.ndarray, "image class"]
    features: Float[np.ndarray, "image channel"]
    second: Float[np.ndarray, "image other"]
    embedding: Float[np.ndarray, "image embed"]

    def take(self, rows: np.ndarray) -> "Views":
        """Those of some images, by index or mask."""
        return Views(self.logits[rows], self.features[rows], self.second[rows], self.embedding[rows])


@dataclass(frozen=True)
class Judges:
    """The studied classifier, a second one, and a CLIP with its zero-shot rows (embeddings/<clip>/zeroshot).

    Raises ModelError if the classifier does not name its classes, ParamError for a CLIP without zero-shot rows or rows
    without a CLIP.

    >>> from dataclasses import replace
    >>> from optogram.methods import Judges
    >>> named = replace(classifier, classes=("circle", "square", "star", "ring"), attribute="shape")
    >>> views = Judges(named).look(scenes.pixels.values, batch=12)
    >>> views.logits.shape, views.features.shape, views.embedding.shape
    ((12, 4), (12, 6), (12, 0))
    """

    classifier: Classifier
    second: Classifier | None = None
    clip: Clip | None = None
    zeroshot: xr.Dataset | None = None

    def __post_init__(self) -> None:
        if not self.classifier.classes or not self.classifier.attribute:
            raise ModelError(
                "the classifier does not name its classes or what they are values of. Load it from a classifier's "
                'folder, or say so: dataclasses.replace(classifier, classes=("circle", …), attribute="shape").'
            )
        if (self.clip is None) != (self.zeroshot is None):
            missing = "no zero-shot rows" if self.zeroshot is None else "no CLIP"
            raise ParamError(f"judges: {missing}. Give a CLIP and its embeddings/<clip>/zeroshot, or neither.")

    def look(self, pixels: UInt8[np.ndarray, "image y x rgb"], batch: int) -> Views:
        """All that the models say about the images, at least one. Raises ModelError as `catching_head`."""
        logits, features = _heads(self.classifier, pixels, batch)
        nothing = np.zeros((len(pixels), 0), np.float32)
        second = nothing if self.second is None else _heads(self.second, pixels, batch)[1]
        embedding = nothing if self.clip is None else encode_images(self.clip, pixels, batch).numpy()
        return Views(logits, features, second, embedding)

    def zero_shot(self, views: Views, attribute: str) -> tuple[list[str], Float[np.ndarray, "image value"]]:
        """The values of an attribute among CLIP's zero-shot rows, and each image's cosines to them; none without CLIP.

        Raises ShapeError if the rows are another model's.
        """
        if self.zeroshot is None:
            return [], np.zeros((len(views.logits), 0))
        rows = self.zeroshot["attribute"].values.astype(str) == attribute
        weights = self.zeroshot["classifier"].transpose("class", "embed").values[rows]
        if weights.shape[1] != views.embedding.shape[1]:
            raise ShapeError(
                f"zero-shot rows have {weights.shape[1]} dimensions, the CLIP's images {views.embedding.shape[1]}. "
                "Take both from the same model."
            )
        return self.known(attribute), views.embedding @ weights.T

    def known(self, attribute: str) -> list[str]:
        """The values of an attribute that CLIP has zero-shot rows for; none without CLIP."""
        if self.zeroshot is None:
            return []
        asked = self.zeroshot["attribute"].values.astype(str) == attribute
        return self.zeroshot["value"].values[asked].astype(str).tolist()

    def lacking(self, classes: Sequence[int]) -> dict[str, str]:
        """Reasons why scores of these classes are not there: `skipped_zero_shot`, `skipped_fid_second`."""
        found, attribute = {}, self.classifier.attribute
        if self.zeroshot is None:
            found["skipped_zero_shot"] = "no CLIP was given"
        elif without := [name for name in self._names(classes) if name not in self.known(attribute)]:
            found["skipped_zero_shot"] = f"the CLIP's zero-shot rows of {attribute} lack {', '.join(without)}"
        if self.second is None:
            found["skipped_fid_second"] = "no second classifier was given"
        return found

    def class_scores(self, views: Views, truth: Int[np.ndarray, " image"], real: "Real") -> dict[str, float]:
        """SCORES of pictures of classes; NaN where there is none.

        truth: the logit of each picture's class. accuracy: its share among the studied model's predictions, over all
        logits. zero_shot_k: CLIP's, among all values of the class attribute that it has rows for (section A.2);
        zero_shot_5 only if these are more than 5. fid_own, fid_second: to all `real` images, in the penultimate
        features of the studied and of the second model; they need two pictures.
        """
        found = dict.fromkeys(SCORES, math.nan)
        if len(truth):
            found |= {"accuracy": top_k_accuracy(views.logits, truth), **self._zero_shot_scores(views, truth)}
        if len(truth) > 1:
            found |= distances(views, real.views)
        return found

    def real_scores(self, real: "Real") -> dict[str, float]:
        """The same of the real images themselves: zero-shot of those classified rightly (A.2), FID of their halves."""
        right = real.views.logits.argmax(1) == real.truth
        found = dict.fromkeys(SCORES, math.nan) | {"accuracy": float(right.mean())}
        if right.any():
            found |= self._zero_shot_scores(real.views.take(right), real.truth[right])
        half = real.place % 2 == 0
        return found | distances(real.views.take(half), real.views.take(~half))

    def draw(self, images: xr.Dataset, classes: Sequence[int], count: int, *, seed: int, batch: int) -> "Real":
        """At most `count` real images, equally many of each class where it has so many, seen by all models.

        images: an images/<split> artifact. classes: logits, each once.

        Raises ParamError if `count` gives a class fewer than two images or images lack the class attribute, DataError
        for a class with fewer than two, ModelError for a class that the classifier does not name.
        """
        if (most := max(classes)) >= len(self.classifier.classes):
            raise ModelError(
                f"a class is logit {most}, but the classifier names only {len(self.classifier.classes)} classes. Take "
                "the targets and the classifier of one model."
            )
        each = count // len(classes)
        if each < 2:
            raise ParamError(f"{count} real images for {len(classes)} classes. Take two a class or more.")
        known = images["attribute"].values.astype(str).tolist()
        attribute = self.classifier.attribute
        if attribute not in known:
            raise ParamError(
                f"the classifier tells {attribute!r} apart, but the real images are labelled by {', '.join(known)}."
                f"{nearest(attribute, known)}"
            )
        at = known.index(attribute)
        label = images["label"].transpose("image", "attribute").values[:, at]
        values = images["value_name"].transpose("attribute", "value").values[at].astype(str).tolist()
        rng, rows, truth, place = np.random.default_rng(seed), [], [], []
        for index, name in zip(classes, self._names(classes), strict=True):
            own = np.flatnonzero(label == values.index(name)) if name in values else np.array([], int)
            if len(own) < 2:
                raise DataError(
                    f"class {name!r} has {len(own)} real images; at least 2 are needed. The images have "
                    f"{', '.join(value for value in values if value)}. Give a split that has the class."
                )
            drawn = own[rng.permutation(len(own))[:each]]
            rows += drawn.tolist()
            truth += [index] * len(drawn)
            place += range(len(drawn))
        pixels = images["pixels"].isel(image=rows).transpose("image", "y", "x", "rgb").values
        return Real(self.look(pixels, batch), np.array(truth), np.array(place))

    def _zero_shot_scores(self, views: Views, truth: Int[np.ndarray, " image"]) -> dict[str, float]:
        values, cosines = self.zero_shot(views, self.classifier.attribute)
        names = self._names(truth)
        if not set(names) <= set(values):
            return {}
        wanted = np.array([values.index(name) for name in names])
        found = {"zero_shot_1": top_k_accuracy(cosines, wanted)}
        return found | ({"zero_shot_5": top_k_accuracy(cosines, wanted, 5)} if len(values) > 5 else {})

    def _names(self, classes: Iterable[int | np.integer]) -> list[str]:
        return [self.classifier.classes[index] for index in classes]


class Real(NamedTuple):
    """Real images as the models see them; their classes as logits; the place of each in the draw of its class."""

    views: Views
    truth: Int[np.ndarray, " image"]
    place: Int[np.ndarray, " image"]


def joined(one: Views, other: Views) -> Views:
    """The rows of both, one after another; by the same judges."""
    return Views(*(np.concatenate(same) for same in zip(one, other, strict=True)))


def through(
    classifier: Classifier,
    pixels: UInt8[np.ndarray, "image y x rgb"],
    batch: int,
    work: Callable[[Tensor], tuple[Tensor, ...]],
) -> tuple[Float[np.ndarray, "image _"], ...]:
    """`work` on all images, preprocessed and on the model's device, in batches and without gradients; float32.

    Images that have the size the model takes go in as they are: a preprocessing may cut off the rim of a picture that
    was drawn at that size.

    Raises DataError if there is no image.
    """
    if not len(pixels):
        raise DataError("no image to show to the classifier. Give at least one.")
    device = next((parameter.device for parameter in classifier.model.parameters()), torch.device("cpu"))
    fits = pixels.shape[1:3] == (classifier.size or pixels.shape[1:3])

    def see(rows: slice) -> list[np.ndarray]:
        part = pixels[rows]
        images = as_input(classifier, part) if fits else classifier.preprocess(part)
        with torch.no_grad():
            return [each.float().cpu().numpy() for each in work(images.to(device))]

    seen = [found for _, found in in_batches(len(pixels), batch, see)]
    return tuple(np.concatenate(part) for part in zip(*seen, strict=True))


def _heads(
    classifier: Classifier, pixels: UInt8[np.ndarray, "image y x rgb"], batch: int
) -> tuple[Float[np.ndarray, "image class"], Float[np.ndarray, "image channel"]]:
    def heads(images: Tensor) -> tuple[Tensor, Tensor]:
        classifier.model(images)
        return head.logits, head.features

    with catching_head(classifier.model) as head:
        logits, features = through(classifier, pixels, batch, heads)
    if classifier.classes and logits.shape[1] != len(classifier.classes):
        raise ModelError(
            f"the classifier has {logits.shape[1]} logits, but names {len(classifier.classes)} classes "
            f"({', '.join(classifier.classes[:3])}, …). Name one a logit, in their order."
        )
    return logits, features


def distances(ours: Views, theirs: Views) -> dict[str, float]:
    """`fid_own`, and `fid_second` where there is a second model. Raises as `frechet_distance`."""
    found = {"fid_own": frechet_distance(ours.features, theirs.features)}
    if ours.second.shape[1]:
        found["fid_second"] = frechet_distance(ours.second, theirs.second)
    return found
