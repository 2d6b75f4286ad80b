"""Stage targets: what is visualised of a classifier, and the references of each (sections 3.2.2, A.3, B.3)."""

from collections.abc import Sequence

from optogram.methods.relevance import Attributor
from optogram.methods.targets import find_targets
from optogram.models.classifier_folder import load_classifier_folder
from stages.doorway import Doorway, run


def main(argv: Sequence[str] | None = None) -> None:
    """Write targets/<model>."""
    door = Doorway("targets", argv, paths=("model", "images", "out"), sections=("seed", "targets", "vital.relevance"))
    options, images = door.params.targets, door.open("images")
    side = min(images.sizes["y"], images.sizes["x"])
    classifier = load_classifier_folder(door.folder("model"), device=door.params.device)
    found = find_targets(
        classifier,
        images,
        relevance=Attributor(classifier.model, door.params.vital.relevance),
        patch=round(options.patch * side),
        stride=max(1, round(options.stride * side)),
        images_limit=options.images,
        seed=door.params.seed,
        **options.model_dump(exclude={"patch", "stride", "images"}),
    )
    door.write(found, "Targets of feature visualisation")


if __name__ == "__main__":
    run(main)
