"""Room models: trains a small CLIP on images and their captions, reproducibly and resumably."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Float32, Int16, Int64
from open_clip import CLIP
from torch import Tensor

from optogram.errors import DataError
from optogram.models.folder import Clip, build_clip, pick_device
from optogram.models.training import (
    check_finite,
    check_numbers,
    deterministic,
    epoch_draw,
    mixed_precision,
    resume,
    save_checkpoint,
    set_places,
    set_rate,
)

_LARGEST_SCALE = math.log(100)
"""CLIP's own bound on the logit scale (Radford et al. 2021, section 2.5)."""


def train_clip(
    images: xr.Dataset,
    *,
    architecture: dict[str, Any],
    epochs: int,
    batch: int,
    learning_rate: float,
    weight_decay: float,
    warmup: int,
    seed: int,
    texts_per_image: int = 1,
    device: str = "auto",
    scratch: Path | None = None,
    progress: Callable[[int, int, float], None] | None = None,
    spec: str = "trained",
) -> Clip:
    """A CLIP trained from `seed` on an images/<split> artifact; its pixels are held in memory.

    architecture: as `build_clip`. warmup: steps of linear rise before the cosine decay of the learning rate.
    texts_per_image: captions drawn for an image in a step; cheap beside the image, and each is a question about all
    images of the batch.
    scratch: folder for a checkpoint an epoch; a run that is started again continues there, to the same bytes.
    progress: called with (images done, images in all, loss) once before the first step (loss NaN) and after each.

    Raises ParamError for a bad hyperparameter, DataError for images without captions, ModelError if the loss is not
    finite or the checkpoint is another run's.
    """
    _check(images, epochs, batch, learning_rate, warmup, texts_per_image)
    clip = build_clip(architecture, seed=seed, spec=spec)
    where = pick_device(device)
    model = clip.model.to(where).train()
    _set_places(model)
    pixels = clip.preprocess.fit(np.asarray(images["pixels"].values))
    label = torch.from_numpy(np.asarray(images["label"].values)).to(where)
    mentions = torch.from_numpy(np.asarray(images["mentions"].values)).to(where)
    texts, variant_text = np.unique(images["caption"].values.astype(str), return_inverse=True)
    tokens = clip.tokenize(texts.tolist()).to(where)
    text_of = torch.from_numpy(variant_text.reshape(images["caption"].shape)).to(where)

    steps = len(pixels) // batch
    optimizers = _optimizers(model, learning_rate, weight_decay)
    recipe = {
        "architecture": architecture,
        "numbers": [epochs, batch, learning_rate, weight_decay, warmup, seed, texts_per_image, len(pixels)],
    }
    done = resume(scratch, model, optimizers, recipe)
    tell = progress or (lambda done, total, loss: None)
    tell(done * steps * batch, epochs * steps * batch, math.nan)
    with deterministic(), _written_out_attention(model):
        for epoch in range(done, epochs):
            order, variant = _order(len(pixels), text_of.shape[1], texts_per_image, seed, epoch)
            for step in range(steps):
                at = epoch * steps + step
                set_rate(optimizers, learning_rate, at, epochs * steps, warmup)
                rows = order[step * batch : (step + 1) * batch]
                seen = clip.preprocess.normalise(pixels[rows.numpy()]).to(where)
                of, chosen = rows.repeat_interleave(texts_per_image).to(where), variant[rows].flatten().to(where)
                truth = fits(label[rows.to(where)], label[of], mentions[of, chosen])
                loss = _step(model, optimizers, seen, tokens[text_of[of, chosen]], truth)
                check_finite(loss, step, epoch, learning_rate, warmup)
                tell((at + 1) * batch, epochs * steps * batch, loss)
            save_checkpoint(scratch, model, optimizers, recipe, epoch + 1)
    model.eval().requires_grad_(False)
    return clip


def fits(
    label: Int16[Tensor, "image attribute"],
    text_label: Int16[Tensor, "text attribute"],
    mentions: Bool[Tensor, "text attribute"],
) -> Bool[Tensor, "image text"]:
    """Whether each text is true of each image: the image agrees with the text's own in all that the text states."""
    return ((label[:, None] == text_label) | ~mentions).all(-1)


def matching_loss(logits: Float[Tensor, "image text"], truth: Bool[Tensor, "image text"]) -> Float32[Tensor, ""]:
    """Symmetric InfoNCE whose target is uniform over all true matches (SupCon's outer sum, Khosla et al. 2020).

    Plain InfoNCE counts a short caption's other true images as negatives, and so unlearns what it should learn.
    """
    target = truth.float()
    by_text = -(target / target.sum(0) * logits.log_softmax(0)).sum(0).mean()
    by_image = -(target / target.sum(1, keepdim=True) * logits.log_softmax(1)).sum(1).mean()
    return (by_text + by_image) / 2


def _step(
    model: CLIP, optimizers: list[torch.optim.Optimizer], seen: Tensor, read: Tensor, truth: Bool[Tensor, "image text"]
) -> float:
    with mixed_precision(seen.device):
        image, text = model.encode_image(seen), _encode_text(model, read)
    image, text = (torch.nn.functional.normalize(side.float(), dim=-1) for side in (image, text))
    loss = matching_loss(model.logit_scale.exp() * image @ text.T, truth)
    model.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
    with torch.no_grad():
        model.logit_scale.clamp_(0, _LARGEST_SCALE)
    return float(loss.detach())


def _encode_text(model: CLIP, read: Int64[Tensor, "text token"]) -> Float[Tensor, "text embed"]:
    """`model.encode_text` less the padding behind the longest text: attention is causal, so the result is the same."""
    tower: Any = model
    length = int((read != 0).sum(1).max())
    read = read[:, :length]
    x = tower.token_embedding(read) + tower.positional_embedding[:length]
    x = tower.ln_final(tower.transformer(x, attn_mask=tower.attn_mask[:length, :length]))
    return x[torch.arange(len(x)), read.argmax(1)] @ tower.text_projection


@contextmanager
def _written_out_attention(model: CLIP) -> Iterator[None]:
    """Attention by its formula inside, not by a fused kernel, whose backward takes 3 to 8 times as long on a CPU.

    Measured in bf16 at 8 heads of 16; the formula's gradients are deterministic besides.
    """

    def ask(
        _: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return args, kwargs | {"need_weights": True, "average_attn_weights": False}

    layers = [layer for layer in model.modules() if isinstance(layer, torch.nn.MultiheadAttention)]
    hooks = [layer.register_forward_pre_hook(ask, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _order(images: int, variants: int, texts: int, seed: int, epoch: int) -> tuple[Tensor, Tensor]:
    """An epoch's order of the images and choice of captions: a function of the seed and the epoch alone."""
    draw = epoch_draw(seed, epoch)
    order = torch.randperm(images, generator=draw)
    return order, torch.rand(images, variants, generator=draw).argsort(1)[:, :texts]


def _set_places(model: CLIP) -> None:
    """open_clip starts from noise a tenth as strong as what a patch holds: in a short run, places are never learned."""
    visual: Any = model.visual
    set_places(visual.positional_embedding[1:], *visual.grid_size)


def _optimizers(model: CLIP, learning_rate: float, weight_decay: float) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al. 2024) for the matrices inside the transformers, AdamW for all else; one learning rate.

    Muon's steps are scaled to the size of AdamW's (Liu et al. 2025). Weight decay for matrices only, as CLIP does: not
    for gains, biases, the logit scale and position embeddings.
    """
    named = dict(model.named_parameters())
    inner = [name for name, w in named.items() if ".resblocks." in name and w.ndim == 2]
    free = [name for name, w in named.items() if w.ndim < 2 or name.endswith("positional_embedding")]
    outer = [name for name in named if name not in {*inner, *free}]
    groups = [
        {"params": [named[n] for n in names], "weight_decay": d} for names, d in ((outer, weight_decay), (free, 0.0))
    ]
    return [
        torch.optim.Muon(
            [named[n] for n in inner], learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(groups, learning_rate, betas=(0.9, 0.98), fused=True),
    ]


def _check(images: xr.Dataset, epochs: int, batch: int, learning_rate: float, warmup: int, texts: int) -> None:
    for name in ("pixels", "label", "caption", "mentions"):
        if name not in images:
            raise DataError(f"training: the images have no variable {name!r}. Pass an images/train artifact.")
    count = images.sizes["image"]
    check_numbers(count, epochs, batch, learning_rate, warmup, texts_per_image=(texts, 1, images.sizes["variant"]))
