"""What the report says of how sure a number is, and the findings as text."""

import re
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import findings as text
from optogram.errors import ParamError
from optogram.metrics import intervals
from optogram.metrics.intervals import Interval
from optogram.report import evidence
from optogram.report.findings import collect
from optogram.report.images import Thumbnails
from optogram.report.panels import Context, Panel, Table, Tile
from optogram.report.sections import heads as sections
from optogram.report.sections import neurons as neuron_sections
from optogram.report.sections.adversarial import adversarial


@pytest.fixture(scope="module")
def context(scenes):
    findings = collect(*scenes)
    return Context(findings, Thumbnails(findings.images))


@pytest.mark.parametrize(
    ("low", "high", "says"),
    [(0.1, 0.3, "lower"), (-0.3, -0.1, "higher"), (-0.1, 0.3, "not distinguishable"), (0, 0, "not distinguishable")],
)
def test_the_interval_of_a_difference_says_where_the_other_lies(low, high, says):
    assert evidence.compared(Interval(low, high)) == says


def test_changes_are_those_on_the_same_images(context):
    (model,) = context.findings.models
    found = model.part("ablation")
    here = found.sel(condition="mlps", attribute=context.attributes(found))
    wanted = intervals.paired_change(here.lost.values, here.gained.values, here["count"].values)
    ours = evidence.changes(context.findings, found, "mlps")
    np.testing.assert_allclose(ours, wanted)
    assert evidence.counts(context.findings, found).tolist() == here["count"].values.tolist()
    (table,) = [t for t in sections.ablation(context, model).folded if "over the same images" in t.caption]
    assert table.rows[0][1:] == [evidence.moved(Interval(*ends)) for ends in zip(*wanted, strict=True)]


def test_groups_of_images_stand_beside_those_drawn_anyhow(context):
    (model,) = context.findings.models
    table = neuron_sections.neurons(context, model).extra["layers"]
    assert [row[table.columns.index("by chance")] for row in table.rows] == ["1 of 4 (5% to 70%)"] * 2


def test_of_one_method_alone_nothing_is_ahead(scenes, context):
    images, models = scenes
    alone = models["demo"]["adversarial"].sel(method=["second_order"])
    findings = collect(images, {"demo": {"adversarial": alone}})
    panel = adversarial(Context(findings, context.thumbs), findings.models[0])
    assert panel.tables[0].best == frozenset()


def test_findings_are_printed_whole_or_by_section(artifacts, tmp_path, monkeypatch, capsys):
    (tmp_path / "artifacts").symlink_to(artifacts)
    monkeypatch.chdir(tmp_path)
    text.main([])
    whole = capsys.readouterr().out
    assert re.findall("^## (.*)", whole, re.MULTILINE) == [
        *text.SECTIONS,
        *text.JOINT,
        "resnet",
        "resnet_biased",
        "vit",
    ]
    assert "- Zero-shot accuracy on shape: " in whole
    assert "- VITAL's pictures named by CLIP, resnet: " in whole
    text.main(["spurious", "visual"])
    some = capsys.readouterr().out
    assert re.findall("^## (.*)", some, re.MULTILINE) == ["spurious", "resnet", "resnet_biased", "vit"]
    assert "Zero-shot accuracy on shape" not in some
    assert "VITAL's pictures named" not in some
    with pytest.raises(ParamError, match=r"no section 'spuriuos'.* Did you mean 'spurious'"):
        text.main(["spuriuos"])
    assert capsys.readouterr().out == ""


def test_findings_are_written_between_the_marks_of_the_document(artifacts, tmp_path, monkeypatch, capsys):
    before = text.DOCUMENT.read_text()
    monkeypatch.setattr(text, "DOCUMENT", tmp_path / "findings.md")
    text.DOCUMENT.write_text(before)
    text.main(["--write", "--artifacts", str(artifacts)])
    once = text.DOCUMENT.read_text()
    assert text.MARK.sub("", once) == text.MARK.sub("", before)
    marks = [mark for _, mark, _ in text.MARK.findall(once)]
    sections = [*text.SECTIONS, *text.JOINT, "visual"]
    assert sorted(marks) == sorted(["fresh tables", *(f"{s} {part}" for s in sections for part in ("lines", "tables"))])
    assert len(re.findall("<!-- ", once)) == 2 * len(marks)
    for mark in marks:
        if mark.split()[0] in text.JOINT:
            continue  # nothing is drawn or matched in this run
        shown = once.split(f"<!-- {mark} -->")[1].split(f"<!-- /{mark} -->")[0]
        assert re.search("^- " if mark.endswith("lines") else r"^\|---", shown, re.MULTILINE), mark
    assert "named after" in once
    text.main(["--write", "--artifacts", str(artifacts)])
    assert text.DOCUMENT.read_text() == once
    assert capsys.readouterr().out == ""
    text.DOCUMENT.write_text(before)
    text.main(["--write", "--artifacts", str(artifacts), "roles"])
    roles = text.DOCUMENT.read_text()
    kept = [
        (mark, shown) for (_, mark, _), shown in zip(text.MARK.findall(roles), text.MARK.finditer(roles), strict=True)
    ]
    for (mark, shown), then in zip(kept, text.MARK.finditer(before), strict=True):
        assert shown[0] == then[0] or mark.startswith("roles"), "only the section that was named is written"
    assert (
        roles.split("<!-- roles tables -->")[1].split("<!--")[0]
        == once.split("<!-- roles tables -->")[1].split("<!--")[0]
    )
    text.DOCUMENT.write_text("<!-- spurious line -->\n<!-- spurous lines -->\n<!-- /spurous lines -->\n")
    with pytest.raises(ParamError, match="has the mark 'spurous lines'"):
        text.main(["--write", "--artifacts", str(artifacts)])


def test_models_that_draw_and_that_are_matched_stand_side_by_side(artifacts, monkeypatch):
    """Of every model a line a tile, and its tables below its name."""
    context = text.found_in(artifacts)
    panel = Panel(tiles=[Tile("pairs", "7", "by chance 1")], tables=[Table(["x"], [["red"]], "How many")])
    section = SimpleNamespace(
        models=lambda findings: [SimpleNamespace(name="one"), SimpleNamespace(name="two")],
        tiles=lambda context, model: [Tile(f"found in {model.name}", "9", "of 10")],
        build=lambda context, model: panel,
    )
    monkeypatch.setitem(text.DECLARED, "rosetta", section)
    monkeypatch.setitem(text.DECLARED, "generative", SimpleNamespace(models=lambda findings: [], tiles=lambda *_: []))
    parts = text.document_parts(context)
    assert parts["generative lines"] == parts["generative tables"] == ""
    assert parts["rosetta lines"].splitlines()[:2] == [
        "- one, found in one: **9** of 10",
        "- one, pairs: **7** by chance 1",
    ]
    assert parts["rosetta tables"].startswith("one: How many\n\n| x |\n|---|\n| red |")
    assert "two: How many" in parts["rosetta tables"]
