"""Methods: which patches speak for an image-text similarity; the token decomposition beside six baselines.

Thesis section 2.5 and Table 2.4. Every function takes preprocessed images (image, rgb, y, x) and gives float32 heatmaps
(image, grid_y, grid_x) on the patch grid, higher = more evidence, on a scale of its own: compare them by threshold or
rank, never by value. `targets` (image, embed) is the text embedding that each image is explained for.

Raises, all of them: ShapeError if images or targets do not fit the model, ModelError if the method is not defined for
its architecture.
"""

from collections.abc import Callable
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
import torch.nn.functional as F
import xarray as xr
from jaxtyping import Float
from torch import Tensor, nn

from optogram.decompose.contributions import contributions
from optogram.decompose.relevance import Start, propagate
from optogram.decompose.relevance_rules import LRP
from optogram.decompose.towers import ClassTokenTower, Tower, evaluating, tower
from optogram.errors import ModelError, ParamError, ShapeError, nearest

Heatmaps = Float[np.ndarray, "image grid_y grid_x"]
Method = Literal["decomposition", "raw_attention", "rollout", "grad_cam", "chefer", "lrp", "partial_lrp"]
METHODS: tuple[Method, ...] = get_args(Method)
BATCH = 16  # explicit attention maps of a ViT-L-14, with gradients: about 0.3 GB an image
BLOCK_BYTES = 64 << 20


def heatmaps(
    method: str,
    model: nn.Module,
    images: Float[Tensor, "image rgb y x"],
    targets: Any,
    *,
    classes: Any = None,
    batch: int = BATCH,
) -> Heatmaps:
    """Heatmaps by the named method, one of METHODS; those that do not look at the text ignore `targets`.

    `classes` goes to `decomposition` alone. Raises ParamError for a name that is none of METHODS.
    """
    if method == "decomposition":
        return decomposition(model, images, targets, classes=classes, batch=batch)
    if method == "raw_attention":
        return raw_attention(model, images, batch=batch)
    if method == "rollout":
        return rollout(model, images, batch=batch)
    if method == "grad_cam":
        return grad_cam(model, images, targets, batch=batch)
    if method == "chefer":
        return chefer(model, images, targets, batch=batch)
    if method == "lrp":
        return lrp(model, images, targets, batch=batch)
    if method == "partial_lrp":
        return partial_lrp(model, images, targets, batch=batch)
    raise ParamError(f"heatmap method = {method!r}, expected one of {', '.join(METHODS)}.{nearest(method, [*METHODS])}")


def decomposition(
    model: nn.Module, images: Float[Tensor, "image rgb y x"], targets: Any, *, classes: Any = None, batch: int = BATCH
) -> Heatmaps:
    """Ours: what each patch writes along the text direction, <c_token, target> (thesis section 2.5).

    classes: (class, embed) text embeddings of all classes; their average heatmap is subtracted, which takes out biases.
    """
    target = tower(model)
    images = target.checked(images)
    wanted = _targets(targets, len(images))
    maps = [
        token_heatmaps(
            contributions(model, images[i : i + batch]).token, wanted[i : i + batch], classes=classes, grid=target.grid
        )
        for i in range(0, len(images), batch)
    ]
    return np.concatenate(maps)


def token_heatmaps(
    token: xr.DataArray, targets: Any, *, classes: Any = None, grid: tuple[int, int] | None = None
) -> Heatmaps:
    """`decomposition` from the `token` variable (image, token, embed) that `contributions` gave, stored or in memory.

    grid: patches (down, across); a square by default. Token 0, the class token, is left out. Images are read in blocks.

    Raises ShapeError if the tokens do not fill the grid or the directions do not fit.
    """
    count, tokens, embed = token.sizes["image"], token.sizes["token"], token.sizes["embed"]
    side = round((tokens - 1) ** 0.5)
    rows, columns = grid or (side, side)
    if rows * columns != tokens - 1 or tokens < 2:
        raise ShapeError(
            f"token holds {tokens} tokens, which are not a class token and a grid of {rows} x {columns} patches. "
            "Pass `grid`, and contributions that were computed with every token."
        )
    directions = _targets(targets, count).float().cpu().numpy()
    if classes is not None:
        # <c, t> - mean_k <c, t_k> = <c, t - mean_k t_k>
        directions = directions - torch.as_tensor(classes).detach().float().cpu().numpy().mean(0)
    if directions.shape[1] != embed:
        raise ShapeError(f"targets have {directions.shape[1]} dimensions, but the contributions have {embed}.")
    found = np.empty((count, tokens - 1), np.float32)
    step = max(1, BLOCK_BYTES // (4 * tokens * embed))
    for start in range(0, count, step):
        part = slice(start, start + step)
        patches = token.isel(image=part).transpose("image", "token", "embed").values[:, 1:]
        found[part] = (patches @ directions[part, :, None])[..., 0]
    return found.reshape(count, rows, columns)


def raw_attention(model: nn.Module, images: Float[Tensor, "image rgb y x"], *, batch: int = BATCH) -> Heatmaps:
    """Attention of the class token in the last layer, mean over heads (Chefer et al. 2021, baseline "raw attention").

    For an attention-pooled model: the attention of its pool.
    """
    target = tower(model)
    rows: dict[int, Tensor] = {}

    def explain(images: Tensor, _: slice) -> Tensor:
        with torch.inference_mode():
            target.forward(images, lambda layer, attention, values: rows.update({layer: attention.mean(1)}))
        row = rows[target.layers - 1]
        return row[:, 1:] if target.class_token else row

    return _over_batches(target, images, batch, explain)


def rollout(model: nn.Module, images: Float[Tensor, "image rgb y x"], *, batch: int = BATCH) -> Heatmaps:
    """Attention rollout (Abnar & Zuidema 2020): the product over layers of (mean-head attention + identity) / 2.

    The class token's row of the product, by multiplying one row vector through the layers from the last to the first.
    """
    target = _with_attention_maps(model, "rollout")

    def explain(images: Tensor, _: slice) -> Tensor:
        averages: list[Tensor] = []
        with torch.inference_mode():
            _explicit(target, images, lambda attention: averages.append(attention.mean(1)), since=target.layers)
            row = _class_row(averages[0])
            for average in reversed(averages):
                row = (row + _step(row, average)) / 2  # rows of attention sum to 1, so rows of A + I sum to 2
        return row[:, 1:]

    return _over_batches(target, images, batch, explain)


def grad_cam(model: nn.Module, images: Float[Tensor, "image rgb y x"], targets: Any, *, batch: int = BATCH) -> Heatmaps:
    """Grad-CAM on the last layer's attention, as the ViT baseline of Chefer et al. (2021) defines it.

    Each head's class-token attention to the patches is weighted by the mean over patches of its gradient; the mean over
    heads is clamped at zero (`generate_cam_attn` in their published code). The gradient is of the cosine similarity.
    """
    target = _with_attention_maps(model, "grad_cam")
    wanted = _targets(targets, len(images))

    def explain(images: Tensor, part: slice) -> Tensor:
        ((attention, gradient),) = _gradients(target, images, wanted[part], since=target.layers - 1)
        weights = gradient[:, :, 0, 1:].mean(-1, keepdim=True)
        return (attention[:, :, 0, 1:] * weights).mean(1).clamp(min=0)

    return _over_batches(target, images, batch, explain)


def chefer(model: nn.Module, images: Float[Tensor, "image rgb y x"], targets: Any, *, batch: int = BATCH) -> Heatmaps:
    """Relevance through attention of Chefer, Gur & Wolf, ICCV 2021 (generic attention-model explainability), eq. 5-6.

    R <- R + E_h[(grad A * A)+] R over the layers, R = identity at first; the class token's row. It is their rule for
    CLIP, and drops the LRP pass of their CVPR 2021 paper (the thesis's [12]). The gradient is of the cosine similarity.
    """
    target = _with_attention_maps(model, "chefer")
    wanted = _targets(targets, len(images))

    def explain(images: Tensor, part: slice) -> Tensor:
        layers = _gradients(target, images, wanted[part], since=0)
        row = _class_row(layers[0][0][:, 0])
        for attention, gradient in reversed(layers):
            row = row + _step(row, (attention * gradient).clamp(min=0).mean(1))
        return row[:, 1:]

    return _over_batches(target, images, batch, explain)


def lrp(model: nn.Module, images: Float[Tensor, "image rgb y x"], targets: Any, *, batch: int = BATCH) -> Heatmaps:
    """Layer-wise relevance propagation from <embedding, target> to the patches, by a rule that conserves.

    The rules are those of `relevance_rules.LRP`, of which class token, positions and LayerNorms hold a share; the
    baseline of Chefer et al. (2021) propagates through attention weights too.
    """
    target = _with_attention_maps(model, "lrp")
    wanted = _fitting(target, _targets(targets, len(images)))

    def explain(images: Tensor, part: slice) -> Tensor:
        start = Start(wanted[part])
        return propagate(target.visual, images, ["conv1"], start, "lrp")["conv1"].sum(1).flatten(1)

    return _over_batches(target, images, batch, explain)


def partial_lrp(
    model: nn.Module, images: Float[Tensor, "image rgb y x"], targets: Any, *, batch: int = BATCH
) -> Heatmaps:
    """LRP stopped at the last layer's attention (Voita et al. 2019), as the baseline of Chefer et al. (2021) shows it.

    The class token's row of the relevance of the attention weights, clamped at zero, mean over heads. What a head's
    weight a and value v contribute together, a * v, is all the weight's here: halving it would change only the scale.
    """
    target = _with_attention_maps(model, "partial_lrp")
    wanted = _fitting(target, _targets(targets, len(images)))

    def explain(images: Tensor, part: slice) -> Tensor:
        maps: list[Tensor] = []
        with torch.enable_grad(), LRP():
            # the rules make attention a constant; as a variable of its own it gets the gradient that is asked for here
            embedding = _explicit(
                target, images, lambda attention: maps.append(attention.requires_grad_()), since=target.layers - 1
            )
            (ratio,) = torch.autograd.grad(embedding, maps[-1], wanted[part].to(embedding))
        return (maps[-1].detach() * ratio)[:, :, 0, 1:].clamp(min=0).mean(1)

    return _over_batches(target, images, batch, explain)


def _over_batches(
    target: Tower, images: Tensor, batch: int, explain: Callable[[Tensor, slice], Float[Tensor, "image patch"]]
) -> Heatmaps:
    # out of any inference mode of the caller's, whose tensors could not be differentiated through
    with evaluating(target.visual), torch.inference_mode(False):
        maps = target.batches(images, batch, lambda part, rows: explain(part.clone(), rows).float().cpu().numpy())
        maps = [part for _, part in maps]
    return np.concatenate(maps).reshape(-1, *target.grid)


def _explicit(
    target: ClassTokenTower, images: Tensor, keep: Callable[[Tensor], None], *, since: int
) -> Float[Tensor, "image embed"]:
    """The image embedding, by a forward pass with explicit attention (image, head, query, token), shown to `keep`.

    Differentiable in the attention of layers `since` and later.
    """
    with torch.no_grad():
        x = target.embed(images)
    for index, block in enumerate(target.blocks):
        if index == since:
            x = x.detach().requires_grad_()
        with torch.set_grad_enabled(index >= since):
            q, k, v = target.qkv(block.attn, block.ln_1(x))
            attention = (q @ k.transpose(2, 3) * q.shape[-1] ** -0.5).softmax(-1)
            keep(attention)
            x = x + block.ls_1(block.attn.out_proj((attention @ v).transpose(1, 2).flatten(2)))
            x = x + block.ls_2(block.mlp(block.ln_2(x)))
    return target.parts.ln_post(x[:, 0]) @ target.parts.proj


def _gradients(
    target: ClassTokenTower, images: Tensor, targets: Tensor, *, since: int
) -> list[tuple[Float[Tensor, "image head query token"], Float[Tensor, "image head query token"]]]:
    """Attention and the gradient of each image's similarity to its target in it, for layers `since` and later."""
    maps: list[Tensor] = []
    with torch.enable_grad():
        embedding = _explicit(target, images, maps.append, since=since)
        similarity = F.cosine_similarity(embedding, _fitting(target, targets).to(embedding), dim=1)
        gradients = torch.autograd.grad(similarity.sum(), maps[since:])
    return [(a.detach(), g) for a, g in zip(maps[since:], gradients, strict=True)]


def _class_row(like: Float[Tensor, "image query token"]) -> Float[Tensor, "image token"]:
    """The class token's row of the identity."""
    row = torch.zeros_like(like[:, 0])
    row[:, 0] = 1
    return row


def _step(row: Float[Tensor, "image token"], attention: Float[Tensor, "image query token"]) -> Tensor:
    return (row[:, None] @ attention)[:, 0]


def _targets(targets: Any, count: int) -> Float[Tensor, "image embed"]:
    tensor = torch.as_tensor(targets).detach()
    if tensor.ndim != 2 or len(tensor) != count:
        raise ShapeError(
            f"targets have shape {tuple(tensor.shape)}, expected ({count}, embed): one text embedding for each image."
        )
    return tensor


def _fitting(target: ClassTokenTower, targets: Tensor) -> Float[Tensor, "image embed"]:
    width = target.parts.proj.shape[1]
    if targets.shape[1] != width:
        raise ShapeError(f"targets have {targets.shape[1]} dimensions, but the model embeds into {width}.")
    return targets


def _with_attention_maps(model: nn.Module, method: str) -> ClassTokenTower:
    target = tower(model)
    if not isinstance(target, ClassTokenTower):
        raise ModelError(
            f"{method} is defined for class-token ViTs, and this model is attention-pooled. "
            "Use decomposition or raw_attention."
        )
    return cast(ClassTokenTower, target)
