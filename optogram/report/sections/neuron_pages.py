"""Room report: the neurons of a model's MLPs, what is said on each, and which of them write through a head."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float

from optogram.methods.neurons.labels import named_values
from optogram.report.findings import Head, Model, Neuron, labels, numbers, place, strings
from optogram.report.images import Thumb, heat_strip
from optogram.report.labels import number, percent, signed
from optogram.report.panels import Context, Panel, Tile, bar, span
from optogram.report.provenance import artifact_name, made
from optogram.report.section import Part, Unit

FLOWS, WRITERS = 6, 10
"""Heads on a neuron's page, and neurons on a head's."""
LEAST = 0.01
"""Share of the largest flow from which another is shown."""
ON_PAGE = 16
"""Neurons that share a page: a file each would be over a thousand."""
BARE = 4
"""Images of a group without a map, at most: maps are kept of the very largest effects only."""
YARDSTICK = "random"
"""The pool of random directions: its "texts" say nothing."""


@dataclass(frozen=True)
class Flow:
    """A bar of how much of a neuron's effect passes a head: the other's name, page ("" if none) and first text."""

    name: str
    page: str
    says: str
    colour: str
    bar: tuple[float, float]
    value: str


def neurons_of(context: Context, model: Model) -> list[Neuron]:
    """The model's neurons, by layer and neuron."""
    return context.once(("neurons", model.slug), lambda: _neurons(model))


def _neurons(model: Model) -> list[Neuron]:
    found = []
    for layer, part in model.neuron_layers.items():
        first = part.isel(pool=0)
        texts, weights = strings(first["text"].transpose("neuron", "step")), _rows(first["weight"], "step")
        named = named_values(weights, *(_strings(first[f"text_{name}"], "step") for name in ("attribute", "value")))
        images = zip(*(strings(part[f"image_{name}"]).tolist() for name in ("attribute", "value")), strict=True)
        words = zip(*(named[name].values.tolist() for name in ("attribute", "value")), strict=True)
        groups = zip(*(part[f"{name}_groups"].values.tolist() for name in ("image", "text")), strict=True)
        norm, explained = _rows(part["norm"], "rank").mean(1).tolist(), part["explained"].values.tolist()
        places = {neuron: k for k, neuron in enumerate(sorted(numbers(part, "shown")))}
        rows = zip(numbers(part, "neuron"), norm, explained, words, images, groups, strict=True)
        for row, (neuron, size, share, told, shared, separate) in enumerate(rows):
            place = places.get(neuron)
            page = "" if place is None else f"{model.slug}-L{layer}-{place // ON_PAGE}.html#L{layer}N{neuron}"
            said, weight = str(texts[row, 0]), float(weights[row, 0])
            found.append(Neuron(layer, neuron, row, page, size, share, said, weight, told, shared, separate))
    return found


def neuron_units(context: Context, model: Model) -> list[Unit]:
    """The neurons that have a place on a page, layer after layer."""
    return [
        Unit(
            "neuron",
            neuron.name,
            model,
            f"neurons/{neuron.page.partition('#')[0]}",
            neuron.page.partition("#")[2],
            f"{model.name} · MLP layer {neuron.layer}, neuron {neuron.neuron}",
            value_chip(context, neuron.named),
            neuron,
        )
        for neuron in neurons_of(context, model)
        if neuron.page
    ]


def neuron_parts(context: Context, unit: Unit) -> list[Part]:
    """What a neuron writes, where, and through which heads; of a head, which neurons write through it."""
    if unit.kind == "head":
        return _writers_part(context, unit)
    if unit.kind != "neuron":
        return []
    model, neuron = unit.model, unit.of
    layer = context.once(("neuron layer", model.slug, neuron.layer), lambda: _Layer(context, model, neuron.layer))
    flows, zero = layer.heads.flows(neuron.row)
    writes = Panel(
        tiles=_facts(neuron, int(layer.rank[neuron.row]), layer.total, layer.largest, flows),
        extra={"pools": layer.texts.pools(neuron.row), "zero": layer.texts.zero(neuron.row)},
        made=[made(artifact_name(f"neurons/{neuron.layer}", model.name), layer.part)],
    )
    reading = (
        "The texts whose sum is closest to the neuron's direction, by the size of their coefficients. To the left of "
        "the line, the neuron writes away from the text."
    )
    parts = [Part("What it writes, in words", reading, writes, "neuron_texts.html")]
    where = Panel(extra={"maps": layer.images.maps(neuron), "groups": layer.images.groups(neuron)})
    reading = (
        "The images with its largest effects, the norm under each; below it the same image with the places where the "
        f"neuron is active in orange. {layer.images.kinds(neuron)}"
    )
    parts.append(Part("Where it writes most", reading, where, "neuron_tops.html"))
    if flows:
        reading = "The mean, over its largest effects, of the part along its direction that passes each later head."
        passes = Panel(extra={"rows": flows, "zero": zero})
        parts.append(Part("Which heads it writes through", reading, passes, "flows.html"))
    return parts


def _writers_part(context: Context, unit: Unit) -> list[Part]:
    found = writers(context, unit.model, unit.of)
    if not found["rows"]:
        return []
    reading = (
        "The neurons of earlier MLPs of which most passes this head: the mean, over a neuron's largest second-order "
        "effects, of the part along its direction that this head lets through. A negative number writes against the "
        "direction. Beside each neuron is its first text, with its sign."
    )
    return [Part("Which neurons write through it", reading, Panel(extra=found), "flows.html")]


class _Layer:
    """What the pages of one MLP layer's neurons share."""

    def __init__(self, context: Context, model: Model, layer: int) -> None:
        self.part = model.neuron_layers[layer]
        here = [neuron for neuron in neurons_of(context, model) if neuron.layer == layer]
        self.total, self.largest = len(here), self.part.sizes["rank"]
        self.rank = np.empty(len(here), int)
        self.rank[np.argsort([-neuron.norm for neuron in here], kind="stable")] = np.arange(1, len(here) + 1)
        self.texts, self.images = _Texts(context, self.part), _Images(context, self.part)
        self.heads = _Heads(context, model, self.part)


def writers(context: Context, model: Model, head: Head) -> dict[str, Any]:
    """The neurons of which most passes a head, for its page: `rows`, and where on their scale zero is."""
    found: list[tuple[float, Neuron]] = []
    neurons = neurons_of(context, model)
    for layer, part in model.neuron_layers.items():
        at = place(part, head.layer, head.head)
        if at is None:
            continue
        passes = part["through"].isel(at).values.astype(np.float64)
        most = np.argsort(-np.abs(passes), kind="stable")[:WRITERS]
        here = [neuron for neuron in neurons if neuron.layer == layer]
        found += [(float(passes[row]), here[row]) for row in most]
    found = sorted(found, key=lambda one: -abs(one[0]))[:WRITERS]
    low, high = span(np.array([value for value, _ in found]))
    rows = [
        Flow(
            neuron.name,
            f"../neurons/{neuron.page}" if neuron.page else "",
            first_text(neuron),
            context.findings.colour(neuron.named[0]),
            bar(value, low, high),
            signed(value),
        )
        for value, neuron in found
    ]
    return {"rows": rows, "zero": bar(0.0, low, high)[0]}


def first_text(neuron: Neuron) -> str:
    """A neuron's first text with the sign of its coefficient, as Table 3.2 has it; "" if it has none."""
    sign = "+" if neuron.weight > 0 else "\N{MINUS SIGN}"
    return f"{sign}“{neuron.text}”" if neuron.text else ""


def value_chip(context: Context, pair: tuple[str, str]) -> tuple[str, str] | None:
    """An (attribute, value) in words, with its colour; None if there is none."""
    return (" ".join(pair), context.findings.colour(pair[0])) if any(pair) else None


def _facts(neuron: Neuron, rank: int, total: int, largest: int, flows: Sequence[Flow]) -> list[Tile]:
    named, shared = (" ".join(pair).strip() for pair in (neuron.named, neuron.shared))
    agrees = "" if not (named and shared) else ("; its texts say the same" if named == shared else "; its texts differ")
    images, texts = neuron.groups
    facts = [
        Tile("Named by its texts", named or "nothing", "by the sum of positive weights"),
        Tile("Shared by its images", shared or "nothing", f"the most frequent beyond its share in all images{agrees}"),
        Tile(
            "Along one direction",
            percent(neuron.explained),
            f"of the sum of squares of its {largest} largest effects about their mean",
        ),
        Tile("Norm of its effect", number(neuron.norm), f"mean of {largest} largest; rank {rank} of {total} in layer"),
        Tile(
            "Separate groups",
            f"{images} · {texts}",
            f"of images · of texts: {'polysemantic' if max(images, texts) > 1 else 'no second meaning found'}",
        ),
    ]
    if flows:
        beside = f"{flows[0].value} of its mean effect along its direction"
        facts.append(Tile("Passes most through", flows[0].name, beside))
    return facts


class _Texts:
    """The texts of a layer's neurons, by pool."""

    def __init__(self, context: Context, part: xr.Dataset) -> None:
        self._context = context
        self._pools = [(p, name) for p, name in enumerate(labels(part, "pool")) if name != YARDSTICK]
        self._weight = part["weight"].transpose("pool", "neuron", "step").values.astype(np.float64)
        text, attribute, value = (
            strings(part[name].transpose("pool", "neuron", "step")) for name in ("text", "text_attribute", "text_value")
        )
        self._text, self._attribute, self._value = text, attribute, value
        self._group = part["text_group"].transpose("neuron", "step").values
        self._groups = part["text_groups"].values

    def _ends(self, row: int) -> tuple[float, float]:
        return span(self._weight[[p for p, _ in self._pools], row])  # one scale, so that pools compare

    def zero(self, row: int) -> float:
        """Where on the bars' scale zero is, in per cent."""
        return bar(0.0, *self._ends(row))[0]

    def pools(self, row: int) -> list[dict[str, Any]]:
        """Each pool's name and rows; a row has the text, its chips, and its bar."""
        ends, found = self._ends(row), []
        for k, (p, name) in enumerate(self._pools):
            rows = []
            for step, text in enumerate(self._text[p, row].tolist()):
                if not text:
                    break
                weight = float(self._weight[p, row, step])
                chips = self._context.chips(str(self._attribute[p, row, step]), str(self._value[p, row, step]))
                group = int(self._group[row, step]) + 1 if k == 0 and self._groups[row] > 1 else 0
                rows.append(
                    {
                        "text": text,
                        "chips": chips,
                        "bar": bar(weight, *ends),
                        "classes": _classes([colour for _, colour in chips]),
                        "weight": signed(weight),
                        "group": group,
                    }
                )
            found.append({"name": name, "rows": rows})
        return found


class _Images:
    """The top images of a layer's neurons, with the maps of the very first of them."""

    def __init__(self, context: Context, part: xr.Dataset) -> None:
        self._thumbs = context.thumbs
        self._image = strings(part["top_image"].transpose("neuron", "rank"))
        self._norm = _rows(part["norm"], "rank")
        self._group = part["image_group"].transpose("neuron", "grouped").values
        self._map = part["map"].transpose("shown", "k", "gy", "gx").values
        self._row = {neuron: row for row, neuron in enumerate(numbers(part, "shown"))}

    def kinds(self, neuron: Neuron) -> str:
        """How many groups the images and texts form, in words."""
        grouped = self._group[neuron.row]
        images, texts = neuron.groups
        if images > 1:
            counts = np.bincount(grouped[grouped >= 0]).tolist()
            seen = (
                f"The first {len(grouped)} fall into {images} well-separated groups of {_listed(counts)} "
                f"(there are maps of the first {self._map.shape[1]})"
            )
        else:
            seen = f"The first {len(grouped)} form no separate groups"
        told = f"{texts} separate groups" if texts > 1 else "no separate groups"
        return f"{seen}; its texts with a positive weight form {told}."

    def maps(self, neuron: Neuron) -> dict[str, Any]:
        """The maps of its first images as a strip, for CSS."""
        maps = self._map[self._row[neuron.neuron]]
        return {"strip": heat_strip(maps), "k": len(maps), "gy": maps.shape[1], "gx": maps.shape[2]}

    def groups(self, neuron: Neuron) -> list[tuple[str, list[tuple[Thumb | None, str, str, int | None]]]]:
        """The top images by group: (heading, [(thumbnail, id, norm, place of its map or None)]); one has no heading."""
        names, norms, group = self._image[neuron.row], self._norm[neuron.row], self._group[neuron.row]
        maps = self._map.shape[1]
        several, found = neuron.groups[0] > 1, []
        for k in range(max(1, neuron.groups[0])):
            members = np.flatnonzero(group == k) if several else np.arange(maps)
            mapped = members[members < maps]
            ranks = np.concatenate([mapped, members[len(mapped) :][: max(0, BARE - len(mapped))]])
            images = [
                (
                    self._thumbs.thumb(str(names[rank])),
                    str(names[rank]),
                    number(float(norms[rank])),
                    rank if rank < maps else None,
                )
                for rank in ranks.tolist()
            ]
            heading = f"Group {k + 1}: {len(members)} of {len(group)} images" if several else ""
            found.append((heading, images))
        return found


class _Heads:
    """The heads that a layer's neurons write through."""

    def __init__(self, context: Context, model: Model, part: xr.Dataset) -> None:
        heads = {(head.layer, head.head): head for head in model.heads}
        through = part["through"].transpose("neuron", "layer", "head")
        self._through = through.values.reshape(len(through), -1).astype(np.float64)
        places = [(layer, head) for layer in numbers(part, "layer") for head in numbers(part, "head")]
        self._heads = []
        for layer, head in places:
            known = heads.get((layer, head))
            page, named = (f"../heads/{known.page}", known.named) if known else ("", "")
            self._heads.append((f"L{layer}.H{head}", page, named, context.findings.colour(named)))

    def flows(self, row: int) -> tuple[list[Flow], float]:
        """The heads through which most of a neuron's effect passes, and where on their scale zero is."""
        passes = self._through[row]
        most = np.argsort(-np.abs(passes), kind="stable")[:FLOWS].tolist()
        low, high = span(passes[most])
        found = [
            Flow(name, page, says, colour, bar(float(passes[k]), low, high), signed(float(passes[k])))
            for k in most
            for name, page, says, colour in [self._heads[k]]
            if abs(passes[k]) > LEAST * np.abs(passes).max()
        ]
        return found, bar(0.0, low, high)[0]


def _rows(array: xr.DataArray, second: str) -> Float[np.ndarray, "neuron second"]:
    return array.transpose("neuron", second).values.astype(np.float64)


def _strings(array: xr.DataArray, second: str) -> np.ndarray:
    return strings(array.transpose("neuron", second))


def _classes(colours: Sequence[str]) -> str:
    """The CSS classes of a row whose bar has the first colour, and below it the second: they save the page's bytes."""
    first, second = (*colours, "", "")[:2]
    return " ".join([first[2:] or "none", *([f"b{second[2:]}"] if second else [])])


def _listed(counts: list[int]) -> str:
    return " and ".join(part for part in (", ".join(map(str, counts[:-1])), str(counts[-1])) if part)
