"""Method room, pools of texts for sparse decomposition: centred, of unit norm, and refused when they cannot be used."""

from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor

from optogram.errors import DataError, ShapeError

# Two texts this close, relatively, are one text that went through the encoder twice.
_SAME = 1e-5
# A text this many roundings from the mean of all is the mean.
_MEAN = 64


def prepare_texts(texts: Any) -> Any:
    """A pool for `omp`: each text less the mean text, and then of unit norm.

    Centring takes out what all texts share, so that the sign of a coefficient says whether a neuron writes towards a
    text or away from it, rather than towards text at all. Norms are taken per text (over embed), which is what makes
    OMP's comparison of texts fair; the published code of the thesis divides by norms over the other axis, per embed
    dimension over the pool, which rescales the embedding space instead and leaves texts of unequal length.

    texts: (text, embed) array, DataArray (its coordinates are kept; `text` names texts in errors) or tensor.

    Returns the same kind of object, float32 or float64. Raises DataError for fewer than two texts, values that are not
    finite, duplicate texts, zero-norm texts, or a text that is the mean of all.

    >>> from optogram.methods import prepare_texts
    >>> texts = prepare_texts(np.array([[3.0, 1.0], [1.0, 1.0], [2.0, 4.0]]))
    >>> texts.round(2).tolist()
    [[0.71, -0.71], [-0.71, -0.71], [0.0, 1.0]]
    """
    pool = matrix(texts, "texts")
    names = names_of(texts, len(pool))
    if len(pool) < 2:
        raise DataError(f"texts hold {len(pool)} text; centring needs two or more.\n  Give a larger pool.")
    check_texts(pool, names, "texts")
    centred = pool.double() - pool.mean(0, dtype=torch.float64)
    lengths = centred.norm(dim=1, keepdim=True)
    shortest = _MEAN * torch.finfo(pool.dtype).eps * pool.norm(dim=1, dtype=torch.float64)
    if (lengths[:, 0] <= shortest).any():
        raise DataError(
            f"{listed(names, lengths[:, 0] <= shortest)} equal the mean of all texts, so "
            "that nothing is left of them after centring.\n  Leave them out, or give a pool of more varied texts."
        )
    unit = (centred / lengths).to(pool.dtype)
    if isinstance(texts, Tensor):
        return unit
    return texts.copy(data=unit.numpy()) if isinstance(texts, xr.DataArray) else unit.numpy()


def distinct_texts(texts: Any) -> Int[np.ndarray, " kept"]:
    """Of texts that the encoder cannot tell apart, such as "A red ring" and "a red ring", the first.

    texts: (text, embed) as for `prepare_texts`, which refuses the others. Returns their places, ascending.

    >>> from optogram.methods import distinct_texts
    >>> distinct_texts(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])).tolist()
    [0, 1]
    """
    pool = matrix(texts, "texts")
    kept = torch.arange(len(pool))
    while pairs := _duplicates(pool[kept], torch.linalg.vector_norm(pool[kept], dim=1, dtype=torch.float64)):
        left = torch.ones(len(kept), dtype=torch.bool)
        left[[second for _, second in pairs]] = False
        kept = kept[left]
    return kept.numpy()


def matrix(values: Any, name: str) -> Float[Tensor, "row embed"]:
    """A two-dimensional float32 or float64 tensor of an array, DataArray or tensor."""
    if isinstance(values, Tensor):
        tensor = values.detach()
    else:
        array = np.ascontiguousarray(values)
        tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
    if tensor.ndim != 2 or not tensor.shape[1]:
        row = "target" if name == "targets" else "text"
        raise ShapeError(f"{name} has shape {tuple(tensor.shape)}; expected two dimensions, ({row}, embed).")
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def check_texts(pool: Float[Tensor, "text embed"], names: list[str], what: str) -> None:
    """Raise DataError for values that are not finite, zero-norm texts and duplicate ones, by name."""
    finite = pool.isfinite().all(1)
    if not finite.all():
        raise DataError(
            f"{what} hold values that are not finite (NaN or infinity): {listed(names, ~finite)}.\n"
            "  Embed these texts again in float32, or leave them out."
        )
    lengths = torch.linalg.vector_norm(pool, dim=1, dtype=torch.float64)
    if (lengths == 0).any():
        raise DataError(
            f"{what} hold texts of zero norm, which have no direction: {listed(names, lengths == 0)}.\n"
            "  Leave these texts out."
        )
    pairs = _duplicates(pool, lengths)
    if pairs:
        shown = "; ".join(f"{names[first]} = {names[second]}" for first, second in pairs[:5])
        more = "; and others" if len(pairs) > 5 else ""
        raise DataError(
            f"{what} hold texts more than once, and which one is picked would be chance: {shown}{more}.\n"
            "  Keep one of each. Texts that differ only in case or space may have one embedding."
        )


def _duplicates(pool: Float[Tensor, "text embed"], lengths: Float[Tensor, " text"]) -> list[tuple[int, int]]:
    """Some pairs of equal texts, if there are any: nearest in rank along a random direction, then compared in full.

    Texts that differ by little differ by less along any unit direction, so that only neighbours there need a look.
    """
    directions = torch.randn(pool.shape[1], 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    directions = (directions / directions.norm(dim=0)).to(pool.device)
    along = torch.cat([part.double() @ directions for part in pool.split(4096)])
    order = along[:, 0].argsort()
    along, near = along[order], _SAME * lengths[order]
    for apart in range(1, len(pool)):
        close = (along[apart:] - along[:-apart]).abs() <= near[apart:, None]
        if not close[:, 0].any():
            return []
        low = close.all(1).nonzero()[:, 0]
        first, second = order[low], order[low + apart]
        same = (pool[first].double() - pool[second]).norm(dim=1) <= near[low + apart]
        if same.any():
            return sorted((min(p), max(p)) for p in zip(first[same].tolist(), second[same].tolist(), strict=True))
    return []


def names_of(texts: Any, count: int) -> list[str]:
    """How errors call each text: its index, and the text itself where `texts` carries it."""
    if isinstance(texts, xr.DataArray) and "text" in texts.coords:
        return [f"text {at} ({name!s:.60})" for at, name in enumerate(texts["text"].values.tolist())]
    return [f"text {at}" for at in range(count)]


def listed(names: list[str], chosen: Bool[Tensor, " name"]) -> str:
    """The first five chosen names, and how many more there are."""
    at = chosen.nonzero()[:, 0].tolist()
    return ", ".join(names[index] for index in at[:5]) + (f" and {len(at) - 5} others" if len(at) > 5 else "")
