"""Stage generate: draw images with a generator, each of a latent of its own, in shards."""

import numpy as np
import xarray as xr

from optogram.models.generative.generators import load_generator
from optogram.models.generative.sampling import image_seeds, to_pixels
from optogram.models.training.curves import read_curves
from optogram.params.generative import Generate
from optogram.pipeline.stage import Input, Stage
from stages.doorway import Doorway, run, through

STAGE = Stage(
    "generate",
    family="generative",
    desc="Draw images with the generator {model}",
    over={"model": "generate.models"},
    options=("model",),
    inputs=(Input("generator", "generators/{model}"),),
    out="samples/{model}",
    params=("seed", "generate.models.{model}"),
    pool="gpu",
    retries=1,
)


@through(STAGE)
def main(door: Doorway) -> None:
    """Write samples/<model>."""
    drawing = door.params.of(Generate).models[door.args.model]
    folder = door.folder("generator")
    generator, curves = load_generator(str(folder), device=door.params.device), read_curves(folder)
    seeds = image_seeds(door.params.seed, drawing.count)

    def draw(start: int, stop: int) -> xr.Dataset:
        """A shard."""
        images = generator.images(generator.latents(seeds[start:stop]))
        pixels = to_pixels(images, door.args.model)
        ids = np.array([f"{door.args.model}/{k:06d}" for k in range(start, stop)])
        made = {"pixels": (("image", "y", "x", "rgb"), pixels), "seed": ("image", seeds[start:stop])}
        return xr.Dataset(made, {"image": ids}).merge(curves)

    door.write_shards(draw, f"Images of {door.args.model}", total=len(seeds), shard=drawing.shard)


if __name__ == "__main__":
    run(main)
