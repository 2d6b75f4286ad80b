"""Method room, spurious cues: ablate the heads that TextSpan names after the cue (Gandelsman 2025, tables 2.3, A.7-10).

The thesis picks those heads by reading their texts. Here they are the heads whose named role is the spurious attribute,
so the whole experiment runs without a person, and random heads stand beside it as in the thesis.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Float, Float32

from optogram.errors import DataError, ParamError, nearest
from optogram.methods.heads.mean_ablation import HeadLogits
from optogram.metrics.classification import ZeroShotTask, group_accuracy
from optogram.metrics.intervals import Interval, percentiles, resampled

Head = tuple[int, int]


def spurious_heads(roles: xr.Dataset, attribute: str, *, least_share: float = 0.0) -> list[Head]:
    """The heads named after the spurious attribute, as (layer, head) labels, the surest first.

    roles: from `methods.heads.roles.named_roles`. least_share: leave out heads of whose variance the picks that name
    the attribute explain less than this share. The list is empty where no head qualifies: nothing is ablated then, and
    `debias` reports the base accuracy, rather than ablate a head that is about something else.

    Raises ParamError for an attribute that no text of the pool names.

    >>> from optogram.methods import spurious_heads
    >>> dims = ("layer", "head")
    >>> score = xr.DataArray([[[0.1, 0.6], [0.5, 0.2]]], dims=(*dims, "attribute"))
    >>> roles = xr.Dataset({"score": score, "named": (dims, [["shape", "background"]])})
    >>> roles = roles.assign_coords(attribute=["background", "shape"], layer=[3], head=[0, 1])
    >>> spurious_heads(roles, "background")
    [(3, 1)]
    """
    known = roles["attribute"].values.astype(str).tolist()
    if attribute not in known:
        raise ParamError(
            f"attribute = {attribute!r}, but the texts name {', '.join(known)}.{nearest(attribute, known)}\n"
            "  Add texts that name it to the pool of descriptions."
        )
    share = roles["score"].sel(attribute=attribute).transpose("layer", "head").values
    named = roles["named"].transpose("layer", "head").values == attribute
    places = sorted(np.argwhere(named & (share >= least_share)).tolist(), key=lambda at: -share[tuple(at)])
    return [(int(roles["layer"][layer]), int(roles["head"][head])) for layer, head in places]


def debias(
    evaluated: xr.Dataset,
    reference: xr.Dataset | None,
    heads: Sequence[Head],
    classifier: xr.Dataset,
    labels: xr.DataArray,
    value_name: xr.DataArray,
    group: Any,
    *,
    class_attribute: str,
    seed: int,
    layers: Sequence[int] | None = None,
    random_heads: int = 10,
    draws: int = 5,
) -> xr.Dataset:
    """Group accuracies with `heads` mean-ablated, beside the whole model and beside random heads ablated.

    evaluated: contributions of the biased images; reference: where means come from, `evaluated` itself if None.
    classifier, labels, value_name: as `optogram.metrics.classification.score`. The question is `class_attribute`, among
        the classes that the images have (two, on Waterbirds and on biased scenes).
    group: a label an image, for instance class and background. layers: where random heads are drawn from, by label, all
        by default; give the layers that TextSpan looked at, as the chosen heads come from there too.
    random_heads, draws, seed: the thesis draws 10 heads 5 times and reports the best draw by worst group. Never more
        than there are. A second baseline draws as many heads as were chosen.

    Returns, for ablation = base, chosen, random best, random mean, same size best, same size mean: `accuracy`
    (ablation, group), `worst` and `overall` (ablation), `heads` (ablation), what was ablated as "L3.H1 L2.H0"; every
    draw in `draw_accuracy` (baseline, draw, group), `draw_worst`, `draw_overall`, `draw_heads` (baseline, draw); and
    `count` (group). The intervals `worst_low`, `worst_high`, of `worst`; `gain_low`, `gain_high`, of how far it is
    above base; and `lead_low`, `lead_high`, of how far chosen is above it (ablation) are bootstrapped over the images
    of each group, for the heads as they were drawn: the union of the percentile and the basic interval (Davison and
    Hinkley 1997, section 5.2). The best draw is chosen by these very images. With no heads, chosen and the draws of
    that size are the base.

    Raises ParamError for an unknown head, layer or attribute or no draws, DataError if the images have one class only.

    >>> from optogram.methods import debias
    >>> answers = (zeroshot, scenes.label, scenes.value_name)
    >>> group = np.repeat(["a", "b"], 6)
    >>> found = debias(compact, None, [(1, 0)], *answers, group, class_attribute="shape", seed=0, draws=2)
    >>> found.ablation.values.tolist()
    ['base', 'chosen', 'random best', 'random mean', 'same size best', 'same size mean']
    >>> found.heads.values.tolist()[:2]
    ['', 'L1.H0']
    """
    if draws < 1 or random_heads < 1:
        raise ParamError(f"draws = {draws}, random_heads = {random_heads}; expected 1 or more of each.")
    asked, task = _question(classifier, labels, value_name, class_attribute)
    trials = _Trials.prepare(evaluated, reference, asked["classifier"].values, task, np.asarray(group))
    drawn = _drawn(_pool(trials, layers), {"random": random_heads, "same size": len(heads)}, draws, seed)
    correct = [trials.correct(sets) for sets in ([], heads, *drawn["random"], *drawn["same size"])]
    results = [group_accuracy(one, trials.group) for one in correct]
    ablations = _ablations(results, heads, drawn)
    table = _accuracies(ablations, [results[2 : 2 + draws], results[2 + draws :]])
    table = table.assign(_intervals(np.stack(correct), trials.group, ablations, table["worst"].values, seed))
    return table.assign(
        heads=("ablation", [_written(one.heads) for one in ablations.values()]),
        draw_heads=(("baseline", "draw"), [[_written(sets) for sets in baseline] for baseline in drawn.values()]),
        count=results[0]["count"],
    ).assign_coords(ablation=list(ablations), baseline=list(drawn), draw=np.arange(draws))


class _Ablation(NamedTuple):
    """A line of the table: its accuracies, the heads ablated, the trials that its worst group is the mean of."""

    accuracy: xr.Dataset
    heads: Sequence[Head]
    trials: list[int]


class _Trials(NamedTuple):
    """Logits of all images and what each head adds to them, so that ablating any set of heads is a subtraction."""

    logits: HeadLogits
    whole: Float[np.ndarray, "image class"]
    beyond: Float32[np.ndarray, "layer head image class"]
    task: ZeroShotTask
    group: np.ndarray

    @classmethod
    def prepare(
        cls,
        evaluated: xr.Dataset,
        reference: xr.Dataset | None,
        weights: Float[np.ndarray, "class embed"],
        task: ZeroShotTask,
        group: np.ndarray,
    ) -> "_Trials":
        logits = HeadLogits.prepare(evaluated, reference, weights)
        whole = evaluated["embedding"].values @ weights.T
        beyond = np.empty((*logits.mean.shape[:2], *whole.shape), np.float32)
        for rows, a in logits.blocks():
            for at in np.ndindex(logits.mean.shape[:2]):
                beyond[at][rows] = logits.beyond_mean(a, *at)
        return cls(logits, whole, beyond, task, group)

    def correct(self, heads: Sequence[Head]) -> Float[np.ndarray, " image"]:
        """Which images are right with these heads ablated together: 0 or 1, NaN where that is not known."""
        places = sorted(set(self.logits.heads.places(heads)))
        left = self.whole - sum((self.beyond[at] for at in places), np.zeros_like(self.whole))
        return self.task.outcome(left)[0][:, 0]


def _drawn(pool: Sequence[Head], sizes: Mapping[str, int], draws: int, seed: int) -> dict[str, list[list[Head]]]:
    """Random heads of each baseline, as many as its size or all that there are, `draws` times."""
    rng = np.random.default_rng(seed)
    return {
        name: [[pool[i] for i in rng.permutation(len(pool))[:size]] for _ in range(draws)]
        for name, size in sizes.items()
    }


def _ablations(
    results: Sequence[xr.Dataset], heads: Sequence[Head], drawn: Mapping[str, list[list[Head]]]
) -> dict[str, _Ablation]:
    """The table's lines, from the trials in their order: the whole model, the chosen heads, each baseline's draws."""
    found = {"base": _Ablation(results[0], [], [0]), "chosen": _Ablation(results[1], heads, [1])}
    first = 2
    for name, sets in drawn.items():
        own = range(first, first + len(sets))
        best = max(own, key=lambda at: (float(results[at]["worst"]), float(results[at]["overall"])))
        mean = xr.concat([results[at] for at in own], "draw").mean("draw")
        found[f"{name} best"] = _Ablation(results[best], sets[best - first], [best])
        found[f"{name} mean"] = _Ablation(mean, [], [*own])
        first = own.stop
    return found


def _accuracies(ablations: Mapping[str, _Ablation], every: Sequence[Sequence[xr.Dataset]]) -> xr.Dataset:
    """Accuracies of the lines of the table, and of every draw of each baseline."""
    table = xr.concat([one.accuracy.drop_vars("count") for one in ablations.values()], "ablation")
    detail = xr.concat([xr.concat(one, "draw").drop_vars("count") for one in every], "baseline")
    return table.assign(detail.rename({name: f"draw_{name}" for name in detail.data_vars}))


def _intervals(
    correct: Float[np.ndarray, "trial image"],
    group: np.ndarray,
    ablations: Mapping[str, _Ablation],
    value: Float[np.ndarray, " ablation"],
    seed: int,
) -> dict[str, tuple[str, np.ndarray]]:
    """Both ends of the intervals of `value`, the worst groups' accuracies, of their gain and of the chosen's lead."""
    worst = _worst_groups(correct, group, seed)
    worst = np.stack([worst[:, of.trials].mean(1) for of in ablations.values()], 1)
    ends = {
        "worst": Interval(*np.clip(_ends(worst, value), 0, 1)),
        "gain": _ends(worst - worst[:, :1], value - value[0]),
        "lead": _ends(worst[:, 1:2] - worst, value[1] - value),
    }
    return {f"{name}_{side}": ("ablation", getattr(of, side)) for name, of in ends.items() for side in of._fields}


def _worst_groups(
    correct: Float[np.ndarray, "trial image"], group: np.ndarray, seed: int
) -> Float[np.ndarray, "sample trial"]:
    """The worst group's accuracy in bootstrap samples of the images of each group, the same ones for all trials."""
    known = ~np.isnan(correct[0])
    found = None
    for k, name in enumerate(np.unique(group[known])):
        answers = correct[:, known & (group == name)]
        # groups are drawn independently, also those of one size
        means = resampled(answers.shape[1], seed=[seed, k]) @ answers.T / answers.shape[1]
        found = means if found is None else np.minimum(found, means)
    assert found is not None
    return found


def _ends(drawn: Float[np.ndarray, "sample trial"], value: Float[np.ndarray, " trial"]) -> Interval:
    """Percentiles, and these reflected in the value: the bootstrap of a minimum lies too low where groups are level."""
    low, high = percentiles(drawn)
    return Interval(np.minimum(low, 2 * value - high), np.maximum(high, 2 * value - low))


def _question(
    classifier: xr.Dataset, labels: xr.DataArray, value_name: xr.DataArray, class_attribute: str
) -> tuple[xr.Dataset, ZeroShotTask]:
    """The classifier's rows for the classes that the images have, and the task of telling these apart."""
    known = labels["attribute"].values.astype(str).tolist()
    if class_attribute not in known:
        raise ParamError(
            f"class_attribute = {class_attribute!r}, but images are labelled by {', '.join(known)}."
            f"{nearest(class_attribute, known)}\n  Name one of these."
        )
    at = [known.index(class_attribute)]
    label = labels.isel(attribute=at)
    present = np.unique(label.values[label.values >= 0])
    if len(present) < 2:
        raise DataError(
            f"images have {len(present)} labelled {class_attribute}; telling classes apart needs two or more.\n"
            "  Give images of at least two classes."
        )
    names = value_name.transpose("attribute", "value").values[at[0]].astype(str)[present]
    asked = classifier["attribute"].values.astype(str) == class_attribute
    among = classifier.isel({"class": asked & np.isin(classifier["value"].values.astype(str), names)})
    return among, ZeroShotTask.prepare(among, label, value_name.isel(attribute=at))


def _pool(trials: _Trials, layers: Sequence[int] | None) -> list[Head]:
    """The heads to draw from. Raises ParamError for one that is not there."""
    known = trials.logits.heads.coords["layer"].tolist()
    missing = [layer for layer in layers or () if layer not in known]
    if missing:
        raise ParamError(f"layers: asked for {missing}, but the model has {known}.\n  Name some of these.")
    heads = trials.logits.heads.coords["head"].tolist()
    return [(layer, head) for layer in (known if layers is None else layers) for head in heads]


def _written(heads: Sequence[Head]) -> str:
    return " ".join(f"L{layer}.H{head}" for layer, head in heads)
