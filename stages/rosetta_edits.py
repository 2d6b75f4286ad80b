"""Stage rosetta_edits: pictures of a group's generator edited by its shared units, and these units ablated."""

from optogram.methods.rosetta.edits import edits, headline, shared_units
from optogram.methods.rosetta.following import Drawing
from optogram.methods.rosetta.inversion import Inversion
from optogram.methods.rosetta.reconstruction import moments_of
from optogram.models.generative.generators import load_generator
from optogram.models.generative.sampling import image_seeds
from optogram.models.judging.judge import load_judge
from optogram.params.rosetta import Rosetta, RosettaEdits
from optogram.pipeline.stage import Input, Stage
from optogram.progress import counted
from stages.doorway import Doorway, Skipped, run, through

STAGE = Stage(
    "rosetta_edits",
    family="rosetta",
    desc="Edit pictures of {group}'s generator by its shared units, and ablate these (Figures 4.7, 4.8)",
    over={"group": "rosetta.groups"},
    options=("group",),
    inputs=(Input("rosetta", "rosetta/{group}"), Input("generators", "generators"), Input("judges", "judges")),
    switch="rosetta_edits",
    out="rosetta_edits/{group}",
    params=("seed", "rosetta.groups.{group}", "rosetta_edits"),
    metrics=True,
    pool="gpu",
)


@through(STAGE)
def main(door: Doorway) -> None:
    """Write rosetta_edits/<group>."""
    found, seed, device = door.open("rosetta").load(), door.params.seed, door.params.device
    group, options = door.params.of(Rosetta).groups[door.args.group], door.params.of(RosettaEdits)
    if group.generator is None or group.judge is None:
        raise Skipped(
            f"rosetta.groups.{door.args.group} has no generator whose pictures could be edited, or no judge of them."
        )
    if not shared_units(found):
        raise Skipped("No unit of the generator has a partner above chance.")
    generator = load_generator(str(door.folder("generators", group.generator)), device=device)
    generator = generator.with_layers(group.layers.get(group.generator))
    judge = load_judge(door.folder("judges", group.judge), device)
    drawing = Drawing(group.generator, generator, moments_of(found, group.generator), judge)
    with counted(f"Editing pictures of {group.generator}", "steps") as tell:
        edited = edits(
            drawing,
            found,
            image_seeds(seed, group.images),
            Inversion(steps=options.steps, learning_rate=options.learning_rate, regular=options.regular),
            images=options.images,
            concepts=options.concepts,
            seed=seed,
            progress=lambda done, total: tell(done, total, float("nan")),
        )
    door.write(edited, f"Pictures of {group.generator}, edited by shared units")
    door.write_metrics(headline(edited).columns())


if __name__ == "__main__":
    run(main)
