"""Stage contributions: cache one model's direct contributions on one split, shard by shard."""

from collections.abc import Sequence

import xarray as xr

from optogram.decompose.contributions import contributions
from optogram.models.folder import load_clip
from stages.doorway import Doorway, run


def main(argv: Sequence[str] | None = None) -> None:
    """Write contributions/<model>/<split>."""
    sections = ("contributions.shard", "contributions.batch", "contributions.tokens")
    door = Doorway("contributions", argv, paths=("model", "images", "out"), sections=sections)
    options = door.params.contributions
    clip = load_clip(door.folder("model"), device=door.params.device)
    images = door.open("images")

    def compute(start: int, stop: int) -> xr.Dataset:
        part = images.isel(image=slice(start, stop))
        inputs = clip.preprocess(part.pixels.values)
        found = contributions(clip.model, inputs, batch=options.batch)
        if options.tokens == "class":
            found = found.isel(token=[0])
        return found.assign_coords(image=part.image.values)

    door.write_shards(compute, "Direct contributions", total=images.sizes["image"], shard=options.shard)


if __name__ == "__main__":
    run(main)
