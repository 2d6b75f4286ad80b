"""Methods: pictures of every target by VITAL's rivals, as rows of the artifact baselines/<model>."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float32
from torch import Tensor

from optogram.decompose.patches import cut, input_size, patch_boxes
from optogram.errors import ModelError
from optogram.methods.objectives import Aim, ClassAim, DirectionAim
from optogram.methods.visualisation.optimise import Tell
from optogram.methods.visualisation.parameterisations import magnitude_spectrum
from optogram.methods.visualisation.render import Album
from optogram.methods.visualisation.rivals import baseline
from optogram.models.loading.classifier_folders import load_classifier_folder
from optogram.models.loading.classifiers import Classifier
from optogram.progress import progress
from optogram.store.read import read

SPECTRUM_IMAGES = 2000
"""Images whose mean magnitude MACO takes, at most."""


@dataclass(frozen=True)
class RivalOptions:
    """How VITAL's rivals draw: the fields of that name in `baselines` of params.yaml, the last three in `vital`.

    views, learning_rates: of some methods, as `baseline` takes them.
    """

    methods: Sequence[str]
    seeds: int
    steps: int
    batch: int
    views: Mapping[str, int] = field(default_factory=dict)
    learning_rates: Mapping[str, float] = field(default_factory=dict)


def baseline_album(
    classifier: Classifier,
    targets: xr.Dataset,
    options: RivalOptions,
    *,
    spectrum: Float32[Tensor, "colour y frequency"] | None,
    seed: int,
    tell: Tell | None = None,
) -> xr.Dataset:
    """The rivals' pictures of all targets (a part of targets/<model>), in as many steps as VITAL has.

    spectrum: of `magnitude_spectrum`, for maco. A method that is not defined for the model or for inner targets leaves
    its places empty and says why in `status`.

    Raises as `baseline`.
    """
    album = Album(targets, options.methods, options.seeds, options.steps)
    size = targets.sizes["y"], targets.sizes["x"]
    for method in options.methods:
        for layer, rows in _by_layer(targets).items():
            if method == "deepinversion" and layer:
                album.refuse(method, rows, "it draws classes only")
                continue
            try:
                # DeepInversion's images depend on one another: all of them, so that no class is without the others
                together = len(rows) * options.seeds if method == "deepinversion" else options.batch
                for places in album.places(rows, together):
                    drawn = baseline(
                        method,
                        classifier,
                        _aim(targets.isel(target=places[:, 0]), layer),
                        seeds=album.seeds_of(places, seed),
                        size=size,
                        steps=options.steps,
                        spectrum=spectrum,
                        views=options.views.get(method, 1),
                        batch=options.batch,
                        learning_rate=options.learning_rates.get(method),
                        tell=tell,
                    )
                    album.put(method, places, drawn)
            except ModelError as error:
                if method != "deepinversion":
                    raise
                album.refuse(method, rows, str(error).splitlines()[0])
    return album.dataset


def drawing_baselines(
    model: Path, targets: Path, images: Path, options: RivalOptions, seed: int, device: str
) -> Callable[[int, int], xr.Dataset]:
    """`compute(start, stop)`: baselines/<model> of these rows of `targets`.

    The spectrum of maco is that of the first SPECTRUM_IMAGES of `images` (an images/<split> artifact).
    """
    classifier, wanted, stored = load_classifier_folder(model, device), read(targets), read(images)
    spectrum = None
    if "maco" in options.methods:
        side = stored.sizes["y"], stored.sizes["x"]
        boxes = patch_boxes(
            np.arange(min(stored.sizes["image"], SPECTRUM_IMAGES)), side, patch=min(side), stride=max(side)
        )
        spectrum = magnitude_spectrum(cut(stored.pixels, boxes, input_size(classifier, stored.pixels)))

    def compute(start: int, stop: int) -> xr.Dataset:
        rows = wanted.isel(target=slice(start, stop)).load()
        total = (stop - start) * options.seeds * options.steps * len(options.methods)
        with progress(f"Rivals, targets {start} to {stop - 1}", total, "steps", bar=False) as tell:
            return baseline_album(classifier, rows, options, spectrum=spectrum, seed=seed, tell=tell)

    return compute


def _by_layer(targets: xr.Dataset) -> dict[str, list[int]]:
    """Rows of the targets of each layer; "" for classes."""
    found: dict[str, list[int]] = {}
    for row, layer in enumerate(targets.layer.values.astype(str).tolist()):
        found.setdefault(layer, []).append(row)
    return found


def _aim(targets: xr.Dataset, layer: str) -> Aim:
    if layer:
        return DirectionAim(layer, torch.from_numpy(np.array(targets.direction.values, np.float32)))
    return ClassAim(torch.from_numpy(targets.class_index.values.astype(np.int64)))
