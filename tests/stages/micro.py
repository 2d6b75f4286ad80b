"""How the stages are run at micro size, from dvc.yaml itself."""

import shlex
from importlib import import_module
from pathlib import Path

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
SETTINGS = [
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
    "activations.shard=32",
    "contributions.shard=32",
    "segmentation.images=24",
    "second_order.shard=32",
    "neurons.shown=5",
]
PIPELINE = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
DECOMPOSED = ("ablation", "textspan", "roles", "spurious", "segmentation", "joint")
BY_MODEL = (*DECOMPOSED, "neuron_ablation", "concepts", "adversarial")
BY_CLASSIFIER = ("targets", "prototypes", "vital", "baselines", "visual_scores")
# Each stage at one instance; stages that a scenes run does not have are tested on their own.
INSTANCES = {
    "scenes": [{"key": key} for key in ("train", "train_biased", "reference", "eval", "biased")],
    "texts": [{"item": item} for item in ("descriptions", "words", "class", "random")],
    "train_clip": [{"key": "smoke"}],
    "train_classifier": [{"key": key, "item.split": "train"} for key in ("smoke_resnet", "smoke_vit")],
    "activations": [
        {"item.model": model, "item.split": split}
        for model in ("smoke_resnet", "smoke_vit")
        for split in ("reference", "eval")
    ],
    "embed_texts": [{"item": "smoke"}],
    "contributions": [{"item.model": "smoke", "item.split": split} for split in ("reference", "eval", "biased")],
    "second_order": [
        {"item.model": "smoke", "item.split": split, "item.layer": layer}
        for split in ("reference", "eval")
        for layer in ("0", "1")
    ],
    **{
        name: [{"item.model": "smoke", "item.layer": layer} for layer in ("0", "1")] for name in ("neurons", "indirect")
    },
    **{name: [{"item": "smoke"}] for name in BY_MODEL},
    **{name: [{"item": model} for model in ("smoke_resnet", "smoke_vit")] for name in BY_CLASSIFIER},
    "reference_sets": [{"item": "smoke_resnet"}],
    "report": [{}],
    "figures": [{}],
}


def command(stage, values):
    """The module and argv of a stage, from dvc.yaml itself, so that a test runs what users run."""
    body = PIPELINE[stage].get("do", PIPELINE[stage])
    text = body["cmd"]
    for key, value in {**values, "spurious.split": "biased", "visual_scores.clip": "smoke"}.items():
        text = text.replace("${" + key + "}", value)
    words = shlex.split(text)
    return words[2], words[3:]


def run_stage(stage, values, **replaced):
    """Run a stage in the current folder, with some path options replaced."""
    module, argv = command(stage, values)
    for option, value in replaced.items():
        argv[argv.index(f"--{option}") + 1] = str(value)
    import_module(module).main(argv)
