"""Stage fidelity: how far the samples of one model are from real images, and whether they are copies of them."""

import xarray as xr

from optogram.methods.generative.fidelity import class_accuracy, copies, distances, draw_real, headline, look
from optogram.models.loading.classifier_folders import load_classifier_folder
from optogram.models.loading.clip_folders import encode_images, load_clip
from optogram.pipeline.stage import Input, Stage
from stages.doorway import Doorway, Skipped, run, through

STAGE = Stage(
    "fidelity",
    family="generative",
    desc="How far samples of {model} are from real images, and whether they are copies",
    over={"model": "fidelity.models"},
    options=("model",),
    inputs=(
        Input("samples", "samples/{model}"),
        Input("clip", "models/{model.clip}"),
        Input("classifier", "models/{model.classifier}"),
        Input("trained", "images/{model.split}"),
    ),
    out="fidelity/{model}",
    params=("seed", "fidelity.models.{model}"),
    metrics=True,
    pool="gpu",
)


@through(STAGE)
def main(door: Doorway) -> None:
    """Write fidelity/<model>."""
    samples, trained = door.open("samples").load(), door.open("trained")
    if samples.sizes["image"] < 2 or trained.sizes["image"] < 4:
        raise Skipped(f"{samples.sizes['image']} samples and {trained.sizes['image']} training images are too few.")
    rows = draw_real(samples.sizes["image"], trained.sizes["image"], seed=door.params.seed)
    clip = load_clip(door.folder("clip"), door.params.device)
    classifier = load_classifier_folder(door.folder("classifier"), door.params.device)
    sides = [samples, *(trained.isel(image=each) for each in (rows.real, rows.other))]
    pixels = [images["pixels"].values for images in sides]
    looks = [look(classifier, each) for each in pixels]
    features = [
        {"clip": encode_images(clip, each).numpy(), "classifier": inner}
        for each, (_, inner) in zip(pixels, looks, strict=True)
    ]
    found = xr.merge(
        [
            distances(*features),
            copies(pixels[0], trained, rows.control),
            class_accuracy(looks[0][0], samples, classifier),
        ]
    )
    door.write(found, "Fidelity of samples")
    door.write_metrics(headline(found).columns())


if __name__ == "__main__":
    run(main)
