"""The examples in the docstrings of public functions run, and every public function has one or says here why not.

An example finds these names, all tiny and made in a second; a user has models and artifacts in their place:

    np, torch, xr       numpy, torch, xarray
    clip, model         a CLIP with random weights: two layers of two heads, images of 32 pixels, embeddings of 16
                        dimensions; `model` is `clip.model`
    scenes, images      twelve scenes as images/eval has them, and the same as the model takes them
    compact             `contributions(model, images)`
    second              `second_order(model, images, 0)`
    zeroshot            `embed_zeroshot` of the scenes' values
    classifier, inputs  a convolution, a ReLU, a mean and a linear layer with random weights; four scenes for it
    judge               a judge with random weights
    folder              an empty folder
"""

import doctest
from importlib import import_module

import numpy as np
import pytest
import torch
import xarray as xr

from optogram.data.pools import zeroshot_prompts
from optogram.data.scenes import ATTRIBUTES, Scenes
from optogram.decompose.contributions import contributions
from optogram.decompose.second_order import second_order
from optogram.models.judging.judge import Judge
from optogram.models.judging.network import JudgeNetwork
from optogram.models.loading.classifiers import Classifier
from optogram.models.loading.clip_folders import Preprocess, build_clip
from optogram.models.text_embeddings import embed_zeroshot

ROOMS = (
    *("optogram", "optogram.decompose", "optogram.guidance", "optogram.methods", "optogram.models", "optogram.data"),
)
METRICS = (
    "adversarial",
    "attribute_changes",
    "classification",
    "counterfactual_summaries",
    "counterfactuals",
    "drawn",
    "headline",
    "intervals",
    "localisation",
    "permutation",
    "picture_changes",
    "planted_values",
    "segmentation",
    "visualisations",
)
ARCHITECTURE = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 16, "layers": 2, "head_width": 8},
    "text_cfg": {"context_length": 64, "vocab_size": 514, "width": 16, "heads": 2, "layers": 1},
}
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
DRAWS = "it asks a diffusion model"
RUN, PARTS = "it takes a run's artifacts and minutes", "the example of the function that makes it shows it"
WITHOUT = {
    **dict.fromkeys(("optogram.catalog", "optogram.open", "optogram.pull"), "it reads a repository that has run"),
    **dict.fromkeys(("optogram.models.load_model", "optogram.models.load_classifier"), "it loads pretrained weights"),
    **dict.fromkeys(("optogram.models.load_clip_spec", "optogram.load_diffusion"), "it loads pretrained weights"),
    "optogram.models.load_classifier_folder": "a folder needs an architecture of timm's or torchvision's",
    "optogram.models.save_classifier": "a folder needs an architecture of timm's or torchvision's",
    **{f"optogram.models.{name}": "it trains a model" for name in ("train_clip", "train_judge")},
    **{f"optogram.methods.{name}": RUN for name in ("attack", "describe", "joint", "mined_phrases")},
    **{f"optogram.methods.{name}": RUN for name in ("find_prototypes", "find_targets", "vital_album")},
    **{f"optogram.methods.{name}": RUN for name in ("reference_scores", "visual_scores")},
    **{f"optogram.guidance.{name}": DRAWS for name in ("guide", "invert", "record", "sample", "word_maps")},
    **{
        f"optogram.guidance.{name}": "it is what `guide` or `invert` is told"
        for name in ("Guidance", "NullText", "Start")
    },
    "optogram.data.Photos": "it reads a user's files",
    "optogram.data.transformers_describer": "it loads a language model",
    "optogram.data.ImageMaker": "a protocol, which SceneMaker follows",
    "optogram.data.value_names": "it is the `value_name` of an images artifact",
    **{
        f"optogram.metrics.{name}": PARTS
        for name in ("localisation.Localised", "permutation.Paired", "segmentation.ImageScores")
    },
    "optogram.metrics.segmentation.SegmentationScores": PARTS,
}


def public():
    """(name, object) of what the rooms and the modules of metrics give, one object once."""
    found = {}
    for room in ROOMS:
        package = import_module(room)
        found |= {f"{room}.{name}": getattr(package, name) for name in package.__all__}
    for module in (import_module(f"optogram.metrics.{name}") for name in METRICS):
        own = {name: each for name, each in vars(module).items() if getattr(each, "__module__", "") == module.__name__}
        found |= {f"{module.__name__}.{name}": each for name, each in own.items() if not name.startswith("_")}
    once = {id(each): (name, each) for name, each in found.items() if callable(each)}
    return dict(once.values())


PUBLIC = public()


def examples(name):
    finder = doctest.DocTestFinder(recurse=False)
    return [test for test in finder.find(PUBLIC[name], name, module=False, globs={}) if test.examples]


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    clip = build_clip(ARCHITECTURE, seed=0)
    clip.model.eval().requires_grad_(False)
    scenes = Scenes("eval", 12, seed=0, size=32).read(0, 12)
    images = clip.preprocess(scenes.pixels.values)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = (torch.nn.Conv2d(3, 6, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
        net = torch.nn.Sequential(*layers, torch.nn.Linear(6, 4)).eval().requires_grad_(False)
        counts = {name: len(values) for name, values in ATTRIBUTES.items()}
        judging = JudgeNetwork(32, counts, far=[8, 8, 8], near=[8, 8, 8], hidden=8).eval().requires_grad_(False)
    grey = (0.5, 0.5, 0.5)
    classifier = Classifier(net, Preprocess(32, grey, grey), grey, grey, (32, 32))
    return {
        **{"np": np, "torch": torch, "xr": xr, "clip": clip, "model": clip.model, "scenes": scenes, "images": images},
        "compact": contributions(clip.model, images),
        "second": second_order(clip.model, images, 0),
        "zeroshot": embed_zeroshot(clip, zeroshot_prompts()),
        "classifier": classifier,
        "judge": Judge(judging, ATTRIBUTES, 32),
        "folder": tmp_path_factory.mktemp("folder"),
        "inputs": classifier.preprocess(scenes.pixels.values[:4]),
    }


@pytest.mark.parametrize("name", [name for name in PUBLIC if name not in WITHOUT])
def test_the_example_runs(name, names):
    tests = examples(name)
    assert tests, f"{name} has no example in its docstring. Give it one, or say in WITHOUT why it can have none."
    said = []
    for test in tests:
        test.globs = dict(names)
        doctest.DocTestRunner(optionflags=OPTIONS).run(test, out=said.append)
    assert not said, "".join(said)


@pytest.mark.parametrize("name", WITHOUT)
def test_what_has_no_example_is_there_and_has_none(name):
    assert name in PUBLIC, f"{name} is not public any more. Take it out of WITHOUT."
    assert not examples(name), f"{name} has an example. Take it out of WITHOUT."
