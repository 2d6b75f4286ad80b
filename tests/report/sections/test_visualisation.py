"""The report on feature visualisation: its section, its pages, its stills, and what is said where a part is missing."""

import json
import re
import shutil
import subprocess
from html import unescape

import numpy as np
import plotly.graph_objects as go
import pytest
import xarray as xr
from PIL import Image
from planted_findings import HOSTILE
from planted_visualisations import (
    CLASSES,
    CONDITIONS,
    DIVERGED,
    METHODS,
    SEEDS,
    SHOWN,
    WHY,
    flat,
    visualised,
)
from report_pages import CHROMIUM, Page, contents

from optogram.report import images as images_of
from optogram.report.build import build_report
from optogram.report.charts import plotly
from optogram.report.charts.visualisation import convergence, embedding_map, scaled, spark
from optogram.report.findings import collect
from optogram.report.images import Grid
from optogram.report.labels import slug
from optogram.report.panels import Context
from optogram.report.sections.visual_tables import NONE, cues, score_table, tiles

COLUMNS = ["vital", *METHODS]
NAMES = ["VITAL", "Fourier", "MACO", "DeepInversion", "PII"]


@pytest.fixture(scope="module")
def report(images, classifiers, tmp_path_factory):
    return built(tmp_path_factory.mktemp("visual"), images, classifiers)


def built(folder, images, classifiers):
    """A report on classifiers alone: nothing is known of its CLIP."""
    build_report(folder / "report", images, {"demo": {}}, classifiers)
    return folder / "report"


def gallery(report, name="resnet"):
    return (report / "visualisations" / f"{name}.html").read_text()


def inside(report, name="resnet"):
    return (report / "units" / f"{name}.html").read_text()


def unit(report, name, model="resnet"):
    """What stands on one class or channel."""
    page = inside(report, model)
    start = page.index(f'<article class="unit" id="{slug(name)}">')
    return page[start : page.index("</article>", start)]


def section(report):
    page = (report / "index.html").read_text()
    return page[page.index('<section id="visualisations">') : page.index('<section id="provenance">')]


def not_shown(report):
    page = (report / "index.html").read_text()
    return unescape(page[page.index("<h3>Not shown</h3>") :])


def rows(page):
    """The rows of a page's galleries: (name, what is said, text of the row)."""
    parts = page.split('<div class="target"')[1:]
    found = [re.search(r'<div class="what"><b>(?:<a [^>]*>)?(.*?)(?:</a>)?</b><small>(.*?)</small>', p) for p in parts]
    return [(unescape(match[1]), unescape(match[2]), part) for match, part in zip(found, parts, strict=True)]


def figures(row):
    return re.findall(r"<figure>(.*?)</figure>", row, re.DOTALL)


def cell(report, sheet_name, column, row, side=16):
    (file,) = (report / "assets").glob(f"{sheet_name}.*")
    pixels = np.asarray(Image.open(file).convert("RGB")).astype(int)
    return pixels[side * row : side * row + side, side * column : side * column + side]


def test_a_gallery_has_classes_then_neurons_by_method(report):
    found = rows(gallery(report))
    assert [name for name, _, _ in found] == [*CLASSES, "layer4:3", "layer4:17", "layer4:40"]
    for _, _, row in found:
        assert [re.search("<b>(.*?)</b>", figure)[1] for figure in figures(row)] == NAMES


def test_a_picture_lies_where_the_page_says_with_every_seed(report, classifiers):
    names = classifiers["resnet"]["targets"].target.values.tolist()
    place = r'--x:calc\((\d+) \+ var\(--seed, 0\)\);--y:(\d+)">'
    shown = r'<span class="thumb ([\w-]+)" role="img" title="(.*?) · (.*?)">'
    shots = re.findall(place + shown, gallery(report) + inside(report))
    assert len(shots) > 50
    for x, y, sheet_name, name, method in shots:
        target, column = names.index(unescape(name)), NAMES.index(method)
        assert int(x) == column * SEEDS
        for seed in range(SEEDS):
            number = column - 1 if column else 0  # the baselines count from their own first
            found = cell(report, sheet_name, int(x) + seed, int(y))
            assert np.abs(found - flat(target, number, seed)).max() <= 6, (name, method, seed)


def test_a_veil_lies_over_its_picture(report):
    veils = re.findall(r'class="veil ([\w-]+)"', gallery(report))
    assert set(veils) == {"grid-veil-resnet-0"}
    ramp = np.linspace(0, 255, 16)
    for column in (0, 7, 14):
        assert np.abs(cell(report, veils[0], column, 2)[..., 0] - ramp).max() < 20
    css = (report / "assets/sheets.css").read_text()
    assert ".grid-veil-resnet-0{" in css
    assert "--w:15" in re.search(r"\.grid-vis-resnet-0\{(.*?)\}", css)[1]


def test_veils_lie_on_as_many_sheets_as_large_pictures(monkeypatch):
    """A veil is smaller than its picture, but has the same place on the sheet of the same number."""
    monkeypatch.setattr(images_of, "GRID_PIXELS", 40_000)
    thumbs = images_of.Thumbnails({})
    pictures = thumbs.grid("vis", np.zeros((9, 1, 100, 100, 3), np.uint8))
    veils = thumbs.grid("veil", np.zeros((9, 1, 100, 100), np.uint8), pictures)
    assert [veils.place(row) for row in (0, 3, 4, 8)] == [
        (f"grid-veil-{n}", y) for n, y in [(0, 0), (0, 3), (1, 0), (2, 0)]
    ]
    assert [veils.place(row)[1] for row in range(9)] == [pictures.place(row)[1] for row in range(9)]


@pytest.mark.parametrize("page", [gallery, inside])
def test_slider_and_seeds_are_there(report, page):
    text = page(report)
    slider = re.findall(r'<input type="range" id="transparency" min="0" max="1"[^>]*>', text)
    assert len(slider) == 1
    assert "aria-label" in slider[0]
    assert re.findall(r'name="seed" value="(\d)"( checked)?', text) == [("0", " checked"), ("1", ""), ("2", "")]
    assert text.count('<filter id="veil"') == 1
    script = (report / "assets/report.js").read_text()
    assert '"--seed"' in script
    assert "#veil feColorMatrix" in script


def test_notes_below_a_class_tell_what_model_and_clip_see_with_each_seed(report):
    row = rows(gallery(report))[0][2]
    vital, fourier, maco, *_ = figures(row)
    by_seed = re.findall(r'<figcaption data-seed="(\d)"( hidden)?>(.*?)</figcaption>', vital)
    assert [(seed, hidden) for seed, hidden, _ in by_seed] == [("0", ""), ("1", " hidden"), ("2", " hidden")]
    told = [re.sub("<.*?>", "|", text).strip("|") for _, _, text in by_seed]
    assert told == ["✓ circle 88%||✓ CLIP: circle"] * 2 + ["✓ circle 88%||✗ CLIP: triangle"]
    assert "✗ square (circle 88%)" in re.findall('<figcaption data-seed="0">(.*?)</figcaption>', fourier)[0]
    assert re.findall("<figcaption([^>]*)>", maco) == [""], "alike with all seeds, so said once"


def test_notes_below_a_neuron_are_auc_and_mad(report, classifiers):
    scores = classifiers["resnet"]["visual_scores"].sel(target="layer4:17").auc
    auc = dict(zip(scores.method.values.tolist(), scores.values.tolist(), strict=True))
    row = next(row for name, _, row in rows(gallery(report)) if name == "layer4:17")
    told = re.findall("AUC ([\\d.]+)", row)
    assert told == [f"{auc[method]:.2f}" for method in COLUMNS if method != "deepinversion"]
    assert "✓" not in row


def test_what_diverged_or_is_not_defined_says_so_in_its_cell(report):
    found = {name: row for name, _, row in rows(gallery(report))}
    maco = figures(found["square"])[2]
    assert f"{DIVERGED}" in re.findall('<figcaption data-seed="1" hidden>(.*?)</figcaption>', maco)[0]
    assert DIVERGED not in re.findall('<figcaption data-seed="0">(.*?)</figcaption>', maco)[0]
    absent = figures(found["layer4:3"])[3]
    assert f"<small>{WHY}</small>" in absent
    assert "thumb" not in absent
    assert "figcaption" not in absent


def test_references_are_beside_with_their_ids(report, classifiers):
    targets = classifiers["resnet"]["targets"]
    for name, _, row in rows(gallery(report)):
        refs = row[row.index('class="refs"') : row.index("<figure>")]
        if name == CLASSES[0]:  # has facets
            continue
        ids = re.findall(
            r'class="thumb grid-refs-resnet-0" style="--x:(\d+);--y:(\d+)" role="img" title="([\w/]+)', refs
        )
        stored = targets.reference.sel(target=name).values.tolist()
        at = targets.target.values.tolist().index(name)
        assert ids == [(str(k), str(at), image) for k, image in enumerate(stored)]


def test_references_of_a_facet_are_beside_the_seeds_that_draw_it(report, classifiers):
    name, _, row = rows(gallery(report))[0]
    stored = classifiers["resnet"]["targets"].reference.sel(target=name).values.tolist()
    groups = re.findall(r'<div class="refs" [^>]*data-seed="(\d)"( hidden)?>(.*?)</div>', row)
    assert [(seed, bool(hidden)) for seed, hidden, _ in groups] == [("0", False), ("1", True), ("2", True)]
    ids = [re.findall(r'title="([\w/]+)', refs) for _, _, refs in groups]
    assert ids == [stored[::2], stored[1::2], stored[::2]]
    assert "Classes have 2 facets" in gallery(report)


def test_fewer_references_than_places(report):
    name, _, row = rows(unit(report, "layer4:3"))[-1]
    assert name == "split 1"
    assert len(re.findall("grid-refs", row)) == 2 < SHOWN


def test_a_class_has_a_place_with_its_circuit_and_concepts(report, classifiers):
    targets = classifiers["resnet"]["targets"]
    for k, name in enumerate(CLASSES):
        page = unit(report, name)
        shares = ["50.0% of the relevance", "25.0% of the relevance", "12.5% of the relevance"]
        wanted = [(name, "class"), *zip(targets.circuit.values[k].tolist(), shares, strict=True)]
        assert [(name, says) for name, says, _ in rows(page)][:4] == wanted
        assert re.findall(r'<i style="width:([\d.]+)%">', page) == ["50.0", "25.0", "12.5"]
        headings = ["How each method draws it", "Its circuit", *(["Its concepts"] if k == 0 else [])]
        assert re.findall("<h2>(.*?)</h2>", page) == headings
    assert [name for name, _, _ in rows(unit(report, CLASSES[0]))][-2:] == ["concept 0", "concept 1"]


def test_a_channel_has_a_place_with_its_parts_and_the_classes_that_rest_on_it(report, classifiers):
    page = unit(report, "layer4:3")
    found = [(name, says.endswith("of the patches")) for name, says, _ in rows(page)]
    assert found == [("layer4:3", False), ("split 0", True), ("split 1", True)]
    circuit = classifiers["resnet"]["targets"].circuit.values
    rests = [name for name, channels in zip(CLASSES, circuit, strict=True) if "layer4:3" in channels]
    table = page[page.index("Which classes rest on it") :]
    assert re.findall('<tr><th scope="row">(.*?)</th>', table) == rests != []


def test_rows_lead_to_the_places_of_their_targets(report):
    links = re.findall(r'<b><a href="([^"]+)">', gallery(report))
    assert links == [f"../units/resnet.html#{slug(name)}" for name, _, _ in rows(gallery(report))]


def test_small_curves_lead_to_the_plot_of_their_target(report, classifiers):
    page = gallery(report)
    options = re.findall(r'<option value="(\d+)">(.*?)</option>', page[page.index('id="convergence"') :])
    by_name = {unescape(name): value for value, name in options}
    assert list(by_name) == classifiers["resnet"]["targets"].target.values.tolist()
    for name, _, row in rows(page):
        assert f'href="#target-{by_name[name]}"' in row
        drawings = re.findall(r"<svg [^>]*>(.*?)</svg>", row)
        assert len(drawings) == SEEDS
        there = 5 if name in CLASSES else 4
        assert [drawing.count("<path") for drawing in drawings] == [there] * SEEDS


def test_small_curves_inside_lead_to_the_gallery(report, classifiers):
    names = classifiers["resnet"]["targets"].target.values.tolist()
    name, _, row = rows(unit(report, "layer4:3"))[-1]
    assert f'href="../visualisations/resnet.html#target-{names.index("layer4:3 " + name)}"' in row
    assert row.count("<svg ") == SEEDS


def test_the_plot_has_the_curves_of_every_method_and_seed(report, classifiers):
    (found,) = (figure for figure in Page(report / "visualisations/resnet.html").json if len(figure) > 1)
    loss = classifiers["resnet"]["baselines"].loss.sel({"target": "square", "method": "maco"}).values
    option = next(option for option in found if option["name"] == "square")
    assert [line["name"].split(":")[0].split(",")[0] for line in option["data"]] == NAMES
    line = option["data"][2]
    assert f"MACO, {DIVERGED}: {loss[:, 0].mean():.3g} → " in line["name"]
    steps = classifiers["resnet"]["vital"].step.values.tolist()
    assert line["x"] == [*steps, None, *steps, None, *steps]
    pieces = np.array([value if value is not None else np.nan for value in line["y"]])
    curves = np.split(np.append(pieces, np.nan), 3)
    for curve, values in zip(curves, loss, strict=True):
        wanted = (values - values.min()) / np.ptp(values)
        assert curve[:-1] == pytest.approx(wanted, abs=1e-3)
    inner = next(option for option in found if option["name"] == "layer4:3")
    assert len(inner["data"]) == 4


def test_plots_are_ones_that_plotly_accepts(report):
    for figure in Page(report / "visualisations/resnet.html").json:
        for option in figure:
            plain = json.loads(re.sub(r"var\(--\w+\)", "#123456", json.dumps(option)))
            go.Figure({"data": plain["data"], "layout": plain["layout"]})


def test_the_map_shows_classes_by_colour_and_methods_by_symbol():
    kinds, of = ["real", "real", "real", "vital", "maco", "vital"], ["a", "b", "a", "b", "a", "a"]
    at = np.arange(6.0)
    chart = embedding_map(at, -at, kinds, of, {"vital": "VITAL", "maco": "MACO"})
    data = plotly.figure(chart, chart.facets)["data"]
    real = {trace["name"]: trace for trace in data if trace["marker"]["size"] == 6}
    assert real["a"]["x"].tolist() == [0, 2]
    assert real["b"]["y"].tolist() == [-1]
    drawn = [trace for trace in data if trace.get("showlegend") is False]
    assert [trace["x"].tolist() for trace in drawn] == [[3, 5], [4]]
    colour = {name: trace["marker"]["color"] for name, trace in real.items()}
    assert drawn[0]["marker"]["color"] == [colour["b"], colour["a"]]
    assert drawn[0]["marker"]["symbol"] != drawn[1]["marker"]["symbol"]
    # toggling the entry of the legend, which has no points, toggles its method
    entries = [trace for trace in data if trace["name"] in ("VITAL", "MACO") and "showlegend" not in trace]
    assert all(trace["x"] == [None] for trace in entries)
    assert [trace["legendgroup"] for trace in entries] == [trace["legendgroup"] for trace in drawn]


def test_a_curve_is_scaled_between_its_own_ends():
    assert scaled(np.array([3.0, -1.0, 1.0])).tolist() == [1, 0, 0.5]
    assert scaled(np.full(3, 2.0)).tolist() == [0, 0, 0]
    path = spark(np.array([0, 50, 100]), np.array([4.0, 2.0, 0.0]))
    assert path == "M0 1L48 20L96 39"
    assert spark(np.array([7]), np.array([1.0])) == "M0 39"


def test_long_curves_stay_light():
    steps = np.arange(5000)
    chart = convergence([("a", {"vital": ("VITAL", steps, np.random.default_rng(0).random((2, 5000)))})])
    x = plotly.figure(chart, chart.facets)["data"][0]["x"]
    assert len(x) <= 2 * 80 + 1
    assert (x[0], x[-1]) == (0, 4999)
    assert len(spark(steps, np.ones(5000))) < 500


def test_the_table_marks_best_and_second_but_never_real_images(classifiers):
    table = score_table(classifiers["resnet"]["visual_scores"])
    assert [row[0] for row in table.rows] == ["Real images", *NAMES]
    heads = [name.replace("\N{NO-BREAK SPACE}", " ") for name in table.columns]
    assert heads == [
        "",
        *("accuracy ↑", "FID ↓", "FID, second model ↓", "CLIP top 1 ↑", "AUC ↑", "MAD ↑", "cue seen"),
    ]  # top 5 is nowhere defined

    def marked(cells, column):
        return {table.rows[row][0] for row, at in cells if at == heads.index(column) - 1}

    assert marked(table.best, "accuracy ↑") == {"VITAL", "DeepInversion"}
    # of nine pictures 6 and 3 are not distinguishable; shares have no second
    assert marked(table.best, "CLIP top 1 ↑") == {"VITAL", "DeepInversion"}
    assert not marked(table.second, "accuracy ↑") | marked(table.second, "CLIP top 1 ↑")
    assert "Of 9 pictures a method" in table.caption
    assert marked(table.best, "FID ↓") == {"VITAL"}
    assert marked(table.second, "FID ↓") == {"DeepInversion"}
    assert marked(table.best, "AUC ↑") == {"VITAL"}
    assert marked(table.second, "MAD ↑") == {"PII"}
    assert not marked(table.best | table.second, "cue seen")
    by_name = {row[0]: row for row in table.rows}
    assert by_name["MACO"][heads.index("FID, second model ↓")] == NONE
    assert by_name["Real images"][1] == "99.0% \N{PLUS-MINUS SIGN}\N{NO-BREAK SPACE}0.9"
    assert by_name["VITAL"][1] == "9 of 9"
    assert by_name["VITAL"][heads.index("cue seen")] == "2 of 3"
    assert by_name["Fourier"][heads.index("MAD ↑")] == "\N{MINUS SIGN}9.5"


def test_equal_methods_are_not_ranked(classifiers):
    scores = classifiers["resnet"]["visual_scores"].compute()
    alike = scores.assign(accuracy=scores.accuracy * 0 + 0.5, fid_own=scores.fid_own.where(scores.method == "vital"))
    table = score_table(alike)
    assert not {cell for cell in table.best | table.second if cell[1] < 2}


def test_the_section_has_table_strip_and_links(report, classifiers):
    text = section(report)
    assert re.findall("<h3>(.*?)</h3>", text) == ["resnet", "vit"]
    assert text.count('<td class="best">') == 2 * 8
    assert text.count('<td class="second">') == 2 * 4
    first = text[: text.index("<h3>vit</h3>")]
    strip = first[first.index('<table class="classes">') :]
    strip = strip[: strip.index("</table>")]
    assert len(re.findall('<tr><th scope="row">', strip)) == len(CLASSES)
    assert len(re.findall('class="shot"', strip)) == len(CLASSES) * len(COLUMNS)
    assert "veil" not in strip
    assert 'href="visualisations/resnet.html"' in first
    assert 'href="units/resnet.html"' in first
    assert "data-model" not in text, "the choice of a CLIP hides no classifier"


def test_the_cue_is_told_with_chance(report, classifiers):
    (found,) = cues(classifiers["resnet"]["visual_scores"])
    assert (found["class"], found["cue"], found["ours"]) == ("circle", "background water", ("VITAL", "2 of 3"))
    assert found["others"] == [(name, "0 of 3") for name in NAMES[1:]]
    text = re.sub("<.*?>", "", section(report))
    assert "circle: background water is seen in 2 of 3 by VITAL" in text
    assert "by chance 16.7%" in text


def test_the_tiles_are_of_vital_beside_others_and_chance(report, images, classifiers):
    findings = collect(images, {"demo": {}}, classifiers)
    named, cue = tiles(Context(findings, images_of.Thumbnails({})), findings.classifiers[0])
    assert (named.title, named.value) == ("VITAL's pictures named by CLIP", "6 of 9")
    assert named.beside == (
        "35% to 88%; best other 3 of 9 (DeepInversion, not distinguishable); "
        "real images 98.0% \N{PLUS-MINUS SIGN}\N{NO-BREAK SPACE}1.2"
    )
    assert cue.value == "2 of 3"
    assert cue.beside == "21% to 94%; by chance 16.7%, others at most 0 of 3 (Fourier, not distinguishable)"
    assert section(report).count('<div class="tile">') == 4
    index = (report / "index.html").read_text()
    assert "CLIP names VITAL&#39;s pictures of classes: resnet 6 of 9, best other 3 of 9" in index


def test_reference_sets_are_a_table_with_pictures(report, classifiers):
    page = gallery(report)
    table = page[page.index('<table class="sets">') :]
    names = re.findall('<tr><th scope="row">(.*?)</th><td>(.*?)</td>', table)
    found = classifiers["resnet"]["reference_sets"]
    pictures = found.attrs["pictures"]
    shares = [f"{round(float(value) * pictures)} of {pictures}" for value in found.accuracy.values]
    words = ["5 references", "50 references", "5 strangers among them", "from another split"]
    assert names == list(zip(words, shares, strict=True))
    assert len(re.findall('<td class="picture">', table)) == len(CONDITIONS) * len(CLASSES)
    where = re.findall(r'grid-sets-resnet-0" style="--x:(\d);--y:(\d)" role="img" title="(\w+)', table)
    assert where[4] == ("1", "1", "square")


@pytest.mark.parametrize("kind", ["targets", "vital", "baselines", "visual_scores", "reference_sets"])
def test_what_was_skipped_says_why_and_what_is_absent_too(images, classifiers, tmp_path, kind):
    parts = classifiers["resnet"]
    skipped = xr.Dataset(attrs={"skipped": "no <reason> at all"})
    without = {other: part for other, part in parts.items() if other != kind}
    report = built(tmp_path, images, {"one": {**parts, kind: skipped}, "two": without})
    for name, why in (("one", "no <reason> at all"), ("two", "This was not run.")):
        page = report / "visualisations" / f"{name}.html"
        assert page.exists() == (kind != "targets")
        if kind == "targets":  # then there is nothing to show of either
            assert why in not_shown(report)
            continue
        text = " ".join(section(report).split(f"<h3>{name}</h3>")[1].split("<h3>")[0].split())
        if kind == "reference_sets":
            text = " ".join(page.read_text().split())
        assert why in unescape(text)


def test_methods_of_one_artifact_stay_when_the_other_is_missing(images, classifiers, tmp_path):
    parts = classifiers["resnet"]
    report = built(tmp_path, images, {"resnet": {kind: parts[kind] for kind in ("targets", "baselines")}})
    row = rows(gallery(report))[0][2]
    assert [re.search("<b>(.*?)</b>", figure)[1] for figure in figures(row)] == NAMES[1:]
    assert "No pictures by VITAL: This was not run." in gallery(report)
    assert "figcaption" in rows(gallery(report))[1][2], "that it diverged is known without scores"


def test_a_target_that_a_method_was_not_run_on(images, classifiers, tmp_path):
    parts = classifiers["resnet"]
    some = parts["baselines"].isel(target=[3, 0])
    report = built(tmp_path, images, {"resnet": {**parts, "baselines": some}})
    found = {name: figures(row) for name, _, row in rows(gallery(report))}
    assert "not run" in found["square"][1]
    assert "thumb" in found["circle"][1]
    names = parts["targets"].target.values.tolist()
    for name in ("circle", "layer4:3"):
        at = names.index(name)
        assert np.abs(cell(report, "grid-vis-resnet-0", SEEDS, at) - flat(at, 0, 0)).max() <= 6


def test_without_classifiers_the_section_says_so(images, tmp_path):
    report = built(tmp_path, images, {})
    assert "names no classifiers" in not_shown(report)
    assert '<section id="visualisations">' not in (report / "index.html").read_text()
    assert {path.name for path in report.iterdir()} == {"index.html", "assets"}


def test_one_seed_has_no_switch_and_one_classifier_no_neighbours(images, classifiers, tmp_path):
    parts = {kind: part.isel(seed=[0]) if "seed" in part.dims else part for kind, part in classifiers["vit"].items()}
    page = gallery(built(tmp_path, images, {"vit": parts}), "vit")
    assert 'name="seed"' not in page
    assert 'id="transparency"' in page
    assert 'rel="next"' not in page


def test_every_link_resolves_and_none_leads_out(report):
    pages = {path.resolve(): Page(path) for path in report.rglob("*.html")}
    for path, page in pages.items():
        for link in page.links:
            if link.startswith("data:"):
                continue
            target, _, fragment = link.partition("#")
            there = (path.parent / target).resolve() if target else path
            assert there.is_file(), (path.name, link)
            assert not fragment or fragment in pages[there].ids, (path.name, link)
    for path in report.rglob("*.html"):
        assert not re.search(r"""(https?:)?//[\w-]+\.\w""", path.read_text()), path
    for file in re.findall(r"url\(([^)]+)\)", (report / "assets/sheets.css").read_text()):
        assert (report / "assets" / file).is_file()


def test_hostile_names_stay_text(images, tmp_path):
    classes = [HOSTILE, "$x_1$", "1"]
    parts = visualised(np.random.default_rng(0), classes)
    scores = parts["visual_scores"]
    parts["visual_scores"] = scores.assign(cue=(("class",), [f"background: {HOSTILE}", "", ""])).assign_attrs(
        clip=HOSTILE
    )
    report = built(tmp_path, images, {HOSTILE: parts, "<b>": {"targets": xr.Dataset(attrs={"skipped": HOSTILE})}})
    pages = [*(report / "visualisations").iterdir(), *(report / "units").iterdir(), report / "index.html"]
    assert len(pages) == 3
    for path in pages:
        page = Page(path)
        scripts = [found for tag, found in page.tags if tag == "script"]
        assert all("assets/" in found.get("src", "") or found["type"] == "application/json" for found in scripts)
        assert not [name for _, found in page.tags for name in found if name.startswith("on")]
        assert not [tag for tag, _ in page.tags if tag == "img"]
        assert HOSTILE in " ".join(page.text)


def test_the_same_bytes_twice(report, images, classifiers, tmp_path):
    assert contents(report) == contents(built(tmp_path, images, classifiers))


def test_pages_are_light(report):
    for path in report.rglob("*.html"):
        assert path.stat().st_size < 200_000, path


def test_a_grid_of_many_rows_takes_several_sheets(tmp_path):
    cells = np.zeros((3, 5, 1600, 1600, 3), np.uint8)
    cells[2, 4] = 200
    grid = Grid("many", cells[:, :, ::20, ::20])
    assert grid.rows > 3
    large = Grid("large", np.broadcast_to(cells[:, :1], (3, 300, 1600, 1600, 3)))
    assert large.rows == 1
    assert large.place(2) == ("grid-large-2", 0)
    (rule,) = grid.write(tmp_path)
    assert rule.startswith(".grid-many-0{background-image:url(grid-many-0.png);--w:5")
    assert np.asarray(Image.open(tmp_path / "grid-many-0.png"))[2 * 80 + 1, 4 * 80 + 1].tolist() == [200] * 3


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_slider_seeds_and_small_curves_work_in_a_browser(report, tmp_path):
    """From a file, without a server: the veil's opacity, the seed's notes, and the plot's target."""
    shutil.copytree(report, tmp_path / "report")
    page = tmp_path / "report/visualisations/resnet.html"
    acts = """<script>window.errors = [];
    addEventListener("error", (e) => errors.push(e.message));
    addEventListener("load", () => {
      const slider = document.getElementById("transparency"), seed = document.querySelectorAll("input[name=seed]")[2];
      slider.value = 0.5; slider.dispatchEvent(new Event("input"));
      seed.checked = true; seed.dispatchEvent(new Event("change"));
      document.querySelector("[href='#target-1']").click();
      document.title = JSON.stringify([errors, document.querySelector("#veil feColorMatrix").getAttribute("values"),
        getComputedStyle(document.querySelector(".veil")).display,
        getComputedStyle(document.querySelector(".shot .thumb")).backgroundPositionX,
        [...document.querySelectorAll("figcaption[data-seed]:not([hidden])")].map((one) => one.dataset.seed),
        document.querySelector("#convergence select").value]);
    });</script>"""
    page.write_text(page.read_text().replace("</head>", acts + "</head>"))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    options += ["--disable-background-networking", "--disable-component-update", f"--user-data-dir={tmp_path / 'user'}"]
    options += ["--window-size=1400,1000", "--virtual-time-budget=8000", "--dump-dom"]
    try:
        asked = [CHROMIUM, *options, page.as_uri()]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=300)
    except subprocess.TimeoutExpired:
        pytest.skip("Chromium took too long")
    found = json.loads(unescape(re.search(r"<title>(.*?)</title>", done.stdout)[1]))
    errors, matrix, veil, left, seeds, chosen = found
    assert errors == []
    assert matrix.endswith("-3 0 0 0 1.5")
    assert veil == "block"
    assert left == "-256px", "the third picture of 128 pixels"
    assert set(seeds) == {"2"}
    assert chosen == "1"
