"""Stage text_file: make a text pool of a file of the user's, one description a line."""

from collections.abc import Sequence

from optogram.data.pools import pool
from stages.doorway import Doorway, run


def main(argv: Sequence[str] | None = None) -> None:
    """Write texts/<pool>."""
    sections = ("texts.files.{pool}",)
    door = Doorway("text_file", argv, paths=("file", "images", "out"), sections=sections, options=("pool",))
    door.write(pool(door.source("file"), images=door.open("images")), f"Text pool {door.args.pool}")


if __name__ == "__main__":
    run(main)
