"""Stage targets: what is visualised of a classifier, and the references of each (sections 3.2.2, A.3, B.3)."""

from collections.abc import Sequence
from typing import Any

from optogram.methods.relevance import Attributor
from optogram.methods.targets import find_targets
from optogram.models.classifier_folder import load_classifier_folder
from stages.doorway import Doorway, run
from stages.visualising import reference_split

ONLY_CLASSES = {"circuit_classes": 0, "concept_classes": 0, "split_neurons": 0}


def main(argv: Sequence[str] | None = None) -> None:
    """Write targets/<model>."""
    sections = ("seed", "train_classifier.models", "targets", "vital.relevance")
    door = Doorway("targets", argv, paths=("models", "images", "out"), sections=sections, options=("model",))
    options, images = door.params.targets, door.open("images", reference_split(door))
    side = min(images.sizes["y"], images.sizes["x"])
    own = {"inner", "split", "patch", "stride", "images", "layer", "neurons"}
    kept: dict[str, Any] = options.model_dump(exclude=own)
    if options.inner is not None and door.args.model not in options.inner:
        kept |= ONLY_CLASSES
    classifier = load_classifier_folder(door.folder("models", door.args.model), device=door.params.device)
    found = find_targets(
        classifier,
        images,
        relevance=Attributor(classifier.model, door.params.vital.relevance),
        patch=round(options.patch * side),
        stride=max(1, round(options.stride * side)),
        images_limit=options.images,
        seed=door.params.seed,
        layer=options.layer.get(door.args.model),
        neurons=options.neurons.get(door.args.model, []),
        **kept,
    )
    found.attrs["split"] = reference_split(door)
    door.write(found, "Targets of feature visualisation")


if __name__ == "__main__":
    run(main)
