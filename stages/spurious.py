"""Stage spurious: ablate the heads whose descriptions name the spurious cue, and see the groups (Table 2.3)."""

import math

from optogram.methods.heads.roles import named_roles
from optogram.methods.heads.spurious import debias, spurious_heads
from optogram.metrics.headline import Headline
from optogram.pipeline.stage import Input, Stage
from stages.doorway import Doorway, Skipped, run, through

STAGE = Stage(
    "spurious",
    family="heads",
    desc="Ablate the heads of {model} that its texts name as the spurious cue (Table 2.3)",
    over={"model": "clips"},
    inputs=(
        Input("contributions", "contributions/{model}", ("${spurious.split}", "reference")),
        Input("embeddings", "embeddings/{model}"),
        Input("textspan", "textspan/{model}"),
        Input("images", "images/${spurious.split}"),
    ),
    switch="spurious",
    out="spurious/{model}",
    params=("seed", "spurious"),
    metrics=True,
)


@through(STAGE)
def main(door: Doorway) -> None:
    """Write spurious/<model>."""
    options, images = door.params.spurious, door.open("images")
    if "group" not in images:
        raise Skipped(
            f"images/{options.split} have no known groups: a spurious cue needs images labelled by class and cue."
        )
    spans = door.open("textspan").isel(pool=0).load()
    texts = door.open("embeddings", str(spans.pool.values))
    chosen = spurious_heads(named_roles(spans, texts.attribute.values), options.attribute)
    found = debias(
        door.open("contributions", options.split),
        door.open("contributions", "reference"),
        chosen,
        door.open("embeddings", "zeroshot"),
        images.label,
        images.value_name,
        images.group.values,
        class_attribute=images.attrs["class_attribute"],
        seed=door.params.seed,
        layers=spans.layer.values.tolist(),
        random_heads=options.random_heads,
        draws=options.draws,
    )
    door.write(found.assign_attrs(attribute=options.attribute), "Spurious cue")
    worst = {str(name): float(value) for name, value in zip(found.ablation.values, found.worst.values, strict=True)}
    headline = Headline(
        f"accuracy of the worst group without the heads of {options.attribute}",
        value=worst["chosen"],
        of=int(found["count"].sum()),
        versus="without as many random heads",
        versus_value=worst.get("same size mean", math.nan),
        yardstick=worst["base"],
    )
    door.write_metrics(headline.columns())


if __name__ == "__main__":
    run(main)
