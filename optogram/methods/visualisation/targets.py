"""Method room, targets: what is to be visualised of a classifier, and the reference images of each.

VITAL: classes (references: images of the class), neurons (top patches), the several things that one neuron answers to
(Figure 29), concepts of a class (CRAFT, Figures 30 to 33). Which neurons: those that matter most for each class in the
penultimate block, the class's circuit (Figure 5).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float32, Int, Int32, Int64

from optogram.decompose.patches import cut, input_size, patch_boxes, pooled
from optogram.errors import DataError, ModelError, ParamError, nearest
from optogram.methods.class_labels import class_labels
from optogram.methods.visualisation.circuits import (
    Circuits,
    ClassRelevance,
    Relevance,
    circuit_channels,
    class_relevance,
    reached_layer,
)
from optogram.methods.visualisation.reference_sets import class_references, facet_references
from optogram.methods.visualisation.target_patches import Patches, Target
from optogram.models.layers import blocks
from optogram.models.loading.classifiers import Classifier
from optogram.progress import progress

_PROBED = 4  # images that tell at which blocks relevance arrives
_CANDIDATES = 10  # images a reference among which facets are found


@dataclass(frozen=True)
class TargetOptions:
    """What is sought in one classifier: the fields of that name in `targets` of params.yaml.

    layer: where neurons and concepts live; by default `reached_layer`, the last block that a logit depends on. Classes
        alone ask no relevance, and by default are said to end at the last block.
    references: most references of a target. A class's are drawn at random, or are all that it has.
    facets: into so many facets each class is parted, by the pooled features at `layer` of 10 images a reference, drawn
        at random; each has `references` of its own (`facet_references`). Seeds draw them in turn.
    images: so many images, drawn at random, give patches; None: all. patch, stride: side of a patch and step between
        patches, as shares of the images' side.
    circuits: neurons a class, those with the largest relevance for its logit: summed over space, its positive part
        averaged over the references. A neuron of several classes is one target. Channels that fewer than two images
        activate (a patch with a pooled activation above 0) are passed over.
    circuit_classes: the first so many classes have circuits; None: all. neurons: further channels of the layer.
    concepts: most concepts of each of `concept_classes` (names, or the first so many), the most important of
        `concept_rank`, by `class_concepts`. Its patches are those of the class; references have the largest
        coefficients. Concepts of one image alone are passed over.
    splits: into how many groups the `split_patches` top patches of a neuron are parted, by k-means. All neurons of the
        circuits are tried, and those `split_neurons` kept whose groups are furthest apart, by silhouette.
    shown: references whose pixels are stored. batch: images a forward pass.

    Raises ParamError for numbers out of bounds.

    >>> from optogram.methods import TargetOptions
    >>> TargetOptions(patch=0.5, stride=0.25, circuit_classes=0).inner
    False
    """

    patch: float
    stride: float
    layer: str | None = None
    references: int = 50
    facets: int = 1
    images: int | None = None
    circuits: int = 3
    circuit_classes: int | None = None
    neurons: Sequence[int] = ()
    concepts: int = 3
    concept_classes: int | Sequence[str] = 0
    concept_rank: int = 10
    splits: int = 2
    split_neurons: int = 0
    split_patches: int = 1000
    shown: int = 8
    batch: int = 64

    def __post_init__(self) -> None:
        _check(references=(self.references, 2), circuits=(self.circuits, 0), shown=(self.shown, 1))
        _check(facets=(self.facets, 1), concepts=(self.concepts, 1), split_neurons=(self.split_neurons, 0))
        _check(batch=(self.batch, 1), images=(self.images, 1))

    @property
    def inner(self) -> bool:
        """Whether anything but classes is sought."""
        circuits = self.circuits and self.circuit_classes != 0
        return bool(circuits or self.neurons or self.concept_classes or self.split_neurons)


def find_targets(
    classifier: Classifier, images: xr.Dataset, options: TargetOptions, *, relevance: Relevance, seed: int = 0
) -> xr.Dataset:
    """What to visualise of the classifier, with references: the artifact targets/<model> of docs/artifacts.

    images: an images/<split> artifact, lazily read. The classifier's classes are sought among the values of its
        attribute, or of the images' `class_attribute` where it names none.
    relevance: of a logit, by an `Attributor`. seed: of all draws.

    The patches go through the model once. Held are their pooled features, 4 bytes x patches x channels, and beside them
    a quarter of that for a moment: 600 images of 9 patches with 256 channels take 6 MB, 50,000 with 2,048 channels
    3.7 GB. Set `images` where that is too much.

    Raises ParamError for unknown concept classes; DataError for a class with fewer than two
    images, or one that is to have concepts and has no patches; ModelError for a classifier without names of its logits
    or with another number of them, for a layer that `activations` refuses, and where no relevance arrives; ParamError
    for neurons that the layer has not, or that fewer than two images activate.
    """
    _check(seed=(seed, 0))
    references, facets, batch = options.references, options.facets, options.batch
    attribute, labels = class_labels(classifier, images)
    with_concepts = _concept_classes(classifier, options.concept_classes)
    pixels, size = images["pixels"], input_size(classifier, images["pixels"])
    whole = _class_boxes(classifier, pixels, labels, attribute, options, seed)
    layer = _layer(classifier, pixels, whole[0], options, relevance)
    if facets > 1:
        whole = [
            _facets(name, each, _features(classifier, pixels, each, layer, batch), facets, references, seed)
            for name, each in zip(classifier.classes, whole, strict=True)
        ]

    patches = _cut_up(classifier, pixels, layer, options, seed)
    asks = relevance if options.inner else None
    toward = [
        class_relevance(classifier, cut(pixels, each, size), k, layer, asks, batch=batch)
        for k, each in enumerate(whole)
    ]
    found = _circuits(toward, patches, options)
    of_circuits = [channel for channel in dict.fromkeys(found.channel.ravel().tolist()) if channel >= 0]
    channels = [*dict.fromkeys([*of_circuits, *patches.checked(options.neurons)])]

    targets = _classes(classifier, whole, toward, patches.features.shape[1])
    targets += patches.neurons(channels)
    for name in with_concepts:
        k = classifier.classes.index(name)
        own = labels[patches.boxes[:, 0]] == k
        targets += patches.concepts(name, own, toward[k].signed, options.concepts, options.concept_rank)
    if options.split_neurons:
        targets += patches.splits(channels, options.split_neurons, options.splits, options.split_patches)

    dataset = _dataset(targets, images, layer, (facets, references), options.shown, size)
    names = [[patches.name(channel) if channel >= 0 else "" for channel in line] for line in found.channel]
    dataset["circuit"] = ("class", "k"), np.array(names, str).reshape(found.channel.shape)
    dataset["circuit_relevance"] = ("class", "k"), found.share
    dataset.attrs = {"classes": json.dumps(classifier.classes), "class_attribute": attribute, "layer": layer}
    dataset.attrs["facets"] = facets
    return dataset.assign_coords({"class": np.array(classifier.classes)})


def _check(**bounds: tuple[int | None, int]) -> None:
    for name, (value, least) in bounds.items():
        if value is not None and value < least:
            raise ParamError(f"{name} = {value}, expected {least} or more.")


def _class_boxes(
    classifier: Classifier,
    pixels: xr.DataArray,
    labels: Int[np.ndarray, " image"],
    attribute: str,
    options: TargetOptions,
    seed: int,
) -> list[Int32[np.ndarray, "_reference 4"]]:
    """The boxes of the images that are each class's references, or among which its facets are found."""
    asked = options.references if options.facets == 1 else options.references * options.facets * _CANDIDATES
    return [
        _whole(_class_rows(name, labels == k, attribute, asked, (seed, k)), pixels.shape[1])
        for k, name in enumerate(classifier.classes)
    ]


def _layer(
    classifier: Classifier,
    pixels: xr.DataArray,
    boxes: Int32[np.ndarray, "reference 4"],
    options: TargetOptions,
    relevance: Relevance,
) -> str:
    """The layer asked for; else the last block that the first logit depends on, or for classes alone the last."""
    if options.layer is not None:
        return options.layer
    size = input_size(classifier, pixels)
    if options.inner:
        return reached_layer(classifier, cut(pixels, boxes[:_PROBED], size), 0, relevance)
    return blocks(classifier.model, size=size[0])[-1]


def _circuits(toward: Sequence[ClassRelevance], patches: Patches, options: TargetOptions) -> Circuits:
    """The circuit of each class that is to have one; nothing of the others, nor where classes alone are sought."""
    none = np.zeros(patches.features.shape[1], np.float32)
    positive = np.stack([each.positive if options.inner else none for each in toward])
    if options.inner and options.circuits and not positive.any():
        raise ModelError(
            f"no positive relevance of any logit arrives at layer {patches.layer!r}.\n  Name an earlier one, or leave "
            "it out."
        )
    found = circuit_channels(positive, options.circuits, alive=patches.alive())
    if (some := options.circuit_classes) is not None:
        found.channel[some:], found.share[some:] = -1, 0
    return found


def _classes(
    classifier: Classifier,
    whole: Sequence[Int32[np.ndarray, "_reference 4"]],
    toward: Sequence[ClassRelevance],
    channels: int,
) -> list[Target]:
    """The classes as targets, without a direction; a reference's score is its logit."""
    none = np.zeros(channels, np.float32)
    return [
        Target(name, "class", none, each, of.logit, float(of.logit.mean()), class_index=k)
        for k, (name, each, of) in enumerate(zip(classifier.classes, whole, toward, strict=True))
    ]


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


def _cut_up(classifier: Classifier, pixels: xr.DataArray, layer: str, options: TargetOptions, seed: int) -> Patches:
    """Patches of some images, drawn at random; classes alone need none: those of one image tell how many channels."""
    drawn = np.random.default_rng((seed, 0, 2)).permutation(len(pixels))[: options.images if options.inner else 1]
    side = min(pixels.shape[1:3])
    patch, stride = round(options.patch * side), max(1, round(options.stride * side))
    boxes = patch_boxes(np.sort(drawn), (pixels.shape[1], pixels.shape[2]), patch=patch, stride=stride)
    features = _features(classifier, pixels, boxes, layer, options.batch)
    return Patches(layer, boxes, features, options.references, seed)


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
    targets: Sequence[Target],
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
    score = np.full(reference.shape, np.nan, np.float32)
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
        "score": (("target", "reference"), score, {"missing": "there are fewer references"}),
        "pixels": (("target", "shown", "y", "x", "rgb"), pixels),
        "strength": ("target", np.array([each.strength for each in targets], np.float32)),
    }
    coordinates = {"target": np.array([each.name for each in targets]), "corner": ["top", "left", "side"]}
    return xr.Dataset(variables, coordinates)
