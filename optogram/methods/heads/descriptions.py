"""Method room, descriptions of heads: TextSpan with every text pool, and how much of the model they retain."""

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from optogram.errors import ParamError
from optogram.methods.heads.textspan import reconstruct, textspan_heads
from optogram.metrics.classification import ZeroShotTask, nan_mean


def describe(
    reference: xr.Dataset,
    evaluated: xr.Dataset,
    pools: Mapping[str, xr.Dataset],
    classifier: xr.Dataset,
    labels: xr.DataArray,
    value_name: xr.DataArray,
    *,
    layers: int,
    size: int,
    sizes: Sequence[int],
    rank: int | None = None,
) -> xr.Dataset:
    """Descriptions of the heads of the last `layers` layers from each pool: textspan/<model> of docs/artifacts.

    reference, evaluated: `contributions/<model>/<split>`; spans and means come from the one, accuracy from the other.
    pools: name -> `embeddings/<model>/<pool>`; classifier, labels, value_name as `ZeroShotTask.prepare`.
    `accuracy` (pool, size, attribute) is figure 2.3: heads projected on their first `size` picks, all else replaced by
    its mean. `ablated_accuracy` (attribute) is the same with these heads replaced by their means too: what is left
    without them; `count` (attribute) are the images that accuracies are of. Raises as `textspan_heads`; ParamError if
    there are fewer than `layers` layers or no pools.
    """
    known = evaluated.sizes["layer"]
    if not 1 <= layers <= known or not pools:
        raise ParamError(
            f"textspan.layers = {layers} with {len(pools)} text pools, but the model has {known} attention layers.\n"
            f"  Set textspan.layers to 1 to {known}, and name at least one pool in texts.pools."
        )
    last = list(range(known - layers, known))
    task = ZeroShotTask.prepare(classifier, labels, value_name)
    weights = classifier["classifier"].values

    def accuracy(logits: np.ndarray) -> np.ndarray:
        return nan_mean(task.outcome(logits)[0])

    found = []
    for embedded in pools.values():
        spans = textspan_heads(reference, embedded["embedding"].values, size, rank=rank, layers=last)
        logits = reconstruct(evaluated, reference, spans, sizes, readout=weights)
        spans["accuracy"] = (("size", "attribute"), np.stack([accuracy(part) for part in logits]))
        picked = spans["index"].values
        for name, words in (("text", "text"), ("text_attribute", "attribute"), ("text_value", "value")):
            words = embedded[words].values.astype(str)
            spans[name] = (("layer", "head", "step"), np.where(picked >= 0, words[picked], ""))
        found.append(spans.rename(directions="direction").drop_vars("total_variance"))
        total = spans["total_variance"]
    nothing = reconstruct(evaluated, reference, spans, [0], readout=weights, keep_mean=True)[0]
    baselines = task.baselines()
    joined = xr.concat(found, "pool", coords="minimal", compat="override", join="exact")
    whole = accuracy(evaluated["embedding"].values @ weights.T)
    return joined.assign(
        total_variance=total,
        base_accuracy=("attribute", whole),
        ablated_accuracy=("attribute", accuracy(nothing)),
        chance=baselines["chance"],
        count=baselines["count"],
    ).assign_coords(pool=list(pools), size=list(sizes), attribute=list(task.attributes))
