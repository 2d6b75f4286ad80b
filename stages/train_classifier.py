"""Stage train_classifier: train a classifier on images/<split> and write its model folder."""

from collections.abc import Sequence

from optogram.models.architectures import for_classes
from optogram.models.classifier_folder import save_classifier
from optogram.models.train_classifier import train_classifier
from optogram.progress import counted
from stages.doorway import Doorway, run


def main(argv: Sequence[str] | None = None) -> None:
    """Write models/<model>."""
    sections = ("seed", "train_classifier.models.{model}")
    door = Doorway("train_classifier", argv, paths=("images", "out"), sections=sections, options=("model",))
    training, images = door.params.train_classifier.models[door.args.model], door.open("images")
    # a small album has fewer images than a batch, or fewer steps than the warmup
    batch = min(training.batch, images.sizes["image"])
    steps = training.epochs * (images.sizes["image"] // batch)
    title = f"Classifier {door.args.model}"
    with door.scratch(title) as scratch, counted(f"Training {title}", "images") as tell:
        classifier = train_classifier(
            images,
            **training.model_dump(exclude={"split", "batch", "warmup"}),
            batch=batch,
            warmup=min(training.warmup, max(1, steps // 10)),
            seed=door.params.seed,
            device=door.params.device,
            scratch=scratch,
            progress=tell,
        )
        arguments = for_classes(training.spec, training.arguments, len(classifier.classes))
        save_classifier(classifier, door.path("out"), spec=training.spec, arguments=arguments)


if __name__ == "__main__":
    run(main)
