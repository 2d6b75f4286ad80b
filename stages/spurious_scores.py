"""Stage spurious_scores: how much of what units and components answer to is background (DiG-IN, Table 2)."""

from optogram.errors import DataError
from optogram.methods.guidance.separation import headline
from optogram.methods.guidance.spurious_scores import SpuriousOptions, spurious_scores
from optogram.models.loading.classifier_folders import load_classifier_folder
from optogram.params.guidance import SpuriousScores
from optogram.pipeline.stage import Input, Stage
from stages.doorway import Doorway, Skipped, run, through

STAGE = Stage(
    "spurious_scores",
    family="guidance",
    desc="How much of what units and components of {model} answer to lies outside the objects (DiG-IN, Table 2)",
    over={"model": "classifiers"},
    options=("model",),
    inputs=(
        Input("models", "models", ("{model}",)),
        Input("images", "images/${spurious_scores.split}"),
        Input("npca", "npca/{model}"),
    ),
    switch="spurious_scores",
    out="spurious_scores/{model}",
    params=("spurious_scores",),
    metrics=True,
    pool="gpu",
)


@through(STAGE)
def main(door: Doorway) -> None:
    """Write spurious_scores/<model>."""
    options, images, components = door.params.of(SpuriousScores), door.open("images"), door.open("npca").load()
    chosen = SpuriousOptions(
        attribute=options.attribute,
        units=options.units,
        least=options.least,
        images=options.images,
        layers=options.layers.get(door.args.model),
        blocks=options.blocks,
        shown=options.shown,
        batch=options.batch,
    )
    classifier = load_classifier_folder(door.folder("models", door.args.model), device=door.params.device)
    try:
        found = spurious_scores(classifier, images, components, chosen)
    except DataError as error:
        raise Skipped(f"images/{options.split}: {error}") from None
    door.write(found, "Spurious scores of units and components")
    told = headline(found)
    none = f"nothing follows the {found.attrs['attribute']}, or nothing the {found.attrs['class_attribute']}"
    door.write_metrics(told.columns() if told else {"skipped": none})


if __name__ == "__main__":
    run(main)
