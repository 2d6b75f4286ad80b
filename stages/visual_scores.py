"""Stage visual_scores: how good the pictures of a classifier's targets are (section 4.2, Tables 1 to 3, Figure 6)."""

import xarray as xr

from optogram.methods.visualisation.prototypes import references
from optogram.methods.visualisation.scores import headline, visual_scores
from optogram.pipeline.stage import Input, Stage
from stages.doorway import Doorway, run, through
from stages.judging import judges_of, second_of

STAGE = Stage(
    "visual_scores",
    family="visualisation",
    desc="How good the pictures of {model} are (section 4.2, Tables 1 to 3, Figure 6)",
    over={"model": "classifiers"},
    options=("model",),
    inputs=(
        Input("models", "models"),
        Input("targets", "targets/{model}"),
        Input("vital", "vital/{model}"),
        Input("baselines", "baselines/{model}"),
        Input("embeddings", "embeddings/${visual_scores.clip}", ("zeroshot",)),
        Input("images", "images"),
    ),
    switch="visual_scores",
    out="visual_scores/{model}",
    params=("seed", "classifiers", "train_classifier.models", "visual_scores"),
    metrics=True,
    pool="gpu",
)


@through(STAGE)
def main(door: Doorway) -> None:
    """Write visual_scores/<model>."""
    targets = door.open("targets").load()
    trained = door.open("images", str(targets.attrs["split"]))
    pictures = [door.open(name)[["pixels", "status"]].load() for name in ("vital", "baselines")]
    names = targets.target.values.tolist()
    patches = references(targets, trained, (targets.sizes["y"], targets.sizes["x"]))
    found = visual_scores(
        targets,
        xr.concat(pictures, "method"),
        judges_of(door),
        door.open("images", "eval"),
        trained,
        controls=lambda name: patches(names.index(name)),
        images=door.params.visual_scores.images,
        seed=door.params.seed,
    )
    found.attrs |= {"clip": door.params.visual_scores.clip, "second": second_of(door) or ""}
    door.write(found, "Scores of the visualisations")
    door.write_metrics(headline(found).columns())


if __name__ == "__main__":
    run(main)
