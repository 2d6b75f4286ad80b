"""Methods, guidance: whether what a classifier's units and components answer to lies on the object or beside it.

DiG-IN, section F.3 and Table 2: of the HiResCAM of a neuron, normalised to add up to 1, the sum outside the object's
mask. Its neurons were labelled as spurious or core by people; here the images' labels tell which attribute a unit or a
component follows, so that the ranking can be checked. Maps are of real images, not of neuron counterfactuals.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Float64, Int64

from optogram.errors import DataError, ParamError, ShapeError, nearest
from optogram.methods.class_labels import class_labels
from optogram.methods.guidance.followed import followed
from optogram.methods.guidance.hirescam import Outside, along, background, hirescam, normalised, outside, seen
from optogram.methods.guidance.readout import features_of, filled, pixels_of, readout
from optogram.methods.guidance.separation import main_layer, separation
from optogram.metrics.intervals import mean_interval
from optogram.models.batches import in_batches
from optogram.models.layers import blocks
from optogram.models.loading.classifiers import Classifier


@dataclass(frozen=True)
class SpuriousOptions:
    """What is scored: the fields of that name in `spurious_scores` of params.yaml.

    attribute: of the images' labels, what spurious units follow. units: of each class, the entries of phi whose
        contribution w_kj phi_j has the largest standard deviation over its images. least: share of the variance of its
        class's logit that a component must have. images: of each class, those that activate a unit or component most.
        layers: where maps are taken; None for the last `blocks` ones. shown: images
        of each whose maps are kept. batch: images a pass.

    Raises ParamError for numbers below 1.
    """

    attribute: str = "background"
    units: int = 4
    least: float = 0.05
    images: int = 16
    layers: Sequence[str] | None = None
    blocks: int = 3
    shown: int = 4
    batch: int = 64

    def __post_init__(self) -> None:
        for name in ("units", "images", "blocks", "shown", "batch"):
            if getattr(self, name) < 1:
                raise ParamError(f"{name} = {getattr(self, name)}, expected 1 or more.")


@dataclass(frozen=True, eq=False)
class _Target:
    """A unit or a component of a class, and what it is of phi: <phi, direction> + offset."""

    kind: str
    name: str
    number: int
    weight: float
    direction: Float64[np.ndarray, " embed"]
    offset: float


def spurious_scores(
    classifier: Classifier, images: xr.Dataset, components: xr.Dataset, options: SpuriousOptions
) -> xr.Dataset:
    """The scores of each class's units and components: spurious_scores/<model> of docs/artifacts/guidance.md.

    images: an images artifact with `mask` and labels, lazily read. components: npca/<model>.

    Images whose object is nowhere or everywhere are left out before any are chosen. Beside each score stand what a map
    that is the same everywhere would have (`area`), the same maps with the masks of the other chosen images
    (`shuffled`, the mean over all of them), and the least that the layer's grid allows (`lowest`).

    Raises DataError for images without masks or without usable ones of a class; ParamError for an attribute that they
    are not labelled by; ShapeError for components of another classifier; ModelError as `class_labels`, `readout` and
    `hirescam`.
    """
    attributes = images["attribute"].values.astype(str).tolist()
    if "mask" not in images:
        raise DataError("the images have no masks, and a score is what lies outside of them. Take scenes.")
    if options.attribute not in attributes:
        raise ParamError(
            f"no label is called {options.attribute!r}; there are {', '.join(attributes)}."
            f"{nearest(options.attribute, attributes)} Name what spurious units follow."
        )
    attribute, labels = class_labels(classifier, images)
    masks = images["mask"].transpose("image", "y", "x").values
    side = masks.shape[-1]
    layers = list(options.layers or blocks(classifier.model, size=_size(classifier, side))[-options.blocks :])
    features = features_of(classifier, images, batch=options.batch).astype(np.float64)
    usable = seen(masks)
    found, targets, rows, values = [], [], [], []
    for name in components["class"].values.astype(str).tolist():
        own = np.flatnonzero((labels == classifier.classes.index(name)) & usable)
        if not len(own):
            raise DataError(f"class {name!r} has no image with an object that does not fill it. Give others.")
        for target in _targets(classifier, name, components, features, labels, options, side):
            value = features @ target.direction + target.offset
            targets.append(target)
            values.append(value)
            rows.append(own[np.argsort(-value[own], kind="stable")[: options.images]])
    directions = np.stack([target.direction for target in targets])
    maps = _maps(classifier, images, rows, directions, layers, options.batch)
    for at, chosen in enumerate(rows):
        found.append([_scored(maps[layer][at], masks[chosen]) for layer in layers])
    scored = _table(targets, rows, values, found, layers, images)
    own = [labels == classifier.classes.index(target.name) for target in targets]
    scored = scored.merge(followed(values, own, images, spurious=options.attribute, core=attribute))
    scored = scored.merge(_pictures(maps, rows, layers, images, options.shown))
    dropped = int(((labels >= 0) & ~usable).sum())
    told = {"attribute": options.attribute, "class_attribute": attribute, "unseen": dropped}
    scored = scored.assign_attrs(told, layer=main_layer(scored))
    return scored.merge(separation(scored)).assign_attrs(scored.attrs)


def _size(classifier: Classifier, side: int) -> int:
    return classifier.size[0] if classifier.size else side


def _targets(
    classifier: Classifier,
    name: str,
    components: xr.Dataset,
    features: Float64[np.ndarray, "image embed"],
    labels: Int64[np.ndarray, " image"],
    options: SpuriousOptions,
    side: int,
) -> list[_Target]:
    """The components of a class that matter, then its units, those first that move its logit most."""
    k, here = classifier.classes.index(name), components.sel({"class": name})
    directions = here["direction"].transpose("component", "embed").values.astype(np.float64)
    if directions.shape[1] != features.shape[1]:
        raise ShapeError(
            f"components have {directions.shape[1]} entries, the classifier's features {features.shape[1]}. "
            "Take the components of this classifier."
        )
    found = [
        _Target("component", name, at, np.nan, direction, float(offset))
        for at, (direction, offset) in enumerate(zip(directions, here["offset"].values, strict=True))
        if here["share"].values[at] >= options.least
    ]
    weight = readout(classifier, side=side).weight[k].double().cpu().numpy()
    moved = np.abs(weight) * features[labels == k].std(0)
    one = np.eye(len(weight))
    for at in np.argsort(-moved, kind="stable")[: options.units].tolist():
        found.append(_Target("unit", name, at, float(weight[at]), one[at], 0.0))
    return found


def _maps(
    classifier: Classifier,
    images: xr.Dataset,
    rows: list[Int64[np.ndarray, " _rank"]],
    directions: Float64[np.ndarray, "target embed"],
    layers: list[str],
    batch: int,
) -> dict[str, list[Float[np.ndarray, "_rank _gy _gx"]]]:
    """Of each target the maps of its images, by layer; a pass for each of all these pairs."""
    counts = [len(each) for each in rows]
    row, of = np.concatenate(rows), np.repeat(np.arange(len(rows)), counts)
    total, row, of = len(row), filled(row, batch), filled(of, batch)
    where = next(classifier.model.parameters()).device

    def work(part: slice) -> list[np.ndarray]:
        shown = classifier.preprocess(pixels_of(images, row[part])).to(where)
        scalar = along(torch.from_numpy(directions[of[part]]))
        return [each.float().cpu().numpy() for each in hirescam(classifier.model, shown, scalar, layers).values()]

    parts = [found for _, found in in_batches(len(row), batch, work)]
    ends = np.cumsum(counts)[:-1]
    return {
        layer: np.split(np.concatenate(each)[:total], ends)
        for layer, each in zip(layers, zip(*parts, strict=True), strict=True)
    }


def _scored(maps: Float[np.ndarray, "rank gy gx"], masks: np.ndarray) -> tuple[Outside, float]:
    """How much of each map is outside, and the mean of the same with the masks of the others; NaN where none are."""
    normal, unsummed = normalised(maps)
    ground = background(masks, (maps.shape[1], maps.shape[2]))
    crossed = np.einsum("nyx,myx->nm", normal, ground)
    others = ~np.eye(len(maps), dtype=bool) & ~unsummed[:, None]
    return outside(maps, masks), float(crossed[others].mean()) if others.any() else np.nan


def _table(
    targets: list[_Target],
    rows: list[Int64[np.ndarray, " _rank"]],
    values: list[Float64[np.ndarray, " image"]],
    found: list[list[tuple[Outside, float]]],
    layers: list[str],
    images: xr.Dataset,
) -> xr.Dataset:
    """The scores (target, layer) with their intervals and nulls, and what each target is."""
    shape = (len(targets), len(layers))
    table = {name: np.full(shape, np.nan) for name in ("score", "low", "high", "area", "shuffled", "lowest")}
    count = np.zeros(shape, np.int32)
    for at in np.ndindex(shape):
        each, shuffled = found[at[0]][at[1]]
        kept = np.isfinite(each.share)
        count[at] = kept.sum()
        if not kept.any():
            continue
        table["score"][at] = each.share[kept].mean()
        if count[at] > 1:
            table["low"][at], table["high"][at] = mean_interval(each.share[kept])
        table["area"][at], table["lowest"][at] = each.area[kept].mean(), each.lowest[kept].mean()
        table["shuffled"][at] = shuffled
    of = ("target", "layer")
    missing = {"missing": "too few maps add up to anything"}
    names = [f"{each.name}: {each.kind} {each.number + (each.kind == 'component')}" for each in targets]
    return xr.Dataset(
        {
            "kind": ("target", np.array([each.kind for each in targets])),
            "of_class": ("target", np.array([each.name for each in targets])),
            "number": ("target", np.array([each.number for each in targets], np.int32)),
            "weight": ("target", np.array([each.weight for each in targets]), {"missing": "a component"}),
            **{name: (of, array, missing) for name, array in table.items()},
            "count": (of, count),
            "unsummed": (of, np.array([len(each) for each in rows], np.int32)[:, None] - count),
        },
        {"target": np.array(names), "layer": np.array(layers)},
    )


def _pictures(
    maps: dict[str, list[np.ndarray]],
    rows: list[Int64[np.ndarray, " _rank"]],
    layers: list[str],
    images: xr.Dataset,
    shown: int,
) -> xr.Dataset:
    """The first images of each target, and its maps over the sum of their magnitudes, each on the finest grid."""
    finest = max((maps[layer][0].shape[1:] for layer in layers), key=lambda grid: grid[0] * grid[1])
    pictures = np.full((len(rows), len(layers), shown, *finest), np.nan, np.float32)
    names = np.full((len(rows), shown), "", dtype=object)
    ids = images["image"].values.astype(str)
    for at, chosen in enumerate(rows):
        names[at, : len(chosen)] = ids[chosen[:shown]]
        for column, layer in enumerate(layers):
            some = maps[layer][at][:shown]
            y, x = (np.arange(full) * cells // full for full, cells in zip(finest, some.shape[1:], strict=True))
            large = some[:, y][:, :, x]
            size = np.abs(large).sum((1, 2), keepdims=True)
            pictures[at, column, : len(some)] = large / np.where(size > 0, size, 1)
    missing = {"missing": "the class has fewer images"}
    return xr.Dataset(
        {
            "image": (("target", "rank"), names.astype(str)),
            "map": (("target", "layer", "rank", "gy", "gx"), pictures, missing),
        }
    )
