"""Method room, mean-ablation: what each component of CLIP does directly (Gandelsman 2025, section 2.3, appendix A).

A component is ablated by putting its mean over a reference set in place of what it adds to each embedding. Embeddings
and logits are sums over components, so every ablation is the whole less (component - mean): nothing is run again.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Float, Float32

from optogram.decompose.head_space import Heads, component_means, image_runs, open_heads
from optogram.errors import ParamError
from optogram.metrics.classification import ZeroShotTask, moved


class HeadLogits(NamedTuple):
    """What the heads of some layers add to the logits beyond their mean, read in blocks of images."""

    heads: Heads
    code: Float32[np.ndarray, "layer head k class"]
    mean: Float32[np.ndarray, "layer head class"]

    @classmethod
    def prepare(
        cls,
        evaluated: xr.Dataset,
        reference: xr.Dataset | None,
        weights: Float[np.ndarray, "class embed"],
        layers: Sequence[int] | None = None,
    ) -> "HeadLogits":
        """Fold the classifier into the heads' bases; means are over `reference`, by default `evaluated` itself."""
        heads = open_heads(evaluated, layers)
        source = heads if reference is None else open_heads(reference, heads.coords["layer"].tolist())
        code = heads.basis @ np.asarray(weights, np.float64).T
        mean = np.einsum("lhk,lhkc->lhc", source.mean(), source.basis @ np.asarray(weights, np.float64).T)
        return cls(heads, code.astype(np.float32), mean.astype(np.float32))

    def blocks(self) -> Iterator[tuple[slice, Float32[np.ndarray, "image layer head k"]]]:
        """The heads' coordinates in blocks of images."""
        return self.heads.blocks()

    def beyond_mean(
        self, a: Float32[np.ndarray, "image layer head k"], layer: int, head: int
    ) -> Float32[np.ndarray, "image class"]:
        """What one head (by position) adds to these images' logits beyond its mean."""
        return a[:, layer, head] @ self.code[layer, head] - self.mean[layer, head]


class _Tally:
    """Sums of correct answers and margins over blocks of images, for each of some ablations."""

    def __init__(self, task: ZeroShotTask, *shape: int) -> None:
        self.task = task
        self.correct, self.margin = np.zeros((2, *shape, len(task.attributes)))

    def add(
        self, at: tuple[int, ...], logits: Float[np.ndarray, "image class"], rows: slice
    ) -> tuple[Float[np.ndarray, "image attribute"], Float[np.ndarray, "image attribute"]]:
        correct, margin = self.task.outcome(logits, rows)
        self.correct[at] += np.nansum(correct, 0, dtype=np.float64)
        self.margin[at] += np.nansum(margin, 0, dtype=np.float64)
        return correct, margin

    def variables(self, *dims: str) -> xr.Dataset:
        result = self.task.baselines()
        count = result["count"].values
        known = np.where(count > 0, count, np.nan)
        named = {"accuracy": self.correct / known, "margin": self.margin / known}
        return result.assign({name: ((*dims, "attribute"), values) for name, values in named.items()})


def mean_ablate(
    evaluated: xr.Dataset,
    reference: xr.Dataset | None = None,
    *,
    mlps: bool = False,
    class_token: bool = False,
    layers: Sequence[int] = (),
    heads: Sequence[tuple[int, int]] = (),
) -> Float32[np.ndarray, "image embed"]:
    """Unnormalised image embeddings with the named components replaced by their means over `reference`.

    evaluated, reference: `contributions/<model>/<split>`; the reference is the evaluated set itself by default.
    mlps: all MLP blocks at once, and with them the input embedding at the class token (block 0), as in table 2.1.
    class_token: what attention takes from the class token itself, in all layers (token 0, table A.1).
    layers: whole attention layers, by label. heads: single heads, as (layer, head) labels; overlaps count once.

    Raises ParamError for a layer or head that is not there, or for `class_token` together with layers or heads, whose
    contributions hold a part of the class token's.

    >>> from optogram.methods import mean_ablate
    >>> mean_ablate(compact, heads=[(1, 0)]).shape
    (12, 16)
    >>> every = mean_ablate(compact, mlps=True, layers=[0, 1])
    >>> np.allclose(every, compact.embedding.mean("image"), atol=1e-5)
    True
    """
    if class_token and (len(layers) or len(heads)):
        raise ParamError(
            "class_token cannot be ablated together with layers or heads: their contributions overlap.\n"
            "  Ablate the class token alone or with mlps."
        )
    result = evaluated["embedding"].values.astype(np.float32)
    if mlps or class_token:
        means = component_means(evaluated if reference is None else reference)
        for rows in image_runs(evaluated):
            if mlps:
                result[rows] += means.mlp.sum(0).astype(np.float32) - evaluated["mlp"][rows].values.sum(1)
            if class_token:
                result[rows] += means.class_token.astype(np.float32) - evaluated["token"][rows, 0].values
    whole = open_heads(evaluated)
    every = [(layer, head) for layer in layers for head in whole.coords["head"].tolist()]
    places = sorted(set(whole.places([*every, *heads])))
    if not places:
        return result
    used = sorted({layer for layer, _ in places})
    parts = open_heads(evaluated, whole.coords["layer"][used].tolist())
    source = parts if reference is None else open_heads(reference, parts.coords["layer"].tolist())
    at = tuple(np.array([(used.index(layer), head) for layer, head in places]).T)
    basis = parts.basis[at].astype(np.float32).reshape(-1, result.shape[1])
    mean = np.einsum("pk,pke->e", source.mean()[at], source.basis[at]).astype(np.float32)
    for rows, a in parts.blocks():
        result[rows] += mean - a[:, *at].reshape(len(a), -1) @ basis
    return result


def ablate_components(
    evaluated: xr.Dataset,
    reference: xr.Dataset | None,
    classifier: xr.Dataset,
    labels: xr.DataArray,
    value_name: xr.DataArray,
) -> xr.Dataset:
    """Zero-shot accuracy with the MLPs, the class token, or both mean-ablated: tables 2.1 and A.1.

    classifier, labels, value_name: as `optogram.metrics.classification.score`.

    Returns `accuracy` and `margin` (ablation, attribute) for ablation none, mlps, class_token, class_token+mlps, with
    `lost` and `gained` (ablation, attribute) int32, the images that none has right and it has wrong, and the other way,
    and `chance`, `majority` and `count` (attribute).

    >>> from optogram.methods import ablate_components
    >>> found = ablate_components(compact, None, zeroshot, scenes.label, scenes.value_name)
    >>> found.ablation.values.tolist()
    ['none', 'mlps', 'class_token', 'class_token+mlps']
    >>> found.accuracy.dims
    ('ablation', 'attribute')
    """
    task = ZeroShotTask.prepare(classifier, labels, value_name)
    weights = classifier["classifier"].values
    kinds = {
        "none": {},
        "mlps": {"mlps": True},
        "class_token": {"class_token": True},
        "class_token+mlps": {"class_token": True, "mlps": True},
    }
    tally = _Tally(task, len(kinds))
    answers = [
        tally.add((at,), mean_ablate(evaluated, reference, **kind) @ weights.T, slice(None))[0]
        for at, kind in enumerate(kinds.values())
    ]
    lost, gained = np.stack([moved(answers[0], after) for after in answers], axis=1)
    result = tally.variables("ablation").assign_coords(ablation=list(kinds))
    return result.assign(lost=(("ablation", "attribute"), lost), gained=(("ablation", "attribute"), gained))


def ablate_layers(
    evaluated: xr.Dataset,
    reference: xr.Dataset | None,
    classifier: xr.Dataset,
    labels: xr.DataArray,
    value_name: xr.DataArray,
) -> xr.Dataset:
    """Zero-shot accuracy with the first 0, 1, ... all attention layers mean-ablated together: figure 2.2.

    Returns `accuracy` and `margin` (ablated, attribute), `ablated` = number of early layers replaced, and the
    baselines. Arguments as `ablate_components`.

    >>> from optogram.methods import ablate_layers
    >>> found = ablate_layers(compact, None, zeroshot, scenes.label, scenes.value_name)
    >>> found.ablated.values.tolist(), found.accuracy.shape
    ([0, 1, 2], (3, 7))
    """
    task = ZeroShotTask.prepare(classifier, labels, value_name)
    weights = classifier["classifier"].values
    logits = HeadLogits.prepare(evaluated, reference, weights)
    layers = len(logits.mean)
    tally = _Tally(task, layers + 1)
    for rows, a in logits.blocks():
        left = evaluated["embedding"][rows].values @ weights.T
        tally.add((0,), left, rows)
        for layer in range(layers):
            together = a[:, layer].reshape(len(a), -1) @ logits.code[layer].reshape(-1, len(weights))
            left = left - (together - logits.mean[layer].sum(0))
            tally.add((layer + 1,), left, rows)
    return tally.variables("ablated").assign_coords(ablated=np.arange(layers + 1))


def ablate_heads(
    evaluated: xr.Dataset,
    reference: xr.Dataset | None,
    classifier: xr.Dataset,
    labels: xr.DataArray,
    value_name: xr.DataArray,
    *,
    layers: Sequence[int] | None = None,
) -> xr.Dataset:
    """Zero-shot accuracy with each single head mean-ablated in turn, for every attribute.

    Returns `accuracy`, `margin` and how far they fall, `accuracy_drop` and `margin_drop` (positive: the head helps),
    with `margin_drop_error`, the standard error of that fall over the same images (divisor n - 1), and `lost` and
    `gained` int32, the images right before and wrong after and the other way, all (layer, head, attribute);
    `base_accuracy`, `base_margin`, `margin_spread` (standard deviation over images of the whole model's margin) and the
    baselines (attribute). Other arguments as `ablate_components`; `layers` are labels, all by default.

    >>> from optogram.methods import ablate_heads
    >>> found = ablate_heads(compact, None, zeroshot, scenes.label, scenes.value_name, layers=[1])
    >>> found.accuracy_drop.dims, found.accuracy_drop.shape
    (('layer', 'head', 'attribute'), (1, 2, 7))
    """
    task = ZeroShotTask.prepare(classifier, labels, value_name)
    weights = classifier["classifier"].values
    logits = HeadLogits.prepare(evaluated, reference, weights, layers)
    shape = logits.mean.shape[:2]
    base, tally = _Tally(task, 1), _Tally(task, *shape)
    changed, squared = np.zeros((2, *shape, len(task.attributes)), np.int32), np.zeros(len(task.attributes))
    fallen = np.zeros((*shape, len(task.attributes)))
    for rows, a in logits.blocks():
        whole = evaluated["embedding"][rows].values @ weights.T
        before, margin = base.add((0,), whole, rows)
        squared += np.nansum(np.square(margin, dtype=np.float64), 0)
        for at in np.ndindex(shape):
            after, left = tally.add(at, whole - logits.beyond_mean(a, *at), rows)
            changed[:, *at] += moved(before, after)
            fallen[at] += np.nansum(np.square(margin - left, dtype=np.float64), 0)
    intact = base.variables("ablation").isel(ablation=0)
    result = tally.variables("layer", "head").assign_coords(logits.heads.coords)
    for name in ("accuracy", "margin"):
        result[f"base_{name}"] = intact[name]
        result[f"{name}_drop"] = (intact[name] - result[name]).transpose("layer", "head", "attribute")
    count = result["count"].where(result["count"] > 0)
    dims = ("layer", "head", "attribute")
    variance = (fallen / count.values - result["margin_drop"] ** 2).clip(min=0)
    return result.assign(
        lost=(dims, changed[0]),
        gained=(dims, changed[1]),
        margin_drop_error=np.sqrt(variance / (count - 1).clip(min=1)),
        margin_spread=np.sqrt((squared / count - intact["margin"] ** 2).clip(min=0)),
    )
