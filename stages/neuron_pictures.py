"""Stage neuron_pictures: pictures that activate the units before a classifier's last layer (DiG-IN, section F.1)."""

from optogram.methods.guidance.neuron_pictures import Portrayal, headline, neuron_pictures
from optogram.models.generative.diffusion_folders import load_diffusion
from optogram.models.judging.judge import load_judge
from optogram.models.loading.classifier_folders import load_classifier_folder
from optogram.params.guidance import NeuronPictures
from optogram.pipeline.stage import Input, Stage
from optogram.progress import counted
from stages.doorway import Doorway, run, through
from stages.guiding import options_of

STAGE = Stage(
    "neuron_pictures",
    family="guidance",
    desc="Draw what activates units of {group} most (DiG-IN, section F.1)",
    over={"group": "neuron_pictures.groups"},
    options=("group",),
    inputs=(
        Input("models", "models"),
        Input("diffusions", "diffusions"),
        Input("judges", "judges"),
        Input("images", "images/{group.split}"),
    ),
    switch="neuron_pictures",
    out="neuron_pictures/{group}",
    params=("seed", "neuron_pictures"),
    metrics=True,
    pool="gpu",
)


@through(STAGE)
def main(door: Doorway) -> None:
    """Write neuron_pictures/<group>."""
    options, device = door.params.of(NeuronPictures), door.params.device
    group = options.groups[door.args.group]
    with counted(f"Units of {door.args.group}", "iterations") as tell:
        found = neuron_pictures(
            load_diffusion(str(door.folder("diffusions", group.diffusion)), device=device),
            load_classifier_folder(door.folder("models", group.classifier), device=device),
            door.open("images"),
            Portrayal(options_of(options.guidance), group.units, group.samples, options.top, options.batch),
            seed=door.params.seed,
            judge=load_judge(door.folder("judges", group.judge), device) if group.judge else None,
            progress=lambda done, total: tell(done, total, float("nan")),
        )
    found = found.assign_attrs(classifier=group.classifier, split=group.split)
    door.write(found, f"Pictures of units of {door.args.group}")
    door.write_metrics(headline(found).columns())


if __name__ == "__main__":
    run(main)
