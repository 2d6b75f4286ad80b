"""Room report: how each thing shown was made."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

import xarray as xr

from optogram.report.findings import Findings, params_of


@dataclass(frozen=True)
class Made:
    """One artifact: its name, what it is, its digest, what it was made from, and the lines that remake and open it."""

    name: str
    title: str
    digest: str
    params: str
    inputs: tuple[str, ...]
    command: str
    notebook: str


def made(name: str, dataset: xr.Dataset) -> Made:
    """How the artifact `name` ("textspan/demo") was made, from its attributes."""
    attrs = dataset.attrs
    stage, *below = name.split("/")
    # of the stages whose artifacts lie deeper, this one runs once a layer: neurons@demo-9
    instance = "-".join(below) if stage == "neurons" else below[0]
    params = params_of(dataset)
    return Made(
        name,
        str(attrs.get("title", "")),
        str(attrs.get("digest", "")),
        "\n".join(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in sorted(params.items())),
        tuple(sorted(attrs.get("inputs", {}))),
        f"dvc repro {attrs.get('stage', stage)}@{instance}",
        f'optogram.open("{name}")',
    )


def all_made(findings: Findings) -> Iterator[Made]:
    """Every artifact that the report was made from, images first."""
    for split, dataset in sorted(findings.images.items()):
        yield made(f"images/{split}", dataset)
    for model in [*findings.models, *findings.classifiers, *findings.priors, *findings.groups]:
        for kind, dataset in sorted(model.parts.items()):
            yield made(artifact_name(kind, model.name), dataset)


def artifact_name(kind: str, model: str) -> str:
    """textspan, demo -> textspan/demo; embeddings/class, demo -> embeddings/demo/class."""
    first, *below = kind.split("/")
    return "/".join([first, model, *below])
