"""Stage train_classifier: train a classifier on images/<split> and write its model folder."""

from optogram.models.loading.architectures import for_classes
from optogram.models.loading.classifier_folders import save_classifier
from optogram.models.training.classifier import train_classifier
from optogram.pipeline.stage import Input, Stage
from optogram.progress import counted
from stages.doorway import Doorway, run, through
from stages.recipes import recipe_of

STAGE = Stage(
    "train_classifier",
    family="models",
    desc="Train the classifier {model} on images/{model.split} (its checkpoint is shipped for the demo)",
    over={"model": "train_classifier.models"},
    options=("model",),
    inputs=(Input("images", "images/{model.split}"),),
    out="models/{model}",
    params=("seed", "train_classifier.models.{model}"),
    shipped=True,
    pool="gpu",
    retries=1,
)


@through(STAGE)
def main(door: Doorway) -> None:
    """Write models/<model>."""
    training, images = door.params.train_classifier.models[door.args.model], door.open("images")
    recipe = recipe_of(training, images=images.sizes["image"], seed=door.params.seed)
    title = f"Classifier {door.args.model}"
    with door.scratch(title) as scratch, counted(f"Training {title}", "images") as tell:
        classifier = train_classifier(
            images,
            recipe,
            spec=training.spec,
            arguments=training.arguments,
            attribute=training.attribute,
            flips=training.flips,
            device=door.params.device,
            scratch=scratch,
            progress=tell,
        )
        arguments = for_classes(training.spec, training.arguments, len(classifier.classes))
        save_classifier(classifier, door.path("out"), spec=training.spec, arguments=arguments)


if __name__ == "__main__":
    run(main)
