"""Stage rosetta_inversion: real images back into a group's generator, with matched units and without (Table 4.1)."""

from optogram.methods.rosetta.groups import models_of
from optogram.methods.rosetta.inversion import Inversion
from optogram.methods.rosetta.reconstruction import headline, pairs_of, reconstructions
from optogram.models.generative.generators import load_generator
from optogram.models.generative.sampling import image_seeds
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
        raise Skipped("No unit of the generator has a partner above chance.")
    generator = load_generator(str(door.folder("generators", group.generator)), device=device)
    pixels = door.open("images")["pixels"].isel(image=slice(options.images)).values
    folders = {name: door.folder("models", name) for name in group.models}
    with counted(f"Inverting into {group.generator}", "steps") as tell:
        inverted = reconstructions(
            generator,
            found,
            models_of(folders, group.layers, side=pixels.shape[1], device=device),
            pixels,
            image_seeds(seed, len(pixels)),
            Inversion(
                steps=options.steps,
                learning_rate=options.learning_rate,
                matched=options.matched,
                regular=options.regular,
                reconstructed=options.reconstructed,
            ),
            permutation=seed,
            progress=lambda done, total: tell(done, total, float("nan")),
        )
    door.write(inverted, f"Images inverted into {group.generator}")
    door.write_metrics(headline(inverted).columns())


if __name__ == "__main__":
    run(main)
