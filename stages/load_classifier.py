"""Stage load_classifier: load a pretrained classifier and write its model folder, so that its weights are hashed."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from optogram.models.architectures import for_classes
from optogram.models.classifier_folder import save_classifier
from optogram.models.classifiers import load_classifier
from stages.doorway import Doorway, run


def main(argv: Sequence[str] | None = None) -> None:
    """Write models/<model>."""
    sections = ("load_classifier.models.{model}",)
    door = Doorway("load_classifier", argv, paths=("images", "out"), sections=sections, options=("model",))
    source, images = door.params.load_classifier.models[door.args.model], door.open("images")
    attribute = str(images.attrs["class_attribute"])
    values = images["value_name"].sel(attribute=attribute).values
    classes = tuple(source.classes or (str(value) for value in values if value))
    classifier = replace(
        load_classifier(source.spec, checkpoint=source.checkpoint, device="cpu"), classes=classes, attribute=attribute
    )
    arguments = for_classes(source.spec, {}, len(classes))
    save_classifier(classifier, door.path("out"), spec=source.spec, arguments=arguments, dtype=torch.float32)


if __name__ == "__main__":
    run(main)
