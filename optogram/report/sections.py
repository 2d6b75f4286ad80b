"""Room report: the sections on how a model decomposes: accuracy, mean-ablation, heads, TextSpan, roles."""

import numpy as np

from optogram.report import figures
from optogram.report.figures import Plot
from optogram.report.findings import Head, Model, labels, numbers, strings
from optogram.report.formats import CONDITIONS, number, p_value, percent, points, words
from optogram.report.panels import Context, Panel, Table, percent_table


def accuracy(context: Context, model: Model) -> Panel:
    """Zero-shot accuracy of the unaltered model beside chance."""
    panel = context.panel(model, "ablation")
    found = model.part("ablation")
    if found is None:
        return panel
    names = context.attributes(found)
    base = context.by_attribute(found.sel(condition="none"), "accuracy")
    chance = context.by_attribute(found, "chance")
    figure = figures.accuracy_bars(names, context.colours(names), base, chance)
    label = "Zero-shot accuracy by attribute, as bars, with chance as ticks"
    panel.plots.append(Plot(f"accuracy-{model.slug}", label, [("", figure)], 110 + 38 * len(names)))
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
    bars = figures.grouped_bars(names, shown, values, marks=chance)
    bars["layout"]["yaxis"]["title"] = {"text": "zero-shot accuracy"}
    label = "Zero-shot accuracy with components mean-ablated, by attribute"
    panel.plots.append(Plot(f"ablation-{model.slug}", label, [("", bars)], 340, 110 * len(names)))

    layers, colours = labels(found, "layer"), context.colours(names)
    base = values[conditions.index("none")]
    options = []
    for name, variable, title, at in (
        ("all layers up to", "cumulative", "ablated up to and including this attention layer", "layers to {}"),
        ("one layer alone", "single_layer", "attention layer ablated", "layer {}"),
    ):
        rows = np.vstack([base, context.by_attribute(found, variable, "layer")])
        figure = figures.layer_lines(names, colours, ["none", *layers], rows, chance, title)
        for trace in figure["data"]:
            trace["customdata"] = ["nothing ablated", *(at.format(layer) + " ablated" for layer in layers)]
        figure["layout"]["yaxis"]["title"] = {"text": "zero-shot accuracy"}
        options.append((name, figure))
    label = "Zero-shot accuracy over the attention layers that are mean-ablated"
    panel.plots.append(Plot(f"layers-{model.slug}", label, options, 380, choose="Ablate"))
    rows, shown = [*values, chance], [*shown, "chance"]
    if "majority" in found:
        rows, shown = [*rows, context.by_attribute(found, "majority")], [*shown, "most frequent value"]
    panel.tables.append(percent_table("mean-ablated", names, shown, np.array(rows), caption="Zero-shot accuracy"))
    lines = [f"to layer {layer}" for layer in layers] + [f"layer {layer} alone" for layer in layers]
    rows = np.vstack([context.by_attribute(found, name, "layer") for name in ("cumulative", "single_layer")])
    panel.folded.append(percent_table("attention ablated", names, lines, rows, caption="Zero-shot accuracy"))
    return panel


def heads(context: Context, model: Model) -> Panel:
    """The grid of heads, and what ablating each costs."""
    panel = context.panel(model, "textspan", "roles")
    if not model.heads:
        return panel
    panel.extra = head_grid(context, model)
    roles = model.part("roles")
    if roles is None:
        panel.extra["without_roles"] = model.missing("roles")
        return panel
    names, layers = context.attributes(roles), numbers(roles, "layer")
    columns = numbers(roles, "head")
    drop = context.by_attribute(roles, "accuracy_drop", "layer", "head").reshape(-1, len(names))
    pages = {(head.layer, head.head): f"heads/{head.page}" for head in model.heads}
    places = [(layer, head) for layer in layers for head in columns]
    figure = figures.drop_map(
        names,
        [f"L{layer}.H{head}" for layer, head in places],
        [pages.get(at, "") for at in places],
        [k * len(columns) for k in range(1, len(layers))],
        drop,
    )
    label = "Fall in zero-shot accuracy when one head is mean-ablated: attributes down, heads across"
    panel.plots.append(
        Plot(f"drops-{model.slug}", label, [("", figure)], 150 + 30 * len(names), 120 + 19 * len(places))
    )
    return panel


def head_grid(context: Context, model: Model, here: Head | None = None) -> dict[str, object]:
    """The grid of heads for the template: rows of cells, last layer on top; `here` is marked."""
    most = max((head.variance for head in model.heads), default=0.0) or 1.0
    rows: dict[int, list[dict[str, object]]] = {}
    for head in model.heads:
        cell = {
            "head": head,
            "colour": context.findings.colour(head.named),
            "measured": context.findings.colour(head.measured) if head.measured else "",
            # area, not width, is proportional to the variance
            "size": round(22 + 78 * float(np.sqrt(head.variance / most))),
            "says": head_line(head),
            "here": here == head,
        }
        rows.setdefault(head.layer, []).append(cell)
    used = [a for a in context.findings.attributes if any(a in (h.named, h.measured) for h in model.heads)]
    legend = [(name, context.findings.colour(name)) for name in used]
    if any(not head.named for head in model.heads):
        legend.append(("no attribute named", "--none"))
    return {"rows": [(layer, rows[layer]) for layer in sorted(rows, reverse=True)], "legend": legend}


def head_line(head: Head) -> str:
    """One line on a head."""
    named = f"named {head.named} ({percent(head.share, 0)} of its variance)" if head.named else "no attribute named"
    measured = f"measured {head.measured} ({points(-head.drop)} points)" if head.measured else ""
    text = f"“{head.texts[0]}”" if head.texts else ""
    return " · ".join(part for part in (head.name, named, measured, f"variance {number(head.variance)}", text) if part)


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
    shown = [(name, values[..., k], {line: at[k] for line, at in lines.items()}) for k, name in enumerate(names)]
    if len(names) > 1:
        means = {line: at.mean() for line, at in lines.items()}
        shown.insert(1, ("mean over attributes", values.mean(axis=-1), means))
    options = []
    for name, curve, levels in shown:
        figure = figures.size_curves(pools, sizes, curve, levels)
        figure["layout"]["yaxis"]["title"] = {"text": "zero-shot accuracy"}
        options.append((name, figure))
        table = percent_table(
            name,
            [str(s) for s in sizes],
            pools,
            curve,
            bold=True,
            caption=f"Accuracy on {name} by descriptions a head; "
            + ", ".join(f"{line} {percent(level)}" for line, level in levels.items()),
        )
        panel.folded.append(table)
    label = "Zero-shot accuracy against the number of descriptions a head, by pool of texts"
    panel.plots.append(Plot(f"textspan-{model.slug}", label, options, 400, choose="Accuracy on"))
    return panel


def roles(context: Context, model: Model) -> Panel:
    """Named against measured roles."""
    panel = context.panel(model, "roles")
    found = model.part("roles")
    if found is None:
        return panel
    if "agreement" not in found.attrs:
        panel.skipped = str(found.attrs.get("truth_skipped") or "The roles were not checked against ablation.")
        return panel
    names = context.attributes(found)
    named = strings(found["named"]).ravel()
    options, tiles = [], []
    for name, suffix in (("accuracy", ""), ("margin", "_by_margin")):
        value, chance, p = (float(found.attrs[key + suffix]) for key in ("agreement", "chance", "p_value"))
        compared = int(found.attrs[f"heads{suffix}"])
        beside = f"of {compared} of {len(named)} heads; by chance {percent(chance)}, {p_value(p)}"
        tiles.append((f"Names agree with what {name} says", percent(value), beside))
        measured = strings(found[f"measured{suffix}"]).ravel()
        counts = np.array([[int(((named == n) & (measured == m)).sum()) for m in names] for n in names])
        options.append((name, figures.confusion(names, counts)))
        rows = [[n, *(str(v) if v else "·" for v in row)] for n, row in zip(names, counts.tolist(), strict=True)]
        panel.folded.append(
            Table(["named", *names], rows, f"Heads by named attribute, and by the one that {name} says")
        )
    panel.extra = {"tiles": tiles}
    panel.says = (
        "By accuracy: the attribute whose accuracy falls most. By margin: the one whose mean logit margin falls most, "
        "for its spread, which also sees a head whose work others can do. Heads without a name, or that hurt nothing, "
        "are left out. Boxed cells agree."
    )
    height, width = 110 + 42 * len(names), 180 + 72 * len(names)
    label = "Number of heads by named and measured attribute"
    plot = Plot(f"roles-{model.slug}", label, options, height, 130 + 48 * len(names), width, "Measured by")
    panel.plots.append(plot)
    return panel
