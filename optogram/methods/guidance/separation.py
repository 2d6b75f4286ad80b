"""Methods, guidance: whether what is spurious lies further outside the object than what is core, as in Table 2."""

import numpy as np
import xarray as xr

from optogram.metrics.headline import Headline
from optogram.metrics.visualisations import roc_auc

SPURIOUS, CORE = 0.6, 0.4
"""Above the one lie the paper's spurious neurons (.77 to .86), around the other its core ones (.31 to .50)."""
GROUPS = ("all", "unit", "component")
METRICS = ("outside", "outside less area")


def main_layer(found: xr.Dataset) -> str:
    """The last layer at which most maps can be normalised; "" if there is none."""
    count, dropped = (found[name].transpose("layer", "target").values.sum(1) for name in ("count", "unsummed"))
    good = np.flatnonzero(count > dropped)
    return str(found["layer"].values[good[-1]]) if len(good) else ""


def separation(found: xr.Dataset) -> xr.Dataset:
    """How far what follows the attribute lies above what follows the class, by layer and group: what Table 2 shows.

    found: the scores, with `truth`. A group is all targets, the units or the components, of which those count that are
    spurious or core and have a score:

    - `spurious`, `core` (layer, group): how many there are of each.
    - `spurious_above`, `core_below` (layer, group): how many of them lie above .6, and below .4.
    - `least`, `most` (layer, group, metric): the lowest of the spurious and the highest of the core. Table 2 has the
      first above the second. metric: the score itself, or less the background's area, as objects differ in size.
    - `above` (layer, group, metric): the share of pairs of the two in which the spurious one is higher, ties half.
    - `shuffled_above` (layer, group): the same of the scores with the masks of other images.
    """
    layers = found["layer"].values
    shape = (len(layers), len(GROUPS))
    truth, kind = (found[name].values.astype(str) for name in ("truth", "kind"))
    score, area, shuffled = (found[name].transpose("target", "layer").values for name in ("score", "area", "shuffled"))
    counts = {name: np.zeros(shape, np.int32) for name in ("spurious", "core", "spurious_above", "core_below")}
    edges = {name: np.full((*shape, len(METRICS)), np.nan) for name in ("least", "most", "above")}
    crossed = np.full(shape, np.nan)
    for at in np.ndindex(shape):
        own = score[:, at[0]]
        there = np.isfinite(own) & ((kind == GROUPS[at[1]]) | (GROUPS[at[1]] == "all"))
        first, second = (there & (truth == str(found.attrs[name])) for name in ("attribute", "class_attribute"))
        counts["spurious"][at], counts["core"][at] = first.sum(), second.sum()
        counts["spurious_above"][at], counts["core_below"][at] = (
            (own[first] > SPURIOUS).sum(),
            (own[second] < CORE).sum(),
        )
        if not first.any() or not second.any():
            continue
        for column, value in enumerate((own, own - area[:, at[0]])):
            edges["least"][(*at, column)], edges["most"][(*at, column)] = value[first].min(), value[second].max()
            edges["above"][(*at, column)] = roc_auc(value[first], value[second])
        other = shuffled[:, at[0]]
        if np.isfinite(other[first | second]).all():
            crossed[at] = roc_auc(other[first], other[second])
    of = ("layer", "group")
    missing = {"missing": "there are none of one kind"}
    return xr.Dataset(
        {
            **{name: (of, array) for name, array in counts.items()},
            **{name: ((*of, "metric"), array, missing) for name, array in edges.items()},
            "shuffled_above": (of, crossed, missing),
        },
        {"layer": layers, "group": list(GROUPS), "metric": list(METRICS)},
    )


def headline(found: xr.Dataset) -> Headline | None:
    """How often what is spurious is further outside than what is core; None where there are none of one of them."""
    layer = str(found.attrs["layer"])
    if not layer:
        return None
    here = found.sel(layer=layer, group="all")
    above = float(here["above"].sel(metric="outside"))
    if not np.isfinite(above):
        return None
    ours, theirs = found.attrs["attribute"], found.attrs["class_attribute"]
    measure = f"pairs in which what follows the {ours} lies further outside than what follows the {theirs}"
    pairs = int(here["spurious"]) * int(here["core"])
    return Headline(measure, above, pairs, "with the masks of other images", float(here["shuffled_above"]))
