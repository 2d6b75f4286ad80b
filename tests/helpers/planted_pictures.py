"""Small pictures with a known class: colour is the class, the background the other attribute; and judges that see both.

The classifier's first three channels are red, green and blue light. CLIP has random weights, but its zero-shot rows are
fitted to real pictures, so that it tells colours and backgrounds apart.
"""

from functools import cache

import numpy as np
import torch
import xarray as xr
from torch import nn

from optogram.methods.visualisation.evaluators import Judges
from optogram.models.loading.classifiers import Classifier
from optogram.models.loading.clip_folders import Preprocess, build_clip, encode_images

COLOURS, BACKGROUNDS = ("red", "green", "blue"), ("dark", "light")
SIDE = 8


def paint(colour, background, seed):
    """One picture (y, x, rgb): a square of the colour, somewhere on the background; noise over all."""
    rng = np.random.default_rng([colour, background, seed])
    pixels = np.full((SIDE, SIDE, 3), 170.0 if background else 20.0)
    top, left = rng.integers(0, 3, 2)
    pixels[top : top + 5, left : left + 5] = 250.0 * np.eye(3)[colour]
    return np.clip(pixels + rng.normal(0, 6, pixels.shape), 0, 255).astype(np.uint8)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, SIDE, SIDE, 3), np.uint8)


def scenes(each=12, bias=0.5, seed=0):
    """An images artifact; of red pictures the share `bias` is on light, of the others one half."""
    rows, pixels = [], []
    for colour in range(3):
        light = round(each * bias) if colour == 0 else each // 2
        for number in range(each):
            rows.append((int(number < light), colour))
            pixels.append(paint(colour, int(number < light), 1000 * seed + number))
    order = np.random.default_rng(seed).permutation(len(rows))
    return xr.Dataset(
        {
            "pixels": (("image", "y", "x", "rgb"), np.stack(pixels)[order]),
            "label": (("image", "attribute"), np.array(rows, np.int16)[order]),
            "value_name": (("attribute", "value"), [[*BACKGROUNDS, ""], list(COLOURS)]),
        },
        {"image": [f"eval/{i}" for i in range(len(rows))], "attribute": ["background", "colour"]},
        {"class_attribute": "colour"},
    )


def classifier(classes=COLOURS, seed=0):
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))
    layers = model[0], model[4]
    with torch.no_grad():
        for layer in layers:
            layer.bias.zero_()
            layer.weight.copy_(0.05 * torch.randn(layer.weight.shape, generator=generator))
        # one channel a colour: how far it is above the mean of the others
        model[0].weight[:3] = (torch.eye(3) - 0.5 * (1 - torch.eye(3)))[..., None, None]
        model[4].weight[:, :3] = 40 * torch.eye(3)
    preprocess = Preprocess(SIDE, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    model.eval().requires_grad_(False)
    return Classifier(model, preprocess, (0.0,) * 3, (1.0,) * 3, (SIDE, SIDE), classes, "colour")


@cache
def clip():
    architecture = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": SIDE, "patch_size": 4, "width": 32, "layers": 1, "head_width": 8},
        "text_cfg": {"context_length": 8, "vocab_size": 514, "width": 24, "heads": 3, "layers": 1},
    }
    built = build_clip(architecture, seed=1)
    built.model.eval().requires_grad_(False)
    return built


@cache
def _zeroshot():
    """Rows that fit by least squares: what tells each value from the others of its attribute."""
    keys = [(background, colour) for background in range(2) for colour in range(3)] * 60
    embedding = encode_images(clip(), np.stack([paint(c, b, 9000 + i) for i, (b, c) in enumerate(keys)])).double()
    rows, attributes, values = [], [], []
    for attribute, at, names in (("background", 0, BACKGROUNDS), ("colour", 1, COLOURS)):
        index = torch.tensor([key[at] for key in keys])
        wanted = torch.nn.functional.one_hot(index).double() - 1 / (index.max() + 1)
        found = torch.linalg.lstsq(embedding, wanted).solution.T
        rows += list(torch.nn.functional.normalize(found, dim=1).float().numpy())
        attributes += [attribute] * len(names)
        values += names
    return xr.Dataset(
        {
            "classifier": (("class", "embed"), np.stack(rows)),
            "attribute": ("class", attributes),
            "value": ("class", values),
        }
    )


def judges(**others):
    """All of them; the zero-shot rows are a copy."""
    every = {
        "classifier": classifier(),
        "second": classifier(seed=5),
        "clip": clip(),
        "zeroshot": _zeroshot().copy(deep=True),
    }
    return Judges(**(every | others))


def targets():
    """The classes red, blue and green, in this order; a neuron, the redness; a concept, redness less blueness."""
    direction = np.zeros((5, 8), np.float32)
    direction[3, 0], direction[4, [0, 2]] = 1, (0.8, -0.6)
    return xr.Dataset(
        {
            "kind": ("target", ["class", "class", "class", "neuron", "concept"]),
            "class_index": ("target", np.array([0, 2, 1, -1, -1], np.int32)),
            "layer": ("target", ["", "", "", "1", "1"]),
            "direction": (("target", "channel"), direction),
        },
        {"target": ["red", "blue", "green", "1:0", "red concept 0"]},
    )


def pictures(methods, status=None):
    """(target, method, seed) visualisations of {method: (target, seed, y, x, rgb)}; status {(method, target): text}."""
    pixels = np.stack(list(methods.values()), 1)
    says = np.full(pixels.shape[:3], "done", object)
    names = targets()["target"].values.tolist()
    for (method, target), text in (status or {}).items():
        says[names.index(target), list(methods).index(method)] = text
    return xr.Dataset(
        {
            "pixels": (("target", "method", "seed", "y", "x", "rgb"), pixels),
            "status": (("target", "method", "seed"), says.astype(str)),
        },
        {"target": names, "method": list(methods), "seed": np.arange(pixels.shape[2])},
    )


def real_pictures(background, seeds=3, seed=500):
    """Of each target real pictures: of its class, and of red for what is none."""
    return np.stack([[paint(colour, background, seed + i) for i in range(seeds)] for colour in (0, 2, 1, 0, 0)])
