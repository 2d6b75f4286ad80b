"""Stage figures: the key findings as PNG files with an index.json."""

from collections.abc import Sequence

from optogram.report.stills import write_stills
from stages.doorway import Doorway, run

KINDS = ("ablation", "textspan", "roles", "spurious", "segmentation", "neuron_ablation")
VISUAL = ("targets", "vital", "baselines", "visual_scores")


def main(argv: Sequence[str] | None = None) -> None:
    """Write the folder figures."""
    door = Doorway("figures", argv, paths=("images", *KINDS, *VISUAL, "out"), sections=("clips", "classifiers"))
    images = door.open("images")
    models = {clip: {kind: door.open(kind, clip) for kind in KINDS} for clip in door.params.clips}
    classifiers = {name: {kind: door.open(kind, name) for kind in VISUAL} for name in door.params.classifiers}
    with door.scratch("Figures") as scratch:
        write_stills(door.path("out"), {"eval": images}, models, classifiers, scratch=scratch)


if __name__ == "__main__":
    run(main)
