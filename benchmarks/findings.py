"""`python -m benchmarks.findings`: the run's findings as text, each with its interval or count.

They are the report's own tiles and tables, read from `artifacts/`, so that the documents say nothing that the report
does not. `python -m benchmarks.findings roles spurious` prints these sections only, without tiles; `visual` is the one
on classifiers. `--write` puts lines and tables of all sections between the marks of docs/findings.md instead;
`--artifacts` names the folder of a run in another checkout.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import xarray as xr

from optogram.errors import ArtifactError, ParamError, nearest
from optogram.metrics import intervals
from optogram.metrics.intervals import Interval
from optogram.report import evidence
from optogram.report.findings import Model, collect
from optogram.report.images import Thumbnails
from optogram.report.labels import count, percent, points
from optogram.report.panels import Context, Panel, Table, Tile
from optogram.report.registry import sections
from optogram.report.sections.visual_tables import cues, notes, score_table, set_table
from optogram.store.read import read

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs/findings.md"
FRESH = ROOT / "benchmarks/zero_shot.json"
KINDS = ("ablation", "textspan", "roles", "neuron_ablation", "concepts", "adversarial", "spurious", "segmentation")
VISUAL = ("visual_scores", "reference_sets")
DRAWN = ("samples", "drawn", "fidelity", "round_trip")
SHARED = ("rosetta", "rosetta_inversion", "rosetta_edits")
SECTIONS = ("ablation", "textspan", "roles", "neurons", "adversarial", "spurious", "segmentation")
# of models that draw, and of models that are matched
JOINT = ("generative", "rosetta")
DECLARED = {section.key: section for section in sections()}
# in which section of the document a tile stands, where that is not its own
TILES = {"accuracy": "ablation", "concepts": "neurons"}
# tables that the report folds away and the document has all the same
UNFOLDED = re.compile(
    "Change of accuracy|Accuracy on mean over attributes by descriptions|Heads by named attribute.*margin|How many "
)
MARK = re.compile(r"(<!-- (\w+ (?:lines|tables)) -->\n).*?(<!-- /\2 -->)", re.S)


def found_in(artifacts: Path) -> Context:
    """The findings of a run. Raises ArtifactError where there are none."""
    if not (artifacts / "images" / "eval").is_dir():
        raise ArtifactError(f"{artifacts}/images/eval is not here: `dvc repro` makes the findings, then ask again.")
    models, scored, drawing, matched = (
        sorted(p.name for p in (artifacts / kind).glob("[!.]*"))
        for kind in ("ablation", "visual_scores", "drawn", "rosetta")
    )
    findings = collect(
        {"eval": read(artifacts / "images" / "eval")},
        {name: dict(parts_of(artifacts, KINDS, name)) for name in models},
        {name: dict(parts_of(artifacts, VISUAL, name)) for name in scored},
        {name: dict(parts_of(artifacts, DRAWN, name)) for name in drawing},
        {name: dict(parts_of(artifacts, SHARED, name)) for name in matched},
    )
    return Context(findings, Thumbnails(findings.images))


def tiles_of(context: Context, model: Model) -> list[tuple[str, Tile]]:
    """The tiles on a CLIP, each with the section of the document in which it stands."""
    found = ((key, tile) for key, section in DECLARED.items() for tile in section.tiles(context, model))
    return [(TILES.get(key, key), tile) for key, tile in found]


def parts_of(artifacts: Path, kinds: tuple[str, ...], model: str) -> Iterator[tuple[str, xr.Dataset]]:
    """The artifacts of a model that are there, by kind."""
    for kind in kinds:
        if (artifacts / kind / model).is_dir():
            yield kind, read(artifacts / kind / model)
    for layer in sorted((artifacts / "neurons" / model).glob("*")):
        yield f"neurons/{layer.name}", read(layer)


def printed(table: Table) -> str:
    """A table in Markdown, what is bold in the report in bold."""
    caption = table.caption.replace(", the second underlined", "")
    lines = [f"{caption}\n"] if caption else []
    lines += [f"| {' | '.join(table.columns)} |", "|---" * len(table.columns) + "|"]
    for row, (name, *cells) in enumerate(table.rows):
        shown = [f"**{cell}**" if (row, column) in table.best else cell for column, cell in enumerate(cells)]
        lines.append(f"| {' | '.join([name, *shown])} |")
    return "\n".join(lines) + "\n"


def line(title: str, value: str, beside: str) -> str:
    """A finding as an item of a list."""
    return f"- {title}: {value} {beside}"


def panel_lines(model: Model, name: str, panel: Panel) -> Iterator[str]:
    """What a section says in single lines: its own tiles; of roles, what each head loses that has a measured one."""
    yield from (line(tile.title, tile.value, tile.beside) for tile in panel.tiles)
    roles = model.part("roles") if name == "roles" else None
    if roles is None:
        return
    for layer, number in product(roles["layer"].values, roles["head"].values):
        head = roles.sel(layer=layer, head=number)
        if measured := str(head.measured.values):
            of = head.sel(attribute=measured)
            change = Interval(-float(of.accuracy_drop_high), -float(of.accuracy_drop_low))
            title = f"Ablating head {number} of layer {layer}, named after {head.named.values or 'nothing'}"
            beside = f"points of accuracy on {measured} ({evidence.moved(change)})"
            yield line(title, points(-float(of.accuracy_drop)), beside)


def report(context: Context, model: Model, asked: list[str]) -> Iterator[str]:
    """A model's tiles, unless sections are asked for, and the tables of its sections."""
    yield f"# {model.name}\n"
    if not asked:
        yield from (line(tile.title, tile.value, tile.beside) for _, tile in tiles_of(context, model))
    for name in SECTIONS:
        if asked and name not in asked:
            continue
        panel = DECLARED[name].build(context, model)
        yield f"\n## {name}\n\n{panel.skipped or panel.says}\n"
        yield from panel_lines(model, name, panel)
        more = [panel.extra["layers"]] if "layers" in panel.extra else []
        yield from map(printed, [*panel.tables, *more, *panel.folded])


def visual_lines(context: Context, value: str = "{}") -> list[str]:
    """The tiles on classifiers."""
    models, section = context.findings.classifiers, DECLARED["visualisations"]
    return [
        line(f"{tile.title}, {model.name}" if len(models) > 1 else tile.title, value.format(tile.value), tile.beside)
        for model in models
        for tile in section.tiles(context, model)
    ]


def visual(context: Context, heading: str = "##") -> Iterator[str]:
    """The tables on classifiers."""
    for model in context.findings.classifiers:
        scores, sets = (model.part(kind) for kind in VISUAL)
        if scores is not None:
            yield f"\n{heading} {model.name}\n\n{printed(score_table(scores))}\n{' '.join(notes(scores))}\n"
            for cue in cues(scores):
                others = ", ".join(" ".join(one) for one in cue["others"])
                yield f"- {cue['class']}: {cue['cue']} is seen in {cue['ours'][1]} by {cue['ours'][0]}; {others}"
        if sets is not None:
            yield f"\n{printed(set_table(sets))}"


def joint(context: Context, name: str, value: str = "{}") -> tuple[list[str], list[str]]:
    """Tiles and tables on models that draw, or that are matched."""
    section = DECLARED[name]
    lines, tables = list[str](), list[str]()
    for model in section.models(context.findings):
        panel = section.build(context, model)
        tiles = [*section.tiles(context, model), *panel.tiles]
        lines += [line(f"{model.name}, {tile.title}", value.format(tile.value), tile.beside) for tile in tiles]
        tables += [f"\n{model.name}: {printed(table)}" for table in panel.tables]
    return lines, tables


def fresh() -> str:
    """Zero-shot accuracy on fresh scenes, as `python -m benchmarks.zero_shot` has measured it."""
    found = json.loads(FRESH.read_text())
    totals = {"accuracy": found["scenes"], "held_out": found["held_out"]}
    rows = []
    for name, of in found["attributes"].items():
        halves = {key: intervals.share_of(of[key], total).half for key, total in totals.items()}
        rows.append([name, *(f"{percent(of[key])} {evidence.plus_minus(half)}" for key, half in halves.items())])
    columns = ["attribute", f"all {count(found['scenes'])} scenes", f"the {count(found['held_out'])} held out"]
    return printed(Table(columns, rows))


def document_parts(context: Context) -> dict[str, str]:
    """What stands between the marks of the document, by mark."""
    found: dict[str, list[str]] = {f"{name} {part}": [] for name in SECTIONS for part in ("lines", "tables")}
    for model in context.findings.models:
        heads = [f"Model {model.name}:\n"] if len(context.findings.models) > 1 else []
        tiles = tiles_of(context, model)
        for name in SECTIONS:
            panel = DECLARED[name].build(context, model)
            own = [line(tile.title, f"**{tile.value}**", tile.beside) for at, tile in tiles if at == name]
            lines = [*own, *panel_lines(model, name, panel)]
            more = [panel.extra["layers"]] if "layers" in panel.extra else []
            tables = [*panel.tables, *more, *(table for table in panel.folded if UNFOLDED.match(table.caption))]
            found[f"{name} lines"] += [*heads, *(lines or [panel.skipped or panel.says]), ""]
            found[f"{name} tables"] += [*heads, *map(printed, tables)]
    for name in JOINT:
        found[f"{name} lines"], found[f"{name} tables"] = joint(context, name, "**{}**")
    found["visual lines"], found["visual tables"] = visual_lines(context, "**{}**"), list(visual(context, "###"))
    return {mark: "\n".join(parts).strip("\n") for mark, parts in found.items()} | {"fresh tables": fresh().strip("\n")}


def write(context: Context, asked: list[str]) -> None:
    """Rewrite what stands between the document's marks, of the sections that are asked for, or of all.

    Raises ParamError for a mark that nothing fills.
    """
    parts, text = document_parts(context), DOCUMENT.read_text()
    if unknown := [mark for _, mark, _ in MARK.findall(text) if mark not in parts]:
        raise ParamError(f"docs/findings.md has the mark {unknown[0]!r}; there are {', '.join(parts)}.")

    def filled(of: re.Match[str]) -> str:
        kept = asked and of[2].split()[0] not in asked
        return of[0] if kept else f"{of[1]}\n{parts[of[2]]}\n\n{of[3]}"

    DOCUMENT.write_text(MARK.sub(filled, text))


def main(argv: list[str]) -> None:
    """Print all that there is, or the sections asked for; or write the document.

    Raises ParamError for an unknown section, ArtifactError where there are no findings.
    """
    parser = argparse.ArgumentParser("python -m benchmarks.findings", description="The run's findings as text.")
    parser.add_argument("sections", nargs="*", help=f"{', '.join([*SECTIONS, *JOINT])}, visual; all by default")
    parser.add_argument("--write", action="store_true", help="put them into docs/findings.md instead")
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts"), help="folder of a run's artifacts")
    args = parser.parse_args(argv)
    known = [*SECTIONS, *JOINT, "visual"]
    for name in args.sections:
        if name not in known:
            raise ParamError(f"no section {name!r}; there are {', '.join(known)}.{nearest(name, known)}")
    context = found_in(args.artifacts)
    if args.write:
        write(context, args.sections)
        return
    for model in context.findings.models:
        print("\n".join(report(context, model, args.sections)))
    for name in JOINT:
        if not args.sections or name in args.sections:
            print(f"\n## {name}\n\n" + "\n".join([*(each := joint(context, name))[0], *each[1]]))
    if args.sections and "visual" not in args.sections:
        return
    print("\n".join([*([] if args.sections else visual_lines(context)), *visual(context)]))


if __name__ == "__main__":
    main(sys.argv[1:])
