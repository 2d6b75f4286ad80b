"""Method room, the roles of heads: what TextSpan names them, what ablating them breaks, and images that show it.

Gandelsman (2025), section 2.4. The thesis reads roles off the picked texts by eye. Here the name is a sum over picks,
and it is checked against a measurement that knows nothing of texts: the attribute whose accuracy the head carries,
where it carries any that can be told apart from noise.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Float, Int

from optogram.decompose.head_space import Heads, open_heads
from optogram.errors import DataError, ParamError, ShapeError
from optogram.metrics import intervals
from optogram.metrics.permutation import paired

FEWEST = 5
"""Heads with both roles from which on agreement is told: four can be paired in 24 ways, so that p is over 0.04."""


class Agreement(NamedTuple):
    """How often two labellings of the same heads agree, and how often they would by chance.

    `agreement`: share of the compared heads with equal labels. `chance`: the share expected were the two independent
    with the label counts that they have. `p_value`: share of random pairings, this one among them, that agree as often.
    `heads`: how many heads were compared, those with a label on both sides.
    """

    agreement: float
    chance: float
    p_value: float
    heads: int


def named_roles(spans: xr.Dataset, text_attribute: Any) -> xr.Dataset:
    """The attribute that each head's picked texts are about, weighed by the variance that they explain.

    spans: from `textspan_heads`. text_attribute: (text,) strings in the order of the pool: "colour"; "" where a text
        names none; "colour+shape" where it names two, which then share its variance equally.

    Returns `score` (layer, head, attribute), the share of the head's whole variance along picks that name the
    attribute, and `named` (layer, head), the attribute with the largest score, the first in the alphabet among equals
    and "" where no pick names any. Scores of a head add up to at most 1.

    Raises ShapeError if a pick lies beyond the pool, DataError if no text names an attribute.

    >>> from optogram.methods import named_roles, textspan_heads
    >>> spans = textspan_heads(compact, np.eye(16, dtype=np.float32), 3)
    >>> found = named_roles(spans, ["colour"] * 16)
    >>> found.named.values.tolist()
    [['colour', 'colour'], ['colour', 'colour']]
    """
    names = np.asarray(text_attribute).astype(str)
    index, variance = spans["index"].values, spans["variance"].values
    if index.max(initial=-1) >= len(names):
        raise ShapeError(
            f"picks go up to text {index.max()}, but only {len(names)} texts have an attribute.\n"
            "  Pass the attributes of the pool that the picks were made from."
        )
    kinds = sorted(set(names.tolist()) - {""})
    attributes = sorted({attribute for kind in kinds for attribute in kind.split("+")})
    if not attributes:
        raise DataError("no text of the pool names an attribute.\n  Give the pool an `attribute` for its texts.")
    share = {kind: [(name in kind.split("+")) / len(kind.split("+")) for name in attributes] for kind in kinds}
    share[""] = [0.0] * len(attributes)
    of_pick = np.where(index >= 0, names[index], "")
    about = np.array([share[kind] for kind in of_pick.ravel()]).reshape(*of_pick.shape, len(attributes))
    explained = (about * variance[..., None]).sum(2)
    total = spans["total_variance"].values[..., None]
    score = np.divide(explained, total, out=np.zeros_like(explained), where=total > 0)
    named = np.where(score.max(-1) > 0, np.array(attributes)[score.argmax(-1)], "")
    return xr.Dataset(
        {"score": (("layer", "head", "attribute"), score), "named": (("layer", "head"), named)},
        {"layer": spans["layer"], "head": spans["head"], "attribute": attributes},
    )


def fall_tests(ablated: xr.Dataset) -> xr.Dataset:
    """Whether what each head's ablation costs each attribute can be told apart from nothing, on the same images.

    ablated: from `optogram.methods.heads.mean_ablation.ablate_heads`.

    Returns, all (layer, head, attribute): `accuracy_drop_low` and `accuracy_drop_high`, the 95 % interval of the fall
    of the accuracy; `accuracy_p`, of McNemar's exact test; and `margin_p`, of Student's test that the margin's mean
    change is none. The p-values are two-sided and adjusted for all heads and attributes (`intervals.adjusted`).
    """
    dims = ("layer", "head", "attribute")
    lost, gained, fall, error = (
        ablated[name].transpose(*dims).values for name in ("lost", "gained", "margin_drop", "margin_drop_error")
    )
    count = ablated["count"].values
    interval = intervals.paired_change(gained, lost, count)
    by_margin = intervals.mean_p(np.nan_to_num(fall), np.nan_to_num(error), count)
    return xr.Dataset(
        {
            "accuracy_drop_low": (dims, interval.low),
            "accuracy_drop_high": (dims, interval.high),
            "accuracy_p": (dims, intervals.adjusted(intervals.mcnemar(lost, gained))),
            "margin_p": (dims, intervals.adjusted(by_margin)),
        },
        {name: ablated[name] for name in dims},
    )


def measured_roles(ablated: xr.Dataset, *, by: Literal["accuracy", "margin"] = "accuracy") -> xr.DataArray:
    """The attribute that suffers most when a head is mean-ablated, (layer, head) strings, "" where none is seen to.

    ablated: from `optogram.methods.heads.mean_ablation.ablate_heads`.
    by: "accuracy", the attribute whose zero-shot accuracy falls most, equal falls going to the larger fall of the
        margin; or "margin", the one whose mean margin falls most in units of its spread over images. Accuracy hardly
        moves where other heads know the attribute too (it stays near 1); the margin sees what the head adds all the
        same.

    Only falls count that can be told apart from nothing, with an adjusted p-value below 0.05 (`fall_tests`): of all
    heads and attributes some always fall by chance.

    Raises ParamError for another `by`.

    >>> from optogram.methods import ablate_heads, measured_roles
    >>> ablated = ablate_heads(compact, None, zeroshot, scenes.label, scenes.value_name)
    >>> measured_roles(ablated).dims
    ('layer', 'head')
    >>> measured_roles(ablated, by="margin").shape
    (2, 2)
    """
    if by not in ("accuracy", "margin"):
        raise ParamError(f"by = {by!r}; expected 'accuracy' or 'margin'.")
    dims = ("layer", "head", "attribute")
    seen = fall_tests(ablated)[f"{by}_p"].values < 1 - intervals.LEVEL
    accuracy = np.nan_to_num(ablated["accuracy_drop"].transpose(*dims).values, nan=-np.inf).round(12)
    margin = np.nan_to_num(ablated["margin_drop"].transpose(*dims).values, nan=-np.inf)
    if by == "accuracy":
        fall = np.where(seen & (accuracy > 0), accuracy, -np.inf)
        fall = np.where(fall == fall.max(-1, keepdims=True), np.where(np.isfinite(fall), margin, -np.inf), -np.inf)
    else:
        spread = ablated["margin_spread"].values
        fall = np.divide(margin, spread, out=np.full_like(margin, -np.inf), where=spread > 0)
        fall = np.where(seen & (margin > 0), fall, -np.inf)
    role = np.where(np.isfinite(fall).any(-1), ablated["attribute"].values.astype(str)[fall.argmax(-1)], "")
    return xr.DataArray(role, {name: ablated[name] for name in ("layer", "head")}, ("layer", "head"), "measured")


def agreement(named: xr.DataArray, measured: xr.DataArray, *, seed: int, permutations: int = 10_000) -> Agreement:
    """How often the named and the measured role of a head agree, beside chance.

    named, measured: (layer, head) strings, joined by their labels; heads with "" on either side are left out.

    Raises DataError if fewer than FEWEST heads have a label on both sides: of so few nothing can be said.

    >>> from optogram.methods import agreement
    >>> named = xr.DataArray([["colour", "shape"], ["colour", "size"], ["shape", "size"]], dims=("layer", "head"))
    >>> named = named.assign_coords(layer=[0, 1, 2], head=[0, 1])
    >>> found = agreement(named, named, seed=0, permutations=1000)
    >>> found.agreement, round(found.chance, 3), found.heads
    (1.0, 0.333, 6)
    """
    named, measured = xr.align(named, measured.transpose(*named.dims), join="inner")
    left, right = named.values.astype(str).ravel(), measured.values.astype(str).ravel()
    both = (left != "") & (right != "")
    if both.sum() < FEWEST:
        raise DataError(
            f"{both.sum()} of {both.size} heads have both a named and a measured role; it takes {FEWEST} to say "
            "whether these agree. A role is measured where ablating the head costs an attribute more than chance would."
        )
    _, codes = np.unique(np.stack([left[both], right[both]]), return_inverse=True)
    a, b = codes.reshape(2, -1)
    return Agreement(*paired(a, b, seed=seed, permutations=permutations), len(a))


def truth(
    named: xr.DataArray,
    measured: dict[str, xr.DataArray],
    attributes: Sequence[str],
    *,
    seed: int,
    permutations: int = 10_000,
) -> dict[str, int | float | str]:
    """What is known of the named roles beside the measured ones, as plain values.

    measured: "accuracy" and "margin" to the roles by them. Keys: `named` and `measured`, how many heads have a role;
    `agreement` and the rest of `Agreement`, or `truth_skipped`, why not. Those by margin end in `_by_margin`. seed,
    permutations: as `agreement`.
    """
    known: dict[str, int | float | str] = {"named": int((named != "").sum())}
    suffixes = {"accuracy": "", "margin": "_by_margin"}
    known |= {f"measured{suffix}": int((measured[by] != "").sum()) for by, suffix in suffixes.items()}
    if len(attributes) == 1:
        why = f"the images are labelled by {attributes[0]} only, so there are no roles to tell apart."
        return known | {f"truth_skipped{suffix}": why for suffix in suffixes.values()}
    for by, suffix in suffixes.items():
        try:
            found = agreement(named, measured[by], seed=seed, permutations=permutations)
            known |= {f"{name}{suffix}": value for name, value in found._asdict().items()}
        except DataError as error:
            known[f"truth_skipped{suffix}"] = str(error)
    return known


def top_images(contributions: xr.Dataset, spans: xr.Dataset, texts: Any, count: int) -> xr.Dataset:
    """The images in which each head writes most along each of its picked texts: figures 2.4 and A.5.

    texts: (text, embed), the embeddings of the pool that `spans` picked from, as they were given to `textspan_heads`.
    The score of an image is <c_head, text>, the text as embedded, not made orthogonal to earlier picks.

    Returns `top_image` (layer, head, step, k), image labels from the best down, and `score` likewise; where a head has
    no pick (index -1) the label is "" and the score NaN.

    Raises ParamError if `count` is not from 1 to the number of images, ShapeError if `texts` do not fit.

    >>> from optogram.methods import textspan_heads, top_images
    >>> texts = np.eye(16, dtype=np.float32)
    >>> spans = textspan_heads(compact, texts, 3)
    >>> top_images(compact.assign_coords(image=scenes.image), spans, texts, 2).top_image.shape
    (2, 2, 3, 2)
    """
    heads = open_heads(contributions, spans["layer"].values.tolist())
    images = _image_labels(contributions)
    _check_count(count, len(images))
    vectors, index = np.asarray(texts), spans["index"].values
    if vectors.ndim != 2 or vectors.shape[1] != heads.basis.shape[-1] or index.max(initial=-1) >= len(vectors):
        raise ShapeError(
            f"texts have shape {vectors.shape}; expected (text, {heads.basis.shape[-1]}) with more than "
            f"{index.max(initial=-1)} texts.\n  Pass the embeddings of the pool that the picks were made from."
        )
    code = (heads.basis @ vectors[index].astype(np.float64).swapaxes(2, 3)).astype(np.float32)
    best = _best(heads, lambda at, a: a @ code[at], count)
    known = index >= 0
    return xr.Dataset(
        {
            "top_image": (("layer", "head", "step", "k"), np.where(known[..., None], images[best.image], "")),
            "score": (
                ("layer", "head", "step", "k"),
                np.where(known[..., None], best.score, np.nan),
                {"missing": "the head has fewer picks: the pool was exhausted"},
            ),
        },
        heads.coords,
    )


def neighbours(
    contributions: xr.Dataset,
    queries: Sequence[str] | Sequence[int],
    count: int,
    *,
    layers: Sequence[int] | None = None,
    centred: bool = False,
) -> xr.Dataset:
    """The images most like each query as one head sees them, for every head at once: figures 2.5 and A.6.

    Similarity is the inner product <c_head(I), c_head(I')> over the images of `contributions`, as in the thesis;
    with `centred`, of both less the head's mean over those images, so that what the head writes for every image does
    not favour images that have more of it. queries: labels along `image`, or positions. A query is not its own
    neighbour.

    Returns `neighbour` (layer, head, query, k), image labels from the nearest on, and `score` likewise.

    Raises ParamError for an unknown query or for a `count` that is not from 1 to the number of other images.

    >>> from optogram.methods import neighbours
    >>> found = neighbours(compact.assign_coords(image=scenes.image), ["eval/000000"], 2)
    >>> found.neighbour.dims, found.neighbour.shape
    (('layer', 'head', 'query', 'k'), (2, 2, 1, 2))
    """
    heads = open_heads(contributions, layers)
    images = _image_labels(contributions)
    _check_count(count, len(images) - 1)
    known = {label: at for at, label in enumerate(images.tolist())}
    asked = [known.get(query, -1) if isinstance(query, str) else query for query in queries]
    missing = [query for query, at in zip(queries, asked, strict=True) if not 0 <= at < len(images)]
    if missing or not asked:
        raise ParamError(
            f"queries: {missing[:3] or 'none given'}; expected labels like {str(images[0])!r} or positions from 0 to "
            f"{len(images) - 1}.\n  Name images of this dataset."
        )
    # <c, c'> = a G a' with the Gram matrix of the basis: the products stay in the head's own dimensions.
    gram = heads.basis @ heads.basis.swapaxes(2, 3)
    query = np.moveaxis(heads.a.isel(image=asked).values, 0, 2).astype(np.float64)
    mean = heads.mean()[:, :, None] if centred else 0.0
    code = ((query - mean) @ gram).swapaxes(2, 3)
    shift = (mean @ code)[:, :, 0] if centred else np.zeros((*code.shape[:2], len(asked)))
    code, shift = code.astype(np.float32), shift.astype(np.float32)
    best = _best(heads, lambda at, a: a @ code[at] - shift[at], count, without=np.array(asked))
    dims = ("layer", "head", "query", "k")
    return xr.Dataset(
        {"neighbour": (dims, images[best.image]), "score": (dims, best.score)},
        heads.coords | {"query": images[asked]},
    )


class _Best(NamedTuple):
    image: Int[np.ndarray, "layer head column k"]
    score: Float[np.ndarray, "layer head column k"]


def _best(heads: Heads, score: Any, count: int, without: Int[np.ndarray, " column"] | None = None) -> _Best:
    """Positions and scores of the `count` images with the largest score in each column of each head.

    score: (head's position, its coordinates (image, k)) -> (image, column). without: an image a column to leave out.
    Equal scores come in the order of the images.
    """
    shape = heads.a.shape[1:3]
    kept: dict[tuple[int, ...], tuple[np.ndarray, np.ndarray]] = {}
    for rows, a in heads.blocks():
        for at in np.ndindex(shape):
            scores = np.array(score(at, a[:, *at]))
            image = np.broadcast_to(np.arange(rows.start, rows.stop)[:, None], scores.shape)
            if without is not None:
                scores[image == without] = -np.inf
            if len(scores) > count:  # a full sort of every column would cost more than the products
                rank = np.sort(np.argpartition(-scores, count - 1, axis=0)[:count], axis=0)
                scores, image = np.take_along_axis(scores, rank, 0), np.take_along_axis(image, rank, 0)
            if at in kept:
                scores, image = np.concatenate([kept[at][0], scores]), np.concatenate([kept[at][1], image])
            order = np.argsort(-scores, axis=0, kind="stable")[:count]
            kept[at] = np.take_along_axis(scores, order, 0), np.take_along_axis(image, order, 0)
    scores, image = (np.stack([kept[at][part].T for at in np.ndindex(shape)]) for part in (0, 1))
    return _Best(image.reshape(*shape, *image.shape[1:]), scores.reshape(*shape, *scores.shape[1:]))


def _image_labels(contributions: xr.Dataset) -> np.ndarray:
    return contributions["image"].values.astype(str)


def _check_count(count: int, available: int) -> None:
    if not 1 <= count <= available:
        raise ParamError(f"count = {count}; expected 1 to {available}, the images to choose from.")
