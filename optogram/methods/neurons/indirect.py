"""Method room, indirect effects: neurons intervened on one by one, and all of a layer at once (section 3.3, Table 3.1).

Images are passed as functions of a range of rows, so that no more than a block of them is ever in memory.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Float32
from torch import Tensor, nn

from optogram.decompose.interventions import activation_means, first_order, indirect_effects, intervened
from optogram.progress import progress

BLOCK = 512
"""Images in memory at once."""
NEURONS = 64
"""Neurons whose effect vectors are."""

Images = Callable[[slice], Float[Tensor, "image rgb y x"]]


def mean_activations(model: nn.Module, images: Images, count: int, layer: int, *, batch: int) -> xr.DataArray:
    """`activation_means` over `count` images, block by block."""
    total = None
    for rows in _blocks(count):
        part = activation_means(model, images(rows), layer, batch=batch).astype(np.float64) * (rows.stop - rows.start)
        total = part if total is None else total + part
    assert total is not None
    return (total / count).astype(np.float32)


def indirect_components(
    model: nn.Module,
    images: Float[Tensor, "image rgb y x"],
    layer: int,
    mean: xr.DataArray,
    *,
    largest: int,
    neurons: Sequence[int],
    batch: int,
) -> xr.Dataset:
    """The first principal component of every neuron's indirect effects, as `rank_one` finds that of second-order ones.

    `largest` of these images have the effects of the largest norm; r is their first component about the mean effect b
    over all images, its sign such that they project on it positively in the mean. mean: of `mean_activations`.

    Returns r (neuron, embed), unit or 0, and `explained` (neuron), its share in these effects' sum of squares about b.
    Raises as `indirect_effects`.
    """
    r, explained = [], []
    with progress("Indirect effects", len(neurons), "neurons") as advance:
        for start in range(0, len(neurons), NEURONS):
            few = neurons[start : start + NEURONS]
            found = indirect_effects(model, images, layer, mean, neurons=few, batch=batch)
            for kept, part in zip((r, explained), _first_component(found.values, largest), strict=True):
                kept.append(part)
            advance(len(few))
    return xr.Dataset(
        {"r": (("neuron", "embed"), np.concatenate(r)), "explained": ("neuron", np.concatenate(explained))},
        coords={"neuron": [*neurons]},
    )


def without_neurons(
    model: nn.Module,
    layer: int,
    mean: xr.DataArray,
    reference: tuple[Images, int],
    evaluated: tuple[Images, int],
    *,
    batch: int,
) -> dict[str, Float32[np.ndarray, "image embed"]]:
    """Unnormalised embeddings of the evaluated images with a layer's neurons mean-ablated, all at once (Table 3.1).

    none: of the unaltered model.
    indirect: every activation set to its per-token mean. first_order: what every neuron writes straight into the
    embedding (eq. 3.1) replaced by its mean over the reference. Raises as `intervened` and `first_order`.
    """
    of_reference = np.concatenate([written for _, written in _direct(model, layer, *reference, batch)])
    direct_mean = of_reference.mean(0, dtype=np.float64).astype(np.float32)
    images, count = evaluated
    parts = list(_direct(model, layer, images, count, batch))
    whole, written = (np.concatenate(side) for side in zip(*parts, strict=True))
    set_to_mean = [intervened(model, images(rows), layer, mean, batch=batch) for rows in _blocks(count)]
    return {"none": whole, "first_order": whole - written + direct_mean, "indirect": np.concatenate(set_to_mean)}


def _direct(
    model: nn.Module, layer: int, images: Images, count: int, batch: int
) -> Iterator[tuple[Float32[np.ndarray, "image embed"], Float32[np.ndarray, "image embed"]]]:
    """Embeddings, and the sum of all neurons' first-order effects, block by block."""
    for rows in _blocks(count):
        found = first_order(model, images(rows), layer, batch=batch)
        shared = found.constant.values * found.sizes["neuron"]
        yield found.embedding.values, found.c.values @ found.D.values + shared


def _first_component(
    effects: Float32[np.ndarray, "image neuron embed"], largest: int
) -> tuple[Float32[np.ndarray, "neuron embed"], Float32[np.ndarray, " neuron"]]:
    by_neuron = torch.from_numpy(effects).transpose(0, 1).double()
    b = by_neuron.mean(1, keepdim=True)
    top = by_neuron.norm(dim=2).argsort(dim=1, descending=True, stable=True)[:, :largest]
    rows = torch.take_along_dim(by_neuron, top[..., None], 1) - b
    squares, vectors = torch.linalg.eigh(rows @ rows.transpose(1, 2))
    first, total, u = squares[:, -1].clamp(min=0), squares.clamp(min=0).sum(1), vectors[:, :, -1:]
    r = (u.transpose(1, 2) @ rows)[:, 0]
    tiny = torch.finfo(torch.float32).tiny
    length = r.norm(dim=1, keepdim=True)
    r = torch.where(length > tiny, r / length.clamp(min=tiny), 0)
    along = ((rows + b) @ r[..., None]).mean((1, 2))
    r = r * torch.where(along < 0, -1.0, 1.0)[:, None]
    return r.float().numpy(), (first / total.clamp(min=tiny)).float().numpy()


def _blocks(count: int) -> Iterator[slice]:
    return (slice(start, min(start + BLOCK, count)) for start in range(0, count, BLOCK))
