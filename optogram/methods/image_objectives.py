"""Methods: what a picture in [0, 1] is asked to be, as a loss through which gradients pass.

Shared by the families that draw with a diffusion model: each is an `Objective` of guidance. A loss is of views of
images, `rows` saying of which image each view is, so that what is asked may differ from image to image.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn

from optogram.errors import ModelError, ParamError, ShapeError, nearest
from optogram.models.layers import activations
from optogram.models.linear_head import penultimate
from optogram.models.loading.classifiers import Classifier, three
from optogram.models.loading.clip_folders import Clip

Images = Float[Tensor, "view rgb y x"]
Rows = Int64[Tensor, " view"]
Loss = Float[Tensor, " view"]


def taken_by(classifier: Classifier, images: Images) -> Images:
    """Pictures in [0, 1] as the classifier takes them, resized bilinearly with antialiasing; gradients pass."""
    if classifier.size is not None and tuple(images.shape[2:]) != classifier.size:
        images = F.interpolate(images, classifier.size, mode="bilinear", antialias=True)
    return classifier.normalise(images)


def class_number(classifier: Classifier, name: str) -> int:
    """The number of a class by its name. Raises ParamError with the nearest names if there is none."""
    if name not in classifier.classes:
        known = ", ".join(classifier.classes[:20]) + (", …" if len(classifier.classes) > 20 else "")
        raise ParamError(
            f"class {name!r}: the classifier has none of this name; it has {known or 'no names'}."
            f"{nearest(name, list(classifier.classes))}"
        )
    return classifier.classes.index(name)


def _size(classifier: Classifier) -> tuple[int, int]:
    if classifier.size is None:
        raise ModelError(
            "this classifier takes images of any size, so that nobody knows how large crops are. Load it with a "
            "preprocessing that makes images of one size."
        )
    return classifier.size


@dataclass(frozen=True)
class LogProbability:
    """-log p(y | x), y being the class of each image (eq. 5).

    classes: by their numbers, one an image.
    """

    classifier: Classifier
    classes: Int64[Tensor, " image"]

    @property
    def size(self) -> tuple[int, int]:
        """Of the classifier's images."""
        return _size(self.classifier)

    def __call__(self, images: Images, rows: Rows) -> Loss:
        """The cross-entropy."""
        logits = self.classifier.model(taken_by(self.classifier, images)).float()
        return F.cross_entropy(logits, self.classes.to(rows.device)[rows], reduction="none")


@dataclass(frozen=True)
class Probability:
    """-p(y | x): as `LogProbability`, without the logarithm."""

    classifier: Classifier
    classes: Int64[Tensor, " image"]

    @property
    def size(self) -> tuple[int, int]:
        """Of the classifier's images."""
        return _size(self.classifier)

    def __call__(self, images: Images, rows: Rows) -> Loss:
        """Minus the confidence."""
        return -_probabilities(self.classifier, images).gather(1, self.classes.to(rows.device)[rows, None])[:, 0]


@dataclass(frozen=True)
class Disagreement:
    """That `one` sees its class and `other` does not (eq. 3).

    of: "logarithms" is -log p - log(1 - q), which has a gradient where both confidences are near 0; "confidences" is
    q - p, the paper's; "margins" is that of the logits, each less the largest of the other classes.
    classes: by image, the number of the class in `one` and in `other`.

    Raises ParamError for another kind.
    """

    one: Classifier
    other: Classifier
    classes: Int64[Tensor, "image 2"]
    of: Literal["logarithms", "confidences", "margins"] = "logarithms"

    def __post_init__(self) -> None:
        known = ("logarithms", "confidences", "margins")
        if self.of not in known:
            raise ParamError(
                f"disagreement: of = {self.of!r}, expected one of {', '.join(known)}.{nearest(self.of, list(known))}"
            )

    @property
    def size(self) -> tuple[int, int]:
        """Of the images of `one`."""
        return _size(self.one)

    def __call__(self, images: Images, rows: Rows) -> Loss:
        """The smaller the more they disagree."""
        wanted = self.classes.to(rows.device)[rows]
        logits = [each.model(taken_by(each, images)).float() for each in (self.one, self.other)]
        if self.of == "margins":
            mine, theirs = (_margin(each, wanted[:, k]) for k, each in enumerate(logits))
            return theirs - mine
        logs = [each.log_softmax(1) for each in logits]
        mine = logs[0].gather(1, wanted[:, :1])[:, 0]
        if self.of == "confidences":
            return logs[1].gather(1, wanted[:, 1:])[:, 0].exp() - mine.exp()
        return -mine - _without(logs[1], wanted[:, 1])


@dataclass(frozen=True)
class Unit:
    """How strong a number between a model's input and its logits is, upward or downward (eq. 6).

    value: of images as the classifier takes them, (view, number); `feature` and `channel` make some. numbers: which of
    them, an image; sign: 1 to make it larger, -1 smaller.
    """

    classifier: Classifier
    value: Callable[[Images], Float[Tensor, "view number"]]
    numbers: Int64[Tensor, " image"]
    sign: Float[Tensor, " image"]

    @property
    def size(self) -> tuple[int, int]:
        """Of the classifier's images."""
        return _size(self.classifier)

    def __call__(self, images: Images, rows: Rows) -> Loss:
        """Minus the number, or the number."""
        found = self.reached(images, rows)
        return -self.sign.to(found)[rows] * found

    def reached(self, images: Images, rows: Rows) -> Loss:
        """The number itself."""
        values = self.value(taken_by(self.classifier, images)).float()
        return values.gather(1, self.numbers.to(rows.device)[rows, None])[:, 0]


@dataclass(frozen=True)
class Features:
    """The inputs of a model's last linear layer, for `Unit`."""

    model: nn.Module

    def __call__(self, images: Images) -> Float[Tensor, "view number"]:
        """(view, feature). Raises ModelError as `penultimate`."""
        return penultimate(self.model, images)


@dataclass(frozen=True)
class Channels:
    """The means over places of a layer's channels, for `Unit`. layer: before or after a nonlinearity, by its name."""

    model: nn.Module
    layer: str

    def __call__(self, images: Images) -> Float[Tensor, "view number"]:
        """(view, channel). Raises ModelError as `activations`."""
        return activations(self.model, images, [self.layer])[self.layer].mean((2, 3))


@dataclass(frozen=True)
class Projections:
    """Linear functions of the inputs of a model's last linear layer, as NPCA components are, for `Unit`."""

    model: nn.Module
    directions: Float[Tensor, "number feature"]
    offsets: Float[Tensor, " number"]

    def __call__(self, images: Images) -> Float[Tensor, "view number"]:
        """(view, number). Raises ModelError as `penultimate`."""
        features = penultimate(self.model, images)
        return features @ self.directions.to(features).T + self.offsets.to(features)


@dataclass(frozen=True)
class Keep:
    """How much a picture changes where it is not to (eq. 19): means over all elements, as the published code has them.

    originals, latents: the images in [0, 1] and their latents. masks: 1 where it may change, at the images' size and at
    that of the latents. pixels, encoded: what the two weigh, w_PX and w_VAE.

    Raises ShapeError for masks of another size.
    """

    originals: Float32[Tensor, "image rgb y x"]
    latents: Float32[Tensor, "image channel row column"]
    mask: Float32[Tensor, "image y x"]
    latent_mask: Float32[Tensor, "image row column"]
    pixels: float = 250.0
    encoded: float = 25.0

    def __post_init__(self) -> None:
        for of, mask in ((self.originals, self.mask), (self.latents, self.latent_mask)):
            if mask.shape != (len(of), *of.shape[2:]):
                raise ShapeError(
                    f"keep: a mask of shape {tuple(mask.shape)} for images or latents of {tuple(of.shape)}. Give one "
                    "of their rows and columns an image."
                )

    def __call__(
        self,
        latents: Float[Tensor, "image channel row column"],
        images: Float[Tensor, "image rgb y x"],
        rows: Int64[Tensor, " image"],
    ) -> Float[Tensor, " image"]:
        """The weighted distance of each image."""
        total = images.new_zeros(len(rows))
        for weight, found, of, mask in (
            (self.encoded, latents, self.latents, self.latent_mask),
            (self.pixels, images, self.originals, self.mask),
        ):
            outside = (1 - mask.to(found)[rows])[:, None]
            total = total + weight * (outside * (found - of.to(found)[rows]).square()).mean((1, 2, 3))
        return total


def zero_shot(
    clip: Clip,
    texts: Float[Tensor, "text embed"],
    classes: Sequence[str],
    *,
    attribute: str = "",
    scale: float | None = None,
) -> Classifier:
    """A CLIP as a classifier: logits are cosines of its embeddings with those of texts, a text a class.

    scale: times which they are taken, by default the CLIP's own. The paper's zero-shot attributes (eq. 20 and 21) are
    the embeddings of two texts and a scale of 1. attribute: what the classes are values of.

    Raises ParamError for fewer than two texts, ShapeError unless each has a class.
    """
    if len(texts) < 2:
        raise ParamError(f"zero-shot: {len(texts)} texts, expected at least 2. Name what else a picture might be.")
    if len(texts) != len(classes):
        raise ShapeError(f"zero-shot: {len(texts)} texts, but {len(classes)} classes. Give each class a text.")
    if scale is None:
        scale = float(clip.model.logit_scale.exp())
    seen = clip.preprocess
    model = _ZeroShot(clip.model, F.normalize(texts, dim=1).to(clip.device), scale).eval()
    side = seen.image_size
    return Classifier(model, seen, three(seen.mean), three(seen.std), (side, side), tuple(classes), attribute)


class _ZeroShot(nn.Module):
    def __init__(self, clip: nn.Module, texts: Float[Tensor, "text embed"], scale: float) -> None:
        super().__init__()
        self.clip, self.scale = clip, scale
        self.register_buffer("texts", texts)
        self.texts: Tensor

    def forward(self, images: Images) -> Float[Tensor, "view text"]:
        embeddings = self.clip.encode_image(images)  # type: ignore[operator]
        return self.scale * F.normalize(embeddings.float(), dim=1) @ self.texts.T


def _probabilities(classifier: Classifier, images: Images) -> Float[Tensor, "view class"]:
    return classifier.model(taken_by(classifier, images)).float().softmax(1)


def _without(logs: Float[Tensor, "view class"], classes: Int64[Tensor, " view"]) -> Loss:
    """log(1 - p) of the class of each view, by the sum of the others, which is exact where p is near 1."""
    return logs.scatter(1, classes[:, None], -torch.inf).logsumexp(1)


def _margin(logits: Float[Tensor, "view class"], classes: Int64[Tensor, " view"]) -> Loss:
    """A logit less the largest other one."""
    return logits.gather(1, classes[:, None])[:, 0] - logits.scatter(1, classes[:, None], -torch.inf).amax(1)
