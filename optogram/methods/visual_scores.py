"""Methods: the scores of visualisations of all methods beside real images (section 4.2, B.1, Tables 1-4, Figure 6)."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Float, Float32, Int, UInt8
from sklearn.manifold import TSNE

from optogram.errors import DataError, ParamError, ShapeError, nearest
from optogram.methods.judges import SCORES, UNDEFINED, Judges, Real, Views, distances, joined, through
from optogram.metrics.visualisations import Cue, confidence, cues, mean_activation_difference, roc_auc
from optogram.models.classifiers import Classifier, activations

NO_NEURON = -9.0
"""AUC and MAD that there are not; a MAD of -1 may well be one."""

FEW_POINTS = 10
"""Of fewer the map shows the principal components: t-SNE has no neighbourhoods to keep."""

Controls = Callable[[str], UInt8[np.ndarray, "image y x rgb"]]
"""The name of a target to the real images that activate it most, its reference patches as they enter the model."""


class _Pictures(NamedTuple):
    """All pictures that are defined, in a row: where they are in (target, method, seed), pixels, and what is seen."""

    at: Int[np.ndarray, "picture axis"]
    pixels: UInt8[np.ndarray, "picture y x rgb"]
    views: Views


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
    a seed, and cue_shown is of all drawn. What there is not is -1, "", or -9 (auc, mad).

    Attributes: `samples` (real images drawn), `cue_chance` (1 / number of values that CLIP chooses from, mean over
    classes with a cue, -1 if none), `few_own` and `few_second` (distance of as many real images a class as there are
    seeds to the other real ones: what a method that draws real images would have) and as reasons `skipped_zero_shot`,
    `skipped_fid_second`, `skipped_cue`.

    Raises ParamError for a target that `targets` lacks, without a class among the targets, or if a method comes twice
    or is called real; DataError if no picture is defined; and what `Judges.draw`, `activations` and `controls` raise.
    """
    names = visualisations["target"].values.astype(str).tolist()
    chosen = targets.isel(target=_places(names, targets))
    methods = ["real", *visualisations["method"].values.astype(str).tolist()]
    if len(set(methods)) < len(methods):
        raise ParamError(f"methods are {', '.join(methods[1:])}; expected each once, and none of them called real.")
    is_class = chosen["kind"].values.astype(str) == "class"
    logit = np.where(is_class, chosen["class_index"].values, -1)
    studied = list(dict.fromkeys(logit[is_class].tolist()))
    if not studied:
        raise ParamError("no target is a class: accuracy, FID and zero-shot are of classes. Add class targets.")

    beside = judges.draw(real, studied, images, seed=seed, batch=batch)
    pictures = _pictures(visualisations, judges, batch)
    truth = logit[pictures.at[:, 0]]
    of_method = [(truth >= 0) & (pictures.at[:, 1] == method) for method in range(1, len(methods))]
    scores = [judges.real_scores(beside)]
    scores += [judges.class_scores(pictures.views.take(rows), truth[rows], beside) for rows in of_method]
    auc, mad = _inner(chosen, pictures, judges.classifier, controls, len(methods), batch)
    neurons = chosen["kind"].values.astype(str) == "neuron"

    shape = (len(names), len(methods), visualisations.sizes["seed"])
    attributes = real["attribute"].values.astype(str).tolist()
    cue, visible, why = _cues(judges, train, studied)
    shares = [_cue_shown(judges, visible, beside.views, beside.truth)]
    shares += [_cue_shown(judges, visible, pictures.views.take(rows), truth[rows]) for rows in of_method]
    chances = [1 / len(judges.zero_shot(beside.views, each.attribute)[0]) for each in visible.values()]
    return xr.Dataset(
        {name: ("method", np.array([each[name] for each in scores])) for name in SCORES}
        | {"auc": (("method", "target"), auc), "mad": (("method", "target"), mad)}
        | {f"{name}_mean": ("method", _means(values[:, neurons])) for name, values in (("auc", auc), ("mad", mad))}
        | _seen(judges, _with_real(pictures, beside, logit, shape), logit, shape, attributes)
        | {"cue": ("class", cue), "cue_shown": ("method", np.array(shares))}
        | _map(judges, pictures, truth, beside, methods, max(1, shown // len(studied)), seed),
        coords={
            "method": methods,
            "target": names,
            "seed": visualisations["seed"].values,
            "attribute": attributes,
            "class": [judges.classifier.classes[index] for index in studied],
        },
        attrs={
            "samples": len(beside.truth),
            "cue_chance": float(np.mean(chances)) if chances else UNDEFINED,
            **_few(beside, shape[2]),
            **judges.lacking(studied),
            **why,
        },
    )


def score_table(scores: xr.Dataset) -> list[dict[str, Any]]:
    """A row a method for a metrics file: `method`, its scores, and None where there is none.

    scores: of `visual_scores`. Accuracies and shares are fractions.
    """
    columns = (*SCORES, "auc_mean", "mad_mean", "cue_shown")
    undefined = {"auc_mean": NO_NEURON, "mad_mean": NO_NEURON}
    return [
        {"method": str(method)}
        | {
            name: None if (value := float(scores[name][row])) == undefined.get(name, UNDEFINED) else value
            for name in columns
        }
        for row, method in enumerate(scores["method"].values)
    ]


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
    sure = np.full(shape, UNDEFINED, np.float32)
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
        "confidence": (axes, sure),
        "clip_predicted": (axes, by_clip.astype(str)),
        "seen": ((*axes, "attribute"), seen.astype(str)),
    }


def _inner(
    chosen: xr.Dataset, pictures: _Pictures, classifier: Classifier, controls: Controls, methods: int, batch: int
) -> tuple[Float[np.ndarray, "method target"], Float[np.ndarray, "method target"]]:
    """AUC and MAD of what is no class, NO_NEURON elsewhere."""
    auc, mad = (np.full((methods, chosen.sizes["target"]), NO_NEURON) for _ in range(2))
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
            difference = mean_activation_difference(synthetic, on_control)
            mad[method, target] = NO_NEURON if np.isnan(difference) else difference
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
    known = values != NO_NEURON
    total = np.where(known, values, 0).sum(1)
    return np.where(known.any(1), total / np.maximum(known.sum(1), 1), NO_NEURON)


def _cues(judges: Judges, train: xr.Dataset, studied: list[int]) -> tuple[np.ndarray, dict[int, Cue], dict[str, str]]:
    """Written out for each class; of the logits whose cue CLIP has rows for; and why there is none of these."""
    every = cues(train["label"], train["value_name"], judges.classifier.attribute)
    found = {index: cue for index in studied if (cue := every.get(judges.classifier.classes[index]))}
    visible = {index: cue for index, cue in found.items() if cue.value in judges.known(cue.attribute)}
    written = np.array([str(found.get(index, "")) for index in studied])
    if visible:
        return written, visible, {}
    reason = "the CLIP has no rows for the cues" if judges.clip else "no CLIP was given"
    return written, visible, {"skipped_cue": reason if found else "no class has a cue in the training images"}


def _cue_shown(judges: Judges, visible: Mapping[int, Cue], views: Views, truth: Int[np.ndarray, " image"]) -> float:
    """Share of the images of classes with a cue that CLIP sees the cue in."""
    hits: list[bool] = []
    for index, cue in visible.items():
        values, cosines = judges.zero_shot(views.take(truth == index), cue.attribute)
        hits += [values[best] == cue.value for best in cosines.argmax(1)]
    return float(np.mean(hits)) if hits else UNDEFINED


def _few(beside: Real, seeds: int) -> dict[str, float]:
    few = beside.place < seeds
    found = {"fid_own": UNDEFINED, "fid_second": UNDEFINED}
    if few.sum() > 1 and (~few).sum() > 1:
        found |= distances(beside.views.take(few), beside.views.take(~few))
    return {"few_own": found["fid_own"], "few_second": found["fid_second"]}


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
