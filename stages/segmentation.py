"""Stage segmentation: objects found by heatmaps of the class text, beside four other methods (Table 2.4)."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from optogram.methods.heatmaps import METHODS, heatmaps
from optogram.metrics.segmentation import segmentation_scores
from optogram.models.folder import load_clip
from optogram.progress import progress
from stages.doorway import Doorway, run


def main(argv: Sequence[str] | None = None) -> None:
    """Write segmentation/<model>."""
    paths = ("model", "embeddings", "images", "out", "metrics")
    door = Doorway("segmentation", argv, paths=paths, sections=("contributions.batch", "segmentation"))
    options, images = door.params.segmentation, door.open("images")
    if "mask" not in images:
        reason = "These images have no masks: segmentation cannot be scored."
        door.write(xr.Dataset(attrs={"skipped": reason}), "Segmentation")
        door.write_metrics({"skipped": reason})
        return
    clip = load_clip(door.folder("model"), device=door.params.device)
    images = images.isel(image=slice(options.images)).load()
    attribute = images.attrs["class_attribute"]
    zeroshot = door.open("embeddings", "zeroshot").load()
    row_of = {pair: row for row, pair in enumerate(zip(zeroshot.attribute.values, zeroshot.value.values, strict=True))}
    names = images.value_name.sel(attribute=attribute).values
    classes = [row_of[attribute, name] for name in names if name]
    targets = zeroshot.classifier.values[classes][images.label.sel(attribute=attribute).values]

    inputs = clip.preprocess(images.pixels.values)
    options_of = {"batch": door.params.contributions.batch, "classes": zeroshot.classifier.values[classes]}
    maps, scores = [], []
    with progress("Heatmaps", len(METHODS), "methods") as advance:
        for method in METHODS:
            maps.append(heatmaps(method, clip.model, inputs, targets, **options_of))
            scores.append(segmentation_scores(maps[-1], images.mask.values > 0))
            advance(1)
    metrics = list(scores[0])
    found = xr.Dataset(
        {
            "score": (("method", "metric"), np.array([[one[name] for name in metrics] for one in scores])),
            "heatmap": (("image", "method", "gy", "gx"), np.stack(maps, 1)[: options.shown].astype(np.float32)),
        },
        coords={"method": list(METHODS), "metric": metrics, "image": images.image.values[: options.shown]},
    )
    door.write(found, "Segmentation")
    door.write_metrics({method: dict(one) for method, one in zip(METHODS, scores, strict=True)})


if __name__ == "__main__":
    run(main)
