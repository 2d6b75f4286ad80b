"""Method room, TextSpan: which texts span what an attention head writes (Gandelsman 2025, section 2.4).

Algorithm 1 picks, again and again, the text along which a head's contributions vary most, and projects it out of the
contributions and of every text. Only the mean and the second moment of the contributions enter the choice, and all of
it happens inside the head's own few dimensions. So the algebra here never touches the images after one pass:

    variance of <C, r_j> over images   = r_j' S r_j             S = covariance of C
    after projecting the unit pick u out, with S and the texts as they were before the first pick,
    r_j' S r_j                        -= 2 (r_j.u) (r_j.w) - (r_j.u)^2 u' S u       w = S u less the earlier picks
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int

from optogram.decompose.head_space import component_means, open_heads
from optogram.errors import DataError, ParamError, ShapeError

# A text whose part in the head's span is shorter than this share of it is float32 rounding, not a direction.
_SHORTEST = 1e-6
# Spreads closer than this, relatively, are the same number computed twice: the lowest index wins.
_TIE = 1e-11
# Where the largest spread left is this share of the first one, nothing that float64 can tell from zero is left.
_EXHAUSTED = 1e-13
# A head whose values move less than this share of their size writes the same for every image, up to rounding.
_CONSTANT = 1e-6
# Rows looked at to guess the span of expanded contributions; more than any head's dimensions.
_SAMPLE = 192
_BLOCK = 2048


class TextSpan(NamedTuple):
    """The picks of Algorithm 1 in order, the variance that each explains, and C' (the contributions on their span)."""

    indices: Any
    variance: Any
    projection: Any


class _Span(NamedTuple):
    """The space that contributions span: singular directions, largest first, and the covariance along them."""

    axes: Float[np.ndarray, "dim embed"]
    covariance: Float[np.ndarray, "dim dim"]
    total: float

    def top(self, rank: int | None) -> "_Span":
        return _Span(self.axes[:rank], self.covariance[:rank, :rank], self.total)


class _Picks(NamedTuple):
    indices: Int[np.ndarray, " pick"]
    variance: Float[np.ndarray, " pick"]
    directions: Float[np.ndarray, "pick dim"]


def textspan(contributions: Any, texts: Any, size: int, *, rank: int | None = None) -> TextSpan:
    """The `size` texts that explain most of the variance of one head's contributions: Algorithm 1 of Gandelsman (2025).

    contributions: (image, embed) array or tensor, what one head (or any component) writes for each image.
    texts: (text, embed) array or tensor, the pool. Texts are first projected onto the span of the contributions: their
        `rank` top right singular directions, as in the published code, or all that are above rounding.
    size: number of texts to pick.

    Returns `indices` (size,) int64, `variance` (size,) float64, the explained variance (eq. 2.7) that each pick adds,
    and `projection` (image, embed), C' of Algorithm 1: the contributions projected onto the span of the picks (not
    centred). Arrays for arrays, tensors for tensors. Equal spreads go to the lowest index. Work is done on the CPU:
    products in the precision of the contributions, moments and picks in float64.

    Raises ShapeError if the two do not share embed, DataError for fewer than two images, fewer texts than `size`,
    values that are not finite, or texts that span fewer than `size` dimensions of the head, and ParamError for a
    `size` or `rank` beyond the dimensions of the contributions.

    >>> from optogram.methods import textspan
    >>> rng = np.random.default_rng(0)
    >>> wrote = rng.standard_normal((500, 2)) * [1, 3] @ np.eye(16)[[4, 9]]
    >>> found = textspan(wrote, np.eye(16), 2)
    >>> found.indices.tolist()
    [9, 4]
    >>> found.variance.round(1).tolist()
    [8.4, 1.0]
    """
    rows, pool = _matrix(contributions, "contributions"), _matrix(texts, "texts")
    _check_counts(rows.shape[0], rows.shape[1], pool, size, rank)
    span = _span_of_rows(rows)
    _check_dimensions(len(span.axes), "the contributions have", size=size, rank=rank)
    span = span.top(rank)
    picks = _greedy(pool.astype(np.float64) @ span.axes.T, _square_norms(pool), span.covariance, size)
    if len(picks.indices) < size:
        raise DataError(
            f"size = {size}, but the texts span only {len(picks.indices)} dimensions of the contributions.\n"
            "  Ask for fewer texts, or give a pool of more varied ones."
        )
    directions = (picks.directions @ span.axes).astype(rows.dtype)
    projection = (rows @ directions.T) @ directions
    if not isinstance(contributions, torch.Tensor):
        return TextSpan(picks.indices, picks.variance, projection)
    return TextSpan(*(torch.from_numpy(part).to(contributions.device) for part in (*picks[:2], projection)))


def textspan_heads(
    contributions: xr.Dataset,
    texts: Any,
    size: int,
    *,
    rank: int | None = None,
    layers: Sequence[int] | None = None,
) -> xr.Dataset:
    """TextSpan of every head of the chosen layers, straight from the compact store of a model's contributions.

    contributions: `contributions/<model>/<split>` of docs/artifacts; read once, in blocks of images, never expanded.
    texts: (text, embed) array, tensor or DataArray.
    layers: labels along `layer`; all of them by default (the thesis takes the last four).

    Returns `index` (layer, head, step) int64, the text picked at each step; `variance` (layer, head, step), what it
    adds to the explained variance (eq. 2.7); `total_variance` (layer, head); and `directions` (layer, head, step,
    embed) float32: the picks made orthonormal, so that c @ directions' @ directions is Proj_T c. Greedy picks nest: the
    first m steps are the answer for size m. Picks are those of `textspan` on the expanded head. A head whose variance
    the pool exhausts early (one that always writes the same, say) has index -1, variance 0 and direction 0 from there.

    Raises ParamError for an unknown layer or a `size` or `rank` beyond the heads' dimensions, ShapeError and DataError
    as `textspan` does.

    >>> from optogram.methods import textspan_heads
    >>> found = textspan_heads(compact, np.eye(16, dtype=np.float32), 3, layers=[1])
    >>> found["index"].dims, found["index"].shape
    (('layer', 'head', 'step'), (1, 2, 3))
    >>> found.directions.shape
    (1, 2, 3, 16)
    """
    pool = _matrix(texts, "texts")
    _check_counts(contributions.sizes["image"], contributions.sizes["embed"], pool, size, rank)
    _check_dimensions(contributions.sizes["head_dim"], "a head has", size=size, rank=rank)
    heads = open_heads(contributions, layers)
    mean, moment = heads.moments()
    wide, norms = pool.astype(np.float64), _square_norms(pool)

    shape = (*mean.shape[:2], size)
    index, variance = np.full(shape, -1), np.zeros(shape)
    total = np.zeros(shape[:2])
    directions = np.zeros((*shape, pool.shape[1]), np.float32)
    for at in np.ndindex(shape[:2]):
        axes, into = np.linalg.qr(heads.basis[at].T)
        span = _span(axes.T, into @ mean[at], into @ moment[at] @ into.T, heads.a.sizes["image"])
        total[at] = span.total
        span = span.top(rank)
        picks = _greedy(wide @ span.axes.T, norms, span.covariance, size)
        found = len(picks.indices)
        index[at][:found], variance[at][:found] = picks.indices, picks.variance
        directions[at][:found] = picks.directions @ span.axes
    return xr.Dataset(
        {
            "index": (("layer", "head", "step"), index),
            "variance": (("layer", "head", "step"), variance),
            "total_variance": (("layer", "head"), total),
            "directions": (("layer", "head", "step", "embed"), directions),
        },
        heads.coords | {"step": np.arange(size)},
    )


def reconstruct(
    evaluated: xr.Dataset,
    reference: xr.Dataset,
    spans: xr.Dataset,
    sizes: Sequence[int],
    *,
    readout: Float[np.ndarray, "out embed"] | None = None,
    keep_mean: bool = False,
) -> Float[np.ndarray, "size image out"]:
    """Image embeddings with each head replaced by its projection onto its first picks: figures 2.3 and A.1.

    Heads of the layers in `spans` (from `textspan_heads`) become Proj_T c for each size in `sizes`; everything else
    (MLPs, other layers) becomes its mean over the images of `reference`. As in the thesis, c is projected as it is, so
    that what its mean has outside the span is lost; with `keep_mean` a head becomes mean + Proj_T (c - mean), as in
    the published code.

    readout: fold a linear map, for instance a zero-shot classifier, into the result, which is then (size, image, out):
        logits without the embeddings. Float32 either way, (size, image, embed) without one.

    Raises ParamError for a size beyond the steps of `spans`.

    >>> from optogram.methods import reconstruct, textspan_heads
    >>> spans = textspan_heads(compact, np.eye(16, dtype=np.float32), 3)
    >>> reconstruct(compact, compact, spans, [1, 3]).shape
    (2, 12, 16)
    """
    steps = spans.sizes["step"]
    if not sizes or max(sizes) > steps or min(sizes) < 0:
        raise ParamError(f"sizes = {list(sizes)}, but textspan took {steps} steps.\n  Give sizes from 0 to {steps}.")
    heads = open_heads(evaluated, spans["layer"].values.tolist())
    means = component_means(reference)
    replaced = means.heads[[means.layers.index(layer) for layer in heads.coords["layer"].tolist()]]
    out = np.eye(evaluated.sizes["embed"]) if readout is None else np.asarray(readout, np.float64)

    # Sizes nest, so each band of steps is folded and multiplied once and added to the sizes before it.
    order = sorted(set(sizes))
    constant = (means.mlp.sum(0) + means.heads.sum((0, 1)) - (0 if keep_mean else replaced.sum((0, 1)))) @ out.T
    folded = []
    for low, high in zip([0, *order], order, strict=False):
        band = spans["directions"].values[:, :, low:high].astype(np.float64)
        code, read = heads.basis @ band.swapaxes(2, 3), band @ out.T
        if keep_mean:
            constant = constant - np.einsum("lhe,lhse,lhso->o", replaced, band, read, optimize=True)
        folded.append((code.astype(np.float32), read.reshape(-1, len(out)).astype(np.float32), constant))
    result = np.empty((len(sizes), evaluated.sizes["image"], len(out)), np.float32)
    for rows, a in heads.blocks():
        running = np.zeros((len(a), len(out)), np.float32)
        for size, (code, read, offset) in zip(order, folded, strict=True):
            codes = np.moveaxis(np.moveaxis(a, 0, 2) @ code, 2, 0)
            running = running + codes.reshape(len(a), -1) @ read
            result[[at for at, asked in enumerate(sizes) if asked == size], rows] = running + offset
    return result


def _greedy(
    texts: Float[np.ndarray, "text dim"],
    norms: Float[np.ndarray, " text"],
    covariance: Float[np.ndarray, "dim dim"],
    size: int,
) -> _Picks:
    """Algorithm 1 in the coordinates of a span: fewer than `size` picks where the texts or the variance run out.

    `norms`: squared norms of the texts before they were projected onto the span.
    """
    left = np.einsum("td,td->t", texts, texts)
    spread = np.einsum("td,td->t", texts @ covariance, texts)
    floor = _SHORTEST**2 * norms
    first = np.where(left > floor, spread, 0.0).max()
    directions = np.zeros((size, len(covariance)))
    indices, variance = [], []
    for step in range(min(size, len(covariance))):
        selectable = np.where(left > floor, spread, 0.0)
        largest = selectable.max()
        if largest <= _EXHAUSTED * first:
            break
        pick = int(np.argmax(selectable >= largest * (1 - _TIE)))
        earlier = directions[:step]
        unit = texts[pick]
        for _ in range(2):  # once leaves rounding of the size of what was taken away
            unit = unit - earlier.T @ (earlier @ unit)
            unit = unit / np.linalg.norm(unit)
        onto = covariance @ unit
        explained = unit @ onto
        onto = onto - earlier.T @ (earlier @ onto)
        along, across = (texts @ np.stack([unit, onto], axis=1)).T
        spread = spread - 2 * along * across + along**2 * explained
        left = left - along**2
        directions[step] = unit
        indices.append(pick)
        variance.append(explained)
    return _Picks(np.array(indices, np.int64), np.array(variance), directions[: len(indices)])


def _span_of_rows(rows: Float[np.ndarray, "image embed"]) -> _Span:
    """The span of expanded contributions.

    A head writes in few dimensions, so its span is guessed from a sample of rows; where every row lies in the guess up
    to rounding, moments are taken inside it, about ten times cheaper than over embed.
    """
    count, embed = rows.shape
    sample = rows[np.linspace(0, count - 1, min(count, _SAMPLE), dtype=int)].astype(np.float64)
    if not np.isfinite(sample).all():
        raise _not_finite("contributions")
    _, values, axes = np.linalg.svd(sample, full_matrices=False)
    axes = axes[values > np.finfo(np.float32).eps * values[0]]
    if len(axes) < min(_SAMPLE, embed):
        total, moment, outside = _moments_along(axes, rows)
        if outside <= _tolerance(count, embed) * np.linalg.eigvalsh(moment)[-1]:
            return _span(axes, total, moment, count)
    wide = rows.astype(np.float64, copy=False)
    return _span(np.eye(embed), wide.mean(0), wide.T @ wide / count, count)


def _moments_along(
    axes: Float[np.ndarray, "dim embed"], rows: Float[np.ndarray, "image embed"]
) -> tuple[Float[np.ndarray, " dim"], Float[np.ndarray, "dim dim"], float]:
    """Mean and second moment of the rows along orthonormal axes, and the mean square of what lies outside them."""
    near = axes.astype(rows.dtype)
    total, moment, outside = np.zeros(len(axes)), np.zeros((len(axes), len(axes))), 0.0
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        codes = block @ near.T
        rest = block - codes @ near
        outside += float(np.einsum("ie,ie->", rest, rest))
        wide = codes.astype(np.float64)
        total += wide.sum(0)
        moment += wide.T @ wide
    return total / len(rows), moment / len(rows), outside / len(rows)


def _span(
    axes: Float[np.ndarray, "k embed"],
    mean: Float[np.ndarray, " k"],
    moment: Float[np.ndarray, "k k"],
    count: int,
) -> _Span:
    """The numerical span of contributions with this mean and second moment along orthonormal axes."""
    if not np.isfinite(moment).all():
        raise _not_finite("contributions")
    values, vectors = np.linalg.eigh(moment)
    kept = vectors[:, values > _tolerance(count, axes.shape[1]) * values[-1]][:, ::-1]
    covariance = moment - np.outer(mean, mean)
    total = float(np.trace(covariance))
    if total <= _CONSTANT**2 * np.trace(moment):
        covariance, total = np.zeros_like(covariance), 0.0
    return _Span(kept.T @ axes, kept.T @ covariance @ kept, total)


def _tolerance(count: int, embed: int) -> float:
    """Share of the largest squared singular value under which the others are float32 rounding."""
    return float(np.finfo(np.float32).eps) ** 2 * max(count, embed)


def _square_norms(pool: Float[np.ndarray, "text embed"]) -> Float[np.ndarray, " text"]:
    return np.einsum("ij,ij->i", pool, pool, dtype=np.float64)


def _matrix(values: Any, name: str) -> Float[np.ndarray, "row embed"]:
    """A two-dimensional float32 or float64 array of an array, DataArray or tensor."""
    array = values.detach().cpu().float().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
    if array.ndim != 2:
        raise ShapeError(f"{name} has shape {array.shape}; expected two dimensions, ({name[:-1]}, embed).")
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)


def _check_counts(images: int, embed: int, pool: Float[np.ndarray, "text embed"], size: int, rank: int | None) -> None:
    if embed != pool.shape[1]:
        raise ShapeError(
            f"contributions have {embed} embed dimensions, but texts have {pool.shape[1]}.\n"
            "  Embed the texts with the text side of the model that made the contributions."
        )
    if size < 1 or (rank is not None and rank < size):
        raise ParamError(
            f"size = {size} with rank = {rank}; expected size from 1 to rank.\n"
            "  Texts projected onto rank directions span no more than rank: raise rank, or lower size."
        )
    if images < 2:
        raise DataError(f"contributions hold {images} images; variance needs two or more.\n  Give more images.")
    if len(pool) < size:
        raise DataError(f"size = {size}, but the pool has only {len(pool)} texts.\n  Lower size, or give more texts.")
    if not np.isfinite(pool).all():
        raise _not_finite("texts")


def _check_dimensions(dimensions: int, whose: str, **wanted: int | None) -> None:
    for name, value in wanted.items():
        if value is not None and value > dimensions:
            or_all = ", or leave it out to use all of them." if name == "rank" else "."
            raise ParamError(
                f"{name} = {value}, but {whose} only {dimensions} dimensions.\n"
                f"  Set {name} to at most {dimensions}{or_all}"
            )


def _not_finite(name: str) -> DataError:
    return DataError(
        f"{name} hold values that are not finite (NaN or infinity).\n"
        "  Compute them again in float32, from a checkpoint without such values."
    )
