"""Method room, maps of neurons: zero-shot segmentation by where the neurons that write a text fire (thesis 3.5)."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from optogram.decompose.activations import passing
from optogram.decompose.second_order import check_layer, class_token_tower, mlp_of
from optogram.decompose.towers import ClassTokenTower, evaluating
from optogram.errors import ParamError, ShapeError


def neuron_heatmaps(
    model: nn.Module,
    images: Float[Tensor, "image rgb y x"],
    targets: Any,
    directions: Mapping[int, Any],
    *,
    count: int = 200,
    batch: int | None = 64,
) -> Float[np.ndarray, "image grid_y grid_x"]:
    """Mean activation, patch by patch, of the neurons that write most along an image's class text (section 3.5).

    For each distinct text these are the `count` neurons of all layers together (all, if there are fewer) with the
    largest |<r_n, text>|; the first layer's first one among equals. Their maps p_i are averaged as they are, with no
    regard to the sign of the product, as in the thesis, and set to 0 at the image's lowest patch and to 1 at its
    highest; a map of equal values is 0 all over. The thesis takes what is above 0.5 for the object.

    targets: (image, embed), the text embedding that each image is explained for. directions: the layers to take neurons
        from, with their r (neuron, embed) of `rank_one`; in the thesis the three before the last.
    batch: images that go through the model at once, for all layers together; halved where memory runs out.

    Returns float32 (image, grid_y, grid_x). Raises as `second_order`, and ParamError for no layer or a count below 1,
    ShapeError if targets or directions do not fit.

    >>> from optogram.methods import neuron_heatmaps, rank_one
    >>> texts = zeroshot.classifier.values[:2]
    >>> maps = neuron_heatmaps(model, images[:2], texts, {0: rank_one(second, 4).r}, count=5)
    >>> maps.shape, maps.min().item(), maps.max().item()
    ((2, 4, 4), 0.0, 1.0)
    """
    target = class_token_tower(model)
    images = target.checked(images)
    if count < 1 or not directions:
        raise ParamError(f"count = {count}, layers = {sorted(directions)}; expected 1 neuron or more, and a layer.")
    vectors = {check_layer(target, layer): np.asarray(directions[layer], np.float32) for layer in sorted(directions)}
    wanted = np.asarray(targets.detach().cpu() if isinstance(targets, Tensor) else targets, np.float32)
    _check(target, vectors, wanted, len(images))
    texts, text_of = np.unique(wanted, axis=0, return_inverse=True)
    chosen = {layer: torch.from_numpy(part) for layer, part in _strongest(vectors, texts, count).items()}
    rows_of = torch.from_numpy(text_of.reshape(-1))
    found = np.empty((len(images), *target.grid), np.float32)
    with evaluating(target.visual), torch.inference_mode():

        def work(part: Tensor, rows: slice) -> np.ndarray:
            maps = torch.zeros(len(part), target.tokens - 1, device=part.device)
            for layer, _, p in passing(target, part, rows, chosen):
                maps += (p[:, 1:] @ chosen[layer][rows_of[rows]].to(p)[..., None])[..., 0]
            low, high = maps.amin(1, keepdim=True), maps.amax(1, keepdim=True)
            # a true division: x / x is 1 exactly
            return ((maps - low) / torch.where(high > low, high - low, 1)).unflatten(1, target.grid).cpu().numpy()

        for rows, maps in target.batches(images, batch, work):
            found[rows] = maps
    return found


def _strongest(
    vectors: Mapping[int, Float[np.ndarray, "_neuron embed"]], texts: Float[np.ndarray, "text embed"], count: int
) -> dict[int, Float[np.ndarray, "text _neuron"]]:
    """For each layer the weight of its neurons in each text's map: 1 / count for the chosen ones, else 0."""
    along = np.concatenate([np.abs(texts @ r.T) for r in vectors.values()], axis=1)
    count = min(count, along.shape[1])
    weights = np.zeros_like(along)
    np.put_along_axis(weights, np.argsort(-along, axis=1, kind="stable")[:, :count], 1 / count, axis=1)
    ends = np.cumsum([len(r) for r in vectors.values()])[:-1]
    return dict(zip(vectors, np.split(weights, ends, axis=1), strict=True))


def _check(
    target: ClassTokenTower,
    vectors: Mapping[int, Float[np.ndarray, "_neuron embed"]],
    targets: Float[np.ndarray, "image embed"],
    images: int,
) -> None:
    if targets.ndim != 2 or len(targets) != images:
        raise ShapeError(
            f"targets have shape {targets.shape}, expected ({images}, embed): one text embedding for each image."
        )
    for layer, r in vectors.items():
        expected = (mlp_of(target, layer).c_proj.in_features, targets.shape[1])
        if r.shape != expected:
            raise ShapeError(
                f"the directions of layer {layer} have shape {r.shape}, but the model and targets have (neuron, embed) "
                f"{expected}. Pass r of optogram.methods.rank_one, of all neurons of this layer, and its model's texts."
            )
