"""Stage texts: write one of the built-in text pools."""

from collections.abc import Sequence

from optogram.data.pools import COUNT, pool
from stages.doorway import Doorway, run


def main(argv: Sequence[str] | None = None) -> None:
    """Write texts/<pool>."""
    door = Doorway("texts", argv, paths=("images", "out"), sections=("texts.words", "texts.random"), options=("pool",))
    count = getattr(door.params.texts, door.args.pool, COUNT)
    door.write(pool(door.args.pool, images=door.open("images"), count=count), f"Text pool {door.args.pool}")


if __name__ == "__main__":
    run(main)
