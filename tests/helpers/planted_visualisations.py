"""Small artifacts of a classifier's feature visualisations, of every schema: planted pictures, curves and scores."""

import json

import numpy as np
import xarray as xr
from planted_findings import provenance

from optogram.data.scenes import ATTRIBUTES, Scenes
from optogram.store.read import read
from optogram.store.write import write_dataset

CLASSES = ["circle", "square", "triangle"]
METHODS = ["fourier", "maco", "deepinversion", "pii"]
KINDS = ["targets", "vital", "baselines", "visual_scores", "reference_sets"]
SEEDS, SHOWN, STEPS = 3, 4, 12
WHY = "not defined: DeepInversion needs batch norm, for classes only"
DIVERGED = "diverged at step 5"
CONDITIONS = ["5", "50", "strangers 5", "other split"]


def write_classifiers(folder, names):
    """Write and read the artifacts of these classifiers."""
    found = {}
    for seed, name in enumerate(names):
        parts = visualised(np.random.default_rng(seed))
        for kind, part in parts.items():
            write_dataset(folder / kind / name, part, provenance(f"{kind}/{name}"), scratch=folder / ".scratch")
        found[name] = {kind: read(folder / kind / name) for kind in parts}
    return found


def visualised(rng, classes=CLASSES, side=16):
    """One classifier's artifacts by kind, in memory: three neurons, one of them split, two concepts of a class."""
    targets = _targets(rng, classes, side)
    names = targets.target.values.tolist()
    return {
        "targets": targets,
        "vital": _drawn(rng, targets, ["vital"]),
        "baselines": _drawn(rng, targets, METHODS),
        "visual_scores": _scores(rng, names, targets.kind.values.tolist(), classes),
        "reference_sets": _sets(rng, classes, side),
    }


def _targets(rng, classes, side):
    neurons = [f"layer4:{k}" for k in (3, 17, 40)]
    concepts = [f"{classes[0]} concept {k}" for k in (0, 1)]
    splits = [f"{neurons[0]} split {k}" for k in (0, 1)]
    names = [*classes, *neurons, *concepts, *splits]
    kinds = ["class"] * len(classes) + ["neuron"] * 3 + ["concept"] * 2 + ["split"] * 2
    parents = [""] * (len(classes) + 3) + [classes[0]] * 2 + [neurons[0]] * 2
    n = len(names)
    ids = Scenes("train", 40, 0).ids
    reference = rng.choice(ids, (n, SHOWN)).astype(object)
    reference[-1, 2:] = ""
    facet = np.zeros((n, SHOWN), np.int32)
    facet[0] = np.arange(SHOWN) % 2
    facet[-1, 2:] = -1
    circuit = np.array([[neurons[(k + j) % 3] for j in range(3)] for k in range(len(classes))])
    return xr.Dataset(
        {
            "kind": (("target",), kinds),
            "parent": (("target",), parents),
            "class_index": (("target",), np.array([*range(len(classes)), *[-1] * (n - len(classes))], np.int32)),
            "layer": (("target",), ["" if kind == "class" else "layer4" for kind in kinds]),
            "direction": (("target", "channel"), rng.normal(size=(n, 8)).astype(np.float32)),
            "reference": (("target", "reference"), reference.astype(str)),
            "facet": (("target", "reference"), facet),
            "box": (("target", "reference", "corner"), np.zeros((n, SHOWN, 3), np.int32)),
            "score": (("target", "reference"), rng.random((n, SHOWN)).astype(np.float32)),
            "pixels": (
                ("target", "shown", "y", "x", "rgb"),
                rng.integers(0, 256, (n, SHOWN, side, side, 3), dtype=np.uint8),
            ),
            "strength": (("target",), rng.random(n).astype(np.float32)),
            "circuit": (("class", "k"), circuit),
            "circuit_relevance": (("class", "k"), np.tile(np.array([0.5, 0.25, 0.125], np.float32), (len(classes), 1))),
        },
        {"target": names, "class": classes},
        {"classes": json.dumps(classes), "class_attribute": "shape", "layer": "layer4"},
    )


def _drawn(rng, targets, methods):
    """Pictures of flat colours, so that a cell of a sheet says which it is; of DeepInversion only those of classes."""
    names, kinds = targets.target.values.tolist(), targets.kind.values.tolist()
    shape = len(names), len(methods), SEEDS
    side = targets.sizes["y"]
    pixels = np.broadcast_to(flat(*np.indices(shape))[:, :, :, None, None], (*shape, side, side, 3)).copy()
    status = np.full(shape, "done", dtype=object)
    if "maco" in methods:
        status[1, methods.index("maco"), 1] = DIVERGED
    if "deepinversion" in methods:
        inner = [k for k, kind in enumerate(kinds) if kind != "class"]
        status[inner, methods.index("deepinversion")] = WHY
        pixels[inner, methods.index("deepinversion")] = 0
    falls = np.exp(-np.arange(STEPS) / 3) * rng.uniform(1, 9, (*shape, 1)) - 2
    ramp = np.broadcast_to(np.linspace(0, 255, side).astype(np.uint8), (*shape, side, side))
    return xr.Dataset(
        {
            "pixels": (("target", "method", "seed", "y", "x", "rgb"), pixels),
            "transparency": (("target", "method", "seed", "y", "x"), ramp.copy()),
            "loss": (("target", "method", "seed", "step"), falls.astype(np.float32)),
            "status": (("target", "method", "seed"), status.astype(str)),
        },
        {"target": names, "method": methods, "seed": np.arange(SEEDS), "step": np.arange(STEPS) * 10},
    )


def flat(target, method, seed):
    """The colour of a planted picture."""
    return np.stack([10 + 20 * target, 40 + 50 * method, 60 + 90 * seed], -1).astype(np.uint8)


def _scores(rng, names, kinds, classes):
    methods = ["real", "vital", *METHODS]
    attributes = ["shape", "background"]
    shape = len(names), len(methods), SEEDS
    of_class = np.array([kind == "class" for kind in kinds])
    inner = np.array([kind == "neuron" for kind in kinds])
    predicted = np.full(shape, "", dtype=object)
    predicted[of_class] = np.array(names, dtype=object)[of_class][:, None, None]
    predicted[0, methods.index("fourier"), 0] = classes[1]
    clip = predicted.copy()
    clip[0, methods.index("vital"), 2] = classes[2]
    seen = np.full((*shape, 2), "", dtype=object)
    seen[of_class, :, :, 0] = clip[of_class]
    seen[of_class, :, :, 1] = "sand"
    seen[0, methods.index("vital"), :2, 1] = "water"
    undefined = np.full(len(methods), np.nan, np.float32)
    at = {name: k for k, name in enumerate(methods)}
    auc = np.where(
        inner[None] & ~np.isin(methods, ["real", "deepinversion"])[:, None], rng.random(shape[1::-1]), np.nan
    )
    accuracy = np.array([0.99, 1, 0.42, 0.5, 1, 0.5], np.float32)
    cue_shown = undefined.copy()
    cue_shown[at["vital"]], cue_shown[at["fourier"]] = 2 / 3, 0
    points = 30
    found = xr.Dataset(
        {
            "accuracy": (("method",), accuracy),
            "zero_shot_1": (("method",), np.array([0.98, 0.66, 0.06, 0.12, 0.29, 0.1], np.float32)),
            "zero_shot_5": (("method",), undefined),
            "fid_own": (("method",), np.array([0.4, 3.25, 422, 360, 35.5, 200], np.float32)),
            "fid_second": (("method",), np.array([0.5, 6.5, 400, np.nan, 35.5, 100], np.float32)),
            "auc": (("method", "target"), auc.astype(np.float32)),
            "mad": (("method", "target"), auc.astype(np.float32)),
            "auc_mean": (("method",), np.array([np.nan, 0.9, 0.5, 0.6, np.nan, 0.7], np.float32)),
            "mad_mean": (("method",), np.array([np.nan, 1.5, -9.5, 0.6, np.nan, 0.7], np.float32)),
            "predicted": (("target", "method", "seed"), predicted.astype(str)),
            "confidence": (("target", "method", "seed"), np.full(shape, 0.875, np.float32)),
            "clip_predicted": (("target", "method", "seed"), clip.astype(str)),
            "seen": (("target", "method", "seed", "attribute"), seen.astype(str)),
            "cue": (("class",), ["background: water", *[""] * (len(classes) - 1)]),
            "cue_shown": (("method",), cue_shown),
            "pictures": (("method",), np.array([600] + 5 * [len(classes) * SEEDS], np.int32)),
            "judged": (("method",), np.array([590] + 5 * [len(classes) * SEEDS], np.int32)),
            "cue_pictures": (("method",), np.array([100] + 5 * [SEEDS], np.int32)),
            "channels": (("method",), np.array([0, 1, 1, 1, 0, 1], np.int32) * int(inner.sum())),
            "map_x": (("point",), rng.normal(size=points).astype(np.float32)),
            "map_y": (("point",), rng.normal(size=points).astype(np.float32)),
            "map_kind": (("point",), ["real"] * 20 + ["vital"] * 5 + ["maco"] * 5),
            "map_class": (("point",), [classes[k % len(classes)] for k in range(points)]),
        },
        {"target": names, "method": methods, "seed": np.arange(SEEDS), "attribute": attributes, "class": classes},
        {"clip": "demo", "second": "vit", "cue_chance": 1 / len(ATTRIBUTES["background"]), "samples": 60},
    )
    for name in ("zero_shot_5", "fid_second", "auc", "mad", "auc_mean", "mad_mean", "cue_shown"):
        found[name].attrs["missing"] = "there is none"
    return found


def _sets(rng, classes, side):
    n = len(CONDITIONS)
    return xr.Dataset(
        {
            "accuracy": (("condition",), (np.array([6, 7, 8, 9]) / (len(classes) * SEEDS)).astype(np.float32)),
            "fid_own": (("condition",), np.linspace(3, 9, n).astype(np.float32)),
            "zero_shot_1": (("condition",), np.linspace(0.7, 0.6, n).astype(np.float32)),
            "zero_shot_5": (("condition",), np.full(n, -1, np.float32)),
            "pixels": (
                ("condition", "class", "y", "x", "rgb"),
                rng.integers(0, 256, (n, len(classes), side, side, 3), dtype=np.uint8),
            ),
        },
        {"condition": CONDITIONS, "class": classes},
        {"pictures": len(classes) * SEEDS},
    )
