"""`optogram study make --counterfactuals`: pairs of counterfactuals of one image as a blinded form (DiG-IN, section E).

People see the original, four images of the class that it was changed to, and the pictures of two methods as A and B in
an order by lot, and are asked four questions. Only images at which both methods succeeded are asked about.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from optogram.errors import DataError, ParamError, nearest
from optogram.report.labels import words
from optogram.study.form import VERSION, Study, check_counts, data_uri, sealed, shuffled

METHODS = ("counterfactual", "pixels alone")
LEAST = 0.8
"""The target's probability that both pictures of a pair reach (section E)."""
EXAMPLES = 4
FEWEST = 2
"""Pairs: one alone says nothing of how others vary."""


def make_pairs(
    counterfactuals: xr.Dataset,
    images: xr.Dataset,
    *,
    participants: int = 30,
    questions: int = 10,
    seed: int = 0,
    methods: Sequence[str] = METHODS,
    studied: str = "",
) -> Study:
    """A study of two conditions of `counterfactuals`, side by side.

    counterfactuals: artifact counterfactuals/<group>; images: the artifact that its images are from, which gives the
    examples of each class: by lot, and never an image that was changed. Of the images of which both `methods` reach a
    probability of `LEAST` for the target, at most `questions` are drawn by lot from `seed`. All participants see the
    same pairs, each in an order of their own and with A and B by a lot of their own. The same arguments give the same
    study, byte for byte.

    Raises ParamError for numbers below 1, other than two methods, or one that is no condition of the artifact;
    DataError if the group was skipped, if fewer than two pairs are left, or if a class has too few examples.
    """
    check_counts(participants=participants, questions=questions)
    name = _name(studied)
    _check_there(counterfactuals, name)
    _check_methods(methods, [str(c) for c in counterfactuals["condition"].values], name)
    good = (counterfactuals["target_after"].sel(condition=list(methods)) >= LEAST).all("condition").values
    there = counterfactuals["image"].values[good].tolist()
    if len(there) < FEWEST:
        raise DataError(
            f"{name}: of {good.size} images {len(there)} reach a probability of {LEAST} for the target by both "
            f"{methods[0]!r} and {methods[1]!r}, expected {FEWEST} or more. Compare others with --methods, or make "
            "more with `images` of the group in params.yaml."
        )
    lot = np.random.default_rng([seed, 0])
    asked = counterfactuals.sel(image=shuffled(lot, there)[:questions]).load()
    classes = [str(c) for c in asked["class_name"].values[asked["target"].values]]
    pools = _pools(images, str(counterfactuals.attrs["attribute"]), classes, counterfactuals["image"].values.tolist())
    examples = [shuffled(lot, pools[shown])[:EXAMPLES] for shown in classes]
    return _study(
        asked,
        images,
        classes,
        examples,
        lot=lot,
        participants=participants,
        seed=seed,
        methods=methods,
        studied=studied,
    )


def changed_images(counterfactuals: xr.Dataset, studied: str = "") -> str:
    """The name of the artifact that the images of these counterfactuals are from, such as images/eval.

    Raises DataError if the group was skipped.
    """
    _check_there(counterfactuals, _name(studied))
    return f"images/{str(counterfactuals['image'].values[0]).rpartition('/')[0]}"


def _study(
    asked: xr.Dataset,
    images: xr.Dataset,
    classes: Sequence[str],
    examples: Sequence[Sequence[str]],
    *,
    lot: np.random.Generator,
    participants: int,
    seed: int,
    methods: Sequence[str],
    studied: str,
) -> Study:
    pairs = range(asked.sizes["image"])
    # numbered by lot: nothing in a picture's name says what it is
    kinds = [("original", 0), *(("example", k) for k in range(EXAMPLES)), *(("changed", m) for m in methods)]
    pictures = [(n, *kind) for n in pairs for kind in kinds]
    ids = {picture: f"i{number}" for number, picture in enumerate(shuffled(lot, pictures), 1)}
    sources = [str(c) for c in asked["class_name"].values[asked["source"].values]]
    shown, key = {}, {}
    for (n, kind, what), opaque in ids.items():
        one = asked.isel(image=n)
        if kind == "changed":
            pixels = one["pixels"].sel(condition=what).values
            target = f"{one['image'].item()}, {sources[n]} to {classes[n]}"
            key[opaque] = {"target": target, "method": what, "status": str(one["status"].item())}
        elif kind == "example":
            pixels = images["pixels"].sel(image=examples[n][what]).values
        else:
            pixels = one["original"].values
        shown[opaque] = data_uri(pixels)
    plans = []
    for participant in range(participants):
        own = np.random.default_rng([seed, 1, participant])
        both = [[f"p{n + 1}", shuffled(own, [ids[n, "changed", m] for m in methods])] for n in pairs]
        plans.append({"pairs": shuffled(own, both)})
    form: dict[str, Any] = {
        "version": VERSION,
        "participants": plans,
        "words": {f"p{n + 1}": words(shown_class) for n, shown_class in enumerate(classes)},
        "originals": {f"p{n + 1}": ids[n, "original", 0] for n in pairs},
        "references": {f"p{n + 1}": [ids[n, "example", k] for k in range(EXAMPLES)] for n in pairs},
        "images": shown,
    }
    return sealed(form, key, studied=studied, seed=seed, methods=methods, inputs=(asked, images))


def _name(studied: str) -> str:
    return f"counterfactuals/{studied}" if studied else "these counterfactuals"


def _check_there(counterfactuals: xr.Dataset, name: str) -> None:
    if why := counterfactuals.attrs.get("skipped"):
        raise DataError(f"{name}: there is nothing to ask about, as its stage was skipped: {why}")


def _check_methods(methods: Sequence[str], known: list[str], name: str) -> None:
    if unknown := [method for method in methods if method not in known]:
        close = nearest(unknown[0], known) or f" There are: {', '.join(known)}."
        raise ParamError(f"methods: {unknown[0]!r} is no condition of {name}.{close}")
    if len(methods) != 2 or methods[0] == methods[1]:
        raise ParamError(f"methods: {', '.join(methods)}; expected two different ones, such as {','.join(METHODS)}.")


def _pools(images: xr.Dataset, attribute: str, classes: Sequence[str], changed: list[str]) -> dict[str, list[str]]:
    """Of each class the images to draw examples from."""
    labels = images["label"].sel(attribute=attribute).values
    values = [str(value) for value in images["value_name"].sel(attribute=attribute).values]
    free = ~np.isin(images["image"].values.astype(str), changed)
    pools = {}
    for shown in sorted(set(classes)):
        number = values.index(shown) if shown in values else None
        pools[shown] = images["image"].values[free & (labels == number)].tolist() if number is not None else []
        if len(pools[shown]) < EXAMPLES:
            raise DataError(
                f"{images.attrs.get('title', 'the images')}: {len(pools[shown])} images of the {attribute} {shown!r} "
                f"that were not changed, expected {EXAMPLES} to show as examples. Pass the images that the "
                "counterfactuals were made from."
            )
    return pools
