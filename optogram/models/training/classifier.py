"""Room models: trains a classifier on images and the values of one of their attributes, reproducibly and resumably."""

from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from optogram.errors import DataError, ModelError, ParamError, nearest
from optogram.models.loading.architectures import build_architecture, for_classes
from optogram.models.loading.classifiers import Classifier, three
from optogram.models.loading.clip_folders import Preprocess, pick_device
from optogram.models.training.loop import Recipe, Tell, descend, mixed_precision, train
from optogram.models.training.positions import set_places
from optogram.models.training.randomness import epoch_draw


def train_classifier(
    images: xr.Dataset,
    recipe: Recipe,
    *,
    spec: str,
    arguments: dict[str, Any],
    attribute: str | None = None,
    flips: bool = False,
    device: str = "auto",
    scratch: Path | None = None,
    save_seconds: float = 30.0,
    progress: Tell | None = None,
) -> Classifier:
    """A classifier trained from the recipe's seed on an images/<split> artifact, whose pixels are held in memory.

    spec, arguments: as `build_architecture`; the number of classes is added (`for_classes`).
    attribute: whose values are the classes; None is the images' own (`class_attribute`). Images without a value are
    left out.
    flips: mirror half of the images, drawn anew each epoch; not where left and right tell classes.
    scratch: folder for a checkpoint every `save_seconds`; a run that is started again continues there, to the same
    bytes.
    progress: called with (images done, images in all, loss) once before the first step (loss NaN) and after each.

    Raises ParamError for a bad hyperparameter or an unknown attribute, DataError for images without labels or a class
    without images, ModelError for an architecture that does not fit the images or the classes, if the loss is not
    finite, and if the checkpoint is another run's.
    """
    name, classes, rows, target = _labelled(images, attribute)
    plan = recipe.plan(len(rows), save_seconds)
    preprocess = Preprocess(images.sizes["y"])
    pixels = preprocess.fit(np.asarray(images["pixels"].values)[rows])
    where = pick_device(device)
    model = build_architecture(spec, for_classes(spec, arguments, len(classes)), seed=recipe.seed).to(where)
    _set_places(model)
    _check_logits(model, preprocess.normalise(pixels[:2]).to(where), spec, classes)
    identity = {
        "architecture": [spec, arguments],
        "classes": [name, classes],
        "recipe": asdict(recipe),
        "flips": flips,
        "images": len(pixels),
    }
    task = _ClassifierTask(model, preprocess, pixels, target, recipe, flips=flips, identity=identity)
    # fused attention is neither deterministic on CUDA nor faster here
    with sdpa_kernel(SDPBackend.MATH):
        train(task, plan, scratch=scratch, progress=progress)
    model.eval().requires_grad_(False)
    mean, std, side = three(preprocess.mean), three(preprocess.std), preprocess.image_size
    return Classifier(model, preprocess, mean, std, (side, side), tuple(classes), name)


class _ClassifierTask:
    """Telling classes by cross-entropy; a batch is the images as the model takes them, and their classes."""

    def __init__(
        self,
        model: nn.Module,
        preprocess: Preprocess,
        pixels: UInt8[np.ndarray, "image y x rgb"],
        target: Int64[Tensor, " image"],
        recipe: Recipe,
        *,
        flips: bool,
        identity: dict[str, Any],
    ) -> None:
        self._model, self._preprocess, self._pixels, self._target = model, preprocess, pixels, target
        self._batch, self._flips = recipe.batch, flips
        self._where = next(model.parameters()).device
        # an epoch's order is drawn once, not at each of its steps
        self._order = lru_cache(maxsize=1)(lambda epoch: _order(len(pixels), recipe.seed, epoch))
        self.networks: Mapping[str, nn.Module] = {"model": model}
        self.optimizers = {"adamw": _optimizer(model, recipe.learning_rate, recipe.weight_decay)}
        self.averages = {}
        self.identity = identity

    def batch(self, step: int) -> tuple[Float[Tensor, "image rgb y x"], Int64[Tensor, " image"]]:
        epoch, at = divmod(step, len(self._pixels) // self._batch)
        order, mirrored = self._order(epoch)
        chosen = order[at * self._batch : (at + 1) * self._batch]
        seen = self._preprocess.normalise(self._pixels[chosen.numpy()])
        if self._flips:
            seen = torch.where(mirrored[chosen, None, None, None], seen.flip(3), seen)
        return seen.to(self._where), self._target[chosen].to(self._where)

    def step(self, batch: tuple[Float[Tensor, "image rgb y x"], Int64[Tensor, " image"]]) -> dict[str, Tensor]:
        seen, target = batch
        with mixed_precision(self._where):
            logits = self._model(seen)
        loss = nn.functional.cross_entropy(logits.float(), target)
        descend(loss, self._model, list(self.optimizers.values()), clip=1.0)
        return {"cross_entropy": loss}


def _order(images: int, seed: int, epoch: int) -> tuple[Int64[Tensor, " image"], Bool[Tensor, " image"]]:
    """An epoch's order of the images, and which of them are mirrored: a function of the seed and the epoch alone."""
    draw = epoch_draw(seed, epoch)
    return torch.randperm(images, generator=draw), torch.rand(images, generator=draw) < 0.5


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
