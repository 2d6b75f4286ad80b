"""The section of counterfactuals: planted flips, who agrees, what the controls do, and what artifacts may lack."""

import re

import numpy as np
import pytest
import xarray as xr
from planted_findings import HOSTILE, provenance
from planted_guidance import changed, led

from optogram.metrics.counterfactual_summaries import against, summary
from optogram.metrics.intervals import share
from optogram.report.build import build_report
from optogram.report.charts import counterfactuals as charts
from optogram.report.findings import collect
from optogram.report.images import Thumbnails
from optogram.report.panels import Context
from optogram.report.sections import counterfactual_pictures as pictures
from optogram.report.sections import counterfactuals as section
from optogram.store.read import read
from optogram.store.write import write_dataset


def pixels_as_good():
    """Counterfactuals that others see no more often than pixels alone."""
    found = changed()
    label = found["other_label"].copy()
    label.loc[{"condition": "pixels alone"}] = found["target"].values[:, None]
    return found.assign(other_label=label)


def broken():
    """Of errors: one search that diverged and was not flipped, one that stopped, and two images that were left out."""
    found = changed().assign_attrs(kind="errors", chosen=8)
    flip, status = found["flip"].copy(), found["status"].copy()
    flip.loc[{"condition": "counterfactual", "image": "eval/000001"}] = False
    status[1], status[2] = "diverged", "stopped"
    loss = found["loss"].copy()
    loss[1:, 1] = np.nan
    return found.assign(
        flip=flip, status=status, loss=loss, best=found["best"].where(found["image"] != "eval/000001", 0)
    )


VERSIONS = {
    "planted": changed,
    "deceived": pixels_as_good,
    "broken": broken,
    "alone": lambda: changed(models=()),
    "one": lambda: changed(total=1, models=("judge",)),
    "hostile": lambda: changed(classes=(HOSTILE, "square", "ring"), models=(HOSTILE, "judge")),
}


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    """By name, as they are read from disk."""
    folder, told = tmp_path_factory.mktemp("groups"), {}
    for name, make in VERSIONS.items():
        asked = {"classifier": HOSTILE} if name == "hostile" else {}
        part = led(name, make(), **asked)
        write_dataset(folder / name, part, provenance(name), scratch=folder / ".scratch")
        told[name] = read(folder / name).load().assign_attrs(part.attrs)
    return told


@pytest.fixture(scope="module")
def context(scenes, versions):
    groups = {name: {"counterfactuals": part} for name, part in versions.items()}
    findings = collect(scenes[0], {}, {}, {}, groups)
    return Context(findings, Thumbnails(scenes[0]))


@pytest.fixture(scope="module")
def page(scenes, versions, tmp_path_factory):
    folder = tmp_path_factory.mktemp("counterfactuals") / "report"
    groups = {name: {"counterfactuals": part} for name, part in versions.items()}
    skipped = {"skipped": "counterfactuals.run <is> false."}
    groups["off"] = {"counterfactuals": xr.Dataset(attrs=provenance("x/off").attributes("0" * 64) | skipped)}
    groups["matched"] = {"rosetta": xr.Dataset(attrs=provenance("x/matched").attributes("0" * 64) | skipped)}
    build_report(folder, scenes[0], {}, {}, {}, groups)
    return (folder / "index.html").read_text(), folder


def model(context, name):
    return next(one for one in context.findings.groups if one.name == name)


def test_the_report_opens_with_who_agrees_and_with_what_is_not_shown(page):
    top = page[0][: page[0].index('id="images"')]
    assert (
        "planted: in 5 of 6 counterfactuals net, vit and the judge all see the class asked for; with pixels alone in 0 "
        "(clearly fewer), with the caption swapped and no search in 2 (not distinguishable). That the search adds to "
        "the swapped caption is not shown." in top
    )
    assert "with pixels alone in 6 (not distinguishable)" in top
    assert "That they are more than pictures that deceive one model is not shown." in top
    assert "alone: 6 of 6 counterfactuals flip net, and of pixels alone 6; nobody else looked" in top
    assert "off:" not in top


def test_a_clear_search_says_nothing_against_itself(context, versions):
    clear = changed(total=30)
    one = model(collect_one(context, "clear", led("clear", clear)), "clear")
    (told,) = section.headline(context, [one])
    assert "in 2 (clearly fewer)." in told
    assert "not shown" not in told


def collect_one(context, name, part):
    findings = collect(context.findings.images, {}, {}, {}, {name: {"counterfactuals": part}})
    return Context(findings, Thumbnails(findings.images))


def test_tiles_have_the_intervals_of_the_artifact(context):
    told = {tile.title: (tile.value, tile.beside) for tile in section.tiles(context, model(context, "planted"))}
    value, beside = told["flipped by net and by all that had no part"]
    low, high = (f"{100 * float(end):.0f}%" for end in share(5, 6))
    assert value == "5 of 6"
    assert beside.startswith(f"{low} to {high}; caption swapped 2 of 6 (")
    assert "pixels alone 0 of 6 (0% to 39%), another class 0 of 6 (0% to 39%)" in beside
    assert told["flipped by net"][0] == "6 of 6"
    assert "pixels alone 6 of 6" in told["flipped by net"][1]
    assert told["other attributes kept, by the judge"][0] == "75%"
    assert told["PSNR of inversions, mean"] == ("25 dB", "the worst 20 dB")
    alone = [tile.title for tile in section.tiles(context, model(context, "alone"))]
    assert alone == ["flipped by net", "PSNR of inversions, mean"]


def test_tables_have_the_numbers_of_the_artifact(context, versions):
    all_of, apart = section.changed(context, model(context, "planted")).tables
    cells = {row[0]: dict(zip(all_of.columns, row, strict=True)) for row in all_of.rows}
    assert all_of.columns[1:] == ["counterfactual", "caption swapped", "pixels alone", "another class"]
    assert cells["vit agrees, of those flipped"]["pixels alone"].startswith("0 of 6 (")
    assert cells["the judge agrees, of those flipped"]["counterfactual"].startswith("5 of 6 (")
    assert cells["the judge agrees, of those flipped"]["caption swapped"].startswith("2 of 2 (")
    assert cells["the judge agrees, of those flipped"]["another class"] == "none"
    assert cells["flipped, and all without a part agree"]["counterfactual"].startswith("5 of 6 (")
    found = versions["planted"]
    mean = summary(found[["cout"]].sel(condition="caption swapped", drop=True))
    numbers = [float(mean[f"cout{end}"]) for end in ("", "_low", "_high")]
    assert read_numbers(cells["COUT"]["caption swapped"]) == pytest.approx(numbers, abs=6e-4)
    differences = {row[0]: dict(zip(apart.columns, row, strict=True)) for row in apart.rows}
    both = (found[["inside_l1"]].sel(condition=name, drop=True) for name in ("counterfactual", "pixels alone"))
    gain = against(*both)
    numbers = [float(gain[f"inside_l1{end}"]) for end in ("", "_low", "_high")]
    assert read_numbers(differences["change inside of it"]["less pixels alone"]) == pytest.approx(numbers, abs=6e-4)
    assert differences["the judge agrees, of those flipped"]["less caption swapped"].endswith("of\N{NO-BREAK SPACE}2")
    names = [row[0] for row in apart.rows]
    every = names.index("flipped, and all without a part agree")
    assert {(every, 1), (every, 2)} <= apart.best
    assert (every, 0) not in apart.best
    assert (names.index("flipped by net"), 1) not in apart.best


def read_numbers(cell):
    text = cell.replace("\N{MINUS SIGN}", "-")
    return [float(each) for each in re.findall(r"-?[\d.]+(?:e-?\d+)?", text)]


def test_failures_are_shown_in_the_order_of_the_artifact(context):
    rows = pictures.changes(context, model(context, "broken"), VERSIONS["broken"]())
    assert len(rows) == 6
    assert [row.agreed for row in rows] == [True, False, True, True, True, False]
    assert rows[1].verdict == "not flipped: the classifier does not see ring"
    assert "the search diverged" in rows[1].lines
    assert rows[5].verdict == "flipped, but the judge does not agree"
    assert "vit sees circle, the judge sees none of the classes" in rows[5].lines
    assert rows[0].heading == "circle → square"
    assert "the classifier: square 2.0% → 90.0%; circle 93.0% → 5.0%" in rows[0].lines
    assert rows[0].lines[-2:] == ["“a circle”", "→ “a square”"]
    assert [one.thumb.x for one in rows[3].pictures] == [0, 1, 2, 3, 4]
    assert {one.thumb.y for one in rows[3].pictures} == {3}
    assert rows[0].pictures[2].below == "start: caption swapped: square 90.0%, flips already, agreed"
    assert rows[2].pictures[2].below == "start: caption swapped: circle 8.0%, does not flip"


def test_the_grid_has_the_mask_dimmed_and_the_difference_with_more_contrast(context, versions):
    found = changed()
    flat = found.assign(original=xr.full_like(found["original"], 100), mask=found["mask"] * 0)
    drawn = flat["pixels"].copy()
    drawn.loc[{"condition": "counterfactual"}] = 105
    drawn[{"condition": 0, "image": 0, "y": 0, "x": 0}] = 0
    flat = flat.assign(pixels=drawn)
    here = collect_one(context, "flat", led("flat", flat))
    pictures.changes(here, model(here, "flat"), flat)
    cells = here.thumbs.grid("counterfactualflat", np.empty(0)).cells
    assert cells.shape[:2] == (6, 8)
    assert set(np.unique(cells[:, 1])) == {25}
    assert set(np.unique(cells[:, 4])) == {0, 128 + 20}


def test_what_is_left_out_and_how_searches_ended_is_said(context):
    _, left, stopped, diverged = section.changed(context, model(context, "broken")).notes
    assert left == "2 of 8 images are left out, as their inversion has a PSNR below 18 dB."
    assert stopped == "1 of 6 searches stopped early, as their loss was low enough."
    assert diverged == "1 of 6 searches diverged; of these the best is shown."
    (worth,) = section.changed(context, model(context, "planted")).notes
    assert worth == (
        "Of 6 images net is flipped in all, but pixels alone do that in all too. What tells is whether models without "
        "a part agree: in 5, against 0 with pixels alone."
    )
    assert (
        "sees wrongly are changed until it sees their own class"
        in section.changed(context, model(context, "broken")).says
    )
    (worth,) = section.changed(context, model(context, "alone")).notes
    assert "there is none here" in worth


def test_the_page_has_all_groups_and_escapes_what_they_are_called(page):
    text = page[0][page[0].index('<section id="counterfactuals">') :]
    text = text[: text.index('<section id="provenance">')]
    assert "<script>alert" not in page[0]
    assert "<img src=x" not in page[0]
    assert "&lt;/script&gt;&lt;script&gt;alert(1)" in text
    assert "<h3>planted</h3>" in text
    assert "Nothing to show: counterfactuals.run &lt;is&gt; false." in text
    assert "matched" not in text, "a group that others ask for is not this section's"
    shown, _, folded = text[text.index("<h3>planted</h3>") :].partition('<details class="rest">')
    assert shown.count('class="change"') == section.SHOWN
    folded = folded[: folded.index("<h3>deceived</h3>")]
    assert folded.count('class="change"') == 6 - section.SHOWN
    assert "The same images in the controls" in folded
    assert "ring was asked for. net: square 10.0%; vit sees ring, the judge sees ring" in folded
    assert "inf" not in re.sub(r"[a-z]inf|inf[a-z]", "", folded)
    assert [*(page[1] / "assets").glob("grid-counterfactualplanted-0.*")]
    other = page[0][page[0].index("Not shown") :]
    assert "counterfactuals.groups is empty" not in other


def test_one_image_has_no_interval_of_means_and_infinity_is_not_written(context):
    panel = section.changed(context, model(context, "one"))
    written = " ".join(cell for table in panel.tables for row in table.rows for cell in row)
    assert "inf" not in written
    assert "nan" not in written
    assert dict((row[0], row[1]) for row in panel.tables[0].rows)["COUT"] == "0.4"
    assert section.tiles(context, model(context, "one"))[2].beside == "of one image"


def test_charts_say_what_is_in_them(versions):
    found = versions["planted"]
    assert charts.losses(found).title == "The median loss falls from 2 at the start to 0.5 at the iterates taken"
    stays = charts.losses(found.assign(best=found["best"] * 0))
    assert stays.title.startswith("The median loss does not fall")
    assert "it is taken in 6 of 6 images" in stays.subtitle
    broken = charts.losses(versions["broken"])
    each, median, taken = broken.facets[0].series
    assert np.isfinite(median.y).all()
    assert np.isfinite(taken.y).all()
    assert int(np.isnan(each.y).sum()) == 6 + 2
    chart = charts.transitions(found)
    assert [facet.name for facet in chart.facets] == [*found["condition"].values]
    line = chart.facets[1].series[0]
    np.testing.assert_allclose(line.y, found["target_curve"].sel(condition="caption swapped").mean("image"))
    assert (line.band.low <= line.y).all()
    assert chart.title == "COUT of the counterfactuals is 0.375, that of pixels alone 0.375: not distinguishable"
    worse = found.assign(cout=found["cout"].where(found["condition"] != "pixels alone", -0.5))
    assert charts.transitions(worse).title.endswith("; that of pixels alone \N{MINUS SIGN}0.5 is clearly lower")
    assert charts.transitions(versions["one"]).facets[0].series[0].band is None


def test_a_run_without_groups_says_so(scenes, tmp_path):
    build_report(tmp_path / "report", *scenes)
    assert (
        "no groups of models for this: counterfactuals.groups is empty" in (tmp_path / "report/index.html").read_text()
    )
