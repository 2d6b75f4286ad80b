"""Stage load_classifier: load a pretrained classifier and write its model folder, so that its weights are hashed."""

from dataclasses import replace

import torch

from optogram.data.photos import class_name
from optogram.models.loading.architectures import for_classes
from optogram.models.loading.classifier_folders import save_classifier
from optogram.models.loading.classifiers import load_classifier
from optogram.pipeline.stage import Input, Stage
from stages.doorway import Doorway, run, through

STAGE = Stage(
    "load_classifier",
    family="models",
    desc="Load the pretrained classifier {model}",
    over={"model": "load_classifier.models"},
    options=("model",),
    inputs=(Input("images", "images/reference"),),
    out="models/{model}",
    params=("load_classifier.models.{model}",),
    exact=True,
    retries=2,
)


@through(STAGE)
def main(door: Doorway) -> None:
    """Write models/<model>."""
    source, images = door.params.load_classifier.models[door.args.model], door.open("images")
    attribute = str(images.attrs["class_attribute"])
    known = [str(value) for value in images["value_name"].sel(attribute=attribute).values if value]
    # spelt as the images' classes are, with which they are compared; [] is a model without logits
    classes = tuple(map(class_name, known if source.classes is None else source.classes))
    classifier = replace(
        load_classifier(source.spec, checkpoint=source.checkpoint, device="cpu"), classes=classes, attribute=attribute
    )
    arguments = for_classes(source.spec, {}, len(classes)) if classes else {}
    save_classifier(classifier, door.path("out"), spec=source.spec, arguments=arguments, dtype=torch.float32)


if __name__ == "__main__":
    run(main)
