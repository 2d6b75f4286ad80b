"""Stage text_file: make a text pool of a file of the user's, one description a line."""

from optogram.data.pools import pool
from optogram.pipeline.stage import Input, Stage
from stages.doorway import Doorway, run, through

STAGE = Stage(
    "text_file",
    family="images",
    desc="Make the text pool {pool} of a file of your own",
    over={"pool": "texts.files"},
    options=("pool",),
    sources=("${item}",),
    inputs=(Input("images", "images/reference"),),
    out="texts/{pool}",
    params=("texts.files.{pool}",),
    exact=True,
)


@through(STAGE)
def main(door: Doorway) -> None:
    """Write texts/<pool>."""
    source = door.source("file", door.params.texts.files[door.args.pool])
    door.write(pool(source, images=door.open("images")), f"Text pool {door.args.pool}")


if __name__ == "__main__":
    run(main)
