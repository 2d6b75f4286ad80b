"""Stage segmentation: objects found by heatmaps, two of ours beside six other methods (Tables 2.4, 3.4)."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import xarray as xr

from optogram.methods.heatmaps import METHODS, heatmaps
from optogram.methods.neuron_maps import neuron_heatmaps
from optogram.metrics.segmentation import segmentation_scores
from optogram.models.folder import load_clip
from optogram.progress import progress
from stages.doorway import Doorway, run


def main(argv: Sequence[str] | None = None) -> None:
    """Write segmentation/<model>."""
    paths = ("model", "embeddings", "neurons", "images", "out", "metrics")
    used = ("contributions.batch", "second_order.layers", "segmentation")
    door = Doorway("segmentation", argv, paths=paths, sections=used)
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
    inputs, batch = clip.preprocess(images.pixels.values), door.params.contributions.batch
    options_of = {"batch": batch, "classes": zeroshot.classifier.values[classes]}
    ways = {method: partial(heatmaps, method, **options_of) for method in METHODS}
    if directions := {layer: door.open("neurons", str(layer)).r.values for layer in door.params.second_order.layers}:
        ways["neurons"] = partial(neuron_heatmaps, directions=directions, batch=batch)
    maps, scores = [], {}
    with progress("Heatmaps", len(ways), "methods") as advance:
        for method, way in ways.items():
            maps.append(way(clip.model, inputs, targets))
            scores[method] = segmentation_scores(maps[-1], images.mask.values > 0)
            advance(1)
    metrics = list(scores["decomposition"])
    found = xr.Dataset(
        {
            "score": (("method", "metric"), np.array([[one[name] for name in metrics] for one in scores.values()])),
            "heatmap": (("image", "method", "gy", "gx"), np.stack(maps, 1)[: options.shown].astype(np.float32)),
        },
        coords={"method": list(scores), "metric": metrics, "image": images.image.values[: options.shown]},
    )
    door.write(found, "Segmentation")
    door.write_metrics(scores)


if __name__ == "__main__":
    run(main)
