"""Decompose: activations of neurons at the image patches, by forward passes that go no further than they must."""

from collections.abc import Collection, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
import xarray as xr
from jaxtyping import Float
from torch import Tensor, nn

from optogram.decompose.second_order import (
    check_activations,
    check_layer,
    check_neurons,
    check_pixels,
    class_token_tower,
    mlp_of,
    watching,
)
from optogram.decompose.towers import ClassTokenTower, evaluating


def token_activations(
    model: nn.Module,
    images: Float[Tensor, "image rgb y x"],
    layer: int,
    *,
    neurons: Sequence[int] | None = None,
    batch: int | None = None,
) -> xr.DataArray:
    """Where in the images each neuron fires: p_i (image, neuron, gy, gx) float32 at the patches i (section 3.5).

    These are the activations after the non-linearity, as they enter the second-order effects; the class token is left
    out. Layers after this one do not run.

    Arguments and errors as `second_order`: in the last layer nothing reads the patches, so it is refused.

    >>> from optogram.decompose import token_activations
    >>> token_activations(model, images[:2], 0, neurons=[1, 6]).dims
    ('image', 'neuron', 'gy', 'gx')
    >>> token_activations(model, images[:2], 0, neurons=[1, 6]).shape
    (2, 2, 4, 4)
    """
    target = class_token_tower(model)
    layer, chosen = check_layer(target, layer), check_neurons(target, layer, neurons)
    images = target.checked(images)
    found = np.empty((len(images), len(chosen), *target.grid), np.float32)
    with evaluating(target.visual), torch.inference_mode():

        def work(part: Tensor, rows: slice) -> np.ndarray:
            _, _, p = next(passing(target, part, rows, [layer]))
            return p[:, 1:, list(chosen)].transpose(1, 2).unflatten(2, target.grid).cpu().numpy()

        for rows, maps in target.batches(images, batch, work):
            found[rows] = maps
    dims = ("image", "neuron", "gy", "gx")
    return xr.DataArray(
        found, dims=dims, coords={"neuron": chosen}, name="token_activations", attrs={"mlp_layer": layer}
    )


def passing(
    target: ClassTokenTower, images: Tensor, rows: slice, layers: Collection[int]
) -> Iterator[tuple[int, Float[Tensor, "image token width"], Float[Tensor, "image token neuron"]]]:
    """For each of the layers, from the first: its index, the residual stream before its MLP, its activations, float32.

    The forward pass stops after the last of them. In the tower's last layer there is the class token only. `rows` are
    the images' numbers. Raises DataError or ModelError for what is not finite.
    """
    check_pixels(images, rows.start)
    x = target.embed(images)
    for index in range(max(layers) + 1):
        x = attended(target, x, index)
        block = target.blocks[index]
        seen: list[Tensor] = []
        with watching((mlp_of(target, index).c_proj, seen.append)):
            written = block.mlp(block.ln_2(x))
        if index in layers:
            check_activations(seen[0], index, rows.start)
            yield index, x, seen[0].float()
        x = x + block.ls_2(written)


def attended(target: ClassTokenTower, x: Tensor, index: int) -> Float[Tensor, "image token width"]:
    """The residual stream after a layer's attention; in the last layer, at the class token only."""
    block = target.blocks[index]
    q, k, v = target.qkv(block.attn, block.ln_1(x))
    if index == target.layers - 1:
        q, x = q[:, :, :1], x[:, :1]
    mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    return x + block.ls_1(block.attn.out_proj(mixed))
