"""Artifacts of spurious scores of planted units, whose images have the ids of scenes, and of counterfactuals."""

from functools import cache

import numpy as np
import xarray as xr
from planted_findings import provenance
from planted_grounds import biased, grounded

from optogram.methods.guidance.conditions import CONDITIONS
from optogram.methods.guidance.npca import class_components
from optogram.methods.guidance.spurious_scores import SpuriousOptions, spurious_scores
from optogram.store.write import write_dataset

KINDS = ["npca", "spurious_scores"]
MISSING = {"missing": "the search had ended"}


@cache
def scored():
    """Both artifacts by kind, in memory."""
    images = grounded(40)
    components = class_components(biased(), images, count=2, shown=2, batch=32)
    chosen = SpuriousOptions(units=3, images=8, layers=["layer"], shown=2, batch=32)
    return {"npca": components, "spurious_scores": spurious_scores(biased(), images, components, chosen)}


def write_guidance(folder, names):
    """Write the artifacts of these classifiers."""
    for name in names:
        for kind, part in scored().items():
            write_dataset(folder / kind / name, part, provenance(f"{kind}/{name}"), scratch=folder / ".scratch")


def changed(classes=("circle", "square", "ring"), total=6, models=("vit", "judge"), side=8):
    """A counterfactuals artifact. The classifier sees the target in all counterfactuals and pixels alone, with the
    caption swapped in two and with another class in none; vit and the judge see it in all flipped ones but of pixels
    alone, where they see the source, and the last counterfactual, where the judge sees none of the classes.
    """
    draw, shape = np.random.default_rng(0), (len(CONDITIONS), total)
    source = np.arange(total) % len(classes)
    target, other = (source + 1) % len(classes), (source + 2) % len(classes)
    flip = np.array([np.ones(total), np.arange(total) < 2, np.ones(total), np.zeros(total)]) > 0
    seen = np.where(flip, target, source)
    seen[2], seen[3] = source, other
    labels = np.repeat(seen[..., None], len(models), 2)
    labels[0, -1, -1:] = -1
    before, after = np.full(shape, 0.02), np.where(flip, 0.9, 0.1) - np.arange(total) / 100
    point = np.linspace(0, 1, 5)
    curve = before[..., None] + (after - before)[..., None] * point
    over, moved = ("condition", "image"), 0.01 * (1 + np.arange(total) + np.arange(len(CONDITIONS))[:, None])

    def pixels(*dims):
        return draw.integers(0, 256, (*dims, side, side, 3), np.uint8)

    variables = {
        "original": (("image", "y", "x", "rgb"), pixels(total)),
        "inverted": (("image", "y", "x", "rgb"), pixels(total)),
        "inversion_psnr": ("image", np.linspace(20, 30, total, dtype=np.float32)),
        "mask": (("image", "y", "x"), draw.random((total, side, side), np.float32)),
        "pixels": ((*over, "y", "x", "rgb"), pixels(*shape)),
        **{name: ("image", each) for name, each in (("source", source), ("target", target), ("other", other))},
        "class_name": ("class", np.array(classes)),
        "caption": ("image", np.array([f"a {classes[k]}" for k in source])),
        "changed_caption": ("image", np.array([f"a {classes[k]}" for k in target])),
        "loss": (("iterate", "image"), np.repeat(np.array([[2], [1], [0.5]], np.float32), total, 1), MISSING),
        "distance": (("iterate", "image"), np.zeros((3, total), np.float32)),
        "best": ("image", np.full(total, 2)),
        "status": ("image", np.full(total, "done", dtype="<U8")),
        "flip": (over, flip),
        "flip_before": (over, np.zeros(shape, bool)),
        "confident": (over, after > 0.8),
        "target_before": (over, before),
        "target_after": (over, after),
        "source_before": (over, 0.95 - before),
        "source_after": (over, 0.95 - after),
        "background_l1": (over, moved),
        "inside_l1": (over, 2 * moved),
        "cout": (over, after - 0.5),
        "target_curve": ((*over, "point"), curve),
        "source_curve": ((*over, "point"), 0.95 - curve),
    }
    if models:
        variables["other_label"] = (*over, "model"), labels
        agrees = np.where(flip[..., None], labels == target[:, None], np.nan)
        variables["agreement"] = (*over, "model"), agrees, {"missing": "it is not flipped"}
    if "judge" in models:
        variables["attributes_changed"] = over, np.ones(shape)
        variables["kept"] = over, 1 - np.arange(total) / 10 * np.ones(shape)
    coords = {"condition": list(CONDITIONS), "image": [f"eval/{k:06d}" for k in range(total)], "point": point}
    coords |= {"model": list(models)} if models else {}
    return xr.Dataset(variables, coords, {"attribute": "shape", "kind": "classes", "chosen": total})


def led(group, part, **asked):
    """The artifact of a group, with what params.yaml says of it."""
    params = {"counterfactuals": {"least": 18.0, "groups": {group: {"classifier": "net", "diffusion": "pen", **asked}}}}
    made = provenance(f"counterfactuals/{group}", **params)
    return part.assign_attrs(made.attributes("0" * 64) | part.attrs)
