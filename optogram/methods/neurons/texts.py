"""Method room, texts of neurons: their directions as short signed sums of texts, from every pool (section 3.4)."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import xarray as xr
from jaxtyping import Float32, Int

from optogram.errors import ParamError
from optogram.methods.neurons.sparse import omp_sizes, recompose
from optogram.methods.neurons.text_dictionary import distinct_texts, prepare_texts
from optogram.progress import say


def neuron_texts(
    r: xr.DataArray, pools: Mapping[str, xr.Dataset], sizes: Sequence[int], *, sparsity: int, steps: int
) -> xr.Dataset:
    """Every neuron's direction r_n as a sum of m texts, for every m of `sizes` and every pool (Gandelsman 2025, 3.4).

    r: (neuron, embed), as `rank_one` gives it; a neuron with r_n = 0 gets no texts.
    pools: name -> `embeddings/<model>/<pool>`. Texts are centred and of unit norm (`prepare_texts`).
    sizes: m; where a pool has fewer texts or the embedding fewer dimensions, as many as there are.
    sparsity: the m in whose coefficients the neurons are told: the `steps` texts with the largest ones.

    Returns `index` (pool, neuron, pick), places in the pool in the order of OMP, -1 where nothing was left to explain;
    `coefficient` (size, pool, neuron, pick) float32; and of the `steps` texts with the largest absolute coefficients at
    `sparsity`, largest first, `text`, `weight`, `text_attribute` and `text_value` (pool, neuron, step).

    Raises ParamError if there is no pool, or if `sparsity` is none of `sizes`; else as `prepare_texts` and `omp_sizes`.
    """
    if not pools or sparsity not in sizes:
        raise ParamError(
            f"sparsity = {sparsity}, sizes = {[*sizes]}, {len(pools)} pools: expected a sparsity among the sizes, and "
            "a pool. Set neurons.sparsity to one of neurons.sizes, and name a pool in texts.pools."
        )
    r = r.transpose("neuron", "embed")
    neurons, embed = r.shape
    longest, at = min(max(sizes), embed), [*sizes].index(sparsity)
    written = np.linalg.norm(r.values, axis=1) > 0
    found = []
    for name, embedded in pools.items():
        kept, texts = _usable(embedded)
        most = min(len(texts), embed)
        if most < max(sizes):
            say(f"Pool {name}: {len(texts)} texts of {embed} dimensions; sizes over {most} are taken as {most}.")
        index = np.full((neurons, longest), -1)
        coefficient = np.zeros((len(sizes), neurons, longest), np.float32)
        if written.any():
            codes = omp_sizes(texts, r.values[written], [min(size, most) for size in sizes])
            index[written, :most] = np.where(codes.indices >= 0, kept[codes.indices], -1)
            coefficient[:, written, :most] = codes.coefficients
        order = np.argsort(-np.abs(coefficient[at]), axis=1, kind="stable")[:, :steps]
        weight = np.take_along_axis(coefficient[at], order, 1)
        place = np.where(weight != 0, np.take_along_axis(index, order, 1), -1)
        told = {
            called: (("neuron", "step"), np.where(place >= 0, embedded[words].values.astype(str)[place], ""))
            for called, words in (("text", "text"), ("text_attribute", "attribute"), ("text_value", "value"))
        }
        codes = {"index": (("neuron", "pick"), index), "coefficient": (("size", "neuron", "pick"), coefficient)}
        found.append(xr.Dataset({**codes, **told, "weight": (("neuron", "step"), weight)}))
    return xr.concat(found, "pool").assign_coords(pool=list(pools), size=list(sizes))


def text_directions(
    codes: xr.Dataset, pools: Mapping[str, xr.Dataset]
) -> Iterator[tuple[str, int, Float32[np.ndarray, "neuron embed"]]]:
    """(pool, size, the sum of texts in the place of each r_n) of what `neuron_texts` found, for Figure 3.4."""
    for name, embedded in pools.items():
        (kept, texts), here = _usable(embedded), codes.sel(pool=name)
        index = here["index"].transpose("neuron", "pick").values
        index = np.where(index >= 0, np.searchsorted(kept, index), -1)
        for size in codes["size"].values.tolist():
            coefficient = here["coefficient"].sel(size=size).transpose("neuron", "pick").values
            yield name, size, recompose(texts, index, coefficient).astype(np.float32)


def _usable(embedded: xr.Dataset) -> tuple[Int[np.ndarray, " kept"], Float32[np.ndarray, "kept embed"]]:
    """The pool's texts that OMP can take, one of each embedding, and their places in the pool."""
    vectors = embedded["embedding"].transpose("text", "embed")
    kept = distinct_texts(vectors.values)
    return kept, prepare_texts(vectors[kept]).values
