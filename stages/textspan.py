"""Stage textspan: text descriptions that span each head's outputs (Algorithm 1, Figure 2.3)."""

import math

from optogram.methods.heads.descriptions import describe
from optogram.metrics.headline import Headline
from optogram.pipeline.stage import Input, Stage
from stages.doorway import Doorway, run, through

STAGE = Stage(
    "textspan",
    family="heads",
    desc="Text descriptions that span each head's outputs in {model} (Algorithm 1, Figure 2.3)",
    over={"model": "clips"},
    inputs=(
        Input("contributions", "contributions/{model}", ("eval", "reference")),
        Input("embeddings", "embeddings/{model}"),
        Input("images", "images/eval"),
    ),
    switch="textspan",
    out="textspan/{model}",
    params=("texts.pools", "texts.files", "textspan.layers", "textspan.rank", "textspan.size", "textspan.sizes"),
    metrics=True,
)


@through(STAGE)
def main(door: Doorway) -> None:
    """Write textspan/<model>."""
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
    accuracy = found.accuracy.isel(size=-1).mean("attribute")
    first, *others = map(str, found.pool.values)
    headline = Headline(
        f"accuracy, heads as {int(found['size'][-1])} {first}",
        value=float(accuracy[0]),
        of=int(found["count"].max()),
        versus="as many random directions",
        versus_value=float(accuracy.sel(pool="random")) if "random" in others else math.nan,
        yardstick=float(found.base_accuracy.mean()),
    )
    door.write_metrics(headline.columns())


if __name__ == "__main__":
    run(main)
