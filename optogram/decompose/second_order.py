"""Decompose: second-order effects of neurons, what an MLP sends to the embedding through later heads (thesis ch. 3).

With p_i the activation of a neuron n of layer l at token i, w its output weights (LayerScale included), a_i the
attention of the class token in head (l', h), LN_l'(z_i) = g (z_i - mu_i) / sigma_i + beta the LayerNorm before it and
gamma (x - mu) / sigma + beta_post the final one, eq. B.5 reads, with everything that depends on the image in front:

    phi_n(I) = sum over l' > l, h of c[I, l', h, n] D[l', h, n] + constant[I]
    c[I, l', h, n] = 1/sigma  sum_i a_i p_i / sigma_i
    D[l', h, n] = P gamma W_O W_V (g w)
    constant[I] = sum over l', h of  P gamma W_O W_V sum_i a_i (beta - g mu_i / sigma_i) / (sigma c_l')
                  + P (beta_post - gamma mu / sigma) / c_post

The constant is the thesis's B^l' and B: the shifts of the LayerNorms, shared equally by all neurons that write into
them. c_l' = N l' neurons come before the attention of layer l' (layers count from 0), and c_post = N (L - 1) have a
later attention at all. It is the same for every neuron of a layer, but not for every image: means, standard deviations
and attention are the image's own. Two slips of B.3 and B.5 are mended: a shift is subtracted, as B.2 has it, and not
multiplied by p_i, as it would then not be split but rescaled. What comes from no neuron (biases of values, of output
projections and of MLPs, earlier heads, the input embedding) is in no neuron's effect.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from open_clip.transformer import LayerScale
from torch import Tensor, nn

from optogram.decompose.own_work import check_embedding, check_own_work
from optogram.decompose.towers import ClassTokenTower, Maps, evaluating, tower
from optogram.errors import DataError, ModelError, ParamError


def second_order(
    model: nn.Module,
    images: Float[Tensor, "image rgb y x"],
    layer: int,
    *,
    neurons: Sequence[int] | None = None,
    directions: bool = True,
    batch: int | None = None,
) -> xr.Dataset:
    """The second-order effects of the neurons of one MLP in compact form: phi = sum over layer, head of c D + constant.

    Gandelsman (2025), eq. 3.3 and B.2-B.5; the module's first lines say which term is where. Neither an effect vector
    nor anything of tokens x neurons x width is formed. `optogram.decompose.effects` expands the result.

    model: an open_clip CLIP with a class-token ViT, or its image tower. Evaluated in eval mode on its own device.
    images: preprocessed floats.
    layer: of the MLP, from 0; the last layer has no later attention.
    neurons: the ones to compute; all by default. D of all of them can be large: go block by block then.
    directions: whether to compute D, which depends on no image: once is enough for many calls.
    batch: images that go through the model at once; all of them by default. Halved where memory runs out.

    Returns float32 c (image, layer, head, neuron), D (layer, head, neuron, embed), constant (image, embed) and
    embedding (image, embed), unnormalised. Coordinate `layer` counts the attention layers after the MLP's, whose
    number is the attribute `mlp_layer`.

    Raises ParamError for a layer without a later attention or a neuron that is not there, ModelError if the tower is
    not supported or gives a NaN, ShapeError if the images do not have the model's size, DataError if they are not
    finite floats.

    >>> from optogram.decompose import second_order
    >>> found = second_order(model, images[:2], 0)
    >>> found.c.dims, found.c.shape
    (('image', 'layer', 'head', 'neuron'), (2, 1, 2, 64))
    >>> found.D.shape, found.layer.values.tolist()
    ((1, 2, 64, 16), [1])
    """
    target = class_token_tower(model)
    layer, chosen = check_layer(target, layer), check_neurons(target, layer, neurons)
    images = target.checked(images)
    parts: dict[str, np.ndarray] = {}
    with evaluating(target.visual), torch.inference_mode():
        maps = target.maps()
        shifts = _Shifts.of(target, maps, layer)
        read = target.batches(images, batch, lambda part, rows: _batch(target, shifts, part, rows, layer, chosen))
        for rows, arrays in read:
            for name, array in arrays.items():
                parts.setdefault(name, np.empty((len(images), *array.shape[1:]), np.float32))[rows] = array
        if directions:
            parts["D"] = _directions(target, maps, layer, chosen)
        _check_finite(parts, layer, chosen)
        check_embedding(model, images[:1].to(target.device, target.dtype), parts["embedding"][0])
    return xr.Dataset(
        {name: (_DIMS[name], array) for name, array in parts.items()},
        coords=_coords(target, layer, chosen),
        attrs={"mlp_layer": layer},
    )


def directions(model: nn.Module, layer: int, *, neurons: Sequence[int] | None = None) -> xr.DataArray:
    """D (layer, head, neuron, embed) float32 of `second_order` alone: where each neuron writes through each later head.

    Arguments and errors as `second_order`.

    >>> from optogram.decompose import directions
    >>> found = directions(model, 0, neurons=[5, 7])
    >>> found.dims, found.shape
    (('layer', 'head', 'neuron', 'embed'), (1, 2, 2, 16))
    >>> np.allclose(found, second.D.sel(neuron=[5, 7]), atol=1e-6)
    True
    """
    target = class_token_tower(model)
    layer, chosen = check_layer(target, layer), check_neurons(target, layer, neurons)
    with torch.inference_mode():
        found = _directions(target, target.maps(), layer, chosen)
    _check_finite({"D": found}, layer, chosen)
    coords = _coords(target, layer, chosen)
    return xr.DataArray(found, dims=_DIMS["D"], coords=coords, name="D", attrs={"mlp_layer": layer})


_DIMS = {
    "c": ("image", "layer", "head", "neuron"),
    "D": ("layer", "head", "neuron", "embed"),
    "constant": ("image", "embed"),
    "embedding": ("image", "embed"),
}


def class_token_tower(model: nn.Module) -> ClassTokenTower:
    """The tower, if an MLP's neurons can be told apart in it and later heads read them. Raises ModelError."""
    target = tower(model)
    if not isinstance(target, ClassTokenTower):
        raise ModelError(
            f"Cannot decompose the neurons of this model: {type(target.visual).__name__} with attention pooling "
            "(SigLIP) is not supported, as its blocks reach the embedding only through the pool's MLP. "
            "Supported: open_clip ViTs with class-token pooling."
        )
    for index, block in enumerate(target.blocks):
        if not isinstance(getattr(block.mlp, "c_proj", None), nn.Linear) or not isinstance(block.ln_1, nn.LayerNorm):
            raise ModelError(
                f"Cannot decompose the neurons of this model: layer {index} has {type(block.mlp).__name__} after "
                f"{type(block.ln_1).__name__}, which is not supported. Supported: open_clip's own MLPs and LayerNorms."
            )
        if list(block.mlp.children())[-1] is not block.mlp.c_proj:
            raise ModelError(
                f"Cannot decompose the neurons of this model: layer {index} has something after c_proj in its MLP; "
                "expected open_clip's own MLPs, which end with it."
            )
        parts = {"ln_1": block.ln_1, "ls_2": block.ls_2, "mlp": block.mlp, "mlp.c_proj": block.mlp.c_proj}
        check_own_work({f"resblocks.{index}.{part}": module for part, module in parts.items()})
    return target


def check_layer(target: ClassTokenTower, layer: int, *, later: bool = True) -> int:
    """`layer` as an index, with an attention layer after it if `later`. Raises ParamError."""
    last = target.layers - 1
    if later and layer == last:
        raise ParamError(
            f"layer = {layer} is the last one of this model: no attention comes after its MLP, so its neurons have no "
            + (f"second-order effect. Choose from layers 0 to {last - 1}." if last else "second-order effect.")
        )
    if not 0 <= layer <= last:
        raise ParamError(f"layer = {layer}, but this model has MLPs 0 to {last}. Choose from these.")
    return int(layer)


def check_neurons(target: ClassTokenTower, layer: int, neurons: Sequence[int] | None) -> Sequence[int]:
    """The neurons' indices, all by default. Raises ParamError."""
    count = mlp_of(target, layer).c_proj.in_features
    if neurons is None:
        return range(count)
    wrong = [neuron for neuron in neurons if not 0 <= neuron < count]
    if wrong or not len(neurons):
        what = f"neuron {wrong[0]} was asked for" if wrong else "no neuron was asked for"
        raise ParamError(f"{what}, but layer {layer} has neurons 0 to {count - 1}. Choose from these.")
    return [int(neuron) for neuron in neurons]


def mlp_of(target: ClassTokenTower, layer: int) -> Any:
    """The MLP of a layer, with `c_fc` and `c_proj`."""
    return target.blocks[layer].mlp


def output_weights(target: ClassTokenTower, layer: int, neurons: Sequence[int]) -> Float[Tensor, "neuron width"]:
    """w of eq. 3.1: what a neuron of activation 1 writes into the residual stream, LayerScale included; float32."""
    scale = target.blocks[layer].ls_2
    weight = mlp_of(target, layer).c_proj.weight.float()[:, list(neurons)].T
    return weight * scale.gamma.float() if isinstance(scale, LayerScale) else weight


@contextmanager
def watching(*watched: tuple[nn.Module, Callable[[Tensor], None]]) -> Iterator[None]:
    """Show each module's first input to the function beside it; hooks go also when an exception passes."""
    handles = []

    def shown(see: Callable[[Tensor], None]) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, inputs: see(inputs[0])

    try:
        for module, see in watched:
            handles.append(module.register_forward_pre_hook(shown(see)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def check_activations(p: Float[Tensor, "image token neuron"], layer: int, first: int) -> None:
    """Raises ModelError for a NaN or infinite activation; `first` is the number of the first image."""
    # a sum is finite only if all its terms are, and far cheaper than a mask; the mask is for who is to blame
    if torch.isfinite(p.sum()) or torch.isfinite(p).all():
        return
    image, token, neuron = (~torch.isfinite(p)).nonzero()[0].tolist()
    raise ModelError(
        f"neuron {neuron} of layer {layer} has activation {float(p[image, token, neuron])} at token {token} of image "
        f"{first + image}; its pixels are finite. Check the checkpoint, or run the model in float32."
    )


def check_pixels(images: Tensor, first: int) -> None:
    """Raises DataError for an image that is not finite; `first` is the number of the first image."""
    finite = torch.isfinite(images).flatten(1).all(1)
    if not finite.all():
        image = first + int((~finite).nonzero()[0])
        raise DataError(f"image {image} has a NaN or infinite pixel. Check the preprocessing, or skip the image.")


class _Shifts(NamedTuple):
    """The constant as a linear map: per-image statistics to the embedding, already divided among the neurons."""

    mean: Float[Tensor, "layer head embed"]  # of sum_i a_i mu_i / sigma_i, over sigma
    bias: Float[Tensor, " embed"]  # of 1 / sigma
    post_mean: Float[Tensor, " embed"]  # of mu / sigma
    post_bias: Float[Tensor, " embed"]

    @classmethod
    def of(cls, target: ClassTokenTower, maps: Maps, layer: int) -> "_Shifts":
        count = mlp_of(target, layer).c_proj.in_features
        means, bias = [], torch.zeros_like(maps.gain)
        for later in range(layer + 1, target.layers):
            value, norm = _values(target, later), target.blocks[later].ln_1
            among = count * later
            gain = value.sum(2) if norm.weight is None else value @ norm.weight.float()
            means.append(torch.einsum("hd,hde->he", gain, maps.basis[later]) / -among)
            if norm.bias is not None:
                bias = bias + torch.einsum("hd,hde->e", value @ norm.bias.float(), maps.basis[later]) / among
        among = count * (target.layers - 1)
        return cls(torch.stack(means), bias, maps.gain / -among, maps.offset / among)


def _batch(
    target: ClassTokenTower, shifts: _Shifts, images: Tensor, rows: slice, layer: int, neurons: Sequence[int]
) -> dict[str, np.ndarray]:
    """The variables that depend on the images, for one batch."""
    check_pixels(images, rows.start)
    p = images.new_empty(0)
    stats: tuple[Tensor, Tensor] = (p, p)
    c = torch.empty(len(images), len(shifts.mean), target.heads, len(neurons), device=images.device)
    means = c.new_empty(c.shape[:3])

    def activations(x: Tensor) -> None:
        nonlocal p
        check_activations(x, layer, rows.start)
        p = (x if len(neurons) == x.shape[2] and isinstance(neurons, range) else x[:, :, list(neurons)]).float()

    def normalised(eps: float, x: Tensor) -> None:
        nonlocal stats
        variance, mean = torch.var_mean(x.float(), 2, correction=0)
        stats = mean, torch.rsqrt(variance + eps)

    def see(index: int, attention: Tensor, _: Tensor) -> None:
        if index > layer:
            at = index - layer - 1
            mean, scale = stats
            weights = attention.float() * scale[:, None]
            c[:, at] = weights @ p
            means[:, at] = (weights * mean[:, None]).sum(2)

    norms = [(block.ln_1, block.ln_1.eps) for block in target.blocks[layer + 1 :]]
    watched = [(norm, partial(normalised, eps)) for norm, eps in norms]
    with watching((mlp_of(target, layer).c_proj, activations), *watched):
        out = target.forward(images, see)
    scale = out.scale[:, None]
    constant = torch.einsum("ilh,lhe->ie", means, shifts.mean) + shifts.bias + out.mean[:, None] * shifts.post_mean
    found = {
        "c": c.mul_(scale[..., None, None]),
        "constant": constant * scale + shifts.post_bias,
        "embedding": out.embedding,
    }
    return {name: tensor.cpu().numpy() for name, tensor in found.items()}


def _values(target: ClassTokenTower, layer: int) -> Float[Tensor, "head head_dim width"]:
    """W_V of a layer's heads, float32."""
    packed = target.blocks[layer].attn.in_proj_weight
    return packed.float().chunk(3)[2].unflatten(0, (target.heads, -1))


def _directions(
    target: ClassTokenTower, maps: Maps, layer: int, neurons: Sequence[int]
) -> Float[np.ndarray, "layer head neuron embed"]:
    """Every D, head by head: through the few dimensions of the head's values."""
    w = output_weights(target, layer, neurons)
    found = np.empty((target.layers - layer - 1, target.heads, len(neurons), maps.gain.shape[0]), np.float32)
    for later in range(layer + 1, target.layers):
        gain = target.blocks[later].ln_1.weight
        read = (w if gain is None else w * gain.float()) @ _values(target, later).flatten(0, 1).T
        for head, part in enumerate(read.chunk(target.heads, 1)):
            found[later - layer - 1, head] = (part @ maps.basis[later, head]).cpu().numpy()
    return found


def _coords(target: ClassTokenTower, layer: int, neurons: Sequence[int]) -> dict[str, Sequence[int]]:
    return {"layer": range(layer + 1, target.layers), "head": range(target.heads), "neuron": neurons}


def _check_finite(parts: dict[str, np.ndarray], layer: int, neurons: Sequence[int]) -> None:
    """Raises ModelError. Pixels and activations were looked at before: what is left are weights and later layers."""
    for name, array in parts.items():
        if np.isfinite(array.sum(dtype=np.float64)) or np.isfinite(array).all():
            continue
        at = dict(zip(_DIMS[name], np.argwhere(~np.isfinite(array))[0].tolist(), strict=True))
        where = {
            "image": lambda i: f"image {i}",
            "layer": lambda i: f"attention layer {layer + 1 + i}",
            "head": lambda i: f"head {i}",
            "neuron": lambda i: f"neuron {neurons[i]}",
        }
        places = ", ".join(say(at[dim]) for dim, say in where.items() if dim in at)
        raise ModelError(
            f"the model gives a NaN or infinite {name} at {places}, while the activations of layer {layer} are finite. "
            "Check the checkpoint, or run the model in float32."
        )
