"""Stage figures: the key findings as PNG files with an index.json."""

from optogram.pipeline.stage import Input, Stage
from optogram.report.stills import write_stills
from stages.doorway import Doorway, run, through

KINDS = ("ablation", "textspan", "roles", "spurious", "segmentation", "neuron_ablation")
VISUAL = ("targets", "vital", "baselines", "visual_scores")


STAGE = Stage(
    "figures",
    family="report",
    desc="Draw the key figures as PNG, for places that cannot show the report",
    inputs=(
        Input("images", "images/eval"),
        Input("ablation", "ablation"),
        Input("textspan", "textspan"),
        Input("roles", "roles"),
        Input("spurious", "spurious"),
        Input("segmentation", "segmentation"),
        Input("neuron_ablation", "neuron_ablation"),
        Input("targets", "targets"),
        Input("vital", "vital"),
        Input("baselines", "baselines"),
        Input("visual_scores", "visual_scores"),
    ),
    out="figures",
    params=("classifiers", "clips"),
)


@through(STAGE)
def main(door: Doorway) -> None:
    """Write the folder figures."""
    images = door.opened("images")
    models = {clip: {kind: door.opened(kind, clip) for kind in KINDS} for clip in door.params.clips}
    classifiers = {name: {kind: door.opened(kind, name) for kind in VISUAL} for name in door.params.classifiers}
    with door.scratch("Figures") as scratch:
        write_stills(door.path("out"), {"eval": images}, models, classifiers, scratch=scratch)


if __name__ == "__main__":
    run(main)
