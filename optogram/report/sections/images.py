"""Room report: the family images: what the models looked at, and how it is labelled."""

import json

import numpy as np
import xarray as xr

from optogram.report.charts import applications as charts
from optogram.report.charts.chart import Chart
from optogram.report.charts.plotly import plot
from optogram.report.findings import Findings, labels, strings
from optogram.report.labels import count
from optogram.report.panels import Context, Gallery, Panel, Picture, Table
from optogram.report.provenance import made
from optogram.report.section import Section

SAMPLES = 8
VALUES = 40
"""Values of an attribute on a plot, at most: photographs may have a thousand classes."""
BAD_FILES = 50


def images(context: Context, _: None = None) -> Panel:
    """Sample images of every split, how often each label occurs, and the files that could not be used."""
    findings = context.findings
    panel = Panel(made=[made(f"images/{split}", dataset) for split, dataset in sorted(findings.images.items())])
    shown = sorted(findings.images, key=lambda split: split != "eval")
    rows = [_samples(context, split, findings.images[split]) for split in shown]
    panel.galleries = [Gallery(rows[:1])] + ([Gallery(rows[1:])] if rows[1:] else [])
    panel.pictures_first = True
    panel.folded = [bad for split in shown if (bad := _bad(split, findings.images[split]))]
    panel.plots.append(plot("labels", *(_shares(findings, name) for name in findings.attributes)))
    return panel


def _samples(context: Context, split: str, dataset: xr.Dataset) -> tuple[str, str, list[Picture]]:
    """A split's row of the gallery."""
    total = dataset.sizes["image"]
    rows = np.unique(np.linspace(0, total - 1, min(SAMPLES, total)).astype(int))
    ids = np.array(labels(dataset, "image"))[rows]
    captions = strings(dataset["caption"].isel(image=rows)) if "caption" in dataset else np.full((len(rows), 1), "")
    y, x = dataset["pixels"].shape[1:3]
    says = [f"{count(total)} images of {x} \N{MULTIPLICATION SIGN} {y} pixels"]
    says += json.loads(dataset.attrs.get("notes") or "[]")
    pictures = []
    for name, text in zip(ids.tolist(), captions, strict=True):
        thumb = context.thumbs.thumb(name)
        pictures.append(Picture(thumb, str(text[0]) or context.thumbs.describe(name), says=str(text[0])))
    return split, ". ".join(says), pictures


def _bad(split: str, dataset: xr.Dataset) -> Table | None:
    """The files that could not be used; None where all could."""
    bad = dataset.attrs.get("bad_files") or []
    bad = json.loads(bad) if isinstance(bad, str) else list(bad)
    if not bad:
        return None
    rows = [[str(name), str(why)] for name, why in bad[:BAD_FILES]]
    if len(bad) > BAD_FILES:
        rows.append([f"and {count(len(bad) - BAD_FILES)} more", ""])
    files = "file" if len(bad) == 1 else "files"
    return Table(["file", "why"], rows, f"{split}: {count(len(bad))} {files} could not be used")


def _shares(findings: Findings, attribute: str) -> Chart:
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
    return charts.value_shares(attribute, splits, names, rows)


SECTIONS: tuple[Section, ...] = (
    Section(
        "images",
        "Images and labels",
        "What the models looked at. Below each sample is one of its captions; click any thumbnail for its labels.",
        ("images/{split}",),
        images,
    ),
)
