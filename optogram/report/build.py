"""Room report: the pages, written whole or not at all; they need no network and no server."""

import shutil
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import jinja2

from optogram.errors import ArtifactError
from optogram.report import applications, neuron_sections, sections, summary
from optogram.report.findings import Datasets, Findings, collect
from optogram.report.heads import head_page
from optogram.report.images import Thumbnails
from optogram.report.made import all_made
from optogram.report.neurons import neuron_pages, neurons_of
from optogram.report.panels import Context, Section
from optogram.report.visual_tables import tiles as visual_tiles
from optogram.report.visualisation_pages import Bench

TEMPLATES = Path(__file__).parent / "templates"
ASSETS = ("report.css", "report.js")

READING = {
    "images": (
        "Images and labels",
        "What the models looked at. Below each sample is one of its captions; click any thumbnail for its labels.",
    ),
    "accuracy": (
        "Zero-shot accuracy",
        "Each attribute is classified by the nearest text embedding on images/eval. The tick is chance, one over the "
        "number of values: a bar at its tick knows nothing of that attribute.",
    ),
    "ablation": (
        "Mean-ablation",
        "A component is replaced by its mean over images, so that it stays but carries no information. A bar "
        "as high as the first, or a line that is still flat, says that what was ablated did not matter directly.",
    ),
    "heads": (
        "Heads",
        "Each disc is an attention head, last layer on top: its area is the variance of its contribution, its colour "
        "the attribute that its descriptions name most, the small dot the attribute that ablating it hurts most.",
    ),
    "textspan": (
        "TextSpan",
        "Every head is projected on a few text directions and all else is mean-ablated. The sooner a pool's line "
        "nears the unaltered model, the better its texts span what the heads say; random directions are the yardstick.",
    ),
    "roles": (
        "Do the names hold?",
        "A head is named by its descriptions, and measured by what ablating it costs each attribute. The names are "
        "worth something if the two agree more often than shuffled names would.",
    ),
    "spurious": (
        "Spurious cues",
        "The heads whose descriptions name the cue are mean-ablated, and accuracy is taken in each group. "
        "The worst group should gain, more than from ablating random heads.",
    ),
    "neurons": (
        "Neurons",
        "What the neurons of one MLP send to the output through the attention heads after it: their second-order "
        "effects. They are replaced by their means over images, all of them, or only where their norm is small or "
        "large, or by their part along one direction a neuron. Where the line without all neurons falls, the layer "
        "matters; where the reconstruction stays up, one direction a neuron says all that it writes.",
    ),
    "concepts": (
        "Concepts of images",
        "On each image some neurons are active: their effect is larger than on nearly all others. The texts of these "
        "neurons, weighted by the effects, name what the model sees in it. A tick is true of the image, a cross is "
        "not, a question mark names nothing that the image is labelled by.",
    ),
    "adversarial": (
        "Where it can be misled",
        "A test of robustness. A neuron that writes for two things at once ties them together: phrases that the "
        "neurons of a pair of classes share are put into images of the one class, and it is counted how many the "
        "model takes for the other. What misleads it more than phrases of random neurons shows a cue to test for or "
        "to train against.",
    ),
    "segmentation": (
        "Segmentation",
        "How much each image token writes in the direction of the class text, cut at a threshold, against the true "
        "mask. In the heatmaps orange is high; point at an image to see it bare.",
    ),
    "joint": (
        "Heads and tokens together",
        "For one head and image, which tokens write its most and its least similar description. Orange adds to the "
        "description's coefficient, blue takes away from it. Every head's page has its own.",
    ),
    "visualisations": (
        "Feature visualisation",
        "Images that a method drew so that a classifier sees in them as much as it can of a class, a neuron or a "
        "concept: VITAL, which matches the features of reference images, beside its rivals, at the same budget. A "
        "picture helps if others than the model itself recognise what it is of: CLIP does, if it can be understood.",
    ),
}


def build_report(
    out: Path,
    images: Datasets,
    models: Mapping[str, Datasets],
    classifiers: Mapping[str, Datasets] | None = None,
) -> None:
    """Write the report into the folder `out`: index.html, a page a head in heads/, a page a neuron in neurons/, pages
    of each classifier's visualisations in visualisations/ and circuits/, and what they share in assets/.

    `images` are the images artifacts by split. `models` maps each model's name to its artifacts by kind: ablation,
    textspan, roles, spurious, segmentation, joint, neurons/<layer>, neuron_ablation, concepts, adversarial, and
    embeddings/<pool>; `classifiers` each classifier's name to its targets, vital, baselines, visual_scores and
    reference_sets. A kind that is absent, or whose attribute `skipped` is set, is said to be so in its section. The
    same artifacts give the same bytes. `out` appears whole or not at all. Raises ArtifactError if `out` exists,
    DataError if there are no images or no models.
    """
    findings = collect(images, models, classifiers)
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
    for name in ("heads", "neurons", *(("visualisations", "circuits") if findings.classifiers else ())):
        (folder / name).mkdir()
    thumbs = Thumbnails({**findings.images, **neuron_sections.misleading_images(findings)})
    context = Context(findings, thumbs, {model.name: neurons_of(model) for model in findings.models})
    pages = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.policies["json.dumps_kwargs"] = {"sort_keys": True, "allow_nan": False, "separators": (",", ":")}
    bench = Bench(context)
    shown = [*_sections(context), Section("visualisations", *READING["visualisations"], bench.section())]
    index = pages.get_template("index.html").render(
        sections=shown,
        models=findings.models,
        facts=summary.run_facts(findings),
        tiles=[(model, summary.tiles(context, model)) for model in findings.models],
        visual_tiles=visual_tiles(findings.classifiers),
        artifacts=list(all_made(findings)),
        with_neurons=any(context.neurons.values()),
        root="",
    )
    (folder / "index.html").write_text(index)
    template = pages.get_template("head.html")
    for model in findings.models:
        for head in model.heads:
            page = template.render(**head_page(context, model, head), several=len(findings.models) > 1, root="../")
            (folder / "heads" / head.page).write_text(page)
    template = pages.get_template("neuron.html")
    for model in findings.models:
        for name, content in neuron_pages(context, model):
            (folder / "neurons" / name).write_text(template.render(**content, root="../"))
    for template, path, content in bench.pages():
        (folder / path).write_text(pages.get_template(template).render(**content, root="../"))
    context.thumbs.write(assets)
    for name in ASSETS:
        shutil.copyfile(TEMPLATES / name, assets / name)
    shutil.copyfile(_plotly_bundle(), assets / "plotly.min.js")


def _sections(context: Context) -> list[Section]:
    builders = {
        "accuracy": sections.accuracy,
        "ablation": sections.ablation,
        "heads": sections.heads,
        "textspan": sections.textspan,
        "roles": sections.roles,
        "neurons": neuron_sections.neurons,
        "concepts": neuron_sections.concepts,
        "adversarial": neuron_sections.adversarial,
        "spurious": applications.spurious,
        "segmentation": applications.segmentation,
        "joint": applications.joint,
    }
    found = [Section("images", *READING["images"], [applications.images(context)])]
    for key, build in builders.items():
        found.append(Section(key, *READING[key], [build(context, model) for model in context.findings.models]))
    return found


def _plotly_bundle() -> Path:
    """plotly.min.js of the installed plotly, found without importing it."""
    spec = find_spec("plotly")
    if spec is None or spec.origin is None:
        raise ArtifactError("plotly is not installed, and the report's figures need it. `make` installs it.")
    return Path(spec.origin).parent / "package_data" / "plotly.min.js"
