"""Stage textspan: text descriptions that span each head's outputs (Algorithm 1, Figure 2.3)."""

from collections.abc import Sequence

from optogram.methods.describe import describe
from stages.doorway import Doorway, run


def main(argv: Sequence[str] | None = None) -> None:
    """Write textspan/<model>."""
    paths = ("contributions", "embeddings", "images", "out", "metrics")
    keys = (f"textspan.{key}" for key in ("layers", "rank", "size", "sizes"))
    sections = ("texts.pools", "texts.files", *keys)
    door = Doorway("textspan", argv, paths=paths, sections=sections)
    options, images = door.params.textspan, door.open("images")
    found = describe(
        door.open("contributions", "reference"),
        door.open("contributions", "eval"),
        {name: door.open("embeddings", name) for name in door.params.texts.names},
        door.open("embeddings", "zeroshot"),
        images.label,
        images.value_name,
        layers=options.layers,
        size=options.size,
        sizes=options.curve,
        rank=options.rank,
    )
    door.write(found, "Text descriptions of heads")
    door.write_metrics(
        {
            "explained": {
                pool: float(found.variance.sel(pool=pool).sum() / found.total_variance.sum())
                for pool in map(str, found.pool.values)
            },
            "accuracy": {
                pool: {
                    str(size): float(found.accuracy.sel(pool=pool, size=size).mean()) for size in found["size"].values
                }
                for pool in map(str, found.pool.values)
            },
            "base_accuracy": float(found.base_accuracy.mean()),
        }
    )


if __name__ == "__main__":
    run(main)
