"""Method room, the roles of heads: what TextSpan names them, what ablating them breaks, and images that show it.

Gandelsman (2025), section 2.4. The thesis reads roles off the picked texts by eye. Here the name is a sum over picks,
and it is checked against a measurement that knows nothing of texts: the attribute whose accuracy the head carries.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Float, Int

from optogram.errors import DataError, ParamError, ShapeError
from optogram.methods.chance import paired
from optogram.methods.head_space import Heads, open_heads


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


def measured_roles(
    ablated: xr.Dataset, *, by: Literal["accuracy", "margin"] = "accuracy", errors: float = 0.0
) -> xr.DataArray:
    """The attribute that suffers most when a head is mean-ablated, (layer, head) strings, "" where none suffers.

    ablated: from `optogram.methods.ablation.ablate_heads`.
    by: "accuracy", the attribute whose zero-shot accuracy falls most, equal falls going to the larger fall of the
        margin; or "margin", the one whose mean margin falls most in units of its spread over images. Accuracy hardly
        moves where other heads know the attribute too (it stays near 1), and then noise in the hard attributes wins;
        the margin sees what the head adds all the same.
    errors: a fall of the accuracy counts only above so many of its standard errors; 0 takes any, and, where no
        accuracy moves at all, a fall of the margin.

    Raises ParamError for another `by`.
    """
    accuracy = np.nan_to_num(ablated["accuracy_drop"].values, nan=-np.inf).round(12)
    margin = np.nan_to_num(ablated["margin_drop"].values, nan=-np.inf)
    if by == "accuracy":
        most = accuracy.max(-1, keepdims=True)
        tied = np.where(accuracy == most, margin, -np.inf)
        falls = (most[..., 0] > 0) | ((most[..., 0] == 0) & (tied.max(-1) > 0))
        if errors > 0:
            error = np.nan_to_num(ablated["accuracy_drop_error"].values)
            falls &= most[..., 0] > errors * np.take_along_axis(error, tied.argmax(-1)[..., None], -1)[..., 0]
    elif by == "margin":
        spread = ablated["margin_spread"].values
        tied = np.divide(margin, spread, out=np.full_like(margin, -np.inf), where=spread > 0)
        falls = tied.max(-1) > 0
    else:
        raise ParamError(f"by = {by!r}; expected 'accuracy' or 'margin'.")
    role = np.where(falls, ablated["attribute"].values.astype(str)[tied.argmax(-1)], "")
    return xr.DataArray(role, {name: ablated[name] for name in ("layer", "head")}, ("layer", "head"), "measured")


def agreement(named: xr.DataArray, measured: xr.DataArray, *, seed: int, permutations: int = 10_000) -> Agreement:
    """How often the named and the measured role of a head agree, beside chance.

    named, measured: (layer, head) strings, joined by their labels; heads with "" on either side are left out.

    Raises DataError if no head has a label on both sides.
    """
    named, measured = xr.align(named, measured.transpose(*named.dims), join="inner")
    left, right = named.values.astype(str).ravel(), measured.values.astype(str).ravel()
    both = (left != "") & (right != "")
    if not both.any():
        raise DataError("no head has both a named and a measured role.\n  Use more descriptions or more heads.")
    _, codes = np.unique(np.stack([left[both], right[both]]), return_inverse=True)
    a, b = codes.reshape(2, -1)
    return Agreement(*paired(a, b, seed=seed, permutations=permutations), len(a))


def top_images(contributions: xr.Dataset, spans: xr.Dataset, texts: Any, count: int) -> xr.Dataset:
    """The images in which each head writes most along each of its picked texts: figures 2.4 and A.5.

    texts: (text, embed), the embeddings of the pool that `spans` picked from, as they were given to `textspan_heads`.
    The score of an image is <c_head, text>, the text as embedded, not made orthogonal to earlier picks.

    Returns `top_image` (layer, head, step, k), image labels from the best down, and `score` likewise; where a head has
    no pick (index -1) the label is "" and the score NaN.

    Raises ParamError if `count` is not from 1 to the number of images, ShapeError if `texts` do not fit.
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
            "score": (("layer", "head", "step", "k"), np.where(known[..., None], best.score, np.nan)),
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
