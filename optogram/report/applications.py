"""Room report: the sections on images and on what the decomposition is good for: spurious cues, segmentation, joint."""

import json
from typing import Any

import numpy as np
import xarray as xr

from optogram.report import figures
from optogram.report.figures import Plot
from optogram.report.findings import Findings, Model, labels, strings
from optogram.report.formats import ABLATED, METHODS, METRICS, OURS, count, number, words
from optogram.report.images import heat_uri, mask_uri
from optogram.report.made import made
from optogram.report.panels import Context, Panel, percent_table

SAMPLES = 8
VALUES = 40
"""Values of an attribute on a plot, at most: photographs may have a thousand classes."""
BAD_FILES = 50


def images(context: Context) -> Panel:
    """Sample images of every split, how often each label occurs, and the files that could not be used."""
    findings = context.findings
    panel = Panel(made=[made(f"images/{split}", dataset) for split, dataset in sorted(findings.images.items())])
    panel.extra = {"splits": [_split(context, split, dataset) for split, dataset in findings.images.items()]}
    options = [(name, _shares(findings, name)) for name in findings.attributes]
    label = "Share of the images of each split by label"
    panel.plots.append(Plot("labels", label, options, 300, choose="Labels of"))
    return panel


def _split(context: Context, split: str, dataset: xr.Dataset) -> dict[str, Any]:
    total = dataset.sizes["image"]
    rows = np.unique(np.linspace(0, total - 1, min(SAMPLES, total)).astype(int))
    ids = np.array(labels(dataset, "image"))[rows]
    captions = strings(dataset["caption"].isel(image=rows)) if "caption" in dataset else np.full((len(rows), 1), "")
    bad = dataset.attrs.get("bad_files") or []
    bad = json.loads(bad) if isinstance(bad, str) else list(bad)
    y, x = dataset["pixels"].shape[1:3]
    return {
        "name": split,
        "size": f"{count(total)} images of {x} \N{MULTIPLICATION SIGN} {y} pixels",
        "samples": [(context.thumbs.thumb(name), text[0]) for name, text in zip(ids.tolist(), captions, strict=True)],
        "bad": [(str(name), str(why)) for name, why in bad[:BAD_FILES]],
        "bad_count": len(bad),
    }


def _shares(findings: Findings, attribute: str) -> figures.Figure:
    splits, shares, names = [], [], []
    for split, dataset in findings.images.items():
        stored = labels(dataset, "attribute")
        if attribute not in stored:
            continue
        values = dataset["label"].values[:, stored.index(attribute)]
        found = [n for n in strings(dataset["value_name"])[stored.index(attribute)].tolist() if n]
        names = found if len(found) > len(names) else names
        splits.append(split)
        shares.append(np.bincount(values[values >= 0], minlength=len(found)) / max(len(values), 1))
    names = names[:VALUES]
    rows = np.zeros((len(splits), len(names)))
    for row, share in zip(rows, shares, strict=True):
        row[: min(len(share), len(names))] = share[: len(names)]
    return figures.value_shares(splits, names, rows)


def spurious(context: Context, model: Model) -> Panel:
    """Table 2.3 and Tables A.7 to A.10."""
    panel = context.panel(model, "spurious")
    found = model.part("spurious")
    if found is None:
        return panel
    groups, conditions = ["overall", "worst group", *labels(found, "group")], labels(found, "ablation")
    parts = found["overall"].values, found["worst"].values, *found["accuracy"].transpose("group", "ablation").values
    values = np.stack(parts, axis=1).astype(np.float64)
    shown = [ABLATED.get(c, c) for c in conditions]
    shades = [
        {"base": "--s3", "chosen": "--s0"}.get(c, "--s2" if c.startswith("random") else "--s1") for c in conditions
    ]
    patterns = [{"best": "/", "mean": "."}.get(c.split()[-1], "") for c in conditions]
    figure = figures.grouped_bars(groups, shown, values, shades=shades, patterns=patterns)
    figure["layout"]["yaxis"]["title"] = {"text": "zero-shot accuracy"}
    label = "Zero-shot accuracy by group, with heads ablated"
    panel.plots.append(Plot(f"spurious-{model.slug}", label, [("", figure)], 380, 120 * len(groups)))
    panel.tables.append(
        percent_table("ablated", groups, shown, values, caption="Zero-shot accuracy by group", bold=True)
    )
    chosen = str(found["heads"].sel(ablation="chosen").item()).split()
    pages = {head.name: head.page for head in model.heads}
    sizes = [f"{group} {count(int(n))}" for group, n in zip(groups[2:], found["count"].values, strict=True)]
    panel.extra = {
        "cue": str(found.attrs.get("attribute", "the cue")),
        "ablated": [(name, pages.get(name, "")) for name in chosen],
    }
    panel.says = f"Images: {', '.join(sizes)}."
    return panel


def segmentation(context: Context, model: Model) -> Panel:
    """Table 2.4 and the heatmaps beside the masks."""
    panel = context.panel(model, "segmentation")
    found = model.part("segmentation")
    if found is None:
        return panel
    methods = labels(found, "method")
    metrics = [METRICS.get(m, words(m)) for m in labels(found, "metric")]
    shown = [METHODS.get(m, words(m)) for m in methods]
    score = found["score"].transpose("method", "metric").values.astype(np.float64)
    others = [m for m in methods if m not in OURS]
    shades = [OURS.get(m) or f"--s{2 + others.index(m) % 3}" for m in methods]
    patterns = ["" if m in OURS else ("", "/", "x", ".")[others.index(m) % 4] for m in methods]
    figure = figures.grouped_bars(metrics, shown, score, shades=shades, patterns=patterns)
    label = "Segmentation scores by method"
    panel.plots.append(Plot(f"segmentation-{model.slug}", label, [("", figure)], 320, 110 * len(metrics)))
    panel.tables.append(
        percent_table("method", metrics, shown, score, caption="Higher is better; best in bold", bold=True)
    )
    heat = found["heatmap"].transpose("image", "method", "gy", "gx").values
    rows = []
    for k, image in enumerate(labels(found, "image")):
        maps = [(name, heat_uri(heat[k, j], signed=False)) for j, name in enumerate(shown)]
        rows.append({"thumb": context.thumbs.thumb(image), "mask": _mask(context, image), "maps": maps})
    panel.extra = {"gallery": rows}
    return panel


def _mask(context: Context, image: str) -> str:
    found = context.thumbs.find(image)
    if found is None or "mask" not in context.findings.images[found[0]]:
        return ""
    return mask_uri(context.findings.images[found[0]]["mask"].isel(image=found[1]).values)


def joint(context: Context, model: Model) -> Panel:
    """Figure 2.6, for the head of each role that varies most."""
    panel = context.panel(model, "joint")
    if model.part("joint") is None:
        return panel
    chosen = {}
    for head in sorted(model.heads, key=lambda head: -head.variance):
        chosen.setdefault(head.named, head)
    chosen.pop("", None)
    heads = list(chosen.values())[:4] or model.heads[:4]
    panel.extra = {"examples": [(head, joint_examples(context, model, head.layer, head.head)[:4]) for head in heads]}
    return panel


def joint_examples(context: Context, model: Model, layer: int, head: int) -> list[dict[str, Any]]:
    """One head's images with the heatmaps of their most and least similar descriptions; [] if there are none."""
    found = model.part("joint")
    if found is None or str(layer) not in labels(found, "layer") or str(head) not in labels(found, "head"):
        return []
    here = found.isel(layer=labels(found, "layer").index(str(layer)), head=labels(found, "head").index(str(head)))
    signs = labels(here, "sign")
    heat = here["heatmap"].transpose("k", "sign", "gy", "gx").values
    text, coefficient = strings(here["text"].transpose("k", "sign")), here["coefficient"].transpose("k", "sign").values
    examples = []
    for k, image in enumerate(strings(here["image"]).tolist()):
        maps = [
            {
                "sign": s,
                "text": text[k, j],
                "value": number(float(coefficient[k, j])),
                "heat": heat_uri(heat[k, j], signed=True),
            }
            for j, s in enumerate(signs)
        ]
        examples.append({"thumb": context.thumbs.thumb(image), "maps": maps})
    return examples
