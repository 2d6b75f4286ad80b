"""Stage photos: read one split of a folder, zip or dataset of photographs, shard by shard."""

import json
import sys

import xarray as xr

from optogram.data.photos import Photos
from optogram.errors import DataError
from optogram.pipeline.stage import Stage
from stages.doorway import Doorway, run, through

# images that a class needs in each split: VITAL takes two of train as references, and judges by two of eval
FEWEST = {"train": 2, "reference": 1, "eval": 2}


STAGE = Stage(
    "photos",
    family="images",
    desc="Read photographs from a folder, a zip or a dataset (split {split})",
    over={"split": "photos.splits"},
    options=("split",),
    sources=("${photos.path}",),
    out="images/{split}",
    params=(
        "seed",
        "photos.path",
        "photos.size",
        "photos.on_bad",
        "photos.min_side",
        "photos.reference_share",
        "photos.shard",
        "photos.splits.{split}",
    ),
    exact=True,
)


@through(STAGE)
def main(door: Doorway) -> None:
    """Write images/<split>."""
    photos = door.params.photos
    source = Photos(
        door.source("source", photos.path),
        door.args.split,
        seed=door.params.seed,
        size=photos.size,
        on_bad=photos.on_bad,
        min_side=photos.min_side,
        reference_share=photos.reference_share,
        limit=photos.splits[door.args.split].limit,
    )
    few = {name: n for name, n in source.counts().items() if n < FEWEST[door.args.split]}
    if few:
        raise DataError(
            f"{photos.path}: every class needs {FEWEST[door.args.split]} good images or more in split "
            f"{door.args.split}, but {len(few)} of {len(source.classes)} have fewer: "
            f"{', '.join(f'{name!r} ({n})' for name, n in [*few.items()][:10])}.\n  Give at least 8 images of each "
            "class, or 3 under train/ and 2 under test/, and no lower limit in photos.splits; or leave these out."
        )
    for note in source.notes:
        print(f"Note: {note}.", file=sys.stderr)
    said = {"bad_files": json.dumps(source.bad_files), "notes": json.dumps(source.notes)}

    def compute(start: int, stop: int) -> xr.Dataset:
        return source.read(start, stop).assign_attrs(said)

    door.write_shards(compute, f"Photographs, split {door.args.split}", total=len(source), shard=photos.shard)


if __name__ == "__main__":
    run(main)
