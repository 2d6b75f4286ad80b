"""Decompose: first-order effects of neurons (thesis eq. 3.1), and their indirect effects, by intervening on each."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor, nn

from optogram.decompose.activations import attended, passing
from optogram.decompose.own_work import check_embedding
from optogram.decompose.second_order import (
    check_activations,
    check_layer,
    check_neurons,
    check_pixels,
    class_token_tower,
    mlp_of,
    output_weights,
    watching,
)
from optogram.decompose.towers import ClassTokenTower, evaluating
from optogram.errors import ModelError, ShapeError

AT_ONCE_BYTES = {"cpu": 4 << 20, "cuda": 256 << 20}
"""Residual streams that go through the later layers at once: on a CPU few, for its caches (1.7 times as fast)."""


def first_order(
    model: nn.Module,
    images: Float[Tensor, "image rgb y x"],
    layer: int,
    *,
    neurons: Sequence[int] | None = None,
    batch: int | None = None,
) -> xr.Dataset:
    """What each neuron writes straight into the embedding: c[I, n] D[n] + constant[I] (Gandelsman 2025, eq. 3.1, B.2).

    c = p_0 / sigma and D = P gamma w, with p_0 the activation at the class token, w the output weights, gamma and sigma
    the final LayerNorm's gain and standard deviation; its shift is shared equally by the N L neurons of the tower.

    Arguments and errors as `second_order`, but any layer has first-order effects.

    Returns float32 c (image, neuron), D (neuron, embed), constant and embedding (image, embed).

    >>> from optogram.decompose import first_order
    >>> found = first_order(model, images[:2], 1, neurons=[0, 3])
    >>> found.c.shape, found.D.shape
    ((2, 2), (2, 16))
    """
    target = class_token_tower(model)
    layer, chosen = check_layer(target, layer, later=False), check_neurons(target, layer, neurons)
    images = target.checked(images)
    with evaluating(target.visual), torch.inference_mode():
        maps, count = target.maps(), target.layers * mlp_of(target, layer).c_proj.in_features

        def work(part: Tensor, rows: slice) -> dict[str, np.ndarray]:
            check_pixels(part, rows.start)
            seen: list[Tensor] = []
            with watching((mlp_of(target, layer).c_proj, seen.append)):
                out = target.forward(part)
            check_activations(seen[0], layer, rows.start)
            scale = out.scale[:, None]
            found = {
                "c": seen[0][:, 0, list(chosen)].float() * scale,
                "constant": (maps.offset - out.mean[:, None] * scale * maps.gain) / count,
                "embedding": out.embedding,
            }
            return {name: tensor.cpu().numpy() for name, tensor in found.items()}

        parts = _collected(target, images, batch, work)
        check_embedding(model, images[:1].to(target.device, target.dtype), parts["embedding"][0])
        gain = target.parts.ln_post.weight
        w = output_weights(target, layer, chosen)
        directions = (w if gain is None else w * gain.float()) @ target.parts.proj.float()
    return xr.Dataset(
        {
            "c": (("image", "neuron"), parts["c"]),
            "D": (("neuron", "embed"), directions.cpu().numpy()),
            "constant": (("image", "embed"), parts["constant"]),
            "embedding": (("image", "embed"), parts["embedding"]),
        },
        coords={"neuron": chosen},
        attrs={"mlp_layer": layer},
    )


def activation_means(
    model: nn.Module, images: Float[Tensor, "image rgb y x"], layer: int, *, batch: int | None = None
) -> xr.DataArray:
    """Mean over images of every neuron's activation at every token, (token, neuron) float32: what interventions put in.

    In the last layer nothing reads the other tokens: it has the class token only. Arguments, errors as `first_order`.

    >>> from optogram.decompose import activation_means
    >>> activation_means(model, images, 0).shape
    (17, 64)
    >>> activation_means(model, images, 1).shape
    (1, 64)
    """
    target = class_token_tower(model)
    layer = check_layer(target, layer, later=False)
    images = target.checked(images)
    total = np.zeros(())
    with evaluating(target.visual), torch.inference_mode():
        sums = target.batches(images, batch, lambda part, rows: _until(target, part, rows, layer)[1].sum(0))
        for _, part in sums:
            total = total + part.double().cpu().numpy()
    return xr.DataArray((total / len(images)).astype(np.float32), dims=("token", "neuron"), name="activation_means")


def indirect_effects(
    model: nn.Module,
    images: Float[Tensor, "image rgb y x"],
    layer: int,
    mean: xr.DataArray,
    *,
    neurons: Sequence[int] | None = None,
    batch: int | None = None,
) -> xr.DataArray:
    """How much the embedding changes with each neuron: M(I) less M(I) with this neuron's activations set to their mean.

    Section 3.3. The layers up to this one run once an image, the later ones once a neuron and image, many at a time:
    for many neurons this takes long, and the result is large.

    mean: of `activation_means`, from the reference images.

    Returns float32 (image, neuron, embed). Arguments and errors as `first_order`; ShapeError if `mean` does not fit.

    >>> from optogram.decompose import activation_means, indirect_effects
    >>> mean = activation_means(model, images, 0)
    >>> indirect_effects(model, images[:2], 0, mean, neurons=[0, 1, 2]).shape
    (2, 3, 16)
    """
    target = class_token_tower(model)
    layer, chosen = check_layer(target, layer, later=False), check_neurons(target, layer, neurons)
    images = target.checked(images)
    with evaluating(target.visual), torch.inference_mode():
        instead = _fitted(target, layer, mean)
        w = output_weights(target, layer, chosen)

        def work(part: Tensor, rows: slice) -> dict[str, np.ndarray]:
            x, p = _until(target, part, rows, layer)
            change = (instead - p)[:, :, list(chosen)].permute(2, 0, 1)
            x = x + _written(target, layer, p)
            whole = _embedding(target, x, layer + 1)
            found = whole.new_empty(len(part), len(chosen), whole.shape[1])
            step = max(1, AT_ONCE_BYTES[x.device.type] // (x.numel() * 4))
            for start in range(0, len(chosen), step):
                few = slice(start, start + step)
                changed = x + (change[few, ..., None] * w[few, None, None]).to(x.dtype)
                without = _embedding(target, changed.flatten(0, 1), layer + 1).unflatten(0, (-1, len(part)))
                found[:, few] = (whole - without).transpose(0, 1)
            return {"indirect effect": found.cpu().numpy()}

        found = _collected(target, images, batch, work)["indirect effect"]
    return xr.DataArray(found, dims=("image", "neuron", "embed"), coords={"neuron": chosen}, name="indirect_effects")


def intervened(
    model: nn.Module,
    images: Float[Tensor, "image rgb y x"],
    layer: int,
    mean: xr.DataArray,
    *,
    neurons: Sequence[int] | None = None,
    batch: int | None = None,
) -> Float[np.ndarray, "image embed"]:
    """Unnormalised image embeddings with the activations of all these neurons at once set to their means (Table 3.1).

    Arguments and errors as `indirect_effects`.

    >>> from optogram.decompose import activation_means, indirect_effects, intervened
    >>> mean = activation_means(model, images, 0)
    >>> changed = intervened(model, images[:2], 0, mean, neurons=[4])
    >>> effect = indirect_effects(model, images[:2], 0, mean, neurons=[4])
    >>> np.allclose(compact.embedding[:2] - changed, effect[:, 0], atol=1e-5)
    True
    """
    target = class_token_tower(model)
    layer, chosen = check_layer(target, layer, later=False), check_neurons(target, layer, neurons)
    images = target.checked(images)
    with evaluating(target.visual), torch.inference_mode():
        instead = _fitted(target, layer, mean)

        def work(part: Tensor, rows: slice) -> dict[str, np.ndarray]:
            x, p = _until(target, part, rows, layer)
            p = p.clone()
            p[:, :, list(chosen)] = instead[:, list(chosen)]
            return {"embedding": _embedding(target, x + _written(target, layer, p), layer + 1).cpu().numpy()}

        return _collected(target, images, batch, work)["embedding"]


def _until(
    target: ClassTokenTower, images: Tensor, rows: slice, layer: int
) -> tuple[Float[Tensor, "image token width"], Float[Tensor, "image token neuron"]]:
    """The residual stream before a layer's MLP, and the MLP's activations, float32."""
    return next(passing(target, images, rows, [layer]))[1:]


def _written(target: ClassTokenTower, layer: int, p: Tensor) -> Tensor:
    block = target.blocks[layer]
    return block.ls_2(mlp_of(target, layer).c_proj(p.to(target.dtype)))


def _embedding(target: ClassTokenTower, x: Tensor, start: int) -> Float[Tensor, "image embed"]:
    """The embedding, from the residual stream before layer `start`; float32."""
    for index in range(start, target.layers):
        x = attended(target, x, index)
        x = x + target.blocks[index].ls_2(target.blocks[index].mlp(target.blocks[index].ln_2(x)))
    return (target.parts.ln_post(x[:, 0]) @ target.parts.proj).float()


def _fitted(target: ClassTokenTower, layer: int, mean: xr.DataArray) -> Float[Tensor, "token neuron"]:
    tokens = 1 if layer == target.layers - 1 else target.tokens
    expected = {"token": tokens, "neuron": mlp_of(target, layer).c_proj.in_features}
    if dict(mean.sizes) != expected:
        raise ShapeError(
            f"the means have sizes {dict(mean.sizes)}, but layer {layer} has {expected}. "
            "Pass what optogram.decompose.activation_means returned for this layer."
        )
    return torch.as_tensor(mean.transpose("token", "neuron").values).to(target.device, torch.float32)


def _collected(
    target: ClassTokenTower,
    images: Tensor,
    batch: int | None,
    work: Callable[[Tensor, slice], dict[str, np.ndarray]],
) -> dict[str, np.ndarray]:
    """What `work` gives for each batch, put together by name. Raises ModelError where it is not finite."""
    parts: dict[str, list[np.ndarray]] = {}
    for rows, arrays in target.batches(images, batch, work):
        for name, array in arrays.items():
            finite = np.isfinite(array).reshape(len(array), -1).all(1)
            if not finite.all():
                raise ModelError(
                    f"the model gives a NaN or infinite {name} for image {rows.start + int(np.argmin(finite))}; its "
                    "pixels are finite. Check the checkpoint, or run the model in float32."
                )
            parts.setdefault(name, []).append(array)
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}
