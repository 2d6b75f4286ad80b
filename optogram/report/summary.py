"""Room report: what was run, in a few lines."""

from optogram.report.findings import Findings
from optogram.report.labels import count


def run_facts(findings: Findings) -> list[tuple[str, str]]:
    """What was run, in a few lines: models, images, texts, attributes."""
    images = ", ".join(f"{split} {count(d.sizes['image'])}" for split, d in findings.images.items())
    facts = [("Models", ", ".join(m.name for m in findings.models)), ("Images", images)]
    pools: dict[str, int] = {}
    for model in findings.models:
        for kind, dataset in model.parts.items():
            if kind.startswith("embeddings/") and kind != "embeddings/zeroshot" and "text" in dataset.sizes:
                pools.setdefault(kind.removeprefix("embeddings/"), dataset.sizes["text"])
    if pools:
        facts.append(("Texts", ", ".join(f"{pool} {count(n)}" for pool, n in pools.items())))
    facts.append(("Attributes", ", ".join(findings.attributes)))
    shapes = []
    for model in findings.models:
        if model.heads:
            layers = sorted({h.layer for h in model.heads})
            shapes.append(f"{model.name}: {len(model.heads)} heads in layers {layers[0]} to {layers[-1]}")
    if shapes:
        facts.append(("Decomposed", "; ".join(shapes)))
    for model in findings.models:
        if model.neuron_layers:
            total = count(sum(part.sizes["neuron"] for part in model.neuron_layers.values()))
            shown = f"{model.name}: {total} in MLP layers {', '.join(map(str, model.neuron_layers))}"
            facts.append(("Neurons", shown))
    if findings.classifiers:
        facts.append(("Classifiers", ", ".join(model.name for model in findings.classifiers)))
    if findings.priors:
        facts.append(("Models that draw", ", ".join(model.name for model in findings.priors)))
    return facts
