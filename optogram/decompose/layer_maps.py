"""Decompose: the rows of a cache of a classifier's activations, from a model folder and an images artifact."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import xarray as xr

from optogram.errors import ShapeError, nearest
from optogram.models.batches import in_batches
from optogram.models.layers import activations, blocks
from optogram.models.linear_head import catching_head
from optogram.models.loading.classifier_folders import load_classifier_folder
from optogram.store.read import read


def caching_activations(
    model: Path, images: Path, layers: Sequence[str] | None, batch: int, device: str = "auto"
) -> Callable[[int, int], xr.Dataset]:
    """`compute(start, stop)`: activations/<model>/<split> of these rows of `images`, in one pass of the model.

    layers: names, as `activations` takes them; None is the last of `blocks`. For layer k of them `maps_<k>` (image,
    channel_<k>, y_<k>, x_<k>); besides `features` (image, embed), as `penultimate`, and `logits` (image, class). All
    float32. Attribute `layers`: their names, as a JSON list.

    Raises ModelError as `load_classifier_folder`, `activations`, `blocks` and `penultimate`, for the layers already
    before the first row is asked for; and as `read`.
    """
    classifier, stored = load_classifier_folder(model, device=device), read(images)
    where = next(classifier.model.parameters()).device
    side = classifier.size[0] if classifier.size else stored.sizes["y"]
    chosen = list(layers) if layers else blocks(classifier.model, size=side)[-1:]

    def maps(pixels: np.ndarray) -> list[np.ndarray]:
        with torch.no_grad(), catching_head(classifier.model) as head:
            found = activations(classifier.model, classifier.preprocess(pixels).to(where), chosen)
        return [each.float().cpu().numpy() for each in (*found.values(), head.features, head.logits)]

    maps(np.zeros((1, side, side, 3), np.uint8))
    dims = [("image", f"channel_{k}", f"y_{k}", f"x_{k}") for k in range(len(chosen))]
    variables = {f"maps_{k}": each for k, each in enumerate(dims)}
    variables |= {"features": ("image", "embed"), "logits": ("image", "class")}

    def compute(start: int, stop: int) -> xr.Dataset:
        part = stored.isel(image=slice(start, stop))
        pixels = part.pixels.values
        parts = [found for _, found in in_batches(len(pixels), batch, lambda rows: maps(pixels[rows]))]
        arrays = [np.concatenate(each) for each in zip(*parts, strict=True)]
        found = {name: (of, array) for (name, of), array in zip(variables.items(), arrays, strict=True)}
        classes = np.array(classifier.classes or [str(k) for k in range(arrays[-1].shape[1])])
        coordinates = {"image": part.image.values, "class": classes}
        return xr.Dataset(found, coordinates, {"layers": json.dumps(chosen)})

    return compute


def layer_maps(ds: xr.Dataset, layer: str) -> xr.DataArray:
    """Activations of a layer, (image, channel, y, x) float32, as lazy as `ds`, which is activations/<model>/<split>.

    Raises ShapeError for a layer that the cache does not hold.

    >>> from optogram.decompose import layer_maps
    >>> maps = np.zeros((12, 6, 30, 30), np.float32)
    >>> dims = ("image", "channel_0", "y_0", "x_0")
    >>> cache = xr.Dataset({"maps_0": (dims, maps)}, attrs={"layers": '["layer4"]'})
    >>> layer_maps(cache, "layer4").dims
    ('image', 'channel', 'y', 'x')
    """
    held = json.loads(ds.attrs.get("layers", "[]"))
    if layer not in held:
        raise ShapeError(
            f"the cache has no activations of layer {layer!r}, only of {', '.join(held) or 'none'}."
            f"{nearest(layer, held)} Name it in activations.layers of params.yaml."
        )
    k = held.index(layer)
    return ds[f"maps_{k}"].rename({f"channel_{k}": "channel", f"y_{k}": "y", f"x_{k}": "x"}).rename(layer)
