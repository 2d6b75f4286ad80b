"""Room models: trains a classifier on images and the values of one of their attributes, reproducibly and resumably."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from optogram.errors import DataError, ModelError, ParamError, nearest
from optogram.models.architectures import build_architecture, for_classes
from optogram.models.classifiers import Classifier, three
from optogram.models.folder import Preprocess, pick_device
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


def train_classifier(
    images: xr.Dataset,
    *,
    spec: str,
    arguments: dict[str, Any],
    epochs: int,
    batch: int,
    learning_rate: float,
    weight_decay: float,
    warmup: int,
    seed: int,
    attribute: str | None = None,
    flips: bool = False,
    device: str = "auto",
    scratch: Path | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> Classifier:
    """A classifier trained from `seed` on an images/<split> artifact, whose pixels are held in memory.

    spec, arguments: as `build_architecture`; the number of classes is added (`for_classes`).
    attribute: whose values are the classes; None is the images' own (`class_attribute`). Images without a value are
    left out.
    warmup: steps of linear rise before the cosine decay of the learning rate.
    flips: mirror half of the images, drawn anew each epoch; not where left and right tell classes.
    scratch: folder for a checkpoint an epoch; a run that is started again continues there, to the same bytes.
    progress: called with (images done, images in all, loss) once before the first step (loss NaN) and after each.

    Raises ParamError for a bad hyperparameter or an unknown attribute, DataError for images without labels or a class
    without images, ModelError for an architecture that does not fit the images or the classes, if the loss is not
    finite, and if the checkpoint is another run's.
    """
    name, classes, rows, target = _labelled(images, attribute)
    check_numbers(len(rows), epochs, batch, learning_rate, warmup)
    preprocess = Preprocess(images.sizes["y"])
    pixels = preprocess.fit(np.asarray(images["pixels"].values)[rows])
    where = pick_device(device)
    model = build_architecture(spec, for_classes(spec, arguments, len(classes)), seed=seed).to(where)
    _set_places(model)
    _check_logits(model, preprocess.normalise(pixels[:2]).to(where), spec, classes)

    steps = len(pixels) // batch
    optimizer = _optimizer(model, learning_rate, weight_decay)
    recipe = {
        "architecture": [spec, arguments],
        "classes": [name, classes],
        "numbers": [epochs, batch, learning_rate, weight_decay, warmup, seed, flips, len(pixels)],
    }
    done = resume(scratch, model, [optimizer], recipe)
    tell = progress or (lambda done, total, loss: None)
    tell(done * steps * batch, epochs * steps * batch, math.nan)
    # fused attention is neither deterministic on CUDA nor faster here
    with deterministic(), sdpa_kernel(SDPBackend.MATH):
        for epoch in range(done, epochs):
            draw = epoch_draw(seed, epoch)
            order, mirrored = torch.randperm(len(pixels), generator=draw), torch.rand(len(pixels), generator=draw) < 0.5
            for step in range(steps):
                at = epoch * steps + step
                set_rate([optimizer], learning_rate, at, epochs * steps, warmup)
                chosen = order[step * batch : (step + 1) * batch]
                seen = preprocess.normalise(pixels[chosen.numpy()])
                if flips:
                    seen = torch.where(mirrored[chosen, None, None, None], seen.flip(3), seen)
                loss = _step(model, optimizer, seen.to(where), target[chosen].to(where))
                check_finite(loss, step, epoch, learning_rate, warmup)
                tell((at + 1) * batch, epochs * steps * batch, loss)
            save_checkpoint(scratch, model, [optimizer], recipe, epoch + 1)
    model.eval().requires_grad_(False)
    mean, std, side = three(preprocess.mean), three(preprocess.std), preprocess.image_size
    return Classifier(model, preprocess, mean, std, (side, side), tuple(classes), name)


def _labelled(
    images: xr.Dataset, attribute: str | None
) -> tuple[str, list[str], Int64[np.ndarray, " labelled"], Int64[Tensor, " labelled"]]:
    """The attribute, its values, which images have one, and which one these have."""
    for variable in ("pixels", "label", "value_name"):
        if variable not in images:
            raise DataError(f"training: the images have no variable {variable!r}. Pass an images/<split> artifact.")
    known = [str(name) for name in images["attribute"].values]
    name = attribute or str(images.attrs["class_attribute"])
    if name not in known:
        raise ParamError(
            f"training: attribute = {name!r}, but the images have {', '.join(known)}.{nearest(name, known)}"
        )
    classes = [str(value) for value in images["value_name"].values[known.index(name)] if value]
    label = images["label"].values[:, known.index(name)].astype(np.int64)
    rows = np.flatnonzero(label >= 0)
    counts = np.bincount(label[rows], minlength=len(classes))
    if len(classes) < 2 or not counts.all():
        found = ", ".join(f"{value}: {count}" for value, count in zip(classes, counts, strict=True))
        raise DataError(
            f"training: each {name} needs images, and there must be two or more; found {found or 'none'}. Take more "
            "images, or another attribute."
        )
    return name, classes, rows, torch.from_numpy(label[rows])


def _check_logits(model: nn.Module, seen: Float[Tensor, "image rgb y x"], spec: str, classes: list[str]) -> None:
    try:
        with torch.no_grad():
            found = model.eval()(seen)
    except Exception as error:  # each architecture has its own way to refuse a size
        raise ModelError(
            f"{spec} does not take images of {seen.shape[2]} x {seen.shape[3]}: {str(error) or type(error).__name__}. "
            "Change `arguments` (img_size of a ViT)."
        ) from error
    finally:
        model.train()
    if not isinstance(found, Tensor) or tuple(found.shape) != (len(seen), len(classes)):
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ModelError(
            f"{spec} gives {shape} for {len(seen)} images; expected ({len(seen)}, {len(classes)}), a logit for each of "
            f"{', '.join(classes)}. Give num_classes: {len(classes)} in `arguments`."
        )


def _set_places(model: nn.Module) -> None:
    """timm's ViTs start from noise, as open_clip's: see `train_clip`."""
    place, patches = (getattr(model, name, None) for name in ("pos_embed", "patch_embed"))
    if isinstance(place, nn.Parameter) and (grid := getattr(patches, "grid_size", None)):
        rows, columns = grid
        set_places(place[0, -rows * columns :], rows, columns)  # a class token's comes first


def _optimizer(model: nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW; weight decay for matrices and filters only: not for gains, biases and position embeddings."""
    named = dict(model.named_parameters())
    free = [name for name, w in named.items() if w.ndim < 2 or name.endswith("pos_embed")]
    groups = [
        {"params": [w for name, w in named.items() if (name in free) == is_free], "weight_decay": decay}
        for is_free, decay in ((False, weight_decay), (True, 0.0))
    ]
    return torch.optim.AdamW(groups, learning_rate, betas=(0.9, 0.98), fused=True)


def _step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    seen: Float[Tensor, "image rgb y x"],
    target: Int64[Tensor, " image"],
) -> float:
    with mixed_precision(seen.device):
        logits = model(seen)
    loss = nn.functional.cross_entropy(logits.float(), target)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return float(loss.detach())
