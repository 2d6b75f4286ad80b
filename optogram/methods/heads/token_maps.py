"""Method room, joint decomposition: which image tokens write along a head's own descriptions (thesis Figure 2.6)."""

from collections.abc import Callable

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Float32, Int

from optogram.decompose.contributions import token_scores
from optogram.decompose.head_space import open_heads
from optogram.errors import DataError, ParamError

SIGNS = ("most", "least")


def joint(
    model: torch.nn.Module,
    preprocess: Callable[[np.ndarray], torch.Tensor],
    pixels: xr.DataArray,
    contributions: xr.Dataset,
    spans: xr.Dataset,
    texts: xr.DataArray,
    centre: Float[np.ndarray, " embed"],
    count: int,
) -> xr.Dataset:
    """Per head, on the `count` images that it says most about: heatmaps of its most and its least similar description.

    pixels: (image, y, x, rgb) uint8; contributions: the same model's on the same images.
    spans: `text` and `direction` (layer, head, step, embed) of one pool, as in textspan/<model>.
    texts: (text, embed) unit embeddings of that pool; centre: mean of the class embeddings, which is subtracted from
        each description so that what every class shares does not show (the thesis subtracts the averaged heatmap).

    A head's coefficient of a description is <c - mean c, direction>: the direction is the description made orthogonal
    to those picked before it. Each image shows the descriptions with the largest and the smallest coefficient.
    Returns `heatmap` (layer, head, k, sign, gy, gx), <c_{i,l,h}, description - centre> at each image token,
    `coefficient` (layer, head, k, sign), `text` and `image`. Raises ParamError if there are fewer images than `count`.
    """
    if count > pixels.sizes["image"]:
        raise ParamError(f"joint.images = {count}, but there are {pixels.sizes['image']} images. Lower it.")
    heads = open_heads(contributions, spans["layer"].values.tolist())
    into = heads.basis @ spans.direction.values.astype(np.float64).swapaxes(2, 3)
    coefficients = np.concatenate([np.moveaxis(np.moveaxis(a, 0, 2) @ into, 2, 0) for _, a in heads.blocks()])
    coefficients -= coefficients.mean(0)  # (image, layer, head, step)
    named = spans["text"].values.astype(str)
    _check_described(named, spans)
    shape = (*named.shape[:2], count, len(SIGNS))
    image, step, value = _extremes(coefficients, named, count)
    text = np.take_along_axis(named[:, :, None], step, 3)

    maps = []
    for at in np.ndindex(shape[:2]):
        layer, head = int(spans["layer"][at[0]]), int(spans["head"][at[1]])
        along = texts.sel(text=text[at].ravel()).values - centre
        inputs = preprocess(pixels.isel(image=image[at]).values)
        scores = token_scores(model, inputs, torch.as_tensor(along), layers=[layer], heads=[head]).values[:, 0, 0]
        own = scores.reshape(count, -1, count, len(SIGNS))[np.arange(count), :, np.arange(count)]
        maps.append(_grid(own.swapaxes(1, 2)))
    heatmap = np.stack(maps).reshape(*shape, *maps[0].shape[2:])
    return xr.Dataset(
        {
            "heatmap": (("layer", "head", "k", "sign", "gy", "gx"), heatmap),
            "coefficient": (("layer", "head", "k", "sign"), value),
            "text": (("layer", "head", "k", "sign"), text),
            "image": (("layer", "head", "k"), pixels["image"].values[image]),
        },
        coords={"layer": spans["layer"].values, "head": spans["head"].values, "sign": list(SIGNS)},
    )


def _check_described(named: np.ndarray, spans: xr.Dataset) -> None:
    some = (named != "").any(-1)
    if not some.all():
        layer, head = np.argwhere(~some)[0]
        raise DataError(
            f"head {head} of layer {spans['layer'].values[layer]} has no description at all: the first text pool spans "
            "nothing of what it writes. Put a richer pool first in texts.pools."
        )


def _extremes(
    coefficients: Float[np.ndarray, "image layer head step"], named: np.ndarray, count: int
) -> tuple[
    Int[np.ndarray, "layer head k"], Int[np.ndarray, "layer head k sign"], Float32[np.ndarray, "layer head k sign"]
]:
    """Of each head the images with the largest coefficient, each one's most and least similar step, and their values.

    named: texts (layer, head, step), "" where a head has no more.
    """
    shape = (*named.shape[:2], count, len(SIGNS))
    image, step, value = np.empty(shape[:3], int), np.empty(shape, int), np.empty(shape, np.float32)
    for at in np.ndindex(shape[:2]):
        said = coefficients[:, *at]
        picked = named[at] != ""  # a pool may run out before `size` picks
        most, least = np.where(picked, said, -np.inf), np.where(picked, said, np.inf)
        image[at] = np.argsort(-most.max(1), kind="stable")[:count]
        step[at] = np.stack([most[image[at]].argmax(1), least[image[at]].argmin(1)], 1)
        value[at] = np.take_along_axis(said[image[at]], step[at], 1)
    return image, step, value


def _grid(scores: Float[np.ndarray, "image sign token"]) -> Float[np.ndarray, "image sign gy gx"]:
    """Image tokens as a square grid, without the class token where there is one."""
    side = int(scores.shape[-1] ** 0.5)
    return scores[..., scores.shape[-1] - side * side :].reshape(*scores.shape[:-1], side, side).astype(np.float32)
