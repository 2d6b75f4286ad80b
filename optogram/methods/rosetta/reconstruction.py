"""Methods, rosetta: real images back into a generator, with and without matched units, and with permuted pairs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from optogram.errors import DataError, ShapeError
from optogram.methods.rosetta.inversion import Inversion, Moments, Targets, invert, targets_of
from optogram.methods.rosetta.mining import Member
from optogram.metrics.headline import Headline
from optogram.metrics.pictures import perceived, perceptual, psnr, ssim
from optogram.models.generative.generators import Generator
from optogram.models.generative.sampling import to_pixels
from optogram.progress import say, stretch

Looking = Callable[[UInt8[np.ndarray, "image y x rgb"]], Sequence[Float[Tensor, "image _channel _y _x"]]]
PLAIN, ALL, PERMUTED = "without units", "all models", "permuted pairs"
Pair = tuple[tuple[int, int], tuple[int, int]]


def at_its_size(
    pixels: UInt8[np.ndarray, "image y x rgb"], generator: Generator
) -> UInt8[np.ndarray, "image _y _x rgb"]:
    """Images at the size that a generator draws: resized bilinearly with antialiasing, and so said, or as they are."""
    size = tuple(generator.images(generator.latents([0]), batch=1).shape[2:])
    if pixels.shape[1:3] == size:
        return pixels
    said = [" x ".join(map(str, each)) for each in (pixels.shape[1:3], size)]
    say(f"Images of {said[0]} pixels are inverted at {said[1]}.")
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    return to_pixels(nn.functional.interpolate(images, size, mode="bilinear", antialias=True), "resizing")


def reconstructions(
    generator: Generator,
    found: xr.Dataset,
    members: Sequence[Member],
    pixels: UInt8[np.ndarray, "image y x rgb"],
    seeds: Sequence[int],
    options: Inversion,
    *,
    permutation: int,
    eyes: Looking | None = None,
    watch: Callable[[Tensor], Sequence[Tensor]] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
    """The artifact rosetta_inversion/<group>: images as the generator draws them from the latents that were found.

    found: rosetta/<group>, whose first model is the generator. members: its other models. seeds: of the latents to
    start from, one an image, the same in all conditions: without units, with the pairs of each model, with all pairs,
    and with as many pairs whose partners were permuted by the seed `permutation`. eyes: maps of a model that says how
    alike images look (`perceptual`). watch: the same of images in [0, 1], with gradients: latents are then sought by
    that in place of pixels.

    Raises DataError if no pair was found, ShapeError for images of another size than the generator's.
    """
    own, wanted, counts = conditions(generator, found, members, pixels, permutation)
    original = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(generator.device).float() / 255
    start = generator.latents(list(seeds))
    if (drawn := generator.images(start[:1], batch=1)).shape[2:] != original.shape[2:]:
        raise ShapeError(
            f"images to invert are {tuple(original.shape[2:])}, but {generator.spec} draws {tuple(drawn.shape[2:])}. "
            "Take images of that size."
        )

    with torch.no_grad():
        truth = watch(original) if watch else []

    def distance(images: Tensor) -> Float[Tensor, " image"]:
        return perceived(watch(images), truth) if watch else (images - original).square().mean((1, 2, 3))

    results = []
    for at, targets in enumerate(wanted.values()):
        tell = stretch(progress, at, len(wanted))
        results.append(invert(generator, start, own, targets, options, reconstruct=distance, progress=tell))
    images = np.stack([to_pixels(each.images, str(found["model"].values[0])) for each in results])
    scores = [[of(each.images, original) for each in results] for of in (psnr, ssim)]
    variables: dict[str, Any] = {
        "original": (("image", "y", "x", "rgb"), pixels),
        "pixels": (("condition", "image", "y", "x", "rgb"), images),
        "psnr": (("condition", "image"), np.stack(scores[0]).astype(np.float32)),
        "ssim": (("condition", "image"), np.stack(scores[1]).astype(np.float32)),
        **_perceived(eyes, pixels, images),
        "similarity": (("condition", "step", "image"), np.stack([each.similarity for each in results])),
        "distance": (("condition", "step", "image"), np.stack([each.distance for each in results])),
        "pairs": ("condition", np.array([0, *counts.values(), *[sum(counts.values())] * 2])),
    }
    return xr.Dataset(variables, {"condition": list(wanted)})


def _perceived(
    eyes: Looking | None,
    pixels: UInt8[np.ndarray, "image y x rgb"],
    images: UInt8[np.ndarray, "condition image y x rgb"],
) -> dict[str, Any]:
    if eyes is None:
        return {}
    truth = eyes(pixels)
    found = [perceptual(eyes(each), truth) for each in images]
    return {"perceptual": (("condition", "image"), np.stack(found).astype(np.float32))}


def conditions(
    generator: Generator,
    found: xr.Dataset,
    members: Sequence[Member],
    pixels: UInt8[np.ndarray, "image y x rgb"],
    permutation: int,
) -> tuple[Moments, dict[str, Targets], dict[str, int]]:
    """The moments of the generator's units, what they are to show of images by condition, and pairs by model.

    Raises DataError if no pair was found.
    """
    own, theirs = moments_of(found, str(found["model"].values[0])), {m.name: moments_of(found, m.name) for m in members}
    pairs = {member.name: pairs_of(found, member.name) for member in members}
    pairs = {name: each for name, each in pairs.items() if each}
    if not pairs:
        raise DataError("no unit of the generator has a partner above chance")
    maps = {member.name: member.maps(pixels) for member in members if member.maps}
    parts = {name: targets_of(maps[name], theirs[name], generator, own, each) for name, each in pairs.items()}
    mixed = {
        name: targets_of(maps[name], theirs[name], generator, own, permuted(each, permutation))
        for name, each in pairs.items()
    }
    counts = {name: len(each) for name, each in pairs.items()}
    return own, {PLAIN: {}, **parts, ALL: _joined(parts, counts), PERMUTED: _joined(mixed, counts)}, counts


def headline(found: xr.Dataset) -> Headline:
    """PSNR with all pairs, beside permuted ones."""
    mean = found["psnr"].mean("image")
    named = [float(mean.sel(condition=name)) for name in (ALL, PERMUTED, PLAIN)]
    return Headline("PSNR of inverted images in dB, all pairs", named[0], found.sizes["image"], PERMUTED, *named[1:])


def moments_of(found: xr.Dataset, model: str) -> Moments:
    """Means and deviations of a model's units, layer by layer, from rosetta/<group>."""
    layers = _layers(found, model)
    mean, deviation = (torch.from_numpy(found[name].values.astype(np.float32)) for name in ("mean", "deviation"))
    rows = [torch.from_numpy(units) for units in layers.values()]
    return Moments([mean[units] for units in rows], [deviation[units] for units in rows])


def pairs_of(found: xr.Dataset, model: str) -> list[Pair]:
    """The pairs found of the first model with another, each unit as (layer, channel)."""
    first = str(found["model"].values[0])
    place = units_of(found, first) | units_of(found, model)
    of = found["model_of"].values
    rows = zip(*(found[name].values[found["found"].values].tolist() for name in ("a", "b")), strict=True)
    return [(place[a], place[b]) for a, b in rows if of[a] == first and of[b] == model]


def units_of(found: xr.Dataset, model: str) -> dict[int, tuple[int, int]]:
    """The layer, by its number, and the channel of each unit of a model, by its number in rosetta/<group>."""
    return {
        int(unit): (number, channel)
        for number, units in enumerate(_layers(found, model).values())
        for channel, unit in enumerate(units)
    }


def permuted(pairs: Sequence[Pair], seed: int) -> list[Pair]:
    """The same units of the generator, each with the partner of another pair, in one cycle; a single pair stays."""
    order = np.random.default_rng(seed).permutation(len(pairs)).tolist()
    following = dict(zip(order, [*order[1:], *order[:1]], strict=True))
    return [(own, pairs[following[at]][1]) for at, (own, _) in enumerate(pairs)]


def _layers(found: xr.Dataset, model: str) -> dict[str, np.ndarray]:
    here = np.flatnonzero(found["model_of"].values == model)
    names = found["layer_of"].values[here]
    return {layer: here[names == layer] for layer in dict.fromkeys(names.tolist())}


def _joined(parts: Mapping[str, Targets], counts: Mapping[str, int]) -> dict[str, Tensor]:
    """The targets of all models' pairs together, each pair weighing the same."""
    total, found = sum(counts.values()), {}
    for name, targets in parts.items():
        for layer, target in targets.items():
            found[layer] = found.get(layer, 0) + target * (counts[name] / total)
    return found
