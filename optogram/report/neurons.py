"""Room report: the neurons of a model's MLPs, what the page of each shows, and which of them write through a head."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float

from optogram.methods.neuron_labels import named_values
from optogram.report.findings import Head, Model, Neuron, labels, numbers, place, strings
from optogram.report.formats import number, percent, signed
from optogram.report.images import Thumb, heat_strip
from optogram.report.made import artifact_name, made
from optogram.report.panels import Context, bar, span

FLOWS, WRITERS = 6, 10
"""Heads on a neuron's page, and neurons on a head's."""
LEAST = 0.01
"""Share of the largest flow from which another is shown."""
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


def neurons_of(model: Model) -> list[Neuron]:
    """The model's neurons, by layer and neuron."""
    found = []
    for layer, part in model.neuron_layers.items():
        first = part.isel(pool=0)
        texts, weights = strings(first["text"].transpose("neuron", "step")), _rows(first["weight"], "step")
        named = named_values(weights, *(_strings(first[f"text_{name}"], "step") for name in ("attribute", "value")))
        images = zip(*(strings(part[f"image_{name}"]).tolist() for name in ("attribute", "value")), strict=True)
        words = zip(*(named[name].values.tolist() for name in ("attribute", "value")), strict=True)
        groups = zip(*(part[f"{name}_groups"].values.tolist() for name in ("image", "text")), strict=True)
        norm, explained = _rows(part["norm"], "rank").mean(1).tolist(), part["explained"].values.tolist()
        shown = set(numbers(part, "shown"))
        rows = zip(numbers(part, "neuron"), norm, explained, words, images, groups, strict=True)
        for row, (neuron, size, share, told, shared, separate) in enumerate(rows):
            page = f"{model.slug}-L{layer}N{neuron}.html" if neuron in shown else ""
            said, weight = str(texts[row, 0]), float(weights[row, 0])
            found.append(Neuron(layer, neuron, row, page, size, share, said, weight, told, shared, separate))
    return found


def neuron_pages(context: Context, model: Model) -> Iterator[tuple[str, dict[str, Any]]]:
    """File name and content of the page of each neuron that has one, layer after layer."""
    neurons = context.neurons[model.name]
    shown = [neuron for neuron in neurons if neuron.page]
    around = {neuron.page: (shown[k - 1], shown[(k + 1) % len(shown)]) for k, neuron in enumerate(shown)}
    for layer, part in model.neuron_layers.items():
        here = [neuron for neuron in neurons if neuron.layer == layer]
        rank = np.empty(len(here), int)
        rank[np.argsort([-neuron.norm for neuron in here], kind="stable")] = np.arange(1, len(here) + 1)
        told, seen, passed = _Texts(context, part), _Images(context, part), _Heads(context, model, part)
        made_of = [made(artifact_name(f"neurons/{layer}", model.name), part)]
        for neuron in here:
            if not neuron.page:
                continue
            flows, zero = passed.flows(neuron.row)
            before, after = around[neuron.page]
            yield (
                neuron.page,
                {
                    "model": model,
                    "neuron": neuron,
                    "before": before,
                    "after": after,
                    "chip": value_chip(context, neuron.named),
                    "facts": _facts(neuron, int(rank[neuron.row]), len(here), part.sizes["rank"], flows),
                    "pools": told.pools(neuron.row),
                    "zero": told.zero(neuron.row),
                    "kinds": seen.kinds(neuron),
                    "maps": seen.maps(neuron),
                    "groups": seen.groups(neuron),
                    "flows": flows,
                    "flow_zero": zero,
                    "made": made_of,
                },
            )


def writers(context: Context, model: Model, head: Head) -> dict[str, Any]:
    """The neurons of which most passes a head, for its page: `rows`, and where on their scale zero is."""
    found: list[tuple[float, Neuron]] = []
    neurons = context.neurons[model.name]
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


def _facts(neuron: Neuron, rank: int, total: int, largest: int, flows: Sequence[Flow]) -> list[tuple[str, str, str]]:
    named, shared = (" ".join(pair).strip() for pair in (neuron.named, neuron.shared))
    agrees = "" if not (named and shared) else ("; its texts say the same" if named == shared else "; its texts differ")
    images, texts = neuron.groups
    facts = [
        ("Named by its texts", named or "nothing", "by the sum of positive weights"),
        ("Shared by its images", shared or "nothing", f"the most frequent beyond its share in all images{agrees}"),
        (
            "Along one direction",
            percent(neuron.explained),
            f"of the sum of squares of its {largest} largest effects about their mean",
        ),
        ("Norm of its effect", number(neuron.norm), f"mean of the {largest} largest; rank {rank} of {total} in layer"),
        (
            "Separate groups",
            f"{images} · {texts}",
            f"of images · of texts: {'polysemantic' if max(images, texts) > 1 else 'no second meaning found'}",
        ),
    ]
    if flows:
        facts.append(("Passes most through", flows[0].name, f"{flows[0].value} of its mean effect along its direction"))
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
