"""Methods: what each of many images shall maximise: the logit of a class, or a layer's activation along a direction."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn

from optogram.errors import ModelError, ParamError, ShapeError
from optogram.models.layers import activations


@dataclass(frozen=True)
class ClassAim:
    """The logits of these classes, one an image."""

    classes: Int64[Tensor, " image"]

    def __len__(self) -> int:
        return len(self.classes)

    def __getitem__(self, rows: slice) -> "ClassAim":
        return ClassAim(self.classes[rows])

    def repeat(self, times: int) -> "ClassAim":
        """For `times` images instead of each, side by side: of each target its seeds, or of each image its views."""
        return ClassAim(self.classes.repeat_interleave(times))

    def to(self, device: torch.device | str) -> "ClassAim":
        """On a device."""
        return ClassAim(self.classes.to(device))


@dataclass(frozen=True)
class DirectionAim:
    """The mean over space of a layer's activations along a direction in its channels, one an image; one-hot: a neuron.

    layer: as `activations` takes it.
    """

    layer: str
    direction: Float[Tensor, "image channel"]

    def __len__(self) -> int:
        return len(self.direction)

    def __getitem__(self, rows: slice) -> "DirectionAim":
        return DirectionAim(self.layer, self.direction[rows])

    def repeat(self, times: int) -> "DirectionAim":
        """For `times` images instead of each, side by side: of each target its seeds, or of each image its views."""
        return DirectionAim(self.layer, self.direction.repeat_interleave(times, 0))

    def to(self, device: torch.device | str) -> "DirectionAim":
        """On a device."""
        return DirectionAim(self.layer, self.direction.to(device))


Aim = ClassAim | DirectionAim


def reached(model: nn.Module, images: Float[Tensor, "image rgb y x"], aim: Aim) -> Float32[Tensor, " image"]:
    """How far each image drives what it aims at: its logit, or its mean activation; gradients pass.

    images: as the model takes them. Raises ShapeError unless the aim has one row an image and the layer's channels;
    ModelError as `activations`, and for a model that gives no logits.
    """
    if len(aim) != len(images):
        raise ShapeError(f"{len(images)} images, but aims for {len(aim)}. Give one an image.")
    if isinstance(aim, ClassAim):
        return logits(model, images).gather(1, aim.classes[:, None])[:, 0].float()
    found = activations(model, images, [aim.layer])[aim.layer]
    if found.shape[1] != aim.direction.shape[1]:
        raise ShapeError(
            f"layer {aim.layer!r} has {found.shape[1]} channels, the direction {aim.direction.shape[1]}. "
            "Give a direction of this layer."
        )
    return torch.einsum("nc,nc->n", found.float().mean((2, 3)), aim.direction.float())


def shortfall(model: nn.Module, images: Float[Tensor, "image rgb y x"], aim: Aim) -> Float32[Tensor, " image"]:
    """What inversion minimises: the cross-entropy of each image's class, or minus its mean activation.

    Raises as `reached`.
    """
    if isinstance(aim, ClassAim):
        return F.cross_entropy(logits(model, images).float(), aim.classes, reduction="none")
    return -reached(model, images, aim)


def logits(model: nn.Module, images: Float[Tensor, "image rgb y x"]) -> Float[Tensor, "image class"]:
    """What the model says of the images. Raises ModelError unless it is one number a class."""
    found = model(images)
    if not isinstance(found, Tensor) or found.ndim != 2:
        what = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ModelError(f"{type(model).__name__} gives {what}: expected logits (image, class). Use a classifier.")
    return found


@torch.no_grad()
def check_aim(model: nn.Module, aim: Aim, size: tuple[int, int]) -> None:
    """Send one grey image of `size` (y, x) through the model, so that a wrong aim is known before anything is drawn.

    Raises ModelError in training mode, if the model does not take this size, and as `reached`; ParamError for a class
    that the model does not have; ShapeError as `reached`.
    """
    if model.training:
        raise ModelError(f"{type(model).__name__} is in training mode: call model.eval() before drawing.")
    first = next(iter(model.parameters()), torch.zeros(()))
    grey = torch.zeros(1, 3, *size, dtype=first.dtype, device=first.device)
    try:
        count = logits(model, grey).shape[1]
    except ModelError:
        raise
    except Exception as error:  # each architecture has its own way to refuse a size
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"{type(model).__name__} does not take an image of {size[0]} x {size[1]}: {reason}. Draw at its own size."
        ) from error
    if not isinstance(aim, ClassAim):
        reached(model, grey, aim[:1].to(grey.device))
    elif not ((aim.classes >= 0) & (aim.classes < count)).all():
        raise ParamError(
            f"classes {sorted(set(aim.classes.tolist()))}: {type(model).__name__} has {count}, numbered from 0."
        )
