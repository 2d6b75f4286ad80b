"""Room models: classifiers and their preprocessing in numbers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from optogram.errors import ModelError
from optogram.models.loading.clip_folders import Preprocess
from optogram.models.loading.model_files import classifier_config, folder_kind
from optogram.models.loading.specs import Preprocessing, UnitRange, load_model


@dataclass(frozen=True)
class Classifier:
    """A classifier in eval mode, without gradients of its parameters, and what its preprocessing does to colours.

    mean, std: (rgb,) such that the model takes (rgb in [0, 1] - mean) / std. size: (y, x) of the images that
    `preprocess` makes, or None if it leaves them as large as they come. classes: names of the logits in their order,
    and attribute: what of an image they are values of ("shape"); empty where nobody said.

    >>> from optogram.models import Classifier, Preprocess
    >>> half = (0.5, 0.5, 0.5)
    >>> found = Classifier(classifier.model, Preprocess(32, half, half), half, half, (32, 32), ("a", "b", "c", "d"))
    >>> found.normalise(torch.tensor([0.0, 0.5, 1.0]).view(1, 3, 1, 1)).flatten().tolist()
    [-1.0, 0.0, 1.0]
    """

    model: nn.Module
    preprocess: Preprocessing
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    size: tuple[int, int] | None
    classes: tuple[str, ...] = ()
    attribute: str = ""

    def normalise(self, rgb: Float[Tensor, "image rgb y x"]) -> Float[Tensor, "image rgb y x"]:
        """Colours in [0, 1] as the model takes them; gradients pass."""
        mean, std = (rgb.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (rgb - mean) / std


def load_classifier(spec: str, *, checkpoint: str | Path | None = None, device: str = "auto") -> Classifier:
    """The classifier that `spec` names (timm:, torchvision:, callable: or a folder, as `load_model`), ready to use.

    Size, mean and std are measured on plain grey images, so that they hold for whatever the preprocessing is. Only a
    folder knows `classes` and `attribute`.

    Raises ModelError as `load_model`, for a CLIP, and for a preprocessing that is no scaling of each colour.
    """
    folder = Path(spec) if spec and Path(spec).is_dir() else None
    if spec.startswith("open_clip:") or (folder and folder_kind(folder) == "clip"):
        raise ModelError(
            f"{spec} is a CLIP and has no classes. Expected timm:NAME, torchvision:NAME, callable:MODULE:FACTORY or a "
            "classifier's folder."
        )
    model, preprocess = load_model(spec, checkpoint=checkpoint, device=device)
    levels = np.array([0, 255, 51], np.uint8)
    small, large = (
        preprocess(np.broadcast_to(levels[:, None, None, None], (3, side, side, 3)).copy()) for side in (64, 96)
    )
    if small.ndim != 4 or small.shape[:2] != (3, 3):
        raise ModelError(f"{spec}: its preprocessing made {tuple(small.shape)} of 3 images; expected (3, 3, y, x).")
    colours = small.double().mean((2, 3))
    black, white, grey = colours.cpu()
    even = torch.allclose(small.double(), colours[:, :, None, None].expand(small.shape), atol=1e-4)
    if not even or not (white > black).all() or not torch.allclose(grey, black + 0.2 * (white - black), atol=1e-3):
        raise ModelError(
            f"{spec}: its preprocessing is not (rgb - mean) / std of each colour; black became {black.tolist()}, white "
            f"{white.tolist()}, a fifth of white {grey.tolist()}. Let the factory return an optogram.models.Preprocess."
        )
    std = 1 / (white - black)
    size = (small.shape[2], small.shape[3]) if small.shape == large.shape else None
    mean, deviation = ([round(value, 6) for value in values.tolist()] for values in (-black * std, std))
    if isinstance(preprocess, Preprocess | UnitRange):
        mean, deviation = preprocess.mean, preprocess.std
    found = Classifier(model, preprocess, three(mean), three(deviation), size)
    if folder is None:
        return found
    config = classifier_config(folder)
    return replace(found, classes=tuple(config["classes"]), attribute=config["attribute"])


def three(values: Sequence[float]) -> tuple[float, float, float]:
    """One number a colour."""
    red, green, blue = values
    return red, green, blue
