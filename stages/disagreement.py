"""Stage disagreement: pictures of classes that one classifier sees and another does not (DiG-IN, section 4)."""

from optogram.methods.guidance.disagreement import Hunt, Lookers, disagreement, headline, similar_images
from optogram.models.generative.diffusion_folders import load_diffusion
from optogram.models.judging.judge import load_judge
from optogram.models.loading.classifier_folders import load_classifier_folder
from optogram.models.loading.clip_folders import load_clip
from optogram.params.guidance import Disagreement
from optogram.pipeline.stage import Input, Stage
from optogram.progress import counted
from stages.doorway import Doorway, run, through
from stages.guiding import options_of, seer

STAGE = Stage(
    "disagreement",
    family="guidance",
    desc="Draw what the one classifier of {group} sees and the other does not (DiG-IN, section 4)",
    over={"group": "disagreement.groups"},
    options=("group",),
    inputs=(
        Input("models", "models"),
        Input("diffusions", "diffusions"),
        Input("judges", "judges"),
        Input("images", "images/{group.split}"),
    ),
    switch="disagreement",
    out="disagreement/{group}",
    params=("seed", "disagreement"),
    metrics=True,
    pool="gpu",
)


@through(STAGE)
def main(door: Doorway) -> None:
    """Write disagreement/<group>."""
    options, device = door.params.of(Disagreement), door.params.device
    group, images = options.groups[door.args.group], door.open("images")
    if group.attribute is not None:
        images = images.assign_attrs(class_attribute=group.attribute)
    lookers = Lookers(
        (group.one, seer(door, group.one, images)),
        (group.other, seer(door, group.other, images)),
        {name: load_classifier_folder(door.folder("models", name), device=device) for name in group.others},
        load_judge(door.folder("judges", group.judge), device) if group.judge else None,
    )
    hunt = Hunt(
        options_of(options.guidance),
        options.of,
        tuple(group.classes),
        group.samples,
        group.caption,
        group.cue,
        group.tied,
    )
    diffusion = load_diffusion(str(door.folder("diffusions", group.diffusion)), device=device)
    with counted(f"Disagreement of {door.args.group}", "iterations") as tell:
        found = disagreement(
            diffusion,
            lookers,
            hunt,
            seed=door.params.seed,
            progress=lambda done, total: tell(done, total, float("nan")),
        )
    if group.clip is not None:
        clip = load_clip(door.folder("models", group.clip), device)
        found = similar_images(found, lookers, clip, images, near=options.near)
    door.write(found, f"Disagreement of {door.args.group}")
    door.write_metrics(headline(found).columns())


if __name__ == "__main__":
    run(main)
