"""Room report: the pages, written whole or not at all; they need no network and no server."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

import jinja2

from optogram.errors import ArtifactError
from optogram.report.findings import Datasets, Findings, collect
from optogram.report.images import Thumbnails
from optogram.report.panels import Context
from optogram.report.provenance import all_made
from optogram.report.registry import sections
from optogram.report.section import Page, shown
from optogram.report.summary import run_facts
from optogram.report.units import unit_pages

TEMPLATES = Path(__file__).parent / "templates"
ASSETS = ("report.css", "report.js")


def build_report(
    out: Path,
    images: Datasets,
    models: Mapping[str, Datasets],
    classifiers: Mapping[str, Datasets] | None = None,
    priors: Mapping[str, Datasets] | None = None,
    groups: Mapping[str, Datasets] | None = None,
) -> None:
    """Write the report into the folder `out`: index.html, the pages of units (heads/, neurons/, units/) and of sections
    (visualisations/), and what they share in assets/.

    `images` are the images artifacts by split. `models` maps each CLIP's name to its artifacts by kind, `classifiers`
    each classifier's, `priors` those of each model that draws, `groups` those of each group of models that are matched
    or that lead and look at counterfactuals: `optogram.report.registry.needs` lists the kinds, as what stands in an
    artifact's name beside the model ("textspan", "neurons/3", "embeddings/class"). A kind that is absent, or whose
    attribute `skipped` is set, is said to be so. The same artifacts give the same bytes. `out` appears whole or not at
    all.

    Raises ArtifactError if `out` exists, DataError if there are no images or no models.
    """
    findings = collect(images, models, classifiers, priors, groups)
    if out.exists():
        raise ArtifactError(f"{out} exists and is never overwritten. Remove it (`dvc repro` does), or name another.")
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        pages = scratch / "report"
        _write(pages, findings)
        pages.rename(out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _write(folder: Path, findings: Findings) -> None:
    assets = folder / "assets"
    assets.mkdir(parents=True)
    context = Context(findings, Thumbnails(findings.images))
    pages = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.policies["json.dumps_kwargs"] = {"sort_keys": True, "allow_nan": False, "separators": (",", ":")}
    for page in _pages(context):
        path = folder / page.path
        path.parent.mkdir(exist_ok=True)
        path.write_text(pages.get_template(page.template).render(**page.content, root="../" * page.path.count("/")))
    context.thumbs.write(assets)
    for name in ASSETS:
        shutil.copyfile(TEMPLATES / name, assets / name)
    shutil.copyfile(_plotly_bundle(), assets / "plotly.min.js")


def _pages(context: Context) -> Iterator[Page]:
    """index.html, then the pages of each section, then those of all units."""
    findings, found = context.findings, [shown(context, section) for section in sections()]
    groups = [*(model.slug for model in findings.models), ""]
    said = {slug: [(one.section, line) for one in found for line in one.headline.get(slug, ())] for slug in groups}
    content = {
        "headlines": [(slug, lines) for slug, lines in said.items() if lines],
        "shown": [one for one in found if not one.missing],
        "absent": [one for one in found if one.missing],
        "models": findings.models,
        "facts": run_facts(findings),
        "artifacts": list(all_made(findings)),
    }
    yield Page("index.html", "index.html", content)
    for section in sections():
        for model in section.models(findings):
            yield from section.pages(context, model)
    yield from unit_pages(context, sections())


def _plotly_bundle() -> Path:
    """plotly.min.js of the installed plotly, found without importing it."""
    spec = find_spec("plotly")
    if spec is None or spec.origin is None:
        raise ArtifactError("plotly is not installed, and the report's figures need it. `make` installs it.")
    return Path(spec.origin).parent / "package_data" / "plotly.min.js"
