"""Stage reference_sets: VITAL's classes by size and purity of the reference set (Tables 5 and 6)."""

import numpy as np

from optogram.methods.visualisation.reference_scores import headline, reference_scores
from optogram.methods.visualisation.render_references import other_references, reference_album, too_few_for_sets
from optogram.pipeline.stage import Input, Stage
from stages.doorway import Doorway, Skipped, run, through
from stages.drawing import vital_options
from stages.judging import judges_of
from stages.visualising import reference_split

STAGE = Stage(
    "reference_sets",
    family="visualisation",
    desc="VITAL's classes of {model} by size and purity of the reference set (Tables 5, 6)",
    over={"model": "reference_sets.models"},
    options=("model",),
    inputs=(
        Input("models", "models"),
        Input("embeddings", "embeddings/${visual_scores.clip}", ("zeroshot",)),
        Input("images", "images"),
    ),
    switch="reference_sets",
    out="reference_sets/{model}",
    params=(
        "seed",
        "classifiers",
        "train_classifier.models",
        "reference_sets",
        "targets.references",
        "targets.split",
        "vital",
        "visual_scores",
    ),
    metrics=True,
    pool="gpu",
)


@through(STAGE)
def main(door: Doorway) -> None:
    """Write reference_sets/<model>."""
    options, vital, judges = door.params.reference_sets, door.params.vital, judges_of(door)
    images = {split: door.open("images", split) for split in (reference_split(door), "eval")}
    references, seed = door.params.targets.references, door.params.seed
    if reason := too_few_for_sets(judges.classifier, images[reference_split(door)], images["eval"]):
        raise Skipped(f"{reason[0].upper()}{reason[1:]}")
    beside = other_references(judges.classifier, images["eval"], references, seed=seed)
    drawn = reference_album(
        judges.classifier,
        images[reference_split(door)],
        images["eval"],
        beside,
        vital_options(vital, door.args.model, steps=options.steps),
        sizes=options.sizes,
        strangers=options.strangers,
        references=references,
        seed=seed,
        layers=vital.layers.get(door.args.model, []),
    )
    # pictures are not compared with their own references
    left = np.setdiff1d(np.arange(images["eval"].sizes["image"]), np.concatenate(beside))
    real = images["eval"].isel(image=left)
    classes = list(range(len(judges.classifier.classes)))
    limit = door.params.visual_scores.images
    found = reference_scores(drawn, judges, real, classes=classes, images=limit, seed=seed)
    door.write(found, "VITAL by its reference sets")
    door.write_metrics(headline(found).columns())


if __name__ == "__main__":
    run(main)
