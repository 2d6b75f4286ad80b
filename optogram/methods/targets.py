"""Method room, targets: what is to be visualised of a classifier, and the reference images of each.

VITAL: classes (references: images of the class), neurons (top patches), the several things that one neuron answers to
(Figure 29), concepts of a class (CRAFT, Figures 30 to 33). Which neurons: those that matter most for each class in the
penultimate block, the class's circuit (Figure 5).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Float32, Int, Int32, Int64

from optogram.errors import DataError, ModelError, ParamError, nearest
from optogram.methods.circuits import Relevance, circuit_channels, class_relevance, reached_layer
from optogram.methods.concept_directions import class_concepts
from optogram.methods.concept_directions import split_patches as split
from optogram.methods.patches import cut, input_size, patch_boxes, pooled, top_patches
from optogram.methods.reference_sets import class_references, facet_references
from optogram.models.classifiers import Classifier, blocks
from optogram.progress import progress

_PROBED = 4  # images that tell at which blocks relevance arrives
_CANDIDATES = 10  # images a reference among which facets are found


def find_targets(
    classifier: Classifier,
    images: xr.Dataset,
    *,
    relevance: Relevance,
    patch: int,
    stride: int,
    layer: str | None = None,
    references: int = 50,
    facets: int = 1,
    images_limit: int | None = None,
    circuits: int = 3,
    circuit_classes: int | None = None,
    neurons: Sequence[int] = (),
    concepts: int = 3,
    concept_classes: int | Sequence[str] = 0,
    concept_rank: int = 10,
    splits: int = 2,
    split_neurons: int = 0,
    split_patches: int = 1000,
    shown: int = 8,
    batch: int = 64,
    seed: int = 0,
) -> xr.Dataset:
    """What to visualise of the classifier, with references: the artifact targets/<model> of ARCHITECTURE.md.

    images: an images/<split> artifact, lazily read. The classifier's classes are sought among the values of its
        attribute, or of the images' `class_attribute` where it names none.
    relevance: of a logit, by an `Attributor`.
    layer: where neurons and concepts live; by default `reached_layer`, the last block that a logit depends on. Classes
        alone ask no relevance, and by default are said to end at the last block.
    references: most references of a target. A class's are drawn at random, or are all that it has.
    facets: into so many facets each class is parted, by the pooled features at `layer` of 10 images a reference, drawn
        at random; each has `references` of its own (`facet_references`). Seeds draw them in turn.
    patch, stride: in pixels of the images. images_limit: so many images, drawn at random, give patches; None: all.
    circuits: neurons a class, those with the largest relevance for its logit: summed over space, its positive part
        averaged over the references. A neuron of several classes is one target. Channels that fewer than two images
        activate (a patch with a pooled activation above 0) are passed over.
    circuit_classes: the first so many classes have circuits; None: all. neurons: further channels of the layer.
    concepts: most concepts of each of `concept_classes` (names, or the first so many), the most important of
        `concept_rank`, by `class_concepts`. Its patches are those of the class; references have the largest
        coefficients. Concepts of one image alone are passed over.
    splits: into how many groups the `split_patches` top patches of a neuron are parted, by k-means. All neurons of the
        circuits are tried, and those `split_neurons` kept whose groups are furthest apart, by silhouette.
    shown: references whose pixels are stored.

    The patches go through the model once. Held are their pooled features, 4 bytes x patches x channels, and beside them
    a quarter of that for a moment: 600 images of 9 patches with 256 channels take 6 MB, 50,000 with 2,048 channels
    3.7 GB. Set images_limit where that is too much.

    Raises ParamError for numbers out of bounds and unknown concept classes; DataError for a class with fewer than two
    images, or one that is to have concepts and has no patches; ModelError for a classifier without names of its logits
    or with another number of them, for a layer that `activations` refuses, and where no relevance arrives; ParamError
    for neurons that the layer has not, or that fewer than two images activate.
    """
    _check(references=(references, 2), circuits=(circuits, 0), shown=(shown, 1), batch=(batch, 1), seed=(seed, 0))
    _check(facets=(facets, 1), concepts=(concepts, 1), split_neurons=(split_neurons, 0), images_limit=(images_limit, 1))
    attribute, labels = class_labels(classifier, images)
    with_concepts = _concept_classes(classifier, concept_classes)
    pixels, size = images["pixels"], input_size(classifier, images["pixels"])
    asked = references if facets == 1 else references * facets * _CANDIDATES
    whole = [
        _whole(_class_rows(name, labels == k, attribute, asked, (seed, k)), pixels.shape[1])
        for k, name in enumerate(classifier.classes)
    ]
    inner = bool((circuits and circuit_classes != 0) or neurons or with_concepts or split_neurons)
    if layer is None and inner:
        layer = reached_layer(classifier, cut(pixels, whole[0][:_PROBED], size), 0, relevance)
    elif layer is None:
        layer = blocks(classifier.model, size=size[0])[-1]
    if facets > 1:
        whole = [
            _facets(name, each, _features(classifier, pixels, each, layer, batch), facets, references, seed)
            for name, each in zip(classifier.classes, whole, strict=True)
        ]

    # classes alone need no patches: those of one image tell the number of channels
    drawn = np.random.default_rng((seed, 0, 2)).permutation(len(labels))[: images_limit if inner else 1]
    limited = np.sort(drawn)
    boxes = patch_boxes(limited, (pixels.shape[1], pixels.shape[2]), patch=patch, stride=stride)
    patches = _Patches(layer, boxes, _features(classifier, pixels, boxes, layer, batch), references, seed)
    toward = [
        class_relevance(classifier, cut(pixels, each, size), k, layer, relevance if inner else None, batch=batch)
        for k, each in enumerate(whole)
    ]
    none = np.zeros(patches.features.shape[1], np.float32)
    positive = np.stack([each.positive if inner else none for each in toward])
    if inner and circuits and not positive.any():
        raise ModelError(
            f"no positive relevance of any logit arrives at layer {layer!r}.\n  Name an earlier one, or leave it out."
        )
    found = circuit_channels(positive, circuits, alive=patches.alive())
    if circuit_classes is not None:
        found.channel[circuit_classes:], found.share[circuit_classes:] = -1, 0
    of_circuits = [channel for channel in dict.fromkeys(found.channel.ravel().tolist()) if channel >= 0]
    channels = [*dict.fromkeys([*of_circuits, *patches.checked(neurons)])]

    targets = [
        _Target(name, "class", none, each, of.logit, float(of.logit.mean()), class_index=k)
        for k, (name, each, of) in enumerate(zip(classifier.classes, whole, toward, strict=True))
    ]
    targets += patches.neurons(channels)
    for name in with_concepts:
        k = classifier.classes.index(name)
        targets += patches.concepts(name, labels[boxes[:, 0]] == k, toward[k].signed, concepts, concept_rank)
    if split_neurons:
        targets += patches.splits(channels, split_neurons, splits, split_patches)

    dataset = _dataset(targets, images, layer, (facets, references), shown, size)
    names = [[patches.name(channel) if channel >= 0 else "" for channel in line] for line in found.channel]
    dataset["circuit"] = ("class", "k"), np.array(names, str).reshape(found.channel.shape)
    dataset["circuit_relevance"] = ("class", "k"), found.share
    dataset.attrs = {"classes": json.dumps(classifier.classes), "class_attribute": attribute, "layer": layer}
    dataset.attrs["facets"] = facets
    return dataset.assign_coords({"class": np.array(classifier.classes)})


class _Target(NamedTuple):
    name: str
    kind: str
    direction: Float32[np.ndarray, " channel"]
    boxes: Int32[np.ndarray, "reference 4"]
    score: Float32[np.ndarray, " reference"]
    strength: float
    parent: str = ""
    class_index: int = -1


@dataclass(frozen=True)
class _Patches:
    """All patches, image by image, with their pooled features at the layer; and the targets found among them."""

    layer: str
    boxes: Int32[np.ndarray, "patch 4"]
    features: Float32[np.ndarray, "patch channel"]
    references: int
    seed: int

    def name(self, channel: int) -> str:
        return f"{self.layer}:{channel}"

    def alive(self) -> Bool[np.ndarray, " channel"]:
        """Channels that are active on a patch of two images or more."""
        starts = np.flatnonzero(np.diff(self.boxes[:, 0], prepend=-1))
        return np.logical_or.reduceat(self.features > 0, starts).sum(0) >= 2

    def checked(self, channels: Sequence[int]) -> Sequence[int]:
        """The channels, if the layer has them and images that activate them."""
        alive = self.alive()
        for channel in channels:
            if not 0 <= channel < len(alive):
                raise ParamError(
                    f"neurons name channel {channel}, but layer {self.layer!r} has {len(alive)}: 0 to {len(alive) - 1}."
                )
            if not alive[channel]:
                raise ParamError(
                    f"neurons name channel {channel} of layer {self.layer!r}, which fewer than two of the images that "
                    "give patches activate.\n  Leave it out, or take patches of more images (targets.images)."
                )
        return channels

    def neurons(self, channels: Sequence[int]) -> list[_Target]:
        found = []
        for channel, rows in zip(channels, self._best(self.features, self._one_hot(channels)), strict=True):
            target = self._target(self.name(channel), "neuron", rows, self._one_hot([channel])[0], 0)
            found.append(target._replace(strength=float(target.score.mean())))
        return found

    def concepts(
        self, name: str, own: Bool[np.ndarray, " patch"], relevance: Float[np.ndarray, " channel"], most: int, rank: int
    ) -> list[_Target]:
        if not own.any():
            raise DataError(
                f"no image that gives patches is labelled {name!r}, which is to have concepts.\n"
                "  Take patches of more images (targets.images), or leave it out."
            )
        of = class_concepts(self.features[own], relevance, most, rank=rank, seed=self.seed)
        coefficient = np.zeros((len(own), len(of.importance)), np.float32)
        coefficient[own] = of.coefficient
        best = self._best(coefficient, np.eye(len(of.importance), dtype=np.float32))
        return [
            self._target(f"{name} concept {i}", "concept", rows, direction, importance, name)
            for i, (rows, direction, importance) in enumerate(zip(best, of.direction, of.importance, strict=True))
            if len(rows) > 1
        ]

    def splits(self, channels: Sequence[int], most: int, into: int, patches: int) -> list[_Target]:
        apart = []
        options: Any = {"patches": patches, "splits": into, "references": self.references, "seed": self.seed}
        for channel in channels:
            of = split(self.features, self.boxes[:, 0], self._one_hot([channel])[0], **options)
            if of is not None:
                apart.append((self.name(channel), self._one_hot([channel])[0], of))
        return [
            self._target(f"{name} split {i}", "split", rows[rows >= 0], direction, share, name)
            for name, direction, of in sorted(apart, key=lambda each: -each[2].silhouette)[:most]
            for i, (rows, share) in enumerate(zip(of.patch, of.share, strict=True))
        ]

    def _best(
        self, features: Float32[np.ndarray, "patch channel"], directions: Float32[np.ndarray, "target channel"]
    ) -> list[Int64[np.ndarray, " reference"]]:
        """The patches with the largest positive scores, no two from one image."""
        top = top_patches([(slice(0, len(features)), features)], self.boxes[:, 0], directions, self.references)
        return [rows[score > 0] for rows, score in zip(*top, strict=True)]

    def _one_hot(self, channels: Sequence[int]) -> Float32[np.ndarray, "neuron channel"]:
        return np.eye(self.features.shape[1], dtype=np.float32)[list(channels)]

    def _target(
        self,
        name: str,
        kind: str,
        rows: Int64[np.ndarray, " reference"],
        direction: Any,
        strength: Any,
        parent: str = "",
    ) -> _Target:
        score = self.features[rows] @ direction
        return _Target(name, kind, direction, self.boxes[rows], score, float(strength), parent)


def _check(**bounds: tuple[int | None, int]) -> None:
    for name, (value, least) in bounds.items():
        if value is not None and value < least:
            raise ParamError(f"{name} = {value}, expected {least} or more.")


def class_labels(classifier: Classifier, images: xr.Dataset) -> tuple[str, Int64[np.ndarray, " image"]]:
    """The attribute that the classes are values of, and each image's class; -1 for none of them.

    Raises ModelError if the classes have no names, DataError if the images are not labelled by their attribute.
    """
    if not classifier.classes:
        raise ModelError(
            f"the classes of {type(classifier.model).__name__} have no names, so no image can be told to be of one.\n"
            "  Give them as `classes` of the Classifier, one a logit."
        )
    attribute = classifier.attribute or str(images.attrs["class_attribute"])
    known = images["attribute"].values.astype(str).tolist()
    if attribute not in known:
        raise DataError(
            f"the classes are values of {attribute!r}, but images are labelled by {', '.join(known)}."
            f"{nearest(attribute, known)}\n  Give images labelled by {attribute!r}."
        )
    at = known.index(attribute)
    values = images["value_name"].values[at].astype(str).tolist()
    place = {value: k for k, value in enumerate(classifier.classes)}
    of_value = np.array([place.get(value, -1) if value else -1 for value in values] + [-1])  # the last is for -1
    return attribute, of_value[images["label"].values[:, at]]


def _class_rows(
    name: str, own: Bool[np.ndarray, " image"], attribute: str, references: int, seed: tuple[int, int]
) -> Int64[np.ndarray, " reference"]:
    """The rows of a class's references."""
    count = int(own.sum())
    if count < 2:
        raise DataError(
            f"class {name!r} has {count} of the {len(own)} images, by their label of {attribute!r}; a class needs two "
            "or more as references.\n  Give more images, such as the split that the classifier was trained on."
        )
    return class_references(np.where(own, seed[1], -1), seed[1], min(references, count), seed=seed[0])


def _concept_classes(classifier: Classifier, wanted: int | Sequence[str]) -> list[str]:
    if isinstance(wanted, int):
        _check(concept_classes=(wanted, 0))
        return list(classifier.classes[:wanted])
    for name in wanted:
        if name not in classifier.classes:
            raise ParamError(
                f"concept_classes names {name!r}, which is no class.{nearest(name, list(classifier.classes))} Expected "
                f"some of {', '.join(classifier.classes)}."
            )
    return list(dict.fromkeys(wanted))


def _facets(
    name: str,
    boxes: Int32[np.ndarray, "image 4"],
    features: Float32[np.ndarray, "image channel"],
    facets: int,
    references: int,
    seed: int,
) -> Int32[np.ndarray, "reference 4"]:
    """The boxes of a class's references, those of its facets in turn."""
    try:
        found = facet_references(features, facets, references, seed=seed)
    except DataError as error:
        raise DataError(f"class {name!r}: {error}") from None
    return boxes[found.T.ravel()]


def _whole(rows: Int64[np.ndarray, " reference"], side: int) -> Int32[np.ndarray, "reference 4"]:
    """Boxes of whole images, which are square in an artifact."""
    zero = np.zeros_like(rows)
    return np.stack([rows, zero, zero, zero + side], 1).astype(np.int32)


def _features(
    classifier: Classifier, pixels: xr.DataArray, boxes: Int[np.ndarray, "patch 4"], layer: str, batch: int
) -> Float32[np.ndarray, "patch channel"]:
    features = np.empty((0, 0), np.float32)
    with progress("patches", len(boxes), "patches") as advance:
        for rows, found in pooled(classifier, pixels, boxes, layer, batch=batch):
            if not rows.start:
                features = np.empty((len(boxes), found.shape[1]), np.float32)
            features[rows] = found
            advance(len(found))
    return features


def _dataset(
    targets: Sequence[_Target],
    images: xr.Dataset,
    layer: str,
    references: tuple[int, int],
    shown: int,
    size: tuple[int, int],
) -> xr.Dataset:
    """Targets of unequal numbers of references as rectangular arrays, with pixels."""
    ids = images["image"].values.astype(str)
    facets, most = references
    reference = np.full((len(targets), facets * most), "", ids.dtype)
    facet = np.full(reference.shape, -1, np.int32)
    box = np.zeros((*reference.shape, 3), np.int32)
    score = np.zeros(reference.shape, np.float32)
    pixels = np.zeros((len(targets), shown, *size, 3), np.uint8)
    for k, target in enumerate(targets):
        count, rows = len(target.boxes), target.boxes[:, 0]
        reference[k, :count], box[k, :count], score[k, :count] = ids[rows], target.boxes[:, 1:], target.score
        facet[k, :count] = np.arange(count) % facets if target.kind == "class" else 0
        pixels[k, : min(count, shown)] = cut(images["pixels"], target.boxes[:shown], size)
    variables = {
        "kind": ("target", np.array([each.kind for each in targets])),
        "parent": ("target", np.array([each.parent for each in targets])),
        "class_index": ("target", np.array([each.class_index for each in targets], np.int32)),
        "layer": ("target", np.array(["" if each.kind == "class" else layer for each in targets])),
        "direction": (("target", "channel"), np.stack([each.direction for each in targets])),
        "reference": (("target", "reference"), reference),
        "facet": (("target", "reference"), facet),
        "box": (("target", "reference", "corner"), box),
        "score": (("target", "reference"), score),
        "pixels": (("target", "shown", "y", "x", "rgb"), pixels),
        "strength": ("target", np.array([each.strength for each in targets], np.float32)),
    }
    coordinates = {"target": np.array([each.name for each in targets]), "corner": ["top", "left", "side"]}
    return xr.Dataset(variables, coordinates)
