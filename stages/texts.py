"""Stage texts: write one of the built-in text pools."""

from optogram.data.pools import COUNT, pool
from optogram.pipeline.stage import Input, Stage
from stages.doorway import Doorway, run, through

STAGE = Stage(
    "texts",
    family="images",
    desc="Write the text pool {pool}",
    over={"pool": "texts.pools"},
    options=("pool",),
    inputs=(Input("images", "images/reference"),),
    out="texts/{pool}",
    params=("texts.words", "texts.random"),
    exact=True,
)


@through(STAGE)
def main(door: Doorway) -> None:
    """Write texts/<pool>."""
    count = getattr(door.params.texts, door.args.pool, COUNT)
    door.write(pool(door.args.pool, images=door.open("images"), count=count), f"Text pool {door.args.pool}")


if __name__ == "__main__":
    run(main)
