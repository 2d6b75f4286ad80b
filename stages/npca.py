"""Stage npca: the parts of each class's logit that vary together over its images (DiG-IN, section G)."""

from optogram.errors import DataError
from optogram.methods.guidance.npca import class_components, headline
from optogram.models.loading.classifier_folders import load_classifier_folder
from optogram.params.guidance import Npca
from optogram.pipeline.stage import Input, Stage
from stages.doorway import Doorway, Skipped, run, through

STAGE = Stage(
    "npca",
    family="guidance",
    desc="Neural PCA of what moves the logits of {model} (DiG-IN, section G)",
    over={"model": "classifiers"},
    inputs=(
        Input("model", "models/{model}"),
        Input("images", "images/${npca.split}"),
    ),
    switch="npca",
    out="npca/{model}",
    params=("npca",),
    metrics=True,
    pool="gpu",
)


@through(STAGE)
def main(door: Doorway) -> None:
    """Write npca/<model>."""
    options, images = door.params.of(Npca), door.open("images")
    classifier = load_classifier_folder(door.folder("model"), device=door.params.device)
    try:
        found = class_components(classifier, images, count=options.components, shown=options.shown, batch=options.batch)
    except DataError as error:
        raise Skipped(f"images/{options.split}: {error}") from None
    door.write(found, "Neural PCA of classes")
    door.write_metrics(headline(found).columns())


if __name__ == "__main__":
    run(main)
