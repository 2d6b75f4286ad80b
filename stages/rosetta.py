"""Stage rosetta: the units that a group of models shares, and how many of them chance gives (thesis, chapter 4)."""

from optogram.methods.rosetta.dictionary import headline
from optogram.methods.rosetta.groups import Drawn, Source, Stored, members_of, rosetta
from optogram.models.generative.denoiser_units import DenoiserUnits
from optogram.models.generative.diffusion_folders import load_diffusion
from optogram.models.generative.generators import load_generator
from optogram.models.generative.sampling import image_seeds
from optogram.models.judging.judge import load_judge
from optogram.models.loading.clip_folders import load_clip
from optogram.models.text_embeddings import embed_pool
from optogram.params.rosetta import Rosetta, RosettaGroup
from optogram.pipeline.stage import Input, Stage
from optogram.progress import counted
from stages.doorway import Doorway, run, through

SETTINGS = ("k", "rate", "shuffles", "alike", "clip", "pool", "shown", "examples")

STAGE = Stage(
    "rosetta",
    family="rosetta",
    desc="Match the units of the models of {group}, with what chance gives (thesis, chapter 4)",
    over={"group": "rosetta.groups"},
    options=("group",),
    inputs=(
        Input("models", "models"),
        Input("generators", "generators"),
        Input("diffusions", "diffusions"),
        Input("judges", "judges"),
        Input("images", "images/{group.split}"),
        Input("texts", "texts/${rosetta.pool}"),
    ),
    switch="rosetta",
    out="rosetta/{group}",
    params=("seed", "rosetta.groups.{group}", *(f"rosetta.{name}" for name in SETTINGS)),
    metrics=True,
    pool="gpu",
)


@through(STAGE)
def main(door: Doorway) -> None:
    """Write rosetta/<group>."""
    options, seed, device = door.params.of(Rosetta), door.params.seed, door.params.device
    group = options.groups[door.args.group]
    source = source_of(door, group)
    folders = {name: door.folder("models", name) for name in group.models}
    denoisers = {}
    if group.diffusion is not None:
        diffusion = load_diffusion(str(door.folder("diffusions", group.diffusion)), device=device)
        units = DenoiserUnits(diffusion, tuple(group.times), seed, group.layers.get(group.diffusion))
        denoisers = {group.diffusion: units}
    clip = load_clip(door.folder("models", options.clip), device) if options.clip else None
    members = members_of(source, folders, group.layers, seed=seed, denoisers=denoisers, device=device)
    with door.scratch("Sums of shared units") as scratch, counted(f"Units of {door.args.group}", "images") as tell:
        found = rosetta(
            source,
            members,
            **{name: getattr(options, name) for name in ("k", "rate", "shuffles", "alike", "shown", "examples")},
            seed=seed,
            scratch=scratch,
            texts=(clip, embed_pool(clip, door.open("texts").load())) if clip else None,
            progress=lambda done, total: tell(done, total, float("nan")),
        )
        door.write(found, f"Units that {door.args.group} share")
    door.write_metrics(headline(found).columns())


def source_of(door: Doorway, group: RosettaGroup) -> Source:
    """The images of a group."""
    device = door.params.device
    if group.generator is None:
        return Stored(door.open("images"), group.images, door.params.seed)
    judge = load_judge(door.folder("judges", group.judge), device) if group.judge else None
    generator = load_generator(str(door.folder("generators", group.generator)), device=device)
    generator = generator.with_layers(group.layers.get(group.generator))
    return Drawn(group.generator, generator, image_seeds(door.params.seed, group.images), judge)


if __name__ == "__main__":
    run(main)
