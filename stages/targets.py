"""Stage targets: what is visualised of a classifier, and the references of each (sections 3.2.2, A.3, B.3)."""

from optogram.decompose.relevance import Attributor
from optogram.methods.visualisation.targets import TargetOptions, find_targets
from optogram.models.loading.classifier_folders import load_classifier_folder
from optogram.pipeline.stage import Input, Stage
from stages.doorway import Doorway, run, through
from stages.visualising import reference_split

STAGE = Stage(
    "targets",
    family="visualisation",
    desc="What is visualised of the classifier {model}, and the reference images of each (sections 3.2.2, A.3, B.3)",
    over={"model": "classifiers"},
    options=("model",),
    inputs=(
        Input("models", "models", ("{model}",)),
        Input("images", "images"),
    ),
    switch="targets",
    out="targets/{model}",
    params=("seed", "train_classifier.models", "targets", "vital.relevance"),
    pool="gpu",
)


@through(STAGE)
def main(door: Doorway) -> None:
    """Write targets/<model>."""
    options, images = door.params.targets, door.open("images", reference_split(door))
    inner = options.inner is None or door.args.model in options.inner
    sought = TargetOptions(
        patch=options.patch,
        stride=options.stride,
        layer=options.layer.get(door.args.model),
        references=options.references,
        facets=options.facets,
        images=options.images,
        circuits=options.circuits,
        circuit_classes=options.circuit_classes if inner else 0,
        neurons=options.neurons.get(door.args.model, []),
        concepts=options.concepts,
        concept_classes=options.concept_classes if inner else 0,
        concept_rank=options.concept_rank,
        splits=options.splits,
        split_neurons=options.split_neurons if inner else 0,
        split_patches=options.split_patches,
        shown=options.shown,
        batch=options.batch,
    )
    classifier = load_classifier_folder(door.folder("models", door.args.model), device=door.params.device)
    relevance = Attributor(classifier.model, door.params.vital.relevance)
    found = find_targets(classifier, images, sought, relevance=relevance, seed=door.params.seed)
    found.attrs["split"] = reference_split(door)
    door.write(found, "Targets of feature visualisation")


if __name__ == "__main__":
    run(main)
