"""Method room, ablations of neurons: accuracy without a layer's effects, or with simpler ones (Figures 3.3 and 3.4)."""

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from jaxtyping import Float

from optogram.decompose.effects import effect_norms, effect_projections
from optogram.methods.neurons.effects import ablate_effects, largest_effects
from optogram.methods.neurons.texts import text_directions
from optogram.metrics.classification import ZeroShotTask, moved, nan_mean
from optogram.metrics.intervals import mean_interval


def ablate_neurons(
    evaluated: xr.Dataset,
    neurons: xr.Dataset,
    pools: Mapping[str, xr.Dataset],
    classifier: xr.Dataset,
    labels: xr.DataArray,
    value_name: xr.DataArray,
    *,
    largest: int,
) -> xr.Dataset:
    """Zero-shot accuracy with the second-order effects of all neurons of one MLP replaced at once.

    evaluated: `second_order/<model>/<split>/<layer>`; neurons: `neurons/<model>/<layer>`, of other images: means b_n,
    directions r_n and texts come from there. pools: name -> `embeddings/<model>/<pool>`.

    Returns `accuracy` (condition, attribute): none; all: each effect replaced by its mean; small, large: only those of
    all images but, or just of, the `largest` images a neuron by the effects' norm; rank_one: by x_n r_n + b_n (Figure
    3.3). `reconstructed` (pool, size, attribute): as rank_one, with the sum of `size` texts in the place of r_n but x_n
    still from r_n (Figure 3.4). `lost`, `gained` (condition, attribute) int32: images that none has right and the
    condition wrong, and the other way. `chance` and `count` (attribute). Raises as `ablate_effects` and
    `ZeroShotTask.prepare`.
    """
    task = ZeroShotTask.prepare(classifier, labels, value_name)
    weights = classifier["classifier"].values
    top = largest_effects(effect_norms(evaluated), largest)
    without = ablate_effects(evaluated, neurons)
    r, b = (neurons[name].transpose("neuron", "embed").values for name in ("r", "b"))
    x = effect_projections(evaluated, neurons["r"]).values - (b * r).sum(1)

    def answers(embeddings: np.ndarray) -> np.ndarray:
        return task.outcome(embeddings @ weights.T)[0]

    conditions = {
        "none": evaluated["embedding"].values,
        "all": without,
        "small": ablate_effects(evaluated, neurons, where=~top),
        "large": ablate_effects(evaluated, neurons, where=top),
        "rank_one": without + x @ r,  # what `replace_effects` gives: each effect is its mean b_n, and x_n r_n
    }
    outcomes = [answers(one) for one in conditions.values()]
    lost, gained = np.stack([moved(outcomes[0], one) for one in outcomes], axis=1)
    found = task.baselines()[["chance", "count"]].assign(
        accuracy=(("condition", "attribute"), np.stack([nan_mean(one) for one in outcomes])),
        lost=(("condition", "attribute"), lost),
        gained=(("condition", "attribute"), gained),
    )
    sizes = neurons["size"].values.tolist()
    curves = np.zeros((len(pools), len(sizes), len(task.attributes)))
    names = list(pools)
    for pool, size, directions in text_directions(neurons, pools):
        curves[names.index(pool), sizes.index(size)] = nan_mean(answers(without + x @ directions))
    return found.assign(reconstructed=(("pool", "size", "attribute"), curves)).assign_coords(
        condition=list(conditions), pool=names, size=sizes
    )


def explained_by(effects: Sequence[Float[np.ndarray, " neuron"]]) -> list[list[float]]:
    """For each kind of effect, the mean over neurons of the variance explained, and the ends of its 95 % interval."""
    return [[float(of.mean()), *map(float, mean_interval(of))] for of in effects]
