"""`optogram study make`: visualisations as a blinded, randomised form that people answer, and the key to its answers.

Görgün et al., section 4.3 and supplement D: people rate each method's visualisation of a class against the class's
word, rate visualisations of inner neurons against the images that excite them most, and name what a visualisation
shows. The form is one HTML file that asks nothing of any network; who sees what in which order is settled here, for
every participant, so that the page only shows it. The key, which says what each picture is, lies in a file beside it.
"""

import base64
import hashlib
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import UInt8
from PIL import Image

from optogram.errors import ArtifactError, DataError, ParamError, nearest
from optogram.report.html_pages import write_page
from optogram.report.labels import words

PARTS = ("name", "word", "references")
"""In the order of the form. Naming comes first: the words that are rated later would give its answers away."""
ASKED = (*PARTS, "pairs")
"""All that a form may ask; pairs of counterfactuals (pairs.py) are in a form of their own."""
QUESTIONS = {
    "realistic": "Which looks more realistic?",
    "close": "Which is closer to the original?",
    "class": "Which shows better what the word says?",
    "better": "All in all, which is better?",
}
"""What is asked of each pair."""
VERSION = 1
LONGEST = 100
"""Characters of a free answer."""
AGES = ("under 18", "18-24", "25-34", "35-44", "45-54", "55-64", "65 or over")
GENDERS = ("female", "male", "other")
SECONDS = {"name": 15, "word": 5, "references": 6, "pairs": 14}
"""A picture takes so long: only for the duration that the form announces."""


@dataclass(frozen=True)
class Study:
    """What the form shows (opaque names, pictures as data URIs, an order a participant), and the key to it."""

    form: dict[str, Any]
    key: dict[str, Any]


def make_study(
    targets: xr.Dataset,
    drawings: Sequence[xr.Dataset],
    *,
    participants: int = 30,
    questions: int = 10,
    seed: int = 0,
    methods: Sequence[str] = (),
    studied: str = "",
) -> Study:
    """A study of the class and neuron targets of `targets`, drawn by the methods of `drawings` (all, or `methods`).

    targets: artifact targets/<model>; drawings: vital/<model> and baselines/<model>. At most `questions` targets a part
    are drawn by lot from `seed`, and for each one of the drawing seeds, the same for all methods. What diverged is
    shown as it is; what is not defined or not drawn is not. Classes to be named are others than those rated against
    their word, as far as there are enough. A class to be named is shown to every participant by one method, in a cyclic
    Latin square: methods are balanced over participants at every target, and over targets for every participant.
    `studied` is the model's name, for the key. The same arguments give the same study, byte for byte.

    Raises ParamError for numbers below 1 or an unknown method, DataError if artifacts do not belong together or there
    is nothing to show.
    """
    check_counts(participants=participants, questions=questions)
    found = _Drawings(drawings, methods, targets["target"].values.tolist())
    lot = np.random.default_rng([seed, 0])
    kinds = np.array(targets["kind"].values.tolist(), dtype=str)
    classes = found.drawn([str(t) for t in targets["target"].values[kinds == "class"]], lot)
    neurons = found.drawn(_with_references(targets, kinds), lot)
    ordered, seen = shuffled(lot, list(classes)), shuffled(lot, list(neurons))[:questions]
    if not ordered and not seen:
        raise DataError(
            f"There is nothing to show: no class and no neuron of {studied or 'these targets'} was drawn by any of "
            f"{', '.join(found.methods)}."
        )
    asked = _Asked(ordered[:questions], ordered[-questions:], seen, classes, neurons)
    ids = _numbered(lot, targets, asked)
    square = shuffled(lot, found.methods)
    plans = [_plan(seed, participant, asked, square, ids) for participant in range(participants)]
    images, key = _images(targets, found, asked, ids)
    form = {
        "version": VERSION,
        "participants": plans,
        "words": {f"w{n}": words(target) for n, target in enumerate(asked.rated, 1)},
        "references": {f"r{n}": [ids[t, k] for k in range(_count(targets, t))] for n, t in enumerate(seen, 1)},
        "images": images,
    }
    return sealed(form, key, studied=studied, seed=seed, methods=found.methods, inputs=(targets, *drawings))


def sealed(
    form: dict[str, Any],
    images: dict[str, dict[str, Any]],
    *,
    studied: str,
    seed: int,
    methods: Sequence[str],
    inputs: Sequence[xr.Dataset],
) -> Study:
    """The study of a form that has all but its id. images: what the key says of each picture, by opaque name."""
    form["id"] = hashlib.sha256(_canonical(form).encode()).hexdigest()[:12]
    digests = [str(dataset.attrs.get("digest", "")) for dataset in inputs]
    told = {"form": form["id"], "studied": studied, "seed": seed, "methods": list(methods), "inputs": digests}
    shown = [_shown(plan) for plan in form["participants"]]
    return Study(form, {"optogram_study": VERSION, **told, "images": images, "shown": shown})


def write_study(path: Path, study: Study, *, force: bool = False) -> Path:
    """Write the form to `path` and its key beside it (study.html, study.key.json); return the key's path.

    Both or neither. Raises ArtifactError if the path does not end in .html, if one of the two is there and `force` is
    not given, or if they cannot be written.
    """
    if path.suffix != ".html":
        raise ArtifactError(f"{path} is no name for a form; expected one that ends in .html.")
    key = path.with_suffix(".key.json")
    for one in (path, key):
        refuse_existing(one, force)
    parts = {path: path.with_name(f".{path.stem}.part.html"), key: path.with_name(f".{path.stem}.part.json")}
    asked = {part: len(study.form["participants"][0].get(part, ())) for part in ASKED}
    seconds = sum(SECONDS[part] * len(shown) for part, shown in study.key["shown"][0].items())
    try:
        write_page(
            parts[path],
            "study.html",
            # not as plain text: the page's source would tell the words of what is to be named
            study=base64.b64encode(_canonical(study.form).encode()).decode(),
            parts=[part for part in ASKED if asked[part]],
            asked=asked,
            minutes=1 + math.ceil(seconds / 60),
            participants=len(study.form["participants"]),
            ages=AGES,
            genders=GENDERS,
            longest=LONGEST,
            questions=list(QUESTIONS.items()),
        )
        parts[key].write_text(json.dumps(study.key, sort_keys=True, indent=1, ensure_ascii=False) + "\n")
        for one, part in parts.items():
            part.replace(one)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be written: {error}. Name a file in a folder that is there.") from None
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
    return key


def refuse_existing(path: Path, force: bool) -> None:
    """Raise ArtifactError if `path` exists, unless `force`."""
    if path.exists() and not force:
        raise ArtifactError(f"{path} exists already. Name another, or pass --force to write over it.")


@dataclass(frozen=True)
class _Drawn:
    """The drawings of one target: the seed by lot, and the status of every method that gave something for it."""

    seed: int
    methods: dict[str, str]


@dataclass(frozen=True)
class _Asked:
    """The classes that are rated against their word and those that are named, the neurons, and the drawings of all."""

    rated: list[str]
    named: list[str]
    seen: list[str]
    classes: dict[str, _Drawn]
    neurons: dict[str, _Drawn]


class _Drawings:
    """The methods of several artifacts as one table."""

    def __init__(self, drawings: Sequence[xr.Dataset], methods: Sequence[str], targets: list[str]) -> None:
        self._of: dict[str, xr.Dataset] = {}
        for dataset in drawings:
            there = set(dataset["target"].values.tolist())
            if missing := [target for target in targets if target not in there]:
                raise DataError(
                    f"{_title(dataset)}: no drawing of target {missing[0]!r} ({len(missing)} are missing). It was made "
                    "from other targets; run `dvc repro`."
                )
            for method in map(str, dataset["method"].values):
                if method in self._of:
                    raise DataError(f"{_title(dataset)}: method {method!r} is in two of the artifacts.")
                self._of[method] = dataset
        if unknown := [method for method in methods if method not in self._of]:
            close = nearest(unknown[0], list(self._of)) or f" There are: {', '.join(self._of)}."
            raise ParamError(f"methods: {unknown[0]!r} is none of the drawn methods.{close}")
        self.methods = [method for method in self._of if not methods or method in methods]
        if not self.methods:
            raise DataError("There are no drawings to show. Pass those of vital/<model> and baselines/<model>.")
        common = set.intersection(*(set(self._of[m]["seed"].values.tolist()) for m in self.methods))
        if not common:
            raise DataError(f"{', '.join(self.methods)} have no seed in common. Run `dvc repro`.")
        self._seeds = sorted(common)
        # as a keyword, `method` would be xarray's own
        self._status = {m: self._of[m]["status"].sel({"method": m}).load() for m in self.methods}

    def drawn(self, targets: Sequence[str], lot: np.random.Generator) -> dict[str, _Drawn]:
        """The targets that any method has drawn, each with a seed by lot."""
        found = {}
        for target in targets:
            seed = int(self._seeds[lot.integers(len(self._seeds))])
            status = {m: str(self._status[m].sel(target=target, seed=seed).item()) for m in self.methods}
            # what diverged is shown: leaving it out would flatter the method
            if defined := {m: says for m, says in status.items() if not says.startswith("not ")}:
                found[target] = _Drawn(seed, defined)
        return found

    def pixels(self, target: str, method: str, seed: int) -> UInt8[np.ndarray, "y x rgb"]:
        return self._of[method]["pixels"].sel({"target": target, "method": method, "seed": seed}).values


def check_counts(**numbers: int) -> None:
    """Raise ParamError for a number below 1."""
    for name, value in numbers.items():
        if value < 1:
            raise ParamError(f"{name} = {value}, expected 1 or more.")


def _with_references(targets: xr.Dataset, kinds: np.ndarray) -> list[str]:
    return [str(t) for t in targets["target"].values[kinds == "neuron"] if _count(targets, str(t))]


def _count(targets: xr.Dataset, target: str) -> int:
    """How many of a target's reference images are in the artifact as pixels."""
    there = sum(bool(name) for name in targets["reference"].sel(target=target).values.tolist())
    return min(there, targets.sizes["shown"])


def _numbered(lot: np.random.Generator, targets: xr.Dataset, asked: _Asked) -> dict[tuple[str, Any], str]:
    """The opaque name of each picture: of (target, method), and of the references of a neuron (target, number)."""
    # numbered by lot: nothing in a picture's name says what drew it
    pictures = shuffled(
        lot,
        [
            *((t, m) for t in sorted({*asked.rated, *asked.named}) for m in asked.classes[t].methods),
            *((t, m) for t in asked.seen for m in asked.neurons[t].methods),
            *((t, k) for t in asked.seen for k in range(_count(targets, t))),
        ],
    )
    return {picture: f"i{number}" for number, picture in enumerate(pictures, 1)}


def _plan(
    seed: int, participant: int, asked: _Asked, square: Sequence[str], ids: dict[tuple[str, Any], str]
) -> dict[str, list[Any]]:
    """What one participant is asked, part by part. `square` is the methods in the order of the Latin square's rows."""
    own = np.random.default_rng([seed, 1, participant])
    turns = [[m for m in square if m in asked.classes[target].methods] for target in asked.named]
    assigned = [
        ids[target, turn[(row + participant) % len(turn)]]
        for row, (target, turn) in enumerate(zip(asked.named, turns, strict=True))
    ]
    return {
        "name": shuffled(own, assigned),
        "word": _rating(own, asked.rated, asked.classes, ids, "w"),
        "references": _rating(own, asked.seen, asked.neurons, ids, "r"),
    }


def _images(
    targets: xr.Dataset, found: _Drawings, asked: _Asked, ids: dict[tuple[str, Any], str]
) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
    """The form's pictures as data URIs, and what the key says of those that a method drew, both by opaque name."""
    images: dict[str, str] = {}
    key: dict[str, dict[str, Any]] = {}
    for (target, what), opaque in ids.items():
        if isinstance(what, int):
            pixels = targets["pixels"].sel(target=target).isel(shown=what).values
        else:
            drawn = asked.classes.get(target) or asked.neurons[target]
            pixels = found.pixels(target, what, drawn.seed)
            status = drawn.methods[what]
            key[opaque] = {"target": target, "method": what, "seed": drawn.seed, "status": status}
        images[opaque] = data_uri(pixels)
    return images, key


def _rating(
    own: np.random.Generator, targets: Sequence[str], drawn: dict[str, _Drawn], ids: dict[Any, str], prefix: str
) -> list[list[Any]]:
    """One participant's rating questions: targets and, for each, pictures in an order of their own."""
    items = [[f"{prefix}{n}", shuffled(own, [ids[t, m] for m in drawn[t].methods])] for n, t in enumerate(targets, 1)]
    return shuffled(own, items)


def _shown(plan: dict[str, list[Any]]) -> dict[str, list[str]]:
    return {part: [i for entry in entries for i in _pictures_of(entry)] for part, entries in plan.items()}


def _pictures_of(entry: Any) -> list[str]:
    return [entry] if isinstance(entry, str) else entry[1]


def shuffled(lot: np.random.Generator, items: Sequence[Any]) -> list[Any]:
    """The items in an order by lot."""
    return [items[k] for k in lot.permutation(len(items))]


def data_uri(pixels: UInt8[np.ndarray, "y x rgb"]) -> str:
    """A picture as PNG that holds nothing but its pixels."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _title(dataset: xr.Dataset) -> str:
    return str(dataset.attrs.get("title") or f"the drawings by {', '.join(map(str, dataset['method'].values))}")
