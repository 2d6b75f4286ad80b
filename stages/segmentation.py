"""Stage segmentation: objects found by heatmaps, two of ours beside six other methods (Tables 2.4, 3.4)."""

from functools import partial

import numpy as np

from optogram.methods.attribution.heatmaps import METHODS, heatmaps
from optogram.methods.neurons.maps import neuron_heatmaps
from optogram.metrics.headline import Headline
from optogram.metrics.segmentation import compared, image_scores
from optogram.models.loading.clip_folders import load_clip
from optogram.pipeline.stage import Input, Stage
from optogram.progress import progress
from stages.doorway import Doorway, Skipped, run, through

STAGE = Stage(
    "segmentation",
    family="heads",
    desc="Zero-shot segmentation by heatmaps of {model}, beside six other methods (Table 2.4)",
    over={"model": "clips"},
    inputs=(
        Input("model", "models/{model}"),
        Input("embeddings", "embeddings/{model}", ("zeroshot",)),
        Input("neurons", "neurons/{model}"),
        Input("images", "images/eval"),
    ),
    switch="segmentation",
    out="segmentation/{model}",
    params=("contributions.batch", "second_order.layers", "seed", "segmentation"),
    metrics=True,
    pool="gpu",
)


@through(STAGE)
def main(door: Doorway) -> None:
    """Write segmentation/<model>."""
    options, images = door.params.segmentation, door.open("images")
    if "mask" not in images:
        raise Skipped("These images have no masks: segmentation cannot be scored.")
    clip = load_clip(door.folder("model"), device=door.params.device)
    images = images.isel(image=slice(options.images)).load()
    attribute = images.attrs["class_attribute"]
    zeroshot = door.open("embeddings", "zeroshot").load()
    row_of = {pair: row for row, pair in enumerate(zip(zeroshot.attribute.values, zeroshot.value.values, strict=True))}
    names = images.value_name.sel(attribute=attribute).values
    classes = [row_of[attribute, name] for name in names if name]
    targets = zeroshot.classifier.values[classes][images.label.sel(attribute=attribute).values]
    inputs, batch = clip.preprocess(images.pixels.values), door.params.contributions.batch
    rows = zeroshot.classifier.values[classes]
    ways = {method: partial(heatmaps, method, classes=rows, batch=batch) for method in METHODS}
    neurons = {layer: door.opened("neurons", str(layer)) for layer in door.params.second_order.layers}
    if directions := {layer: part.r.values for layer, part in neurons.items() if "r" in part}:
        ways["neurons"] = partial(neuron_heatmaps, directions=directions, batch=batch)
    maps, parts = [], {}
    with progress("Heatmaps", len(ways), "methods") as advance:
        for method, way in ways.items():
            maps.append(way(clip.model, inputs, targets))
            parts[method] = image_scores(maps[-1], images.mask.values > 0)
            advance(1)
    found = compared(parts, seed=door.params.seed)
    heat = ("image", "method", "gy", "gx"), np.stack(maps, 1)[: options.shown].astype(np.float32)
    found = found.assign(heatmap=heat).assign_coords(image=images.image.values[: options.shown])
    door.write(found.assign_attrs(images=images.sizes["image"]), "Segmentation")
    overlap = found.score.sel(metric="miou")
    headline = Headline(
        "mean IoU of objects by decomposition",
        value=float(overlap.sel({"method": "decomposition"})),
        of=images.sizes["image"],
        versus="by raw attention",
        versus_value=float(overlap.sel({"method": "raw_attention"})),
    )
    door.write_metrics(headline.columns())


if __name__ == "__main__":
    run(main)
