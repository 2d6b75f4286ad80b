"""Stage report: every finding, as pages to look at."""

from collections.abc import Sequence

from optogram.report.build import build_report
from stages.doorway import Doorway, run

KINDS = (
    *("textspan", "ablation", "roles", "spurious", "segmentation", "joint"),
    *("neuron_ablation", "concepts", "adversarial"),
)


def main(argv: Sequence[str] | None = None) -> None:
    """Write the folder report."""
    sections = ("clips", "scenes.splits", "photos.splits", "texts.pools", "texts.files", "second_order.layers")
    door = Doorway("report", argv, paths=("images", "embeddings", *KINDS, "neurons", "out"), sections=sections)
    params = door.params
    images = {split: door.open("images", split) for split in [*params.scenes.splits, *params.photos.splits]}
    models = {
        clip: {kind: door.open(kind, clip) for kind in KINDS}
        | {f"neurons/{layer}": door.open("neurons", clip, str(layer)) for layer in params.second_order.layers}
        | {f"embeddings/{name}": door.open("embeddings", clip, name) for name in [*params.texts.names, "zeroshot"]}
        for clip in params.clips
    }
    build_report(door.path("out"), images, models)


if __name__ == "__main__":
    run(main)
