"""Method room, sparse: directions as short signed sums of texts, by orthogonal matching pursuit (Gandelsman 2025, 3.4).

Each step of OMP takes the text that correlates most with what is left of a target, and fits all texts taken so far
again. Done for many targets at once, one step is a single product of the pool with all residuals, and that product is
nearly all the work. So it runs in float32, as a screen, and float64 decides:

    screen    largest |<text, residual>| of every 16 texts, in float32, each wrong by at most a known margin
    decide    the groups that come within the margin of the largest one are correlated again in float64
    fit       chosen texts = Q R, grown by one column a step; the residual loses its part along the new column of Q

R keeps the whole path: the coefficients after m steps solve R[:m, :m] x = (Q' target)[:m]. No product of texts with
texts is ever formed, and memory does not grow with the number of targets.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from optogram.errors import DataError, ParamError, ShapeError
from optogram.methods.neurons.text_dictionary import check_texts, listed, matrix, names_of

# Texts whose largest correlations are compared as one in the screen.
_GROUP = 16
# Rounding of one input of the screen's product, by torch's float32 precision: float32, TF32, bfloat16 with its output.
_ROUNDING = {"highest": 2.0**-24, "high": 2.0**-11, "medium": 2.0**-8}
# Correlations closer than this, relatively, are the same number computed twice: the lowest index wins.
_TIE = 1e-11
# Of a unit target no text explains more than this many roundings of the inputs: nothing is left to explain.
_EXHAUSTED = 64
# A text whose part outside the chosen ones is this short depends on them; scikit-learn's bound, the root of its eps.
_DEPENDENT = float(np.finfo(np.float64).eps) ** 0.5
# Bytes that the running factors of one chunk of targets may take, and the products of one tile of the screen.
_STATE, _TILE = 2**28, 2**22
_MOST_TARGETS = 512
# (target, group) pairs decided at once.
_PAIRS = 1024


class SparseCodes(NamedTuple):
    """What OMP picked for each target, in order, and the coefficients of the least-squares fit on all picks."""

    indices: Any
    coefficients: Any


class _Path(NamedTuple):
    """Picks of one chunk of targets, and the triangular systems whose leading blocks are the fits at every size."""

    indices: Int[Tensor, "target pick"]
    triangle: Float[Tensor, "target pick pick"]
    along: Float[Tensor, "target pick"]


def omp(dictionary: Any, targets: Any, sparsity: int) -> SparseCodes:
    """Each target as a signed sum of at most `sparsity` texts: orthogonal matching pursuit, for all targets at once.

    Gandelsman (2025), section 3.4; Pati, Rezaiifar and Krishnaprasad (1993). The picks are those of
    `sklearn.linear_model.orthogonal_mp` in float64, except where the last paragraph says so.

    dictionary: (text, embed) array, DataArray or tensor: the pool, as from `prepare_texts`. As in scikit-learn, texts
        are compared by <text, residual> as they are, so a longer text would be taken before a shorter one.
    targets: (target, embed) array, DataArray or tensor. Their lengths do not change the picks.
    sparsity: texts to pick for each target.

    Returns `indices` (target, sparsity) int64, ordered by pick, and `coefficients` (target, sparsity) in the precision
    of the inputs: arrays for arrays, tensors on the device of the targets for tensors. A positive coefficient means
    that the target points along the text, a negative one against it. The work is done where the dictionary lies.

    A target stops early, with index -1 and coefficient 0 from there, when no text explains more than rounding of what
    is left, or when the text to take depends on those taken (within 1.5e-8 of its length). scikit-learn stops at the
    second with a warning; at the first it goes on to fit rounding noise; and it also stops where the picked text and
    the *whole* target are nearly orthogonal (squared product under eps, which in float32 happens often), which is no
    reason to stop here. Equal correlations (relative to 1e-11) go to the lowest index.

    Raises ShapeError if the two do not share embed; DataError for fewer texts than `sparsity`, values that are not
    finite, zero-norm texts, or duplicate ones (within 1e-5 of their length); ParamError for a sparsity under 1 or over
    the embed dimensions.

    >>> from optogram.methods import omp
    >>> codes = omp(np.eye(4), np.array([[0.0, 2.0, 0.0, -3.0]]), 2)
    >>> codes.indices.tolist(), codes.coefficients.tolist()
    ([[3, 1]], [[-3.0, 2.0]])
    """
    pool, rows, count = _opened(dictionary, targets, [sparsity], "sparsity")
    indices = torch.full((len(rows), count), -1)
    coefficients = torch.zeros((len(rows), count), dtype=torch.float64)
    for chunk, path, lengths in _paths(pool, rows, count):
        indices[chunk] = path.indices.cpu()
        coefficients[chunk] = (_solve(path, count) * lengths).cpu()
    return SparseCodes(*_given_back(targets, pool, rows, indices, coefficients))


def omp_sizes(dictionary: Any, targets: Any, sizes: Sequence[int]) -> SparseCodes:
    """`omp` for several sparsities from one pursuit: the thesis's m in {4, 8, 16, 32, 64, 128} (figure 3.4).

    Greedy picks nest, so the first m of them are the picks at sparsity m; only the fit differs. Costs as much as `omp`
    at the largest size, and a triangular solve for each of the others.

    Returns `indices` (target, largest size) and `coefficients` (size, target, largest size), in the order of `sizes`,
    zero from a size on: what `omp` gives at each size. Raises as `omp` does.

    >>> from optogram.methods import omp_sizes
    >>> codes = omp_sizes(np.eye(4), np.array([[0.0, 2.0, 0.0, -3.0]]), [1, 2])
    >>> codes.indices.tolist()
    [[3, 1]]
    >>> codes.coefficients.tolist()
    [[[-3.0, 0.0]], [[-3.0, 2.0]]]
    """
    pool, rows, count = _opened(dictionary, targets, sizes, "sizes")
    indices = torch.full((len(rows), count), -1)
    coefficients = torch.zeros((len(sizes), len(rows), count), dtype=torch.float64)
    for chunk, path, lengths in _paths(pool, rows, count):
        indices[chunk] = path.indices.cpu()
        for at, size in enumerate(sizes):
            coefficients[at, chunk, :size] = (_solve(path, size) * lengths).cpu()
    return SparseCodes(*_given_back(targets, pool, rows, indices, coefficients))


def recompose(
    dictionary: Float[Any, "text embed"],
    indices: Int[Any, "target pick"],
    coefficients: Float[Any, "*size target pick"],
) -> Any:
    """The targets that sparse codes stand for, sum_j coefficient_j text_j: (*size, target, embed), eq. of section 3.4.

    Takes what `omp` or `omp_sizes` returned, with the dictionary that it was given. Index -1 adds nothing.

    >>> from optogram.methods import omp, recompose
    >>> codes = omp(np.eye(4), np.array([[0.0, 2.0, 1.0, -3.0]]), 2)
    >>> recompose(np.eye(4), codes.indices, codes.coefficients).tolist()
    [[0.0, 2.0, 0.0, -3.0]]
    """
    pool, picks = matrix(dictionary, "dictionary"), torch.as_tensor(indices)
    weights = torch.as_tensor(coefficients)
    if picks.ndim != 2 or weights.shape[-2:] != picks.shape:
        raise ShapeError(
            f"indices have shape {tuple(picks.shape)}, but coefficients {tuple(weights.shape)}.\n"
            "  Give both as omp or omp_sizes returned them: (target, pick), and sizes in front of coefficients only."
        )
    if picks.numel() and not -1 <= int(picks.min()) <= int(picks.max()) < len(pool):
        raise DataError(
            f"indices run from {int(picks.min())} to {int(picks.max())}, but the dictionary has {len(pool)} texts.\n"
            "  Give the dictionary that the picks were made from."
        )
    result = torch.empty((*weights.shape[:-1], pool.shape[1]), dtype=torch.result_type(pool, weights))
    for start in range(0, len(picks), 256):
        chunk = slice(start, start + 256)
        chosen = pool[picks[chunk].clamp(min=0).to(pool.device)].to(result.dtype)
        used = torch.where(picks[chunk] >= 0, weights[..., chunk, :], 0).to(chosen)
        result[..., chunk, :] = torch.einsum("...nk,nke->...ne", used, chosen).cpu()
    return result.to(weights.device) if isinstance(coefficients, Tensor) else result.numpy()


def _paths(
    pool: Float[Tensor, "text embed"], targets: Float[Tensor, "target embed"], count: int
) -> Iterator[tuple[slice, _Path, Float[Tensor, "target 1"]]]:
    """Chunks of targets, their paths as unit vectors, and the lengths that they had."""
    groups, largest = _screened(pool)
    a_target = 8 * (count * (pool.shape[1] + count) + 4 * pool.shape[1]) + 4 * len(groups) // _GROUP
    size = max(1, min(_MOST_TARGETS, _STATE // a_target))
    eps = max(torch.finfo(part.dtype).eps for part in (pool, targets))
    for start in range(0, len(targets), size):
        chunk = slice(start, start + size)
        rows = targets[chunk].to(pool.device, torch.float64)
        lengths = rows.norm(dim=1, keepdim=True)
        unit = rows / lengths.where(lengths > 0, 1)
        yield chunk, _pursue(pool, groups, largest, unit, count, _EXHAUSTED * eps), lengths


def _pursue(
    pool: Float[Tensor, "text embed"],
    screen: Float[Tensor, "padded embed"],
    largest: float,
    targets: Float[Tensor, "target embed"],
    count: int,
    rounding: float,
) -> _Path:
    """OMP of unit targets: `count` picks, or fewer where they run out.

    Rows of `basis`, `left` and `live` are the targets still going; those of the path are all of them.
    """
    many, embed = targets.shape
    path = _Path(
        torch.full((many, count), -1, device=pool.device),
        torch.eye(count, dtype=torch.float64, device=pool.device).repeat(many, 1, 1),
        targets.new_zeros(many, count),
    )
    live, left = torch.arange(many, device=pool.device), targets.clone()
    basis = targets.new_empty(many, count, embed)
    for step in range(count):
        length = left.norm(dim=1)
        live, left, basis, length = _kept(length > rounding, live, left, basis, length)
        if not len(live):
            break
        pick, found = _best(pool, screen, largest, left / length[:, None])
        text = pool[pick].double()
        norm = text.norm(dim=1)
        column, rest = _orthogonal(basis[:, :step], text)
        apart = rest.norm(dim=1)
        going = (found * length > rounding * norm) & (apart > _DEPENDENT * norm)
        live, left, basis, pick, column, rest, apart = _kept(going, live, left, basis, pick, column, rest, apart)
        axis = rest / apart[:, None]
        along = (axis * left).sum(1)
        left = left - along[:, None] * axis
        basis[:, step] = axis
        path.indices[live, step], path.along[live, step] = pick, along
        path.triangle[live, :step, step], path.triangle[live, step, step] = column, apart
    return path


def _kept(going: Bool[Tensor, " target"], *rows: Tensor) -> tuple[Tensor, ...]:
    return rows if bool(going.all()) else tuple(part[going] for part in rows)


def _best(
    pool: Float[Tensor, "text embed"],
    screen: Float[Tensor, "padded embed"],
    largest: float,
    residuals: Float[Tensor, "target embed"],
) -> tuple[Int[Tensor, " target"], Float[Tensor, " target"]]:
    """The text with the largest |<text, residual>| for each unit residual, decided in float64, and that value.

    The screen's error, by Cauchy and Schwarz, is at most (embed + 4) roundings of a product of lengths: every float32
    sum of embed products, and both inputs rounded. Coarser products (`torch.set_float32_matmul_precision`) round their
    inputs more, sums are float32 still, and the margin follows.
    """
    margin = 1.01 * largest * ((pool.shape[1] + 4) * _ROUNDING["highest"] + _coarse())
    tops = _tops(screen, residuals.float())
    group, target = (tops >= tops.amax(0) - 2 * margin).nonzero().T
    offsets = torch.arange(_GROUP, device=pool.device)
    pick = torch.zeros(len(residuals), dtype=torch.int64, device=pool.device)
    best = torch.zeros(len(residuals), dtype=torch.float64, device=pool.device)
    # Groups come in ascending order for each target, so that a later text must be larger by more than a tie.
    for start in range(0, len(group), _PAIRS):
        owner = target[start : start + _PAIRS]
        # past the last text the last one is repeated: a tie, which its own index wins
        index = (group[start : start + _PAIRS, None] * _GROUP + offsets).clamp(max=len(pool) - 1)
        values = torch.einsum("pge,pe->pg", pool[index].double(), residuals[owner]).abs()
        top = best.scatter_reduce(0, owner, values.amax(1), "amax")
        near = values >= top[owner, None] * (1 - _TIE)
        lowest = torch.where(near, index, len(pool)).amin(1)
        found = torch.full_like(pick, len(pool)).scatter_reduce(0, owner, lowest, "amin")
        better = best < top * (1 - _TIE)
        pick, best = torch.where(better, found, pick), torch.where(better, top, best)
    return pick, best


def _coarse() -> float:
    """The relative error that torch is allowed in a float32 product, beside float32's own."""
    try:
        kind = torch.get_float32_matmul_precision()
    except RuntimeError:  # set apart for each backend: expect the least
        kind = "medium"
    return 0.0 if kind == "highest" else 4 * _ROUNDING[kind]


def _tops(screen: Float[Tensor, "padded embed"], residuals: Float[Tensor, "target embed"]) -> Float[Tensor, "g target"]:
    """The largest |<text, residual>| of each group of texts, tile by tile so that products stay in the cache."""
    tile = _TILE if screen.device.type == "cpu" else 32 * _TILE
    step = max(1, tile // (4 * len(residuals) * _GROUP)) * _GROUP
    tops = residuals.new_empty(len(screen) // _GROUP, len(residuals))
    across = residuals.T.contiguous()
    products = residuals.new_empty(min(step, len(screen)), len(residuals))
    for start in range(0, len(screen), step):
        texts = screen[start : start + step]
        values = torch.mm(texts, across, out=products[: len(texts)]).abs_()
        first = start // _GROUP
        # over a middle axis: targets lie side by side in memory, and many are compared at a time
        grouped = values.view(-1, _GROUP, len(residuals))
        torch.amax(grouped, 1, out=tops[first : first + len(grouped)])
    return tops


def _orthogonal(
    basis: Float[Tensor, "target step embed"], texts: Float[Tensor, "target embed"]
) -> tuple[Float[Tensor, "target step"], Float[Tensor, "target embed"]]:
    """What each text has along its target's basis, and the rest; twice where little is left, as rounding is large."""

    def once(axes: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        part = (axes @ rows[:, :, None])[:, :, 0]
        return part, rows - (part[:, None] @ axes)[:, 0]

    column, rest = once(basis, texts)
    again = rest.norm(dim=1) < 0.5 * texts.norm(dim=1)
    if again.any() and basis.shape[1]:
        more, rest[again] = once(basis[again], rest[again])
        column[again] += more
    return column, rest


def _solve(path: _Path, size: int) -> Float[Tensor, "target size"]:
    """Coefficients of the first `size` picks; those of targets that stopped earlier have identity rows, hence 0."""
    system, right = path.triangle[:, :size, :size], path.along[:, :size, None]
    return torch.linalg.solve_triangular(system, right, upper=True)[:, :, 0]


def _screened(pool: Float[Tensor, "text embed"]) -> tuple[Float[Tensor, "padded embed"], float]:
    """The pool in float32, filled up with zeros to whole groups (itself where it is both), and its largest norm."""
    largest = float(torch.linalg.vector_norm(pool, dim=1, dtype=torch.float64).max())
    short = -len(pool) % _GROUP
    if not short:
        return pool.float().contiguous(), largest
    padded = torch.zeros((len(pool) + short, pool.shape[1]), dtype=torch.float32, device=pool.device)
    padded[: len(pool)] = pool
    return padded, largest


def _opened(dictionary: Any, targets: Any, sizes: Sequence[int], name: str) -> tuple[Tensor, Tensor, int]:
    pool, rows = matrix(dictionary, "dictionary"), matrix(targets, "targets")
    (texts, embed), asked = pool.shape, sizes[0] if name == "sparsity" else list(sizes)
    if embed != rows.shape[1]:
        raise ShapeError(
            f"targets have {rows.shape[1]} embed dimensions, but the dictionary has {embed}.\n"
            "  Embed the texts with the text side of the model that made the targets."
        )
    if not sizes or min(sizes) < 1 or max(sizes) > embed:
        raise ParamError(
            f"{name} = {asked}, but targets have {embed} embed dimensions.\n"
            f"  Set {name} from 1 to {embed}: so many texts fit any target exactly."
        )
    if texts < max(sizes):
        raise DataError(
            f"{name} = {asked}, but the dictionary has only {texts} texts.\n"
            f"  Set {name} to at most {texts}, or give more texts."
        )
    check_texts(pool, names_of(dictionary, texts), "dictionary")
    finite = rows.isfinite().all(1)
    if not finite.all():
        names = [f"target {at}" for at in range(len(rows))]
        raise DataError(
            f"targets hold values that are not finite (NaN or infinity): {listed(names, ~finite)}.\n"
            "  Leave out neurons without effects, or compute the effects again in float32."
        )
    return pool, rows, int(max(sizes))


def _given_back(targets: Any, pool: Tensor, rows: Tensor, indices: Tensor, coefficients: Tensor) -> tuple[Any, Any]:
    coefficients = coefficients.to(torch.promote_types(pool.dtype, rows.dtype))
    if isinstance(targets, Tensor):
        return indices.to(targets.device), coefficients.to(targets.device)
    return indices.numpy(), coefficients.numpy()
