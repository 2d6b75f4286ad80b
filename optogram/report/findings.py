"""Room report: the findings of a run, by model and head, as the pages need them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float

from optogram.errors import DataError
from optogram.metrics.intervals import Interval
from optogram.report.labels import slugs

Datasets = Mapping[str, xr.Dataset]
COLOURS = 8
"""Attribute colours in report.css; further attributes take them again, and are told apart by their names."""
UNSHOWN = {
    "textspan": ("direction",),
    "neurons": ("r", "b", "c", "constant", "index", "coefficient", "threshold"),
    "targets": ("box", "score"),
    "vital": ("layer_loss",),
}
"""Large variables of findings that no page shows, by the first part of their kind."""
LAZY = ("embeddings", "samples")
"""Kinds of which a page shows a few rows of many."""


@dataclass(frozen=True)
class Head:
    """One attention head of the decomposed layers; `row`, `column` are its places along layer and head.

    `drop` is what its ablation costs the attribute `measured`, and `ends` its 95 % interval. `texts` are its first
    descriptions, those that name an attribute's value before others.
    """

    layer: int
    head: int
    row: int
    column: int
    page: str
    named: str = ""
    share: float = 0.0
    measured: str = ""
    by_margin: str = ""
    drop: float = 0.0
    ends: Interval = field(default_factory=lambda: Interval(0.0, 0.0))
    variance: float = 0.0
    texts: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """As the thesis writes it: L22.H11."""
        return f"L{self.layer}.H{self.head}"


@dataclass(frozen=True)
class Neuron:
    """One neuron of an MLP; `row` is its place along `neuron`, `page` is "" where it has none.

    `text` and `weight` are its first text, `named` the (attribute, value) that its texts name, `shared` the one that
    its top images share, ("", "") if none; `groups` counts the separate groups of its top images and of its texts.
    """

    layer: int
    neuron: int
    row: int
    page: str
    norm: float
    explained: float
    text: str
    weight: float
    named: tuple[str, str]
    shared: tuple[str, str]
    groups: tuple[int, int]

    @property
    def name(self) -> str:
        """As heads are named: L9.N2914."""
        return f"L{self.layer}.N{self.neuron}"


@dataclass
class Model:
    """What was found out about one model; `parts` are its artifacts by kind, and any of them may be absent."""

    name: str
    slug: str
    parts: Datasets

    def part(self, kind: str) -> xr.Dataset | None:
        """The artifact of a kind, or None where there is none or where it was skipped."""
        found = self.parts.get(kind)
        return None if found is None or found.attrs.get("skipped") else found

    def missing(self, kind: str) -> str:
        """Why `part` gives None, "" where it does not."""
        if kind not in self.parts:
            return "This was not run."
        return str(self.parts[kind].attrs.get("skipped") or "")

    @cached_property
    def neuron_layers(self) -> dict[int, xr.Dataset]:
        """What is known of each MLP layer's neurons, by layer."""
        layers = sorted(int(kind.removeprefix("neurons/")) for kind in self.parts if kind.startswith("neurons/"))
        found = {layer: self.part(f"neurons/{layer}") for layer in layers}
        return {layer: part for layer, part in found.items() if part is not None}

    @cached_property
    def heads(self) -> list[Head]:
        """The heads that have descriptions, by layer and head."""
        spans, roles = self.part("textspan"), self.part("roles")
        if spans is None:
            return []
        variance = spans["total_variance"].values
        texts, naming = (strings(spans[name].isel(pool=0)) for name in ("text", "text_attribute"))
        found = []
        for row, layer in enumerate(numbers(spans, "layer")):
            for column, head in enumerate(numbers(spans, "head")):
                facts = {} if roles is None else _role(roles, layer, head)
                page = f"{self.slug}-L{layer}H{head}.html"
                # what names nothing of the images ("a pencil sketch") says little of a head
                order = np.argsort(naming[row, column] == "", kind="stable")[:3]
                top = tuple(texts[row, column, order].tolist())
                found.append(
                    Head(layer, head, row, column, page, variance=float(variance[row, column]), texts=top, **facts)
                )
        return found


@dataclass
class Findings:
    """All that a report shows: `images` by split, and by kind what there is of `models` (CLIPs), `classifiers`,
    `priors` (models that draw) and `groups` (of models that are looked at together)."""

    images: Datasets
    models: list[Model]
    classifiers: list[Model] = field(default_factory=list)
    priors: list[Model] = field(default_factory=list)
    groups: list[Model] = field(default_factory=list)
    attributes: list[str] = field(default_factory=list)
    class_attribute: str = ""

    def __post_init__(self) -> None:
        shown = self.images.get("eval", next(iter(self.images.values())))
        self.stored_attributes = labels(shown, "attribute")
        first = str(shown.attrs.get("class_attribute") or self.stored_attributes[0])
        self.class_attribute = first if first in self.stored_attributes else self.stored_attributes[0]
        rest = [name for name in self.stored_attributes if name != self.class_attribute]
        self.attributes = [self.class_attribute, *rest]

    def colour(self, attribute: str) -> str:
        """CSS name of an attribute's colour, the same in every plot and chip."""
        return f"--a{self.attributes.index(attribute) % COLOURS}" if attribute in self.attributes else "--none"

    def attribute_labels(self, dataset: xr.Dataset) -> list[str]:
        """Names along a dataset's `attribute` dimension."""
        return labels(dataset, "attribute") if "attribute" in dataset.coords else self.stored_attributes

    def attributes_of(self, dataset: xr.Dataset) -> list[str]:
        """The attributes that a dataset has, in the report's order."""
        stored = self.attribute_labels(dataset)
        return [name for name in self.attributes if name in stored]

    def by_attribute(self, dataset: xr.Dataset, name: str, *dims: str) -> Float[np.ndarray, "... attribute"]:
        """A variable with `attribute` last, in the report's order of attributes."""
        stored = self.attribute_labels(dataset)
        values = dataset[name].transpose(*dims, "attribute").values.astype(np.float64)
        return values[..., [stored.index(a) for a in self.attributes_of(dataset)]]


def collect(
    images: Datasets,
    models: Mapping[str, Datasets],
    classifiers: Mapping[str, Datasets] | None = None,
    priors: Mapping[str, Datasets] | None = None,
    groups: Mapping[str, Datasets] | None = None,
) -> Findings:
    """Findings from the artifacts; DataError if there are no images."""
    if not images:
        raise DataError("Nothing to report: there are no image splits, expected at least one.")
    return Findings(images, _models(models), _models(classifiers or {}), _models(priors or {}), _models(groups or {}))


def _models(models: Mapping[str, Datasets]) -> list[Model]:
    names = slugs(models)
    return [Model(name, names[name], _read(parts)) for name, parts in models.items()]


def _read(parts: Datasets) -> Datasets:
    """The findings in memory (a page picks many small pieces of them), all but what no page shows."""

    def shown(kind: str, part: xr.Dataset) -> xr.Dataset:
        first = kind.split("/")[0]
        return part if first in LAZY else part.drop_vars(UNSHOWN.get(first, ()), errors="ignore").compute()

    return {kind: shown(kind, part) for kind, part in parts.items()}


def labels(dataset: xr.Dataset, dim: str) -> list[str]:
    """The labels along a dimension as plain strings; its indices where it has none."""
    if dim in dataset.coords:
        return [str(label) for label in dataset[dim].values]
    return [str(k) for k in range(dataset.sizes[dim])]


def numbers(dataset: xr.Dataset, dim: str) -> list[int]:
    """The labels along `layer` or `head` as integers."""
    return [int(label) for label in labels(dataset, dim)]


def strings(array: xr.DataArray) -> np.ndarray:
    """Values as plain numpy strings (numpy casts its variable-length strings only by way of objects)."""
    return array.values.astype(object).astype(str)


def params_of(dataset: xr.Dataset) -> dict[str, object]:
    """The params that an artifact was made with."""
    found = dataset.attrs.get("params", "{}")
    return json.loads(found) if isinstance(found, str) else dict(found)


def place(dataset: xr.Dataset, layer: int, head: int) -> dict[str, int] | None:
    """Where a head lies in a dataset, or None if it has no such head."""
    layers, heads = numbers(dataset, "layer"), numbers(dataset, "head")
    if layer not in layers or head not in heads:
        return None
    return {"layer": layers.index(layer), "head": heads.index(head)}


def _role(roles: xr.Dataset, layer: int, head: int) -> dict[str, Any]:
    at = place(roles, layer, head)
    if at is None:
        return {}
    here, names = roles.isel(at), labels(roles, "attribute")
    named, measured = str(here["named"].item()), str(here["measured"].item())
    column = names.index(measured) if measured in names else 0
    return {
        "named": named,
        "share": float(here["name_score"].values[names.index(named)]) if named in names else 0.0,
        "measured": measured,
        "by_margin": str(here["measured_by_margin"].item()),
        "drop": float(here["accuracy_drop"].values[column]),
        "ends": Interval(*(float(here[f"accuracy_drop_{end}"].values[column]) for end in ("low", "high"))),
    }
