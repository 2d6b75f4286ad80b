"""Stage report: every finding, as pages to look at."""

from collections.abc import Sequence

from optogram.report.build import build_report
from stages.doorway import Doorway, run

KINDS = (
    *("textspan", "ablation", "roles", "spurious", "segmentation", "joint"),
    *("neuron_ablation", "concepts", "adversarial"),
)
VISUAL = ("targets", "vital", "baselines", "visual_scores")


def main(argv: Sequence[str] | None = None) -> None:
    """Write the folder report."""
    sections = ("clips", "classifiers", "scenes.splits", "photos.splits", "texts.pools", "texts.files")
    door = Doorway(
        "report",
        argv,
        paths=("images", "embeddings", *KINDS, "neurons", *VISUAL, "reference_sets", "out"),
        sections=(*sections, "second_order.layers", "reference_sets.models"),
    )
    params = door.params
    images = {split: door.open("images", split) for split in [*params.scenes.splits, *params.photos.splits]}
    models = {
        clip: {kind: door.open(kind, clip) for kind in KINDS}
        | {f"neurons/{layer}": door.open("neurons", clip, str(layer)) for layer in params.second_order.layers}
        | {f"embeddings/{name}": door.open("embeddings", clip, name) for name in [*params.texts.names, "zeroshot"]}
        for clip in params.clips
    }
    classifiers = {
        name: {
            kind: door.open(kind, name)
            for kind in (*VISUAL, *(["reference_sets"] if name in params.reference_sets.models else []))
        }
        for name in params.classifiers
    }
    build_report(door.path("out"), images, models, classifiers)


if __name__ == "__main__":
    run(main)
