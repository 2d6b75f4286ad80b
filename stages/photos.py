"""Stage photos: read one split of a folder, zip or dataset of photographs, shard by shard."""

import json
from collections.abc import Sequence

import xarray as xr

from optogram.data.photos import Photos
from stages.doorway import Doorway, run


def main(argv: Sequence[str] | None = None) -> None:
    """Write images/<split>."""
    keys = ("path", "size", "on_bad", "min_side", "reference_share", "shard", "splits.{split}")
    sections = ("seed", *(f"photos.{key}" for key in keys))
    door = Doorway("photos", argv, paths=("source", "out"), sections=sections, options=("split",))
    photos = door.params.photos
    source = Photos(
        door.source("source"),
        door.args.split,
        seed=door.params.seed,
        size=photos.size,
        on_bad=photos.on_bad,
        min_side=photos.min_side,
        reference_share=photos.reference_share,
        limit=photos.splits[door.args.split].limit,
    )
    bad_files = json.dumps(source.bad_files)

    def compute(start: int, stop: int) -> xr.Dataset:
        return source.read(start, stop).assign_attrs(bad_files=bad_files)

    door.write_shards(compute, f"Photographs, split {door.args.split}", total=len(source), shard=photos.shard)


if __name__ == "__main__":
    run(main)
