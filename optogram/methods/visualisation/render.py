"""Methods: pictures of every target by every method, as rows of the artifacts vital/<model> and baselines/<model>."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from jaxtyping import Int

from optogram.decompose.relevance import Attributor
from optogram.errors import ParamError, nearest
from optogram.methods.visualisation.optimise import Drawn, Tell, image_seed, recorded
from optogram.methods.visualisation.prototypes import Match, directions_of, match_of
from optogram.methods.visualisation.vital import VitalOptions, vital
from optogram.models.loading.classifier_folders import load_classifier_folder
from optogram.models.loading.classifiers import Classifier
from optogram.progress import progress
from optogram.store.read import read


class Album:
    """Places for the pictures of some targets, filled one batch of (target, seed) at a time.

    Empty, it is also the sample that lays out the artifact (`write_sharded`).
    """

    def __init__(self, targets: xr.Dataset, methods: Sequence[str], seeds: int, steps: int) -> None:
        size = targets.sizes["y"], targets.sizes["x"]
        count = targets.sizes["target"], len(methods), seeds
        marks = recorded(steps)
        self.names = targets.target.values.astype(str).tolist()
        self.seeds = seeds
        status = np.full(count, "not drawn", dtype=object)
        self.dataset = xr.Dataset(
            {
                "pixels": (("target", "method", "seed", "y", "x", "rgb"), np.zeros((*count, *size, 3), np.uint8)),
                "transparency": (("target", "method", "seed", "y", "x"), np.zeros((*count, *size), np.uint8)),
                "loss": (("target", "method", "seed", "step"), np.zeros((*count, len(marks)), np.float32)),
                "status": (("target", "method", "seed"), status),
            },
            coords={"target": self.names, "method": list(methods), "seed": range(seeds), "step": marks},
        )

    def places(self, rows: Sequence[int], batch: int) -> Iterator[Int[np.ndarray, "image 2"]]:
        """(target, seed) of the images of these targets, at most `batch` at once."""
        pairs = np.array([(row, seed) for row in rows for seed in range(self.seeds)])
        yield from (pairs[start : start + batch] for start in range(0, len(pairs), batch))

    def seeds_of(self, places: Int[np.ndarray, "image 2"], seed: int) -> list[int]:
        """The images' own seeds: of the run, the target's name and the number, whatever is drawn beside them."""
        return [image_seed(seed, self.names[row], number) for row, number in places.tolist()]

    def put(self, method: str, places: Int[np.ndarray, "image 2"], drawn: Drawn) -> None:
        """Keep what was drawn, in 8 bits."""
        at = places[:, 0], self.dataset.method.values.tolist().index(method), places[:, 1]
        pixels = (drawn.rgb * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
        self.dataset.pixels.values[at] = pixels.numpy()
        self.dataset.transparency.values[at] = (drawn.transparency * 255).round().to(torch.uint8).numpy()
        self.dataset.loss.values[at] = drawn.loss.numpy()
        stopped = drawn.diverged.tolist()
        self.dataset.status.values[at] = [f"diverged at step {step}" if step >= 0 else "done" for step in stopped]

    def refuse(self, method: str, rows: Sequence[int], why: str) -> None:
        """Say that a method is not defined for some targets."""
        self.dataset.status.values[list(rows), self.dataset.method.values.tolist().index(method)] = (
            f"not defined: {why}"
        )


def vital_album(
    classifier: Classifier,
    targets: xr.Dataset,
    prototypes: xr.Dataset,
    options: VitalOptions,
    *,
    seed: int,
    tell: Tell | None = None,
) -> xr.Dataset:
    """VITAL's pictures of all targets (a part of targets/<model>) by their prototypes (the same part of prototypes/).

    `layer_loss` (target, block, seed) is the final L_SM of each
    layer, NaN where a target is not matched and where the picture diverged.

    Raises ParamError for weights of a layer that is not matched and fewer seeds than facets, and as `vital`.
    """
    layers = prototypes.block.values.astype(str).tolist()
    for given in (options.weights or {}, options.inner_weights or {}):
        if unknown := sorted(set(given) - set(layers)):
            raise ParamError(
                f"weights name layer {unknown[0]!r}, which is not matched.{nearest(unknown[0], layers)} Matched are "
                f"{', '.join(layers)}."
            )
    device = next(classifier.model.parameters()).device
    size = targets.sizes["y"], targets.sizes["x"]
    album = Album(targets, ["vital"], options.seeds, options.steps)
    losses = np.full((targets.sizes["target"], len(layers), options.seeds), np.nan, np.float32)
    facets = 1 + targets.facet.values.max(1)
    if options.seeds < facets.max():
        raise ParamError(
            f"seeds = {options.seeds}, but classes have {facets.max()} facets, which seeds draw in turn. Raise seeds."
        )
    attributor: Attributor | None = None
    for match, rows in _alike(classifier, targets, layers, size, options.class_relevance).items():
        given = (options.inner_weights if match.layer else options.weights) or {}
        if match.weighted and attributor is None:
            attributor = Attributor(classifier.model, options.relevance)
        for places in album.places(rows, options.batch):
            part = targets.isel(target=places[:, 0])
            at = places[:, 0], places[:, 1] % facets[places[:, 0]]
            wanted = {
                name: torch.from_numpy(prototypes[f"prototype_{layers.index(name)}"].values[at]).to(device)
                for name in match.layers
            }
            drawn, final = vital(
                classifier,
                wanted,
                options,
                seeds=album.seeds_of(places, seed),
                size=size,
                weights={name: weight for name, weight in given.items() if name in match.layers},
                relevance=attributor if match.weighted else None,
                start=match.start(directions_of(part, match, len(classifier.classes)).to(device)),
                tell=tell,
            )
            album.put("vital", places, drawn)
            for k, name in enumerate(match.layers):
                last = final[:, k].numpy()
                losses[places[:, 0], layers.index(name), places[:, 1]] = np.where(np.isfinite(last), last, np.nan)
    return with_losses(album, layers, losses)


def with_losses(album: Album, layers: Sequence[str], losses: np.ndarray | None = None) -> xr.Dataset:
    """VITAL's album with the final L_SM of each layer (target, block, seed); none by default."""
    none = np.full((len(album.names), len(layers), album.seeds), np.nan, np.float32)
    said = {"missing": "the target is not matched at this layer, or the picture diverged (`status`)"}
    variable = ("target", "block", "seed"), none if losses is None else losses, said
    return album.dataset.assign_coords(block=list(layers)).assign(layer_loss=variable)


def drawing_vital(
    model: Path, targets: Path, prototypes: Path, options: VitalOptions, seed: int, device: str
) -> Callable[[int, int], xr.Dataset]:
    """`compute(start, stop)`: vital/<model> of these rows of `targets` and `prototypes`."""
    classifier, wanted, found = load_classifier_folder(model, device), read(targets), read(prototypes)

    def compute(start: int, stop: int) -> xr.Dataset:
        part = slice(start, stop)
        total = (stop - start) * options.seeds * options.steps
        with progress(f"VITAL, targets {start} to {stop - 1}", total, "steps", bar=False) as tell:
            rows = wanted.isel(target=part).load()
            return vital_album(classifier, rows, found.isel(target=part).load(), options, seed=seed, tell=tell)

    return compute


def _alike(
    classifier: Classifier, targets: xr.Dataset, layers: Sequence[str], size: tuple[int, int], class_relevance: bool
) -> dict[Match, list[int]]:
    """Rows of the targets that are matched in the same way, which can be drawn together."""
    found: dict[Match, list[int]] = {}
    for row in range(targets.sizes["target"]):
        match = match_of(targets.isel(target=row), classifier, layers, size, class_relevance=class_relevance)
        found.setdefault(match, []).append(row)
    return found
