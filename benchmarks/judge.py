"""How well a judge judges scenes that it has not seen, damaged ones, and what is none: `python -m benchmarks.judge`.

`python -m benchmarks.judge FOLDER COUNT` takes another judge than artifacts/judges/judge, and so many scenes.
"""

import sys

import numpy as np
import torch
import xarray as xr
from jaxtyping import UInt8
from rich.console import Console
from rich.table import Table

from optogram.data.scenes import Scenes
from optogram.metrics.drawn import drawn
from optogram.metrics.localisation import localisation
from optogram.models.judging.judge import Judge, as_input, load_judge
from optogram.models.training.damage import Patches, blur, noise
from optogram.models.training.strangers import Halves

SEED = 11
"""Training scenes have 0."""


def main(folder: str = "artifacts/judges/judge", count: int = 2000) -> None:
    """Print shares of right values, of right counts, and overlaps; then what is seen where there is no object."""
    judge = load_judge(folder, "cpu")
    names = list(judge.attributes)
    scenes = Table("scenes", "found", *names, "counted", "box IoU", "mask IoU", title=f"{count:,} scenes of each kind")
    for kind, images in _scenes(count).items():
        scenes.add_row(kind, *(f"{value:.4f}" for value in _scores(judge, images)))
    strange = Table("no scenes", "found", "a shape seen", "background right", title="what is no scene")
    for kind, (pixels, ground) in _strangers(count).items():
        seen = judge.parse(pixels)
        value = seen["value"].sel(attribute=["shape", "background"]).values
        right = f"{(value[:, 1] == ground).mean():.4f}" if ground is not None else ""
        shares = (float(seen["found"].mean()), float((value[:, 0] >= 0).mean()))
        strange.add_row(kind, *(f"{share:.4f}" for share in shares), right)
    for table in (scenes, strange):
        Console(width=160).print(table)


def _scores(judge: Judge, images: xr.Dataset) -> list[float]:
    seen = judge.parse(images["pixels"].values)
    right = drawn(images["label"], seen["value"], images["value_name"]).share.sel(combination="all").values
    where = localisation(seen["mask"].values, images["mask"].values)
    counted = float((seen["count"].values == images["label"].sel(attribute="count").values + 1).mean())
    return [float(seen["found"].mean()), *right, counted, float(where.box_iou.mean()), float(where.mask_iou.mean())]


def _scenes(count: int) -> dict[str, xr.Dataset]:
    """Held-out scenes, single objects of another seed, the two spurious groups, and damaged single objects."""
    whole, single, biased = (Scenes(split, count, SEED).read(0, count) for split in ("eval", "single", "biased"))
    examples = as_input(Scenes("train", 512, SEED).read(0, 512)["pixels"].values)
    clean, draw = as_input(single["pixels"].values), torch.Generator().manual_seed(SEED)
    ones = torch.ones(len(clean))
    damaged = {
        "single, blurred by 0.5": blur(clean, 0.5 * ones),
        "single, blurred by 1": blur(clean, ones),
        "single, noise of 0.06": noise(clean, 0.06 * ones, draw),
        "single, 16 components": Patches(examples, 4, 16)(clean),
        "single, 8 components": Patches(examples, 4, 8)(clean),
    }
    found = {"eval": whole, "eval, held out": whole.isel(image=whole["held_out"].values), "single": single}
    found["biased"] = biased
    return found | {kind: single.assign(pixels=(single.pixels.dims, _pixels(of))) for kind, of in damaged.items()}


def _strangers(count: int) -> dict[str, tuple[UInt8[np.ndarray, "image y x rgb"], np.ndarray | None]]:
    """Pictures without an object, and their background where they have one."""
    images = Scenes("eval", count, SEED + 1).read(0, count)
    halves, draw = Halves(images["pixels"].values, images["mask"].values), torch.Generator().manual_seed(SEED)
    label = images["label"].sel(attribute="background").values
    found = {}
    for kind in ("grounds", "clouds", "blobs"):
        made = getattr(halves, kind)(count, draw)
        found[kind] = (_pixels(made.images), None if kind == "clouds" else label[made.scene.numpy()])
    erased = blur(halves.grounds(count, draw).images, torch.ones(count))
    found["grounds, blurred by 1"] = (_pixels(erased), None)
    found["even colours"] = (
        np.repeat(np.repeat(np.random.default_rng(SEED).integers(0, 256, (count, 1, 1, 3), np.uint8), 64, 1), 64, 2),
        None,
    )
    return found


def _pixels(images: torch.Tensor) -> UInt8[np.ndarray, "image y x rgb"]:
    return images.clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()


if __name__ == "__main__":
    arguments = dict(zip(("folder", "count"), sys.argv[1:], strict=False))
    main(arguments.get("folder", "artifacts/judges/judge"), int(arguments.get("count", 2000)))
