"""Methods, VITAL: the prototypes of many targets, each from its own references, at the layers that it is matched at.

A class is matched at all layers, by its activations; a channel, a concept or a split at the layers before its own, by
activations times relevance for it (sections 3.2, 3.3; A.1 has L = 4 of 5 layers for inner neurons). The relevance of a
concept starts where a feature map is most like its direction (section B.3).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float32, UInt8
from torch import Tensor

from optogram.decompose.patches import as_input, cut, input_size
from optogram.decompose.relevance import Attributor, Start
from optogram.errors import DataError, ParamError
from optogram.methods.visualisation.sort_matching import reference_prototype
from optogram.models.layers import blocks, in_order
from optogram.models.loading.classifier_folders import load_classifier_folder
from optogram.models.loading.classifiers import Classifier
from optogram.store.read import read


@dataclass(frozen=True)
class Match:
    """Targets that are matched in the same way: at these layers, with or without relevance from the same place."""

    layers: tuple[str, ...]
    weighted: bool = False
    layer: str = ""
    best: bool = False

    def start(self, directions: Float32[Tensor, "image channel"]) -> Start | None:
        """Where the relevance of images for these directions starts; None without relevance."""
        if not self.weighted:
            return None
        return Start(directions, self.layer or None, "best" if self.best else "all")


def matched_layers(classifier: Classifier, chosen: Sequence[str], size: tuple[int, int]) -> list[str]:
    """The layers to match at, first to last: the chosen ones, or if none is chosen the model's blocks.

    Raises ModelError for a layer that does not exist, or if no blocks are found.
    """
    if not chosen:
        return blocks(classifier.model, size=size[0])
    return in_order(classifier.model, chosen, size=size[0])


def match_of(
    target: xr.Dataset, classifier: Classifier, layers: Sequence[str], size: tuple[int, int], *, class_relevance: bool
) -> Match:
    """How one target (a row of targets/<model>) is matched.

    Raises ParamError if none of the layers comes before the target's.
    """
    layer = str(target.layer.values)
    if not layer:
        return Match(tuple(layers), weighted=class_relevance)
    order = in_order(classifier.model, [*{*layers, layer}], size=size[0])
    before = tuple(name for name in order[: order.index(layer)] if name in layers)
    if not before:
        raise ParamError(
            f"{target.target.values} is in layer {layer}, and none of the matched layers ({', '.join(layers)}) comes "
            "before it. Add an earlier one to vital.layers, or leave vital.layers empty for all blocks."
        )
    return Match(before, True, layer, str(target.kind.values) == "concept")


def directions_of(targets: xr.Dataset, match: Match, classes: int) -> Float32[Tensor, "target channel"]:
    """The directions of the targets in their layer, or at the logits for classes."""
    if match.layer:
        return torch.from_numpy(np.array(targets.direction.values, np.float32))
    return torch.eye(classes)[torch.from_numpy(targets.class_index.values.astype(np.int64))]


def references(
    targets: xr.Dataset, images: xr.Dataset, size: tuple[int, int]
) -> Callable[[int], UInt8[np.ndarray, "reference y x rgb"]]:
    """The row of a target to its references, cut from the images anew and resized to `size`.

    Calling it raises DataError for a reference that is not among the images, and as `cut`.
    """
    place = {name: at for at, name in enumerate(images.image.values.astype(str).tolist())}

    def of(row: int) -> np.ndarray:
        names, boxes = targets.reference.values[row].astype(str).tolist(), targets.box.values[row].tolist()
        if lost := [name for name in names if name and name not in place]:
            raise DataError(
                f"the references of {targets.target.values[row]} include {lost[0]}, which is not among the images. "
                "Take targets and images of one run."
            )
        rows = [(place[name], *box) for name, box in zip(names, boxes, strict=True) if name]
        return cut(images.pixels, np.array(rows), size)

    return of


def find_prototypes(
    classifier: Classifier,
    targets: xr.Dataset,
    pictures: Callable[[int], np.ndarray],
    *,
    layers: Sequence[str],
    size: tuple[int, int],
    relevance: str = "lrp",
    class_relevance: bool = False,
    batch: int = 16,
) -> xr.Dataset:
    """Rows of the artifact prototypes/<model>: for each layer k `prototype_<k>` (target, facet, channel_<k>, rank_<k>).

    `matched` says which layers each target is matched at; the others hold zeros, as do facets that a target lacks.

    pictures: number of a target to its references, uint8 (reference, y, x, rgb), of the size (y, x) of the images that
    will be drawn. relevance: its rule, of `Attributor`.

    Raises ParamError as `match_of`, ModelError and DataError as `reference_prototype`.
    """
    attributor = Attributor(classifier.model, relevance)
    shapes = _shapes(classifier, layers, size)
    count = targets.sizes["target"], int(targets.attrs["facets"])
    found = {name: np.zeros((*count, *shape), np.float32) for name, shape in shapes.items()}
    matched = np.zeros((count[0], len(layers)), bool)
    for row in range(count[0]):
        target = targets.isel(target=[row])
        match = match_of(targets.isel(target=row), classifier, layers, size, class_relevance=class_relevance)
        direction = directions_of(target, match, len(classifier.classes))
        images = as_input(classifier, pictures(row))
        facet = targets.facet.values[row]
        facet = facet[facet >= 0]

        def share(part: Tensor, match: Match = match, direction: Tensor = direction) -> dict[str, Tensor]:
            start = match.start(direction.to(part).expand(len(part), -1))
            assert start is not None
            return attributor(part, list(match.layers), start)

        weighted = share if match.weighted else None
        for k in np.unique(facet).tolist():
            own = images[torch.from_numpy(facet == k)]
            made = reference_prototype(classifier.model, own, match.layers, relevance=weighted, batch=batch)
            for name, prototype in made.items():
                found[name][row, k] = prototype.cpu().numpy()
        matched[row, [layers.index(name) for name in match.layers]] = True
    variables = {
        f"prototype_{k}": (("target", "facet", f"channel_{k}", f"rank_{k}"), found[name])
        for k, name in enumerate(layers)
    }
    coords = {"target": targets.target.values, "block": list(layers)}
    return xr.Dataset({**variables, "matched": (("target", "block"), matched)}, coords=coords)


def caching_prototypes(
    model: Path,
    targets: Path,
    images: Path,
    layers: Sequence[str],
    relevance: str,
    class_relevance: bool,
    batch: int,
    device: str,
) -> Callable[[int, int], xr.Dataset]:
    """`compute(start, stop)`: prototypes/<model> of these rows of `targets`, whose references are in `images`."""
    classifier, wanted, stored = load_classifier_folder(model, device), read(targets), read(images)
    size = input_size(classifier, stored.pixels)
    names = matched_layers(classifier, layers, size)

    def compute(start: int, stop: int) -> xr.Dataset:
        part = wanted.isel(target=slice(start, stop)).load()
        return find_prototypes(
            classifier,
            part,
            references(part, stored, size),
            layers=names,
            size=size,
            relevance=relevance,
            class_relevance=class_relevance,
            batch=batch,
        )

    return compute


def _shapes(classifier: Classifier, layers: Sequence[str], size: tuple[int, int]) -> dict[str, tuple[int, int]]:
    """(channel, rank) of each layer at this size."""
    device = next((each.device for each in classifier.model.parameters()), torch.device("cpu"))
    with torch.no_grad():
        grey = classifier.normalise(torch.full((1, 3, *size), 0.5, device=device))
        made = reference_prototype(classifier.model, grey, layers)
    return {name: (each.shape[0], each.shape[1]) for name, each in made.items()}
