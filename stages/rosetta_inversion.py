"""Stage rosetta_inversion: real images back into a group's generator, with matched units and without (Table 4.1)."""

from collections.abc import Callable
from functools import partial

from optogram.methods.rosetta.groups import models_of
from optogram.methods.rosetta.inversion import Inversion
from optogram.methods.rosetta.reconstruction import at_its_size, headline, pairs_of, reconstructions
from optogram.methods.rosetta.sketches import sketched, with_one_object
from optogram.models.generative.generators import load_generator
from optogram.models.generative.sampling import image_seeds
from optogram.models.judging.judge import load_judge
from optogram.models.units import load_units
from optogram.params.rosetta import Rosetta, RosettaInversion
from optogram.pipeline.stage import Input, Stage
from optogram.progress import counted, say
from stages.doorway import Doorway, Skipped, run, through

STAGE = Stage(
    "rosetta_inversion",
    family="rosetta",
    desc="Invert images into the generator of {group}, with matched units and without (Table 4.1)",
    over={"group": "rosetta.groups"},
    options=("group",),
    inputs=(
        Input("rosetta", "rosetta/{group}"),
        Input("models", "models"),
        Input("generators", "generators"),
        Input("judges", "judges"),
        Input("images", "images/{group.split}"),
    ),
    switch="rosetta_inversion",
    out="rosetta_inversion/{group}",
    params=("seed", "rosetta.groups.{group}", "rosetta_inversion"),
    metrics=True,
    pool="gpu",
)


@through(STAGE)
def main(door: Doorway) -> None:
    """Write rosetta_inversion/<group>."""
    found, seed, device = door.open("rosetta").load(), door.params.seed, door.params.device
    group, options = door.params.of(Rosetta).groups[door.args.group], door.params.of(RosettaInversion)
    if group.generator is None:
        raise Skipped(f"rosetta.groups.{door.args.group} has no generator, into which images could be inverted.")
    if not any(pairs_of(found, name) for name in group.models):
        raise Skipped("No unit of the generator has a partner above chance in a classifier or a CLIP.")
    generator = load_generator(str(door.folder("generators", group.generator)), device=device)
    generator = generator.with_layers(group.layers.get(group.generator))
    images = door.open("images")
    given = images["pixels"].isel(image=slice(options.images)).values
    if (pixels := at_its_size(given, generator)).shape != given.shape:
        say(f"Images of {given.shape[1]} x {given.shape[2]} are inverted at {pixels.shape[1]} x {pixels.shape[2]}.")
    folders = {name: door.folder("models", name) for name in group.models}
    members = models_of(folders, group.layers, side=pixels.shape[1], device=device)
    eyes = (
        load_units(door.folder("models", options.eyes), side=pixels.shape[1], device=device) if options.eyes else None
    )
    weights = (options.matched, options.regular, options.reconstructed)
    inversion = Inversion(options.steps, options.learning_rate, *weights)
    seeds = image_seeds(seed, len(pixels))
    with counted(f"Inverting into {group.generator}", "steps") as tell:
        inverted = reconstructions(
            generator,
            found,
            members,
            pixels,
            seeds,
            inversion,
            permutation=seed,
            eyes=eyes.maps if eyes else None,
            progress=partial(_tell, tell),
        )
    scenes = with_one_object(images, options.images)
    if group.judge is not None and scenes is not None:
        judge, starts = load_judge(door.folder("judges", group.judge), device), seeds[: scenes.sizes["image"]]
        with counted("Sketches", "steps") as tell:
            told = partial(_tell, tell)
            drawn = sketched(
                generator, found, members, scenes, starts, inversion, judge, permutation=seed, progress=told
            )
        inverted = inverted.merge(drawn.rename(image="sketched"))
    door.write(inverted, f"Images inverted into {group.generator}")
    door.write_metrics(headline(inverted).columns())


def _tell(tell: Callable[[int, int, float], None], done: int, total: int) -> None:
    tell(done, total, float("nan"))


if __name__ == "__main__":
    run(main)
