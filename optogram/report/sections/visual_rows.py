"""Room report: a classifier's feature visualisations as its pages show them: targets as rows, methods as columns."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Float, Int

from optogram.report.charts.visualisation import spark
from optogram.report.findings import Model, labels, strings
from optogram.report.images import Thumb
from optogram.report.labels import VISUALISED, number, percent, slugs, words
from optogram.report.panels import Context

METHODS = ("vital", "baselines")
"""The artifacts that hold pictures, in the order of their columns."""
UNITS = {"class": "class", "neuron": "channel"}
"""The kinds of targets that have a page, and what they are there."""


@dataclass(frozen=True)
class Note:
    """A line below a picture; `kind` is "yes", "no", "bad" or ""."""

    text: str
    kind: str = ""


@dataclass(frozen=True)
class Shot:
    """One target by one method: its picture with the first seed, those with others lie to the right of it.

    `notes` are by seed, or one list for all seeds; `missing` says why there is no picture.
    """

    method: str
    thumb: Thumb | None
    veil: str
    notes: list[list[Note]]
    missing: str


@dataclass(frozen=True)
class Row:
    """One target: its name, what it is, its references, its picture by each method, and its curves by seed.

    `references` are by seed, or one list for all seeds. `share` in per cent is drawn as a bar, None is not. `page` is
    where all that is known on it stands, "" where there is none.
    """

    at: int
    name: str
    says: str
    share: float | None
    references: list[list[Thumb]]
    shots: list[Shot]
    curves: list[list[tuple[str, str]]]
    page: str


@dataclass(frozen=True)
class Curves:
    """The convergence of one method."""

    steps: Int[np.ndarray, " step"]
    loss: Float[np.ndarray, "target seed step"]


class Visualisations:
    """What was visualised of a classifier. `names`, `kinds` and `parents` are the targets', in the artifact's order.

    channels: of the layer that channels and concepts are of.
    """

    def __init__(self, context: Context, classifier: Model, targets: xr.Dataset) -> None:
        self._context, self._targets, self.classifier = context, targets, classifier
        self.names = labels(targets, "target")
        self.kinds, self.parents = strings(targets["kind"]).tolist(), strings(targets["parent"]).tolist()
        self.anchors = slugs(self.names)
        self.channels = targets.sizes.get("channel", 0)
        self.strength = targets["strength"].values.astype(np.float64)
        parts = [part for kind in METHODS if (part := classifier.part(kind)) is not None]
        self.methods = [method for part in parts for method in labels(part, "method")]
        self.seeds = list(dict.fromkeys(seed for part in parts for seed in labels(part, "seed")))
        self.curves: dict[str, Curves] = {}
        self.status = np.full((len(self.names), len(self.methods), len(self.seeds)), "not run", dtype=object)
        pixels, veils, column = None, None, 0
        for part in parts:
            rows, seeds = _places(self.names, labels(part, "target")), _places(self.seeds, labels(part, "seed"))
            count = part.sizes["method"]
            at = np.ix_(rows[0], range(column, column + count), seeds[0])
            there = np.ix_(rows[1], range(count), seeds[1])
            self.status[at] = strings(part["status"].transpose("target", "method", "seed"))[there]
            found = part["pixels"].transpose("target", "method", "seed", "y", "x", "rgb").values
            attended = part["transparency"].transpose("target", "method", "seed", "y", "x").values
            if pixels is None or veils is None:
                pixels = np.zeros((*self.status.shape, *found.shape[3:]), np.uint8)
                veils = np.zeros(pixels.shape[:-1], np.uint8)
            pixels[at], veils[at] = found[there], attended[there]
            self._read_curves(part, rows, seeds)
            column += count
        self._grid = self._veils = None
        if pixels is not None and veils is not None:
            flat = len(self.names), -1
            self._grid = context.thumbs.grid(f"vis-{classifier.slug}", pixels.reshape(*flat, *pixels.shape[3:]))
            veils = veils.reshape(*flat, *veils.shape[3:])
            self._veils = context.thumbs.grid(f"veil-{classifier.slug}", veils, self._grid)
        shown = targets["pixels"].transpose("target", "shown", "y", "x", "rgb").values
        self._references = context.thumbs.grid(f"refs-{classifier.slug}", shown)
        self._ids = strings(targets["reference"].transpose("target", "reference"))[:, : shown.shape[1]]
        self._facet = targets["facet"].transpose("target", "reference").values
        self._scores = _Scores(classifier.part("visual_scores"))

    def _read_curves(self, part: xr.Dataset, rows: "_Places", seeds: "_Places") -> None:
        loss = part["loss"].transpose("method", "target", "seed", "step").values.astype(np.float64)
        for method, found in zip(labels(part, "method"), loss, strict=True):
            here = np.zeros((len(self.names), len(self.seeds), found.shape[-1]))
            here[np.ix_(rows[0], seeds[0])] = found[np.ix_(rows[1], seeds[1])]
            self.curves[method] = Curves(np.array([int(step) for step in labels(part, "step")]), here)

    @property
    def columns(self) -> list[str]:
        """The methods as people call them."""
        return [method_name(method) for method in self.methods]

    @property
    def facets(self) -> int:
        """Groups of alike images that classes are parted into."""
        return 1 + int(self._facet.max())

    def of(self, kind: str) -> list[int]:
        """The places of the targets of a kind."""
        return [k for k, own in enumerate(self.kinds) if own == kind]

    def rows(self, places: Iterable[int]) -> list[Row]:
        """The rows of these targets."""
        return [self.row(at, *self._says(at)) for at in places]

    def row(self, at: int, says: str, share: float | None = None) -> Row:
        """The row of a target, with what is to be said of it."""
        name, parent = self.names[at], self.parents[at]
        short = name.removeprefix(parent).strip() if parent else name
        shots = [self.shot(at, column) for column in range(len(self.methods))]
        drawn = [self._sparks(at, seed) for seed in range(len(self.seeds))]
        page = f"../{self.page(at)}" if self.kinds[at] in UNITS else ""
        return Row(at, short or name, says, share, self.references(at), shots, drawn, page)

    @property
    def file(self) -> str:
        """The page of its classes and channels."""
        return f"units/{self.classifier.slug}.html"

    def page(self, at: int) -> str:
        """Where on that page a target stands."""
        return f"{self.file}#{self.anchors[self.names[at]]}"

    def reference(self, at: int) -> Thumb | None:
        """The first reference of a target."""
        found = self.references(at)[0]
        return found[0] if found else None

    def references(self, at: int) -> list[list[Thumb]]:
        """The first references of a target, as the model gets them: by seed those of the facet that it draws."""
        facets = 1 + int(self._facet[at].max())
        if facets == 1:
            return [self._references_of(at, 0)]
        return [self._references_of(at, seed % facets) for seed in range(len(self.seeds))]

    def _references_of(self, at: int, facet: int) -> list[Thumb]:
        thumbs, found = self._context.thumbs, []
        for column, name in enumerate(self._ids[at].tolist()):
            if name and self._facet[at, column] == facet:
                says = thumbs.describe(name) if thumbs.find(name) else ""
                found.append(self._references.thumb(at, column, name, says))
        return found

    def defined(self, at: int, method: str) -> list[int]:
        """The seeds with which a method has a picture of a target."""
        here = self.status[at, self.methods.index(method)].tolist()
        return [seed for seed, status in enumerate(here) if not status.startswith("not ")]

    def diverged(self, at: int, method: str) -> list[str]:
        """What is said of the seeds with which a method diverged."""
        here = self.status[at, self.methods.index(method)].tolist()
        return [status for status in here if status != "done" and not status.startswith("not ")]

    def shot(self, at: int, column: int) -> Shot:
        """A target by the method of a column."""
        method, name = self.methods[column], method_name(self.methods[column])
        if self._grid is None or self._veils is None or not self.defined(at, method):
            return Shot(name, None, "", [], str(self.status[at, column, 0]))
        thumb = self._grid.thumb(at, column * len(self.seeds), self.names[at], name)
        notes = [self._notes(at, column, seed) for seed in range(len(self.seeds))]
        same = all(found == notes[0] for found in notes)
        return Shot(name, thumb, self._veils.place(at)[0], notes[:1] if same else notes, "")

    def _sparks(self, at: int, seed: int) -> list[tuple[str, str]]:
        found = []
        for method, curve in self.curves.items():
            if seed in self.defined(at, method):
                found.append((method, spark(curve.steps, curve.loss[at, seed])))
        return found

    def _notes(self, at: int, column: int, seed: int) -> list[Note]:
        method, status = self.methods[column], str(self.status[at, column, seed])
        notes = [] if status == "done" else [Note(status, "bad")]
        if status.startswith("not "):
            return notes
        return notes + self._scores.notes(self.names[at], self.kinds[at], method, self.seeds[seed])

    def _says(self, at: int) -> tuple[str, float | None]:
        kind, strength = self.kinds[at], float(self.strength[at])
        if kind == "class":
            return "class", None
        if kind == "split":
            return f"{percent(strength, 0)} of the patches", round(100 * strength, 1)
        return f"{'mean activation' if kind == 'neuron' else 'importance'} {number(strength)}", None


class _Scores:
    """What is measured of single pictures."""

    def __init__(self, scores: xr.Dataset | None) -> None:
        if scores is None:
            self._at: dict[str, dict[str, int]] = {}
            return
        dims = ("target", "method", "seed")
        self._at = {dim: {name: k for k, name in enumerate(labels(scores, dim))} for dim in dims}
        self._predicted, self._clip = (strings(scores[n].transpose(*dims)) for n in ("predicted", "clip_predicted"))
        self._confidence = scores["confidence"].transpose(*dims).values
        self._auc, self._mad = (scores[name].transpose("target", "method").values for name in ("auc", "mad"))

    def notes(self, target: str, kind: str, method: str, seed: str) -> list[Note]:
        """The lines below a picture."""
        at = tuple(self._at.get(dim, {}).get(name) for dim, name in (("target", target), ("method", method)))
        k = self._at.get("seed", {}).get(seed)
        if None in at or k is None:
            return []
        return self._class_notes(target, (*at, k)) if kind == "class" else self._neuron_notes(at)

    def _class_notes(self, target: str, at: tuple[int | None, ...]) -> list[Note]:
        predicted, clip, confidence = str(self._predicted[at]), str(self._clip[at]), float(self._confidence[at])
        notes = []
        if predicted == target:
            notes.append(Note(f"{predicted} {percent(confidence, 0)}", "yes"))
        elif predicted:
            notes.append(Note(f"{predicted} ({target} {percent(confidence, 0)})", "no"))
        if clip:
            notes.append(Note(f"CLIP: {clip}", "yes" if clip == target else "no"))
        return notes

    def _neuron_notes(self, at: tuple[int | None, ...]) -> list[Note]:
        found = (("AUC", float(self._auc[at])), ("MAD", float(self._mad[at])))
        return [
            Note(f"{name} {number(value)}" if name == "MAD" else f"{name} {value:.2f}")
            for name, value in found
            if not math.isnan(value)
        ]


_Places = tuple[list[int], list[int]]


def _places(names: list[str], stored: list[str]) -> _Places:
    """Where the names that are stored lie: among the names, and in the store."""
    there = [name for name in names if name in stored]
    return [names.index(name) for name in there], [stored.index(name) for name in there]


def method_name(method: str) -> str:
    """A method as people call it."""
    return VISUALISED.get(method, words(method))


def visualisations_of(context: Context, classifier: Model) -> Visualisations | None:
    """The classifier's visualisations, or None where nothing was visualised."""
    targets = classifier.part("targets")
    if targets is None or all(classifier.part(kind) is None for kind in METHODS):
        return None
    return context.once(("visualisations", classifier.slug), lambda: Visualisations(context, classifier, targets))
