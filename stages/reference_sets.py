"""Stage reference_sets: VITAL's classes by size and purity of the reference set (Tables 5 and 6)."""

from collections.abc import Sequence

import numpy as np

from optogram.methods.reference_album import other_references, reference_album
from optogram.methods.reference_scores import reference_scores
from stages.doorway import Doorway, run
from stages.judging import SECTIONS, judges_of
from stages.visualising import reference_split, vital_options


def main(argv: Sequence[str] | None = None) -> None:
    """Write reference_sets/<model>."""
    paths, used = (
        ("models", "embeddings", "images", "out", "metrics"),
        ("targets.references", "targets.split", "vital", "reference_sets"),
    )
    door = Doorway("reference_sets", argv, paths=paths, sections=("seed", *used, *SECTIONS), options=("model",))
    options, vital, judges = door.params.reference_sets, door.params.vital, judges_of(door)
    images = {split: door.open("images", split) for split in (reference_split(door), "eval")}
    given = {"references": door.params.targets.references, "seed": door.params.seed}
    beside = other_references(judges.classifier, images["eval"], **given)
    drawn = reference_album(
        judges.classifier,
        images[reference_split(door)],
        images["eval"],
        beside,
        sizes=options.sizes,
        strangers=options.strangers,
        steps=options.steps or vital.steps,
        layers=vital.layers.get(door.args.model, []),
        batch=vital.batch,
        **given,
        **vital_options(door, door.args.model),
    )
    # pictures are not compared with their own references
    left = np.setdiff1d(np.arange(images["eval"].sizes["image"]), np.concatenate(beside))
    real = images["eval"].isel(image=left)
    classes = list(range(len(judges.classifier.classes)))
    limit = door.params.visual_scores.images
    found = reference_scores(drawn, judges, real, classes=classes, images=limit, seed=door.params.seed)
    door.write(found, "VITAL by its reference sets")
    scores = ("accuracy", "fid_own", "zero_shot_1", "zero_shot_5")
    door.write_metrics(
        {str(at): {name: found[name].values[k] for name in scores} for k, at in enumerate(found.condition.values)}
    )


if __name__ == "__main__":
    run(main)
