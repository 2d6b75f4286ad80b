"""Decompose: direct contributions of heads, tokens and MLPs to a CLIP image embedding (thesis eq. 2.4-2.6)."""

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor, nn

from optogram.decompose.own_work import check_embedding
from optogram.decompose.towers import Maps, Tower, evaluating, tower
from optogram.errors import DataError, ModelError, ParamError, ShapeError


def contributions(
    model: nn.Module, images: Float[Tensor, "image rgb y x"], *, tokens: bool = True, batch: int | None = None
) -> xr.Dataset:
    """The embedding of each image as a sum over heads and MLPs, in compact form (docs/artifacts/decompositions.md).

    Gandelsman (2025), eq. 2.4-2.6 and A.1-A.4; the shift of the final LayerNorm is shared equally by all attention
    terms (A.2). `optogram.decompose.heads` expands the result.

    model: an open_clip CLIP with a class-token ViT or a SigLIP ViT, or its image tower. Evaluated in eval mode on its
        own device; its training flags are put back.
    images: preprocessed floats.
    tokens: whether to compute `token`, which is the largest variable.
    batch: images that go through the model at once; all of them by default. Halved where memory runs out.

    Returns z, basis, scale, mean, bias, gain, offset, mlp, token and embedding as float32 numpy arrays; `layer`, `head`
    and `block` count from 0. Token 0 is the class token, the patches follow row by row. An attention-pooled model has
    one layer; its latent query is not attended to and has no residual path, so its token 0 and block 0 are zero.
    (xarray lists `token` among the coordinates, because it is also the name of a dimension.)

    Raises ModelError if the model's architecture is not such a sum, if hooks or wrappers sit on modules whose work is
    done by hand here, if the sum is not what the model itself gives for the first image, if it gives a NaN or if one
    image is too much for the device's memory, ShapeError if the images do not have the model's size, DataError if they
    are not finite floats.

    >>> from optogram.decompose import contributions, heads
    >>> found = contributions(model, images[:2])
    >>> found.z.dims, found.z.shape
    (('image', 'layer', 'head', 'head_dim'), (2, 2, 2, 8))
    >>> whole = heads(found).sum(("layer", "head")) + found.mlp.sum("block")
    >>> np.allclose(whole, found.embedding, atol=1e-5)
    True
    """
    target = tower(model)
    images = target.checked(images)
    with evaluating(target.visual), torch.inference_mode():
        maps = target.maps()
        per_image = {}
        for rows, arrays in target.batches(images, batch, lambda part, _: _batch(target, maps, part, tokens)):
            for name, array in arrays.items():
                per_image.setdefault(name, np.empty((len(images), *array.shape[1:]), np.float32))[rows] = array
        shared = {name: getattr(maps, name).cpu().numpy() for name in ("basis", "bias", "gain", "offset")}
        _check_finite(images, per_image)
        check_embedding(model, images[:1].to(target.device, target.dtype), per_image["embedding"][0])
    return xr.Dataset(
        {name: (_DIMS[name], array) for name, array in {**per_image, **shared}.items()},
        coords={"layer": range(target.layers), "head": range(target.heads), "block": range(target.layers + 1)},
    )


def token_scores(
    model: nn.Module,
    images: Float[Tensor, "image rgb y x"],
    directions: Float[Tensor, "text embed"],
    *,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    batch: int | None = None,
) -> xr.DataArray:
    """What each token writes through each head along each direction: <c_{i,l,h}, direction> (thesis eq. 2.6, Fig. 2.6).

    The directions are projected into the space of each head's values first, so that no c_{i,l,h} is ever formed.
    Output-projection bias and LayerNorm shift are shared equally by heads and tokens; the sum over tokens is
    `heads @ directions.T`.

    layers, heads: the ones to compute (every pair of them); all by default.

    Returns float32 (image, layer, head, token, text). Raises as `contributions`; ParamError for a layer or head that
    the model lacks, ShapeError if the directions do not live in its embedding space.

    >>> from optogram.decompose import heads, token_scores
    >>> texts = torch.eye(16)[:2]
    >>> scores = token_scores(model, images[:2], texts, layers=[1])
    >>> scores.dims, scores.shape
    (('image', 'layer', 'head', 'token', 'text'), (2, 1, 2, 17, 2))
    >>> np.allclose(scores.sum("token"), heads(compact)[:2, [1]].values @ texts.numpy().T, atol=1e-5)
    True
    """
    target = tower(model)
    images = target.checked(images)
    layers = _indices("layer", layers, target.layers)
    heads = _indices("head", heads, target.heads)
    with evaluating(target.visual), torch.inference_mode():
        maps = target.maps()
        along = torch.as_tensor(directions).to(maps.basis)
        if along.ndim != 2 or along.shape[1] != maps.gain.shape[0]:
            raise ShapeError(
                f"directions have shape {tuple(along.shape)}, but this model embeds into (text, {maps.gain.shape[0]})."
            )
        reader = _Reader(maps, along, layers, heads, target.attended)
        read = target.batches(images, batch, lambda part, _: reader.read(target, part))
        scores = np.concatenate([part for _, part in read])
    coords = {"layer": list(layers), "head": list(heads), "token": range(target.tokens)}
    return xr.DataArray(scores, dims=("image", "layer", "head", "token", "text"), coords=coords, name="token_scores")


_DIMS = {
    "z": ("image", "layer", "head", "head_dim"),
    "basis": ("layer", "head", "head_dim", "embed"),
    "scale": ("image",),
    "mean": ("image",),
    "bias": ("layer", "embed"),
    "gain": ("embed",),
    "offset": ("embed",),
    "mlp": ("image", "block", "embed"),
    "token": ("image", "token", "embed"),
    "embedding": ("image", "embed"),
}


def _batch(target: Tower, maps: Maps, images: Tensor, tokens: bool) -> dict[str, np.ndarray]:
    """The variables that depend on the images, for one batch."""
    token = maps.gain.new_zeros(len(images), target.attended if tokens else 0, maps.gain.shape[0])

    def add(layer: int, attention: Tensor, values: Tensor) -> None:
        # One layer's contributions, summed over heads by the output projection itself. Projecting all the way down
        # costs embed/width of the output projection and keeps the running sum in the smaller space.
        weighted = (attention[..., None] * values).transpose(1, 2).flatten(2).float()
        token.flatten(0, 1).addmm_(weighted.flatten(0, 1), maps.basis[layer].flatten(0, 1))

    out = target.forward(images, add if tokens else None)
    arrays = {"z": out.z, "scale": out.scale, "mean": out.mean, "mlp": out.mlp, "embedding": out.embedding}
    if tokens:
        shift = out.scale[:, None] * (maps.bias.sum(0) - out.mean[:, None] * maps.gain) + maps.offset
        token.mul_(out.scale[:, None, None]).add_(shift[:, None] / token.shape[1])
        arrays["token"] = target.with_query(token, dim=1)
    return {name: array.cpu().numpy() for name, array in arrays.items()}


class _Reader:
    """Reads chosen directions off chosen heads, token by token, during a forward pass."""

    def __init__(self, maps: Maps, along: Tensor, layers: Sequence[int], heads: Sequence[int], attended: int) -> None:
        total_layers, total_heads = maps.basis.shape[:2]
        self.layers, self.heads = list(layers), list(heads)
        self.into = torch.einsum("lhde,te->lhdt", maps.basis[self.layers][:, self.heads], along)
        self.bias = maps.bias[self.layers] @ along.T / (total_heads * attended)
        self.gain, self.offset = (
            v @ along.T / (total_layers * total_heads * attended) for v in (maps.gain, maps.offset)
        )

    def read(self, target: Tower, images: Tensor) -> Float[np.ndarray, "image layer head token text"]:
        found: dict[int, Tensor] = {}

        def see(layer: int, attention: Tensor, values: Tensor) -> None:
            if layer in self.layers:
                along = values[:, self.heads].float() @ self.into[self.layers.index(layer)]
                found[layer] = along * attention[:, self.heads, :, None]

        out = target.forward(images, see)
        scores = torch.stack([found[layer] for layer in self.layers], 1)
        scale, mean = out.scale[:, None, None], out.mean[:, None, None]
        shift = scale * (self.bias - mean * self.gain) + self.offset
        scores.mul_(scale[..., None, None]).add_(shift[:, :, None, None])
        return target.with_query(scores, dim=3).cpu().numpy()


def _indices(name: str, chosen: Sequence[int] | None, count: int) -> Sequence[int]:
    if chosen is None:
        return range(count)
    wrong = [index for index in chosen if not 0 <= index < count]
    if wrong or not len(chosen):
        raise ParamError(f"{name}s = {list(chosen)}, but this model has {name}s 0 to {count - 1}. Choose from these.")
    return [int(index) for index in chosen]


def _check_finite(images: Tensor, arrays: dict[str, np.ndarray]) -> None:
    finite = np.stack([np.isfinite(array).all(axis=tuple(range(1, array.ndim))) for array in arrays.values()])
    if finite.all():
        return
    first = int(np.flatnonzero(~finite.all(0))[0])
    if not torch.isfinite(images[first]).all():
        raise DataError(f"image {first} has a NaN or infinite pixel. Check the preprocessing, or skip the image.")
    raise ModelError(
        f"the model gives a NaN or infinite {next(n for n, ok in zip(arrays, finite, strict=True) if not ok[first])} "
        f"for image {first}, the first of {int((~finite.all(0)).sum())} out of {len(images)} images; its pixels are "
        "finite. Check the checkpoint, or run the model in float32."
    )
