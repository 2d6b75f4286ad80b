"""Methods: the scores of visualisations of all methods beside real images (section 4.2, B.1, Tables 1-4, Figure 6)."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Float, Float32, Int, UInt8
from sklearn.manifold import TSNE

from optogram.errors import DataError, ParamError, ShapeError, nearest
from optogram.methods.visualisation.evaluators import MISSING, SCORES, Judges, Real, Views, distances, joined, through
from optogram.metrics.headline import Headline
from optogram.metrics.visualisations import Cue, confidence, cues, mean_activation_difference, roc_auc
from optogram.models.layers import activations
from optogram.models.loading.classifiers import Classifier

NO_NEURON = {"missing": "a class, no picture or no reference, or (of mad) references that all activate it alike"}
"""The attribute of AUC and MAD, which are NaN where there are none."""

NO_CHANNEL = {"missing": "no channel has a score"}
NO_CUE = {"missing": "no picture of a class whose cue CLIP has rows for; the attribute `skipped_cue` says why"}
NO_CLASS = {"missing": "the target is no class, or there is no picture"}

FEW_POINTS = 10
"""Of fewer the map shows the principal components: t-SNE has no neighbourhoods to keep."""

Controls = Callable[[str], UInt8[np.ndarray, "image y x rgb"]]
"""The name of a target to the real images that activate it most, its reference patches as they enter the model."""


class _Pictures(NamedTuple):
    """All pictures that are defined, in a row: where they are in (target, method, seed), pixels, and what is seen."""

    at: Int[np.ndarray, "picture axis"]
    pixels: UInt8[np.ndarray, "picture y x rgb"]
    views: Views


class _Side(NamedTuple):
    """What one method shows of classes, as it is seen, and the logit of each picture's class."""

    views: Views
    truth: Int[np.ndarray, " image"]


class _Cues(NamedTuple):
    """Cues written out for each class; of the logits whose cue CLIP has rows for; and why there is none of these."""

    written: np.ndarray
    visible: dict[int, Cue]
    why: dict[str, str]


def visual_scores(
    targets: xr.Dataset,
    visualisations: xr.Dataset,
    judges: Judges,
    real: xr.Dataset,
    train: xr.Dataset,
    *,
    controls: Controls,
    images: int = 600,
    shown: int = 400,
    seed: int = 0,
    batch: int = 64,
) -> xr.Dataset:
    """The artifact visual_scores/<model>: method = real, then those of `visualisations`.

    targets: targets/<model>. visualisations: vital/<model> and baselines/<model>, concatenated along `method`, of some
        or all targets. Pictures whose status is "not defined…" count nowhere; those that diverged are pictures and do,
        unless the studied model itself is not finite on them.
    real: images/<eval>; `images` of it are drawn (`Judges.draw`), of the classes that are targets.
    train: images/<train>, for its `label` and `value_name`: which cues go with the classes.
    controls: for the AUC and MAD of inner neurons. shown: at most so many real points in the map.

    Classes: `Judges.class_scores` of the pictures of all class targets and seeds together; for real
    `Judges.real_scores`. Neurons, concepts and splits: `auc` and `mad` of the pictures from all seeds, the activation
    being pooled over space along the target's direction; their means are over kind neuron. B.1 takes as control the 50
    real images that activate the neuron most; the pipeline gives the target's references. `seen` is what CLIP takes a
    picture for in each attribute that it has rows for; `cue_shown` the share of pictures of classes with a cue in which
    it sees the cue. For real `predicted`, `confidence`, `clip_predicted` and `seen` are of one drawn image of the class
    a seed, and cue_shown is of all drawn. What there is not is NaN or "".

    How many these are of, all (method) int32: `pictures` of classes, behind accuracy and FID; `judged`, behind
    zero-shot (of real, those that the studied model gets right); `cue_pictures`, behind cue_shown; `channels`, behind
    the means of auc and mad.

    Raises ParamError for a target that `targets` lacks, without a class among the targets, or if a method comes twice
    or is called real; DataError if no picture is defined; and what `Judges.draw`, `activations` and `controls` raise.
    """
    names = visualisations["target"].values.astype(str).tolist()
    chosen = targets.isel(target=_places(names, targets))
    methods, logit = _methods(visualisations), _logits(chosen)
    studied = list(dict.fromkeys(logit[logit >= 0].tolist()))
    beside = judges.draw(real, studied, images, seed=seed, batch=batch)
    pictures = _pictures(visualisations, judges, batch)
    truth, seeds = logit[pictures.at[:, 0]], visualisations["seed"].values
    sides = _of_classes(pictures, truth, beside, len(methods))
    inner = _inner(chosen, pictures, judges.classifier, controls, len(methods), batch)
    cue = _cues(judges, train, studied)
    shape = (len(names), len(methods), len(seeds))
    attributes = real["attribute"].values.astype(str).tolist()
    classes = [judges.classifier.classes[index] for index in studied]
    return xr.Dataset(
        _class_scores(judges, sides, beside)
        | _counts(sides, beside, cue)
        | _channel_scores(*inner, chosen)
        | _seen(judges, _with_real(pictures, beside, logit, shape), logit, shape, attributes)
        | _cue_scores(judges, sides, cue)
        | _map(judges, pictures, truth, beside, methods, max(1, shown // len(studied)), seed),
        {"method": methods, "target": names, "seed": seeds, "attribute": attributes, "class": classes},
        _attributes(judges, beside, cue, studied, len(seeds)),
    )


def headline(scores: xr.Dataset) -> Headline:
    """How many of VITAL's class pictures CLIP names, or without CLIP the studied model, beside the best rival's.

    scores: of `visual_scores`, method vital among them. The yardstick are real images.
    """
    named = bool(np.isfinite(scores["zero_shot_1"].sel({"method": "vital"})))
    values = scores["zero_shot_1" if named else "accuracy"]
    rivals = values.drop_sel({"method": ["real", "vital"]}).dropna("method")
    best = rivals.isel(method=int(rivals.values.argmax())) if rivals.size else None
    return Headline(
        f"VITAL's pictures that {'CLIP' if named else 'the model'} names right",
        value=float(values.sel({"method": "vital"})),
        of=int(scores["judged" if named else "pictures"].sel({"method": "vital"})),
        versus="" if best is None else f"by the best rival, {best['method'].item()}",
        versus_value=math.nan if best is None else float(best),
        yardstick=float(values.sel({"method": "real"})),
    )


def embedding_map(features: Float[np.ndarray, "point channel"], *, seed: int) -> Float32[np.ndarray, "point axis"]:
    """Points in the plane by t-SNE (Figure 6), started from the principal components, which fewer than 10 points keep.

    The same bytes whatever the number of threads (tried). Features that round otherwise, as on another machine, give a
    map with the same clusters and other coordinates: changed by a millionth they moved points by 1/30 of its width.
    """
    centred = np.asarray(features, np.float64) - np.mean(features, 0, dtype=np.float64)
    left, sizes, right = np.linalg.svd(centred, full_matrices=False)
    # the sign of a component is free: its largest loading is positive
    signs = np.sign(right[np.arange(len(right)), np.abs(right).argmax(1)])
    start = np.zeros((len(centred), 2))
    start[:, : len(sizes)] = (left * sizes * signs)[:, :2]
    spread = start[:, 0].std()
    if len(centred) < FEW_POINTS or spread == 0:
        return start.astype(np.float32)
    # sklearn's own init="pca" scales to the same 1e-4, and draws its components at random where points are many
    rivals = min(30.0, (len(centred) - 1) / 3)
    tsne = TSNE(2, perplexity=rivals, init=1e-4 * start / spread, random_state=seed)
    return tsne.fit_transform(centred).astype(np.float32)


def _places(names: list[str], targets: xr.Dataset) -> list[int]:
    known = targets["target"].values.astype(str).tolist()
    for name in names:
        if name not in known:
            raise ParamError(
                f"visualisations are of target {name!r}, which targets/ lacks.{nearest(name, known)} Remake them from "
                "these targets."
            )
    return [known.index(name) for name in names]


def _methods(visualisations: xr.Dataset) -> list[str]:
    methods = ["real", *visualisations["method"].values.astype(str).tolist()]
    if len(set(methods)) < len(methods):
        raise ParamError(f"methods are {', '.join(methods[1:])}; expected each once, and none of them called real.")
    return methods


def _logits(chosen: xr.Dataset) -> Int[np.ndarray, " target"]:
    """Of the classes among the targets, -1 for what is no class."""
    is_class = chosen["kind"].values.astype(str) == "class"
    if not is_class.any():
        raise ParamError("no target is a class: accuracy, FID and zero-shot are of classes. Add class targets.")
    return np.where(is_class, chosen["class_index"].values, -1)


def _pictures(visualisations: xr.Dataset, judges: Judges, batch: int) -> _Pictures:
    axes = ("target", "method", "seed")
    status = visualisations["status"].transpose(*axes).values.astype(str)
    defined = ~np.char.startswith(status, "not defined")
    if not defined.any():
        raise DataError(f"no visualisation to score: the first says {status.ravel()[:1].tolist()}. Draw some.")
    pixels = visualisations["pixels"].transpose(*axes, "y", "x", "rgb").values[defined]
    views = judges.look(pixels, batch)
    finite = np.asarray(np.isfinite(np.concatenate([views.logits, views.features], 1)).all(1))
    # method 0 are the real images
    return _Pictures((np.argwhere(defined) + np.array([0, 1, 0]))[finite], pixels[finite], views.take(finite))


def _of_classes(pictures: _Pictures, truth: Int[np.ndarray, " picture"], beside: Real, methods: int) -> list[_Side]:
    """What each method shows of classes, the real images first."""
    of_method = [(truth >= 0) & (pictures.at[:, 1] == method) for method in range(1, methods)]
    return [_Side(beside.views, beside.truth), *(_Side(pictures.views.take(rows), truth[rows]) for rows in of_method)]


def _class_scores(judges: Judges, sides: Sequence[_Side], beside: Real) -> dict[str, Any]:
    scores = [judges.real_scores(beside), *(judges.class_scores(*side, beside) for side in sides[1:])]
    return {name: ("method", np.array([each[name] for each in scores]), MISSING) for name in SCORES}


def _channel_scores(
    auc: Float[np.ndarray, "method target"], mad: Float[np.ndarray, "method target"], chosen: xr.Dataset
) -> dict[str, Any]:
    """AUC and MAD of each target, and their means over neurons and of how many these are."""
    neurons = chosen["kind"].values.astype(str) == "neuron"
    return (
        {"channels": ("method", (~np.isnan(auc[:, neurons])).sum(1).astype(np.int32))}
        | {"auc": (("method", "target"), auc, NO_NEURON), "mad": (("method", "target"), mad, NO_NEURON)}
        | {f"{name}_mean": ("method", _means(of[:, neurons]), NO_CHANNEL) for name, of in (("auc", auc), ("mad", mad))}
    )


def _counts(sides: Sequence[_Side], beside: Real, cue: _Cues) -> dict[str, Any]:
    """How many images of classes each score is of."""
    right = int((beside.views.logits.argmax(1) == beside.truth).sum())
    pictures = [len(side.truth) for side in sides]
    counts = {
        "pictures": pictures,
        "judged": [right, *pictures[1:]],
        "cue_pictures": [int(np.isin(side.truth, list(cue.visible)).sum()) for side in sides],
    }
    return {name: ("method", np.array(of, np.int32)) for name, of in counts.items()}


def _cue_scores(judges: Judges, sides: Sequence[_Side], cue: _Cues) -> dict[str, Any]:
    shares = [_cue_shown(judges, cue.visible, *side) for side in sides]
    return {"cue": ("class", cue.written), "cue_shown": ("method", np.array(shares), NO_CUE)}


def _attributes(judges: Judges, beside: Real, cue: _Cues, studied: list[int], seeds: int) -> dict[str, Any]:
    """The artifact's attributes, each left out where there is none.

    `samples`: real images drawn. `cue_chance`: 1 / number of values that CLIP chooses from, mean over classes with a
    cue. `few_own`, `few_second`: distance of as many real images a class as there are seeds to the other real ones,
    what a method that draws real images would have. `skipped_…`: reasons why something is not there.
    """
    chances = [1 / len(judges.zero_shot(beside.views, each.attribute)[0]) for each in cue.visible.values()]
    return {
        "samples": len(beside.truth),
        **({"cue_chance": float(np.mean(chances))} if chances else {}),
        **_few(beside, seeds),
        **judges.lacking(studied),
        **cue.why,
    }


def _with_real(
    pictures: _Pictures, beside: Real, logit: Int[np.ndarray, " target"], shape: tuple[int, int, int]
) -> tuple[Int[np.ndarray, "picture axis"], Views]:
    """The pictures and, as method 0, a drawn real image of the class for each class target and seed."""
    at, rows = [], []
    for target in np.flatnonzero(logit >= 0):
        own = np.flatnonzero((beside.truth == logit[target]) & (beside.place < shape[2]))
        at += [(target, 0, seed) for seed in range(len(own))]
        rows += own.tolist()
    return np.concatenate([np.array(at), pictures.at]), joined(beside.views.take(np.array(rows)), pictures.views)


def _seen(
    judges: Judges,
    pictures: tuple[Int[np.ndarray, "picture axis"], Views],
    logit: Int[np.ndarray, " target"],
    shape: tuple[int, int, int],
    attributes: list[str],
) -> dict[str, Any]:
    """What the studied model and CLIP take each picture for."""
    (at, views), axes = pictures, ("target", "method", "seed")
    place, truth = tuple(at.T), logit[at[:, 0]]
    known = truth >= 0
    sure = np.full(shape, np.nan, np.float32)
    sure[tuple(at[known].T)] = confidence(views.logits[known], truth[known])
    predicted, by_clip = np.full(shape, "", object), np.full(shape, "", object)
    predicted[place] = np.array(judges.classifier.classes, object)[views.logits.argmax(1)]
    seen = np.full((*shape, len(attributes)), "", object)
    for column, attribute in enumerate(attributes):
        values, cosines = judges.zero_shot(views, attribute)
        if values:
            seen[(*place, column)] = np.array(values, object)[cosines.argmax(1)]
    if judges.classifier.attribute in attributes:
        by_clip = seen[..., attributes.index(judges.classifier.attribute)]
    return {
        "predicted": (axes, predicted.astype(str)),
        "confidence": (axes, sure, NO_CLASS),
        "clip_predicted": (axes, by_clip.astype(str)),
        "seen": ((*axes, "attribute"), seen.astype(str)),
    }


def _inner(
    chosen: xr.Dataset, pictures: _Pictures, classifier: Classifier, controls: Controls, methods: int, batch: int
) -> tuple[Float[np.ndarray, "method target"], Float[np.ndarray, "method target"]]:
    """AUC and MAD of what is no class, NaN elsewhere."""
    auc, mad = (np.full((methods, chosen.sizes["target"]), np.nan) for _ in range(2))
    for target in np.flatnonzero(chosen["kind"].values.astype(str) != "class"):
        one, own = chosen.isel(target=target), np.flatnonzero(pictures.at[:, 0] == target)
        control = controls(str(one["target"].values))
        if not len(own) or not len(control):
            continue
        layer, direction = str(one["layer"].values), one["direction"].values
        on_control = _along(classifier, control, layer, direction, batch)
        on_pictures = _along(classifier, pictures.pixels[own], layer, direction, batch)
        for method in np.unique(pictures.at[own, 1]):
            synthetic = on_pictures[pictures.at[own, 1] == method]
            auc[method, target] = roc_auc(synthetic, on_control)
            mad[method, target] = mean_activation_difference(synthetic, on_control)
    return auc, mad


def _along(
    classifier: Classifier, pixels: UInt8[np.ndarray, "image y x rgb"], layer: str, direction: np.ndarray, batch: int
) -> Float[np.ndarray, " image"]:
    """The activation of each image along a direction in a layer's channels, pooled over space (A.3)."""
    (pooled,) = through(
        classifier,
        pixels,
        batch,
        lambda images: (activations(classifier.model, images, [layer])[layer].mean((2, 3)),),
    )
    channels = pooled.shape[1]
    # directions of targets in other layers may be longer: the rest of this one's are zeros
    if len(direction) < channels or direction[channels:].any():
        raise ShapeError(
            f"layer {layer!r} has {channels} channels, but the direction {len(direction)}. Take both from one model."
        )
    return pooled.astype(np.float64) @ direction[:channels]


def _means(values: Float[np.ndarray, "method neuron"]) -> Float[np.ndarray, " method"]:
    known = ~np.isnan(values)
    total = np.where(known, values, 0).sum(1)
    return np.where(known.any(1), total / np.maximum(known.sum(1), 1), np.nan)


def _cues(judges: Judges, train: xr.Dataset, studied: list[int]) -> _Cues:
    """The cues that the classes have in the training images."""
    every = cues(train["label"], train["value_name"], judges.classifier.attribute)
    found = {index: cue for index in studied if (cue := every.get(judges.classifier.classes[index]))}
    visible = {index: cue for index, cue in found.items() if cue.value in judges.known(cue.attribute)}
    written = np.array([str(found.get(index, "")) for index in studied])
    if visible:
        return _Cues(written, visible, {})
    reason = "the CLIP has no rows for the cues" if judges.clip else "no CLIP was given"
    return _Cues(written, visible, {"skipped_cue": reason if found else "no class has a cue in the training images"})


def _cue_shown(judges: Judges, visible: Mapping[int, Cue], views: Views, truth: Int[np.ndarray, " image"]) -> float:
    """Share of the images of classes with a cue that CLIP sees the cue in."""
    hits: list[bool] = []
    for index, cue in visible.items():
        values, cosines = judges.zero_shot(views.take(truth == index), cue.attribute)
        hits += [values[best] == cue.value for best in cosines.argmax(1)]
    return float(np.mean(hits)) if hits else math.nan


def _few(beside: Real, seeds: int) -> dict[str, float]:
    few = beside.place < seeds
    if few.sum() < 2 or (~few).sum() < 2:
        return {}
    found = distances(beside.views.take(few), beside.views.take(~few))
    return {name.replace("fid", "few"): distance for name, distance in found.items()}


def _map(
    judges: Judges,
    pictures: _Pictures,
    truth: Int[np.ndarray, " picture"],
    beside: Real,
    methods: list[str],
    each: int,
    seed: int,
) -> dict[str, Any]:
    """Figure 6: the pictures of classes among `each` real images a class."""
    real, drawn = beside.place < each, truth >= 0
    where = embedding_map(np.concatenate([beside.views.features[real], pictures.views.features[drawn]]), seed=seed)
    kinds = ["real"] * int(real.sum()) + [methods[method] for method in pictures.at[drawn, 1]]
    names = [judges.classifier.classes[index] for index in np.concatenate([beside.truth[real], truth[drawn]])]
    return {
        "map_x": ("point", where[:, 0]),
        "map_y": ("point", where[:, 1]),
        "map_kind": ("point", np.array(kinds)),
        "map_class": ("point", np.array(names)),
    }
