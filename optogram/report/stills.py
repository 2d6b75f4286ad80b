"""Room report: a run's key figures as PNG files with an index.json, for places that cannot show the HTML report."""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import xarray as xr

from optogram.errors import ArtifactError
from optogram.report.charts import applications, heads, matplotlib, neurons, role_sheet, visual_stills
from optogram.report.charts.chart import Chart
from optogram.report.charts.sheet import Drawn, plain_style
from optogram.report.findings import Datasets, Findings, Model, collect
from optogram.store.digests import value_digest
from optogram.store.disk import put

CHARTS: dict[str, tuple[str, Callable[[Findings, xr.Dataset], Chart]]] = {
    "ablation": ("ablation", heads.ablation),
    "textspan": ("textspan", heads.textspan),
    "spurious": ("spurious", lambda _, found: applications.spurious(found)),
    "segmentation": ("segmentation", lambda _, found: applications.segmentation(found)),
    "neurons": ("neuron_ablation", neurons.needed),
    "neuron-texts": ("neuron_ablation", neurons.texts),
}
"""For each figure that is a chart the kind of artifact that it is drawn from, and what describes it."""

MOST = 24
"""Facets in a figure, at most; the report has them all."""


def _chart(describe: Callable[[Findings, xr.Dataset], Chart]) -> Callable[[Findings, Model, xr.Dataset], Drawn]:
    """What draws a chart of a model."""

    def draw(findings: Findings, model: Model, found: xr.Dataset) -> Drawn:
        chart = describe(findings, found)
        more = len(chart.facets) - MOST
        left_out = f" {more} more plots are in the report." if more > 0 else ""
        caption = f"{model.name} on images/eval: {chart.title}. {chart.caption}{left_out}"
        return chart.title, caption, matplotlib.draw(replace(chart, facets=chart.facets[:MOST]), model.name)

    return draw


DRAWERS: dict[str, tuple[str, Callable[[Findings, Model, xr.Dataset], Drawn | None]]] = {
    **{name: (kind, _chart(describe)) for name, (kind, describe) in CHARTS.items()},
    "roles": ("roles", role_sheet.roles),
}
"""For each figure of a model the kind of artifact that it is drawn from, and what draws it."""
CLASSIFIER_DRAWERS: dict[str, Callable[[Model], Drawn | None]] = {
    "gallery": visual_stills.gallery,
    "visual-scores": visual_stills.visual_scores,
}
"""For each figure of a classifier what draws it."""


@dataclass(frozen=True)
class Still:
    """One figure: its file name, what it is, what to see in it, the model it is about, and its PNG bytes."""

    file: str
    title: str
    caption: str
    model: str
    png: bytes

    @property
    def entry(self) -> dict[str, str]:
        """Its row in index.json."""
        return {"file": self.file, "title": self.title, "caption": self.caption, "model": self.model}


def write_stills(
    out: Path,
    images: Datasets,
    models: Mapping[str, Datasets],
    classifiers: Mapping[str, Datasets] | None = None,
    *,
    scratch: Path | None = None,
) -> None:
    """Write the folder `out`: a PNG a figure and model, and index.json, which lists them.

    `images`, `models` and `classifiers` are as `build_report` takes them; of `images` the eval split is enough. A
    finding that is absent or skipped gives no figure. The same artifacts give the same bytes. `out` appears whole or
    not at all; what is unfinished lies in `scratch`, or beside `out`. Raises ArtifactError if `out` exists, DataError
    if there are no images or no models.
    """
    found = sorted(stills(collect(images, models, classifiers)), key=lambda still: still.file)
    if out.exists():
        raise ArtifactError(f"{out} exists and is never overwritten. Remove it (`dvc repro` does), or name another.")
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=scratch or out.parent))
    try:
        folder = unfinished / "figures"
        folder.mkdir()
        for still in found:
            (folder / still.file).write_bytes(still.png)
        index = json.dumps([still.entry for still in found], ensure_ascii=False, indent=1, sort_keys=True) + "\n"
        (folder / "index.json").write_text(index, encoding="utf-8", errors="backslashreplace")
        put(folder, out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def stills(findings: Findings) -> Iterator[Still]:
    """The figures of all models and classifiers, each drawn when it is asked for."""
    for model in findings.models:
        for name, (kind, draw) in DRAWERS.items():
            part = model.part(kind)
            if part is not None:
                yield from _still(model, name, lambda draw=draw, model=model, part=part: draw(findings, model, part))
    for model in findings.classifiers:
        for name, draw in CLASSIFIER_DRAWERS.items():
            yield from _still(model, name, lambda draw=draw, model=model: draw(model))


def _still(model: Model, name: str, draw: Callable[[], Drawn | None]) -> Iterator[Still]:
    with plain_style():
        drawn = draw()
        png = b"" if drawn is None else drawn[2].png()
    if drawn is not None:
        title, caption, sheet = drawn
        short = "".join(f" “{shown}” stands for “{name}”." for shown, name in sheet.shortened)
        yield Still(f"{_stem(model.slug)}-{name}.png", title, caption + short, model.name, png)


def _stem(slug: str) -> str:
    """A file name's beginning that file systems take, and that stays distinct when it is cut."""
    return slug if len(slug) <= 100 else f"{slug[:90]}-{value_digest(slug)[:8]}"
