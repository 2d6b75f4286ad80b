"""Room report: what a page of one channel or neuron says of its partners in other models."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from optogram.report.findings import Model, labels, strings
from optogram.report.labels import number
from optogram.report.panels import Context, Panel, Table
from optogram.report.section import Part, Unit

KIND = "rosetta"
NEAREST = 5
"""Partners that are listed, of each group of models."""
READING = (
    "Units of other models that are active at the same places of the same images, above what shuffled images give; the "
    "one that correlates most comes first. The section on shared units says whether that is a property of single units."
)


def of_page(context: Context, unit: Unit) -> Sequence[Part]:
    """The partners of the channel or neuron that a page is of; nothing for other units."""
    if unit.kind == "channel":
        layer, _, channel = unit.name.rpartition(":")
        return _partners(context, unit.model.name, layer, int(channel), unit.of.found.channels)
    if unit.kind == "neuron":
        groups = [part for group in context.findings.groups if (part := group.part(KIND)) is not None]
        layer = next((name for part in groups if (name := mlp_layer(part, unit.model.name, unit.of.layer))), "")
        return _partners(context, unit.model.name, layer, unit.of.neuron) if layer else []
    return []


def place_of(found: xr.Dataset, model: str, layer: str, channel: int, channels: int = 0) -> int | None:
    """The number of a unit in rosetta/<group>; None where the model, or the layer, is not in it.

    layer: the layer itself, or a block of so many `channels`, which are those of the last nonlinearity in it if that
    has as many: the hidden units of an MLP are others.
    """
    names = strings(found["layer_of"])
    mine = strings(found["model_of"]) == model
    inside = [name for name in dict.fromkeys(names[mine].tolist()) if f"{name}.".startswith(f"{layer}.")]
    if not inside or (inside[-1] != layer and (mine & (names == inside[-1])).sum() != channels):
        return None
    at = np.flatnonzero(mine & (names == inside[-1]) & (found["channel"].values == channel))
    return int(at[0]) if len(at) else None


def mlp_layer(found: xr.Dataset, model: str, block: int) -> str:
    """The layer of a CLIP's neurons of one block; "" where it is not in rosetta/<group>."""
    names = strings(found["layer_of"])[strings(found["model_of"]) == model]
    return next((name for name in names.tolist() if f".{block}.mlp." in name), "")


def _partners(context: Context, model: str, layer: str, channel: int, channels: int = 0) -> list[Part]:
    """The best partners of a unit in each group that its model is in."""
    rows, made, alone = [], [], []
    for group in context.findings.groups:
        found = group.part(KIND)
        if found is None or (place := place_of(found, model, layer, channel, channels)) is None:
            continue
        here = _rows(found, group, place)
        rows += here
        made += context.panel(group, KIND).made
        if not here:
            alone.append(group.name)
    if not made:
        return []
    panel = Panel(made=made, notes=[f"In {', '.join(alone)} it has no partner above chance."] if alone else [])
    if rows:
        panel.tables = [Table(["partner", "group", "correlation", "name"], rows)]
    return [Part("Partners in other models", READING, panel)]


def _rows(found: xr.Dataset, group: Model, place: int) -> list[list[str]]:
    a, b, r = (found[name].values for name in ("a", "b", "r"))
    pairs = np.flatnonzero(found["found"].values & ((a == place) | (b == place)))
    rows = []
    for pair in pairs[np.argsort(-r[pairs], kind="stable")][:NEAREST]:
        other = int(b[pair] if a[pair] == place else a[pair])
        ways = [way for way in ("labels", "texts") if f"name_{way}" in found]
        said = [name for way in ways if (name := strings(found[f"name_{way}"])[other])]
        rows.append([labels(found, "unit")[other], group.name, number(float(r[pair])), " · ".join(said)])
    return rows
