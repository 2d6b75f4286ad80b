"""Room report: the family heads: accuracy, mean-ablation, heads, TextSpan, roles, and what they are good for."""

import numpy as np

from optogram.metrics import intervals
from optogram.metrics.intervals import Interval
from optogram.report import evidence
from optogram.report.charts import heads as charts
from optogram.report.charts.plotly import plot
from optogram.report.findings import Model, labels, strings
from optogram.report.labels import CONDITIONS, percent, words
from optogram.report.panels import Context, Panel, Table, Tile, percent_table
from optogram.report.section import Section
from optogram.report.sections import applications
from optogram.report.sections import head_numbers as told
from optogram.report.sections.head_numbers import agreement_line
from optogram.report.sections.head_pages import head_grid, head_units, roles_parts, textspan_parts

UNCHECKED = "The roles were not checked against ablation."


def accuracy(context: Context, model: Model) -> Panel:
    """Zero-shot accuracy of the unaltered model beside chance."""
    panel = context.panel(model, "ablation")
    found = model.part("ablation")
    if found is None:
        return panel
    base = context.by_attribute(found.sel(condition="none"), "accuracy")
    panel.says = evidence.accuracies(base, evidence.counts(context.findings, found))
    panel.plots.append(plot(f"accuracy-{model.slug}", charts.accuracy(context.findings, found)))
    return panel


def ablation(context: Context, model: Model) -> Panel:
    """Table 2.1, Table A.1 and Figure 2.2."""
    panel = context.panel(model, "ablation")
    found = model.part("ablation")
    if found is None:
        return panel
    names, conditions = context.attributes(found), labels(found, "condition")
    values = context.by_attribute(found, "accuracy", "condition")
    chance = context.by_attribute(found, "chance")
    shown = [CONDITIONS.get(c, words(c)) for c in conditions]
    total = evidence.counts(context.findings, found)
    panel.says = evidence.accuracies(values, total)
    panel.plots.append(plot(f"ablation-{model.slug}", charts.ablation(context.findings, found)))
    panel.plots.append(plot(f"layers-{model.slug}", charts.layers(context.findings, found)))
    layers = labels(found, "layer")
    rows = [*values, chance, context.by_attribute(found, "majority")]
    shown += ["chance", "most frequent value"]
    caption = f"Zero-shot accuracy. {panel.says}"
    panel.tables.append(percent_table("mean-ablated", names, shown, np.array(rows), caption=caption))
    ablated = [condition for condition in conditions if condition != "none"]
    moves = [evidence.changes(context.findings, found, condition) for condition in ablated]
    cells = [[evidence.moved(Interval(*ends)) for ends in zip(*one, strict=True)] for one in moves]
    rows = [[CONDITIONS.get(c, words(c)), *row] for c, row in zip(ablated, cells, strict=True)]
    caption = "Change of accuracy in percentage points, 95% intervals over the same images"
    panel.folded.append(Table(["mean-ablated", *names], rows, caption))
    lines = [f"to layer {layer}" for layer in layers] + [f"layer {layer} alone" for layer in layers]
    rows = np.vstack([context.by_attribute(found, name, "layer") for name in ("cumulative", "single_layer")])
    caption = f"Zero-shot accuracy. {evidence.accuracies(rows, total)}"
    panel.folded.append(percent_table("attention ablated", names, lines, rows, caption=caption))
    return panel


def heads(context: Context, model: Model) -> Panel:
    """The grid of heads, and what ablating each costs."""
    panel = context.panel(model, "textspan", "roles")
    if not model.heads:
        return panel
    panel.extra = head_grid(context, model)
    roles = model.part("roles")
    if roles is None:
        panel.notes.append(f"Heads have no colours here: {model.missing('roles')}")
        return panel
    ends = Interval(*(context.by_attribute(roles, f"accuracy_drop_{end}", "layer", "head") for end in ("low", "high")))
    having = sum(bool(head.measured) for head in model.heads)
    panel.extra["costs"] = (
        f"Ablating {having} of {len(model.heads)} heads costs an attribute more accuracy than chance would. "
        + evidence.reach(ends.half, evidence.images_of(evidence.counts(context.findings, roles)))
    )
    panel.plots.append(plot(f"drops-{model.slug}", charts.drops(context.findings, model, roles)))
    return panel


def textspan(context: Context, model: Model) -> Panel:
    """Figure 2.3, for one attribute at a time."""
    panel = context.panel(model, "textspan")
    found = model.part("textspan")
    if found is None:
        return panel
    names, pools, sizes = context.attributes(found), labels(found, "pool"), [int(s) for s in labels(found, "size")]
    values = context.by_attribute(found, "accuracy", "pool", "size")
    lines = {
        "unaltered model": context.by_attribute(found, "base_accuracy"),
        "all mean-ablated": context.by_attribute(found, "ablated_accuracy"),
        "chance": context.by_attribute(found, "chance"),
    }
    total = evidence.counts(context.findings, found)
    ends = intervals.share_of(values, total)
    shown = [
        (name, values[..., k], {line: at[k] for line, at in lines.items()}, ends.half[..., k])
        for k, name in enumerate(names)
    ]
    if len(names) > 1:
        means = {line: at.mean() for line, at in lines.items()}
        shown.insert(0, ("mean over attributes", values.mean(axis=-1), means, ends.half.mean(-1)))
    panel.says = evidence.accuracies(values, total)
    for name, curve, levels, half in shown:
        table = percent_table(
            name,
            [str(s) for s in sizes],
            pools,
            curve,
            caption=f"Accuracy on {name} by descriptions a head; "
            + ", ".join(f"{line} {percent(level)}" for line, level in levels.items())
            + f". {evidence.reach(half, evidence.images_of(total))}",
        )
        panel.folded.append(table)
    panel.plots.append(plot(f"textspan-{model.slug}", charts.textspan(context.findings, found)))
    return panel


def roles(context: Context, model: Model) -> Panel:
    """Named against measured roles."""
    panel = context.panel(model, "roles")
    found = model.part("roles")
    if found is None:
        return panel
    names = context.attributes(found)
    named = strings(found["named"]).ravel()
    facets, tiles, why = [], [], []
    for name, suffix in (("accuracy", ""), ("margin", "_by_margin")):
        measured = strings(found[f"measured{suffix}"]).ravel()
        line = agreement_line(found, suffix)
        title = f"Names agree with what {name} says"
        reason = "" if line else str(found.attrs.get(f"truth_skipped{suffix}") or UNCHECKED)
        tiles.append(Tile(title, *line) if line else Tile(title, "not told", reason))
        why += [reason] if reason else []
        if not line and not (measured != "").any():
            continue
        counts = np.array([[int(((named == n) & (measured == m)).sum()) for m in names] for n in names])
        facets.append(charts.confusion(names, counts, name))
        rows = [[n, *(str(v) if v else "·" for v in row)] for n, row in zip(names, counts.tolist(), strict=True)]
        panel.folded.append(
            Table(["named", *names], rows, f"Heads by named attribute, and by the one that {name} says")
        )
    if len(why) == len(tiles) and (len(names) < 2 or not facets):
        panel.skipped, panel.folded = why[0], []
        return panel
    panel.tiles = tiles
    panel.says = (
        "By accuracy: the attribute whose accuracy falls most. By margin: the one whose mean logit margin falls most, "
        "for its spread, which also sees a head whose work others can do. Falls count that can be told apart from "
        "nothing on the same images (p below 0.05, adjusted for all heads and attributes); heads without one, or "
        "without a name, are left out. Boxed cells agree."
    )
    drawn = charts.agreement(names, facets)
    panel.plots.append(plot(f"roles-{model.slug}", drawn, max_width=180 + 72 * len(names)))
    return panel


SECTIONS: tuple[Section, ...] = (
    Section(
        "accuracy",
        "Zero-shot accuracy",
        "Each attribute is classified by the nearest text embedding on images/eval. The tick is chance, one over the "
        "number of values: a bar at its tick knows nothing of that attribute.",
        ("ablation/{model}",),
        accuracy,
        told.accuracy_tiles,
    ),
    Section(
        "ablation",
        "Mean-ablation",
        "A component is replaced by its mean over images, so that it stays but carries no information. A bar "
        "as high as the first, or a line that is still flat, says that what was ablated did not matter directly.",
        ("ablation/{model}",),
        ablation,
        told.ablation_tiles,
        told.ablation_headline,
    ),
    Section(
        "heads",
        "Heads",
        "Each disc is an attention head, last layer on top: its area is the variance of its contribution, its colour "
        "the attribute that its descriptions name most, the small dot the attribute that ablating it hurts most, if "
        "it does so beyond chance.",
        ("textspan/{model}", "roles/{model}"),
        heads,
        units=head_units,
        template="heads.html",
    ),
    Section(
        "textspan",
        "TextSpan",
        "Every head is projected on a few text directions and all else is mean-ablated. The sooner a pool's line "
        "nears the unaltered model, the better its texts span what the heads say; random directions are the yardstick.",
        ("textspan/{model}", "embeddings/{model}/{pool}"),
        textspan,
        told.textspan_tiles,
        told.textspan_headline,
        unit=textspan_parts,
    ),
    Section(
        "roles",
        "Do the names hold?",
        "A head is named by its descriptions, and measured by what ablating it costs each attribute. The names are "
        "worth something if the two agree more often than shuffled names would.",
        ("roles/{model}",),
        roles,
        headline=told.roles_headline,
        unit=roles_parts,
    ),
    Section(
        "spurious",
        "Spurious cues",
        "The heads whose descriptions name the cue are mean-ablated, and accuracy is taken in each group. "
        "The worst group should gain, more than from ablating random heads.",
        ("spurious/{model}",),
        applications.spurious,
        applications.spurious_tiles,
        applications.spurious_headline,
        template="spurious.html",
    ),
    Section(
        "segmentation",
        "Segmentation",
        "How much each image token writes in the direction of the class text, cut at a threshold, against the true "
        "mask. In the heatmaps orange is high; point at an image to see it bare.",
        ("segmentation/{model}",),
        applications.segmentation,
        applications.segmentation_tiles,
        applications.segmentation_headline,
    ),
    Section(
        "joint",
        "Heads and tokens together",
        "For one head and image, which tokens write its most and its least similar description. Orange adds to the "
        "description's coefficient, blue takes away from it. Every head's page has its own.",
        ("joint/{model}", "textspan/{model}"),
        applications.joint,
        unit=applications.joint_parts,
        template="joint.html",
    ),
)
