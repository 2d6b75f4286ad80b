"""Stage rosetta_inversion: real images back into a group's generator, with matched units and without (Table 4.1)."""

from typing import Any

from optogram.methods.rosetta.groups import models_of
from optogram.methods.rosetta.inversion import Inversion
from optogram.methods.rosetta.reconstruction import at_its_size, headline, pairs_of, reconstructions
from optogram.methods.rosetta.single import single_units
from optogram.methods.rosetta.sketches import sketched, with_one_object
from optogram.models.generative.generators import load_generator
from optogram.models.generative.sampling import image_seeds
from optogram.models.judging.judge import load_judge
from optogram.models.units import load_units
from optogram.params.rosetta import Rosetta, RosettaInversion
from optogram.pipeline.stage import Input, Stage
from optogram.progress import counted
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
    images, looking = door.open("images"), {name: door.folder("models", name) for name in group.models}
    pixels = at_its_size(images["pixels"].isel(image=slice(options.images)).values, generator)
    side = pixels.shape[1]
    members = models_of(looking, group.layers, side=side, device=device)
    eyes = load_units(door.folder("models", options.eyes), side=side, device=device) if options.eyes else None
    weights = (options.matched, options.regular, options.reconstructed)
    inversion, seeds = Inversion(options.steps, options.learning_rate, *weights), image_seeds(seed, len(pixels))
    with counted(f"Inverting into {group.generator}", "steps") as tell:
        given = (generator, found, members, pixels, seeds, inversion)
        # `tell` is that of the bar that is open
        told: Any = {"permutation": seed, "progress": lambda done, total: tell(done, total, float("nan"))}
        watch = eyes.watch if eyes and options.loss == "perceptual" else None
        inverted = reconstructions(*given, eyes=eyes.maps if eyes else None, watch=watch, **told)
    with counted("Units alone", "steps") as tell:
        given = (generator, found, members, pixels, image_seeds(seed, options.latents), inversion)
        alone = single_units(*given, count=options.alone, progress=told["progress"])
        inverted = inverted if alone is None else inverted.merge(alone)
    scenes = with_one_object(images, options.images)
    if group.judge is not None and scenes is not None:
        judge, starts = load_judge(door.folder("judges", group.judge), device), seeds[: scenes.sizes["image"]]
        with counted("Sketches", "steps") as tell:
            drawn = sketched(generator, found, members, scenes, starts, inversion, judge, **told)
        inverted = inverted.merge(drawn.rename(image="sketched"))
    door.write(inverted, f"Images inverted into {group.generator}")
    door.write_metrics(headline(inverted).columns())


if __name__ == "__main__":
    run(main)
