"""Small artifacts of every schema, written and read back as the stages do: random numbers, but of the right kind."""

import numpy as np
import xarray as xr

from optogram.data.scenes import ATTRIBUTES, SPLITS, Scenes
from optogram.store.read import read
from optogram.store.write import Provenance, write_dataset

LAYERS, HEADS, STEPS, SIZES, GRID = 4, 8, 6, [1, 2, 4, 6], 8
NEURONS, SHOWN, RANK, GROUPED = 12, 6, 10, 8
"""Of each of the first two MLP layers."""
KINDS = ["textspan", "ablation", "roles", "spurious", "segmentation", "joint"]
KINDS += ["neuron_ablation", "concepts", "adversarial"]
PER_LAYER = ["neurons/0", "neurons/1"]
POOLS = ["descriptions", "words", "class", "random"]
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)> & 'quotes\" %{x} <b>"


COUNTS = tuple((split, {"eval": 160, "biased": 60}.get(split, 40)) for split in SPLITS)


def write_run(folder, models=("demo",), counts=COUNTS):
    """Write and read a run on scenes."""

    def keep(name, dataset):
        made = provenance(name)
        write_dataset(folder / name, dataset, made, scratch=folder / ".scratch")
        return read(folder / name)

    images = {split: keep(f"images/{split}", Scenes(split, n, 0).read(0, n)) for split, n in counts}
    values = {name: list(found) for name, found in ATTRIBUTES.items()}
    found = {}
    for seed, model in enumerate(models):
        parts = _findings(np.random.default_rng(seed), values, list(images["eval"].image.values))
        found[model] = {kind: keep(_path(kind, model), part) for kind, part in parts.items()}
    return images, found


def photo_run(model="demo"):
    """A run on photographs, in memory."""

    def keep(name, dataset):
        return dataset.assign_attrs(provenance(name, note=HOSTILE).attributes("0" * 64))

    rng = np.random.default_rng(7)
    values = {"class": [HOSTILE, "1", "2024-01-01", "cat"]}
    images = {}
    for split, n in (("train", 12), ("reference", 12), ("eval", 30)):
        images[split] = keep(
            f"images/{split}",
            xr.Dataset(
                {
                    "pixels": (("image", "y", "x", "rgb"), rng.integers(0, 256, (n, 120, 100, 3), dtype=np.uint8)),
                    "label": (("image", "attribute"), rng.integers(-1, 4, (n, 1)).astype(np.int16)),
                    "value_name": (("attribute", "value"), np.array(list(values.values()))),
                    "caption": (("image", "variant"), np.full((n, 1), f"a photo of a {HOSTILE}")),
                },
                {"image": [f"{split}/{HOSTILE if k == 0 else k}.jpg" for k in range(n)], "attribute": ["class"]},
                {"class_attribute": "class", "bad_files": '[["<i>broken</i>.jpg", "truncated"]]'},
            ),
        )
    parts = _findings(rng, values, list(images["eval"].image.values))
    for kind in ("spurious", "segmentation", "adversarial"):
        parts[kind] = xr.Dataset(attrs={"skipped": f"these images have no <masks> for {kind}"})
    for suffix in ("", "_by_margin"):
        for name in ("agreement", "chance", "p_value", "heads"):
            del parts["roles"].attrs[f"{name}{suffix}"]
        parts["roles"].attrs[f"truth_skipped{suffix}"] = "there is one attribute only"
    for name in ("precision", "chance", "p_value", "concepts"):
        del parts["concepts"].attrs[name]
    parts["concepts"].attrs["truth_skipped"] = "no concept names a value of <these images>"
    for kind in PER_LAYER:
        for name in ("agreement", "chance", "p_value", "neurons"):
            del parts[kind].attrs[name]
        parts[kind].attrs["truth_skipped"] = "no neuron has both"
    return images, {model: {kind: keep(_path(kind, model), part) for kind, part in parts.items()}}


def _path(kind, model):
    first, *below = kind.split("/")
    return "/".join([first, model, *below])


def provenance(name, **params):
    """What a planted artifact was made from."""
    return Provenance(name.split("/")[0], f"Title of {name}", {"seed": 0, **params}, {"images/eval": "0" * 64})


def _findings(rng, values, ids):
    names = list(values)
    places = {"layer": np.arange(1, LAYERS + 1), "head": np.arange(HEADS)}
    per_head = ("layer", "head")
    chance = np.array([1 / len(values[name]) for name in names], np.float32)
    known = np.full(len(names), len(ids))
    base = (chance + (1 - chance) * rng.uniform(0.4, 0.98, len(names))).astype(np.float32)
    role = rng.integers(0, len(names), (LAYERS, HEADS))
    measured = np.where(rng.random((LAYERS, HEADS)) < 0.5, role, rng.integers(0, len(names), (LAYERS, HEADS)))
    named = np.array(names)[role]
    named[0, 0] = ""
    score = rng.dirichlet(np.full(len(names) + 1, 0.3), (LAYERS, HEADS))[..., :-1]
    np.put_along_axis(score, role[..., None], score.max(-1, keepdims=True), -1)
    drop = rng.normal(0, 0.01, (LAYERS, HEADS, len(names)))
    np.put_along_axis(drop, measured[..., None], rng.uniform(0.03, 0.4, (LAYERS, HEADS, 1)), -1)

    shape = (len(POOLS), LAYERS, HEADS, STEPS)
    picked = np.where(
        rng.random(shape) < 0.6, np.broadcast_to(role[None, ..., None], shape), rng.integers(0, len(names), shape)
    )
    attribute = np.array(names)[picked]
    value = np.array([rng.choice(values[name]) for name in attribute.ravel()]).reshape(shape)
    text = np.array([f"an image of {v} ({a})" for a, v in zip(attribute.ravel(), value.ravel(), strict=True)]).reshape(
        shape
    )
    text[1], text[3] = "word", "random direction"
    attribute[1], attribute[3], value[1], value[3] = "", "", "", ""
    total = rng.gamma(1.5, 0.02, (LAYERS, HEADS)).astype(np.float32)
    part = np.sort(rng.dirichlet(np.full(STEPS + 3, 1.2), shape[:3])[..., :STEPS])[..., ::-1]
    growth = (1 - np.exp(-np.array(SIZES) / 3))[None, :, None] * np.array([1, 0.85, 0.95, 0.6])[:, None, None]
    textspan = xr.Dataset(
        {
            "text": (("pool", *per_head, "step"), text),
            "text_attribute": (("pool", *per_head, "step"), attribute),
            "text_value": (("pool", *per_head, "step"), value),
            "variance": (("pool", *per_head, "step"), (part * total[None, ..., None]).astype(np.float32)),
            "total_variance": (per_head, total),
            "accuracy": (("pool", "size", "attribute"), (chance + (base - chance) * growth).astype(np.float32)),
            "base_accuracy": (("attribute",), base),
            "ablated_accuracy": (("attribute",), (chance + 0.1 * (base - chance)).astype(np.float32)),
            "chance": (("attribute",), chance),
            "count": (("attribute",), known),
        },
        {"pool": POOLS, "size": SIZES, "attribute": names, **places},
    )
    falls = np.linspace(0.98, 0, LAYERS + 1)[:, None] ** 0.4
    kept = rng.uniform(0.7, 1, (LAYERS + 1, len(names)))
    conditions = ["none", "mlps", "class_token", "class_token+mlps"]
    ablation = xr.Dataset(
        {
            "accuracy": (("condition", "attribute"), (base * [[1], [0.97], [0.99], [0.95]]).astype(np.float32)),
            "cumulative": (("layer", "attribute"), (chance + (base - chance) * falls).astype(np.float32)),
            "single_layer": (("layer", "attribute"), (base * kept).astype(np.float32)),
            "chance": (("attribute",), chance),
            "majority": (("attribute",), (chance * 1.1).astype(np.float32)),
            "count": (("attribute",), known),
            **_moved(base * [[1], [0.97], [0.99], [0.95]], len(ids), "condition"),
        },
        {"condition": conditions, "layer": np.arange(LAYERS + 1), "attribute": names},
    )
    pick = lambda *dims: rng.choice(ids, dims)  # noqa: E731
    falling = lambda *dims: np.sort(rng.random(dims).astype(np.float32))[..., ::-1]  # noqa: E731
    roles = xr.Dataset(
        {
            "named": (per_head, named),
            "name_score": ((*per_head, "attribute"), score.astype(np.float32)),
            "measured": (per_head, np.array(names)[measured]),
            "measured_by_margin": (per_head, np.array(names)[role]),
            "accuracy_drop": ((*per_head, "attribute"), drop.astype(np.float32)),
            "accuracy_drop_low": ((*per_head, "attribute"), drop - 0.02),
            "accuracy_drop_high": ((*per_head, "attribute"), drop + 0.02),
            "count": (("attribute",), known),
            "top_image": ((*per_head, "step", "k"), pick(LAYERS, HEADS, STEPS, 8)),
            "top_score": ((*per_head, "step", "k"), falling(LAYERS, HEADS, STEPS, 8)),
            "neighbour": ((*per_head, "query", "near"), pick(LAYERS, HEADS, 6, 6)),
            "neighbour_score": ((*per_head, "query", "near"), falling(LAYERS, HEADS, 6, 6)),
        },
        {"query": ids[:6], "attribute": names, **places},
        {"agreement": 0.47, "chance": 0.19, "p_value": 0.0004, "heads": LAYERS * HEADS - 1}
        | {"agreement_by_margin": 0.97, "chance_by_margin": 0.2, "p_value_by_margin": 0.0001, "heads_by_margin": 31},
    )
    groups = ["circle on water", "circle on sand", "ring on water", "ring on sand"]
    trials = ["base", "chosen", "random best", "random mean", "same size best", "same size mean"]
    accuracy = rng.uniform(0.4, 1, (6, 4)).astype(np.float32)
    cue = " ".join(f"L{row + 1}.H{column}" for row, column in np.argwhere(named == "background"))
    spurious = xr.Dataset(
        {
            "accuracy": (("ablation", "group"), accuracy),
            "worst": (("ablation",), accuracy.min(1)),
            "overall": (("ablation",), accuracy.mean(1)),
            "heads": (("ablation",), np.array(["", cue, "L1.H1 L4.H7", "", "L0.H0", ""])),
            "count": (("group",), np.full(4, 15)),
            "draw_worst": (("baseline", "draw"), np.array([[0.5, 0.6, 0.7], [0.1, 0.2, 0.3]])),
            **{
                f"{name}_{end}": (("ablation",), accuracy.min(1) - of + by)
                for name, of in (("worst", 0), ("gain", accuracy[0].min()), ("lead", accuracy[1].min()))
                for end, by in (("low", -0.1), ("high", 0.1))
            },
        },
        {"ablation": trials, "group": groups, "baseline": ["random", "same size"]},
        {"attribute": "background"},
    )
    methods, metrics = (
        ["decomposition", "neurons", "raw_attention", "rollout", "grad_cam", "chefer", "lrp", "partial_lrp"],
        ["pixel_accuracy", "miou", "map"],
    )
    # the last two of what is drawn before, so that what is drawn after stays as it is
    rows = [*range(6), 4, 5]
    score = rng.uniform(0.4, 0.9, (6, 3)).astype(np.float32)[rows]
    apart = score[:, None] - score
    segmentation = xr.Dataset(
        {
            "score": (("method", "metric"), score),
            "score_low": (("method", "metric"), score - 0.03),
            "score_high": (("method", "metric"), score + 0.03),
            "difference_low": (("method", "other", "metric"), apart - 0.04),
            "difference_high": (("method", "other", "metric"), apart + 0.04),
            "heatmap": (("image", "method", "gy", "gx"), _blobs(rng, 6, 6)[:, rows]),
        },
        {"image": ids[10:16], "method": methods, "other": methods, "metric": metrics},
        {"images": 1000},
    )
    heat = _blobs(rng, LAYERS, HEADS, 4, 2) - 0.3
    joint = xr.Dataset(
        {
            "heatmap": ((*per_head, "k", "sign", "gy", "gx"), heat),
            "text": ((*per_head, "k", "sign"), rng.choice(text[0].ravel(), (LAYERS, HEADS, 4, 2))),
            "image": ((*per_head, "k"), pick(LAYERS, HEADS, 4)),
            "coefficient": ((*per_head, "k", "sign"), rng.normal(0, 0.3, (LAYERS, HEADS, 4, 2)).astype(np.float32)),
        },
        {"sign": ["most", "least"], **places},
    )
    embedding = rng.normal(size=(20, 8)).astype(np.float32)
    pools = {
        f"embeddings/{pool}": xr.Dataset({"embedding": (("text", "embed"), embedding)}) for pool in [*POOLS, "zeroshot"]
    }
    return {
        "ablation": ablation,
        "textspan": textspan,
        "roles": roles,
        "spurious": spurious,
        "segmentation": segmentation,
        "joint": joint,
        **pools,
        **_neurons(rng, values, ids),
    }


def _neurons(rng, values, ids):
    """Two MLP layers' neurons; of each neuron 4 is polysemantic and 2 has no texts."""
    names, pools = list(values), len(POOLS)
    layers = {f"neurons/{at}": _layer(rng, values, ids, range(at + 1, LAYERS + 1)) for at in (0, 1)}
    conditions = ["none", "all", "small", "large", "rank_one", "first_order", "indirect"]
    chance = np.array([1 / len(values[name]) for name in names], np.float32)
    falls = np.array([0.9, 0.3, 0.85, 0.5, 0.88, 0.87, 0.6])[:, None]
    accuracy = chance + (1 - chance) * falls * rng.uniform(0.9, 1, (2, 1, len(names)))
    growth = rng.uniform(0.3, 0.9, (2, pools, 3, len(names)))
    ablation = xr.Dataset(
        {
            "accuracy": (("layer", "condition", "attribute"), accuracy.astype(np.float32)),
            "explained": (("layer", "effect"), (explained := rng.uniform(0.1, 0.9, (2, 3)).astype(np.float32))),
            "explained_low": (("layer", "effect"), explained - 0.05),
            "explained_high": (("layer", "effect"), explained + 0.05),
            "reconstructed": (("layer", "pool", "size", "attribute"), growth.astype(np.float32)),
            "chance": (("attribute",), chance),
            "count": (("attribute",), np.full(len(names), len(ids))),
            **_moved(accuracy, len(ids), "layer", "condition"),
        },
        {"layer": [0, 1], "condition": conditions, "pool": POOLS, "size": [4, 8, 16], "attribute": names}
        | {"effect": ["second_order", "second_order_same_images", "indirect"]},
    )
    text = np.array([f"a concept of {names[k % len(names)]} {k}" for k in range(30)])
    concepts = xr.Dataset(
        {
            "text": (("image", "k"), rng.choice(text, (12, 5))),
            "score": (("image", "k"), np.sort(rng.random((12, 5)).astype(np.float32))[:, ::-1]),
            "active": (("image",), rng.integers(0, 9, 12).astype(np.int32)),
            "true": (("image", "k"), rng.integers(-1, 2, (12, 5)).astype(np.int8)),
        },
        {"image": ids[:12]},
        {"pool": POOLS[0], "neurons": 2 * NEURONS, "active": 4.3}
        | {"precision": 0.61, "chance": 0.22, "p_value": 0.001, "concepts": 41}
        | {"precision_low": 0.46, "precision_high": 0.75},
    )
    concepts["text"][0, 4:] = ""
    methods = ["second_order", "random", "indirect", "similar"]
    description = np.array([[[f"task {t} by {m}, {k}" for k in range(2)] for m in methods] for t in range(2)])
    description[1, 0] = ""
    adversarial = xr.Dataset(
        {
            "fooled": (("task", "method", "repeat"), rng.integers(0, 20, (2, 4, 3)).astype(np.int32)),
            "images": (("task", "method", "repeat"), np.full((2, 4, 3), 20, np.int32)),
            "accuracy": (("task",), np.array([0.93, 0.97], np.float32)),
            "score": (("task", "method", "phrase"), rng.random((2, 4, 3)).astype(np.float32)),
            "description": (("task", "method", "shown"), description),
            "pixels": (
                ("task", "method", "shown", "y", "x", "rgb"),
                rng.integers(0, 256, (2, 4, 2, 24, 24, 3), dtype=np.uint8),
            ),
            "margin": (("task", "method", "shown"), rng.random((2, 4, 2)).astype(np.float32)),
        },
        {"task": ["circle taken for square", "star taken for ring"], "method": methods},
    ).assign_coords(phrase=(("task", "method", "phrase"), rng.choice(text, (2, 4, 3))))
    return {**layers, "neuron_ablation": ablation, "concepts": concepts, "adversarial": adversarial}


def _layer(rng, values, ids, after):
    names, shown, steps, grid = list(values), np.arange(0, NEURONS, 2), 4, (4, 4)
    shape = (len(POOLS), NEURONS, steps)
    attribute = rng.choice([*names, ""], shape)
    value = np.array([rng.choice(values[name]) if name else "" for name in attribute.ravel()]).reshape(shape)
    text = np.array([f"something {v}" for v in value.ravel()]).reshape(shape)
    weight = rng.normal(size=shape)
    weight = np.take_along_axis(weight, np.argsort(-np.abs(weight), -1), -1)
    shared = rng.choice(names, NEURONS)
    groups, texts = np.ones(NEURONS, np.int16), np.ones(NEURONS, np.int16)
    group = np.zeros((NEURONS, GROUPED), np.int16)
    groups[4], group[4] = 2, [0, 1, 0, 0, 0, 0, 0, 1]
    text[:, 2], attribute[:, 2], value[:, 2], weight[:, 2] = "", "", "", 0
    rows = {
        "r": (("neuron", "embed"), rng.normal(size=(NEURONS, 8)).astype(np.float32)),
        "explained": (("neuron",), rng.uniform(0.4, 1, NEURONS).astype(np.float32)),
        "norm": (("neuron", "rank"), np.sort(rng.random((NEURONS, RANK)).astype(np.float32))[:, ::-1]),
        "top_image": (("neuron", "rank"), rng.choice(ids, (NEURONS, RANK))),
        "through": (("layer", "head", "neuron"), rng.normal(size=(len(after), HEADS, NEURONS)).astype(np.float32)),
        "text": (("pool", "neuron", "step"), text),
        "weight": (("pool", "neuron", "step"), weight.astype(np.float32)),
        "text_attribute": (("pool", "neuron", "step"), attribute),
        "text_value": (("pool", "neuron", "step"), value),
        "map": (("shown", "k", "gy", "gx"), rng.random((SHOWN, 3, *grid)).astype(np.float32)),
        "image_group": (("neuron", "grouped"), group),
        "text_group": (("neuron", "step"), np.zeros((NEURONS, steps), np.int16)),
        "image_groups": (("neuron",), groups),
        "text_groups": (("neuron",), texts),
        "image_attribute": (("neuron",), shared),
        "image_value": (("neuron",), np.array([rng.choice(values[name]) for name in shared])),
    }
    places = {"neuron": np.arange(NEURONS), "shown": shown, "layer": list(after), "head": np.arange(HEADS)}
    truth = {"agreement": 0.31, "chance": 0.04, "p_value": 0.001, "neurons": NEURONS - 1}
    truth |= {"polysemantic": 1 / NEURONS, "polysemantic_chance": 0.25, "polysemantic_drawn": 4}
    return xr.Dataset(rows, {**places, "pool": POOLS}, truth)


def _moved(accuracy, images, *dims):
    """Images lost and gained beside the first condition: as many more lost than gained as the accuracies say."""
    apart = np.rint((accuracy - accuracy.take([0], -2)) * images).astype(np.int32)
    lost, gained = np.maximum(-apart, 0) + 1, np.maximum(apart, 0) + 1
    lost[..., 0, :] = gained[..., 0, :] = 0
    return {"lost": ((*dims, "attribute"), lost), "gained": ((*dims, "attribute"), gained)}


def _blobs(rng, *dims):
    """Smooth bumps on a grid of tokens."""
    y, x = np.indices((GRID, GRID))
    cy, cx = rng.uniform(1, GRID - 2, (2, *dims, 1, 1))
    return np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 6).astype(np.float32)
