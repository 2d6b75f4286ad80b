"""Stage counterfactuals: images changed until a classifier sees another class (DiG-IN, Algorithm 2)."""

from optogram.guidance.inversion import NullText
from optogram.methods.guidance.counterfactuals import Candidates
from optogram.methods.guidance.masked import Masking
from optogram.methods.guidance.measured import Search, Seers, headline, measured
from optogram.models.generative.diffusion_folders import load_diffusion
from optogram.models.judging.judge import load_judge
from optogram.models.loading.classifier_folders import load_classifier_folder
from optogram.params.guidance import Counterfactuals
from optogram.pipeline.stage import Input, Stage
from optogram.progress import counted
from stages.doorway import Doorway, run, through
from stages.guiding import kept_as, options_of, seer

STAGE = Stage(
    "counterfactuals",
    family="guidance",
    desc="Change images until the classifier of {group} sees another class (DiG-IN, Algorithm 2)",
    over={"group": "counterfactuals.groups"},
    options=("group",),
    inputs=(
        Input("models", "models"),
        Input("diffusions", "diffusions"),
        Input("judges", "judges"),
        Input("images", "images/{group.split}"),
    ),
    switch="counterfactuals",
    out="counterfactuals/{group}",
    params=("seed", "counterfactuals"),
    metrics=True,
    pool="gpu",
)


@through(STAGE)
def main(door: Doorway) -> None:
    """Write counterfactuals/<group>."""
    options, seed, device = door.params.of(Counterfactuals), door.params.seed, door.params.device
    group, images = options.groups[door.args.group], door.open("images").load()
    if group.attribute is not None:
        images = images.assign_attrs(class_attribute=group.attribute)
    search = Search(
        options_of(options.guidance),
        Masking(options.masks.source, options.masks.threshold, options.masks.points, options.masks.segmenter),
        kept_as(options.kept),
        Candidates(tuple(options.injected), tuple(options.blended)),
        group.of,
        group.images,
        group.captions,
        options.below,
        options.repeats,
        NullText(options.null_text) if options.null_text else None,
        options.least,
    )
    others = {name: load_classifier_folder(door.folder("models", name), device=device) for name in group.others}
    judge = load_judge(door.folder("judges", group.judge), device) if group.judge else None
    seers = Seers(seer(door, group.classifier, images), others, judge)
    diffusion = load_diffusion(str(door.folder("diffusions", group.diffusion)), device=device)
    with counted(f"Counterfactuals of {door.args.group}", "iterations") as tell:
        found = measured(
            diffusion,
            images,
            seers,
            search,
            seed=seed,
            device=device,
            progress=lambda done, total: tell(done, total, float("nan")),
        )
    door.write(found, f"Counterfactuals of {door.args.group}")
    door.write_metrics(headline(found).columns())


if __name__ == "__main__":
    run(main)
