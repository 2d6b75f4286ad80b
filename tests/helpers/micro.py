"""How the stages are run at micro size, as they are declared."""

from importlib import import_module
from pathlib import Path

from ruamel.yaml import YAML

from optogram.params.profiles import profile_text
from optogram.pipeline.declared import declared

ROOT = Path(__file__).parents[2]
SETTINGS = [
    "threads=1",  # xdist fills the cores
    "scenes.splits.train.count=96",
    "scenes.splits.train_biased.count=32",
    "scenes.splits.reference.count=80",
    "scenes.splits.eval.count=80",
    "scenes.splits.biased.count=64",
    "scenes.shard=32",
    "texts.words=40",
    "texts.random=40",
    "train_clip.models.smoke.epochs=1",
    "train_clip.models.smoke.batch=16",
    "scenes.splits.single.count=64",
    "sample.models.smoke_prior.count=20",
    "sample.models.smoke_prior.shard=16",
    "generate.models.smoke_gan.shard=8",
    "activations.shard=32",
    "contributions.shard=32",
    "segmentation.images=24",
    "second_order.shard=32",
    "neurons.shown=5",
]
PARAMS = YAML(typ="safe").load(profile_text("smoke", SETTINGS, ROOT / "profiles"))
DECLARED = {name: stage for name, (_, stage) in declared().items()}
MODULES = {name: f"stages.{module}" for name, (module, _) in declared().items()}
# Each stage's instances of a run of scenes; stages that such a run does not have are tested on their own.
INSTANCES = {
    name: instances
    for name, stage in DECLARED.items()
    if name != "check_params" and (instances := stage.instances(PARAMS))
}
# the first instance is the one that is looked at: nothing is inverted into a group without a generator, or edited there
for stage_of_a_generator in ("rosetta_inversion", "rosetta_edits"):
    INSTANCES[stage_of_a_generator].reverse()


def command(stage, values, params=PARAMS):
    """The module and argv of a stage, as dvc.yaml has them."""
    return MODULES[stage], [DECLARED[stage].filled(word, values, params) for word in DECLARED[stage].arguments()]


def run_stage(stage, values, **replaced):
    """Run a stage in the current folder, with its params.yaml, with some path options replaced."""
    module, argv = command(stage, values, YAML(typ="safe").load(Path("params.yaml").read_text()))
    for option, value in replaced.items():
        argv[argv.index(f"--{option}") + 1] = str(value)
    import_module(module).main(argv)


def set_params(*settings):
    """Write the current folder's params.yaml anew, with these settings on top of those of all stages' tests."""
    Path("params.yaml").write_text(profile_text("smoke", [*SETTINGS, *settings], ROOT / "profiles"))
