"""Methods, guidance: what the last linear layer of a classifier reads, and of which class each image is."""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
import xarray as xr
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn

from optogram.models.batches import in_batches
from optogram.models.linear_head import catching_head
from optogram.models.loading.classifiers import Classifier


class Readout(NamedTuple):
    """The last linear layer: logits = phi @ weight.T + bias, where phi is its input (`penultimate`)."""

    weight: Float[Tensor, "class embed"]
    bias: Float[Tensor, " class"]


@torch.no_grad()
def readout(classifier: Classifier, *, side: int) -> Readout:
    """The weights and biases that make the classifier's logits of its features; zeros for a layer without biases.

    side: of the images, in pixels, for a classifier that takes them as they come. Raises ModelError as `penultimate`.
    """
    model = classifier.model
    first = next(iter(model.parameters()), torch.zeros(()))
    size = classifier.size or (side, side)
    with catching_head(model) as head:
        model(torch.zeros(1, 3, *size, dtype=first.dtype, device=first.device))
    wanted = (head.logits.shape[1], head.features.shape[1])
    layers = [part for part in model.modules() if isinstance(part, nn.Linear) and part.weight.shape == wanted]
    # several can have this shape; the head is that which makes the logits
    off = [float((F.linear(head.features, part.weight, part.bias) - head.logits).abs().max()) for part in layers]
    last = layers[int(np.argmin(off))]
    bias = last.bias if last.bias is not None else last.weight.new_zeros(len(last.weight))
    return Readout(last.weight.detach(), bias.detach())


@torch.no_grad()
def features_of(classifier: Classifier, images: xr.Dataset, *, batch: int) -> Float32[np.ndarray, "image embed"]:
    """The input of the last linear layer of each image of an images artifact, which is read batch by batch.

    The last batch is filled up with its last image, so that what an image gives does not depend on how many there are.
    Raises ModelError as `penultimate`.
    """
    where = next(classifier.model.parameters()).device
    rows = filled(np.arange(images.sizes["image"]), batch)

    def work(part: slice) -> Float32[np.ndarray, "image embed"]:
        with catching_head(classifier.model) as head:
            classifier.model(classifier.preprocess(pixels_of(images, rows[part])).to(where))
        return head.features.float().cpu().numpy()

    found = [each for _, each in in_batches(len(rows), batch, work)]
    return np.concatenate(found)[: images.sizes["image"]]


def filled(rows: Int64[np.ndarray, " row"], batch: int) -> Int64[np.ndarray, " filled"]:
    """The rows, and the last one again until they are a multiple of `batch`: kernels round by the size of a batch."""
    return np.concatenate([rows, np.repeat(rows[-1:], -len(rows) % batch)])


def pixels_of(images: xr.Dataset, rows: Int64[np.ndarray, " row"]) -> np.ndarray:
    """The pixels (image, y, x, rgb) uint8 of these rows, in any order; each is read once."""
    ordered, place = np.unique(rows, return_inverse=True)
    return images["pixels"].transpose("image", "y", "x", "rgb").isel(image=ordered).values[place]
