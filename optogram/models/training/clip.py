"""Room models: trains a small CLIP on images and their captions, reproducibly and resumably."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Float32, Int16, Int64
from open_clip import CLIP
from torch import Tensor

from optogram.errors import DataError, ModelError
from optogram.models.loading.clip_folders import Clip, build_clip, pick_device
from optogram.models.training.loop import Recipe, Tell, check_range, descend, mixed_precision, train
from optogram.models.training.positions import set_places
from optogram.models.training.randomness import epoch_draw

_LARGEST_SCALE = math.log(100)
"""CLIP's own bound on the logit scale (Radford et al. 2021, section 2.5)."""


def train_clip(
    images: xr.Dataset,
    recipe: Recipe,
    *,
    architecture: dict[str, Any],
    texts_per_image: int = 1,
    device: str = "auto",
    scratch: Path | None = None,
    save_seconds: float = 30.0,
    progress: Tell | None = None,
    spec: str = "trained",
) -> Clip:
    """A CLIP trained from the recipe's seed on an images/<split> artifact; its pixels are held in memory.

    architecture: as `build_clip`.
    texts_per_image: captions drawn for an image in a step; cheap beside the image, and each is a question about all
    images of the batch.
    scratch: folder for a checkpoint every `save_seconds`; a run that is started again continues there, to the same
    bytes.
    progress: called with (images done, images in all, loss) once before the first step (loss NaN) and after each.

    Raises ParamError for a bad hyperparameter, DataError for images without captions, ModelError for an architecture
    that is no plain CLIP, if the loss is not finite, and if the checkpoint is another run's.
    """
    for name in ("pixels", "label", "caption", "mentions"):
        if name not in images:
            raise DataError(f"training: the images have no variable {name!r}. Pass an images/train artifact.")
    plan = recipe.plan(images.sizes["image"], save_seconds)
    check_range("texts_per_image", texts_per_image, 1, images.sizes["variant"])
    clip = build_clip(architecture, seed=recipe.seed, spec=spec)
    model = clip.model.to(pick_device(device)).train()
    if not isinstance(model, CLIP):
        raise ModelError(
            f"training: the architecture makes a {type(model).__name__}, expected open_clip's plain CLIP. Give "
            "`text_cfg` no text model of its own."
        )
    _set_places(model)
    task = _ClipTask(clip, model, images, recipe, architecture, texts_per_image)
    with _written_out_attention(model):
        train(task, plan, scratch=scratch, progress=progress)
    model.eval().requires_grad_(False)
    return clip


@dataclass(frozen=True)
class _Captioned:
    """A batch: pixels and texts as the model takes them, and which text is true of which image."""

    pixels: Float32[Tensor, "image rgb y x"]
    tokens: Int64[Tensor, "text token"]
    truth: Bool[Tensor, "image text"]


class _ClipTask:
    """Matching images with captions that are drawn anew each epoch."""

    def __init__(
        self,
        clip: Clip,
        model: CLIP,
        images: xr.Dataset,
        recipe: Recipe,
        architecture: dict[str, Any],
        texts_per_image: int,
    ) -> None:
        self._preprocess, self._batch, self._texts_per_image = clip.preprocess, recipe.batch, texts_per_image
        self._where = where = model.logit_scale.device
        self._pixels = clip.preprocess.fit(np.asarray(images["pixels"].values))
        self._label = torch.from_numpy(np.asarray(images["label"].values)).to(where)
        self._mentions = torch.from_numpy(np.asarray(images["mentions"].values)).to(where)
        texts, variant_text = np.unique(images["caption"].values.astype(str), return_inverse=True)
        self._tokens = clip.tokenize(texts.tolist()).to(where)
        self._text_of = torch.from_numpy(variant_text.reshape(images["caption"].shape)).to(where)
        count, variants = self._text_of.shape
        # an epoch's order is drawn once, not at each of its steps
        self._order = lru_cache(maxsize=1)(lambda epoch: _order(count, variants, texts_per_image, recipe.seed, epoch))
        self._model = model
        self.networks: Mapping[str, torch.nn.Module] = {"model": model}
        self.optimizers = _optimizers(model, recipe.learning_rate, recipe.weight_decay)
        self.averages = {}
        self.identity = {
            "architecture": architecture,
            "recipe": asdict(recipe),
            "texts_per_image": texts_per_image,
            "images": count,
        }

    def batch(self, step: int) -> _Captioned:
        epoch, at = divmod(step, len(self._pixels) // self._batch)
        order, variant = self._order(epoch)
        rows = order[at * self._batch : (at + 1) * self._batch]
        of, chosen = rows.repeat_interleave(self._texts_per_image).to(self._where), variant[rows].flatten()
        chosen = chosen.to(self._where)
        return _Captioned(
            self._preprocess.normalise(self._pixels[rows.numpy()]).to(self._where),
            self._tokens[self._text_of[of, chosen]],
            fits(self._label[rows.to(self._where)], self._label[of], self._mentions[of, chosen]),
        )

    def step(self, batch: _Captioned) -> dict[str, Tensor]:
        model = self._model
        with mixed_precision(self._where):
            image, text = model.encode_image(batch.pixels), _encode_text(model, batch.tokens)
        image, text = (torch.nn.functional.normalize(side.float(), dim=-1) for side in (image, text))
        loss = matching_loss(model.logit_scale.exp() * image @ text.T, batch.truth)
        descend(loss, model, list(self.optimizers.values()), clip=1.0)
        with torch.no_grad():
            model.logit_scale.clamp_(0, _LARGEST_SCALE)
        return {"matching": loss}


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


def _optimizers(model: CLIP, learning_rate: float, weight_decay: float) -> dict[str, torch.optim.Optimizer]:
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
    return {
        "muon": torch.optim.Muon(
            [named[n] for n in inner], learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
        ),
        "adamw": torch.optim.AdamW(groups, learning_rate, betas=(0.9, 0.98), fused=True),
    }
