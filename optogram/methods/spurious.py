"""Method room, spurious cues: ablate the heads that TextSpan names after the cue (Gandelsman 2025, tables 2.3, A.7-10).

The thesis picks those heads by reading their texts. Here they are the heads whose named role is the spurious attribute,
so the whole experiment runs without a person, and random heads stand beside it as in the thesis.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Float, Float32

from optogram.errors import DataError, ParamError, nearest
from optogram.methods.ablation import HeadLogits
from optogram.metrics.classification import ZeroShotTask, group_accuracy

Head = tuple[int, int]


def spurious_heads(roles: xr.Dataset, attribute: str, *, least_share: float = 0.0) -> list[Head]:
    """The heads named after the spurious attribute, as (layer, head) labels, the surest first.

    roles: from `optogram.methods.roles.named_roles`. least_share: leave out heads of whose variance the picks that name
    the attribute explain less than this share. The list is empty where no head qualifies: nothing is ablated then, and
    `debias` reports the base accuracy, rather than ablate a head that is about something else.

    Raises ParamError for an attribute that no text of the pool names.
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
    `count` (group). With no heads, chosen and the draws of that size are the base.

    Raises ParamError for an unknown head, layer or attribute or no draws, DataError if the images have one class only.
    """
    if draws < 1 or random_heads < 1:
        raise ParamError(f"draws = {draws}, random_heads = {random_heads}; expected 1 or more of each.")
    asked, task = _question(classifier, labels, value_name, class_attribute)
    trials = _Trials.prepare(evaluated, reference, asked["classifier"].values, task, np.asarray(group))
    pool = [(layer, head) for layer in _layers(trials, layers) for head in trials.logits.heads.coords["head"].tolist()]
    rng = np.random.default_rng(seed)
    sizes = {"random": min(random_heads, len(pool)), "same size": min(len(heads), len(pool))}
    drawn = [[[pool[i] for i in rng.permutation(len(pool))[:size]] for _ in range(draws)] for size in sizes.values()]

    outcome = {"base": trials.run([]), "chosen": trials.run(heads)}
    ablated = {"base": [], "chosen": list(heads)}
    every = [[trials.run(sets) for sets in baseline] for baseline in drawn]
    for name, results, sets in zip(sizes, every, drawn, strict=True):
        together = xr.concat(results, "draw")
        best = max(range(draws), key=lambda at, of=results: (float(of[at]["worst"]), float(of[at]["overall"])))
        outcome[f"{name} best"], outcome[f"{name} mean"] = results[best], together.mean("draw")
        ablated[f"{name} best"], ablated[f"{name} mean"] = sets[best], []
    table = xr.concat([one.drop_vars("count") for one in outcome.values()], "ablation")
    detail = xr.concat([xr.concat(one, "draw").drop_vars("count") for one in every], "baseline")
    table = table.assign(detail.rename({name: f"draw_{name}" for name in detail.data_vars}))
    return table.assign(
        heads=("ablation", [_written(ablated[name]) for name in outcome]),
        draw_heads=(("baseline", "draw"), [[_written(sets) for sets in baseline] for baseline in drawn]),
        count=outcome["base"]["count"],
    ).assign_coords(ablation=list(outcome), baseline=list(sizes), draw=np.arange(draws))


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

    def run(self, heads: Sequence[Head]) -> xr.Dataset:
        """Group accuracies with these heads ablated together."""
        places = sorted(set(self.logits.heads.places(heads)))
        left = self.whole - sum((self.beyond[at] for at in places), np.zeros_like(self.whole))
        return group_accuracy(self.task.outcome(left)[0][:, 0], self.group)


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


def _layers(trials: _Trials, layers: Sequence[int] | None) -> list[int]:
    """Layer labels to draw from. Raises ParamError for one that is not there."""
    known = trials.logits.heads.coords["layer"].tolist()
    missing = [layer for layer in layers or () if layer not in known]
    if missing:
        raise ParamError(f"layers: asked for {missing}, but the model has {known}.\n  Name some of these.")
    return known if layers is None else list(layers)


def _written(heads: Sequence[Head]) -> str:
    return " ".join(f"L{layer}.H{head}" for layer, head in heads)
