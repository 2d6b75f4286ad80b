"""Stage sample: draw images with a diffusion model, each asked for by a caption of its own or by none, in shards."""

import numpy as np
import xarray as xr

from optogram.data.requests import class_requests, scene_requests, without_captions
from optogram.models.generative.diffusion_folders import load_diffusion
from optogram.models.generative.sampling import image_seeds, sample, to_pixels
from optogram.models.training.curves import read_curves
from optogram.params.generative import Sample, Sampling
from optogram.pipeline.stage import Input, Stage
from stages.doorway import Doorway, run, through

STAGE = Stage(
    "sample",
    family="generative",
    desc="Draw what is asked for with the diffusion model {model}",
    over={"model": "sample.models"},
    options=("model",),
    inputs=(Input("diffusion", "diffusions/{model}"), Input("images", "images/reference")),
    out="samples/{model}",
    params=("seed", "sample.models.{model}"),
    pool="gpu",
    retries=1,
)


@through(STAGE)
def main(door: Doorway) -> None:
    """Write samples/<model>."""
    drawing = door.params.of(Sample).models[door.args.model]
    asked = requests(door, drawing)
    folder = door.folder("diffusion")
    diffusion, curves = load_diffusion(str(folder), device=door.params.device), read_curves(folder)
    seeds = image_seeds(door.params.seed, asked.sizes["image"])

    def draw(start: int, stop: int) -> xr.Dataset:
        """A shard: what is asked for, and what was drawn."""
        states = diffusion.states([str(prompt) for prompt in asked["prompt"].values[start:stop]])
        drawn = sample(diffusion, states, seeds=seeds[start:stop], steps=drawing.steps, scale=drawing.scale)
        return row(start, stop, to_pixels(drawn, door.args.model))

    def row(start: int, stop: int, pixels: np.ndarray) -> xr.Dataset:
        """What a shard holds."""
        made = {"pixels": (("image", "y", "x", "rgb"), pixels), "seed": ("image", seeds[start:stop])}
        ids = np.array([f"{door.args.model}/{k:06d}" for k in range(start, stop)])
        return asked.isel(image=slice(start, stop)).assign(made).assign_coords(image=ids).merge(curves)

    # one image would take as long as a batch
    sample_row = row(0, 1, np.zeros((1, *diffusion.size, 3), np.uint8))
    door.write_shards(draw, f"Samples of {door.args.model}", total=len(seeds), shard=drawing.shard, sample=sample_row)


def requests(door: Doorway, drawing: Sampling) -> xr.Dataset:
    """The user's own prompts, or captions of all that scenes can hold, or of the classes of photographs; then none."""
    if drawing.prompts:
        return xr.Dataset({"prompt": ("image", np.array([*drawing.prompts, *[""] * drawing.unconditional]))})
    images, seed = door.open("images"), door.params.seed
    known = "held_out" in images
    asked = scene_requests(drawing.count, seed=seed) if known else class_requests(images, drawing.count, seed=seed)
    return without_captions(asked, drawing.unconditional)


if __name__ == "__main__":
    run(main)
