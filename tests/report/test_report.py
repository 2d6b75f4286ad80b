"""The report as a reader gets it: whole, self-contained, safe, the same every time."""

import html
import json
import re
import shutil
import subprocess
from urllib.parse import unquote

import numpy as np
import plotly.graph_objects as go
import pytest
import xarray as xr
from planted_findings import HOSTILE, KINDS
from planted_visualisations import KINDS as VISUAL
from report_pages import CHROMIUM, Page, contents

from optogram.errors import ArtifactError, DataError
from optogram.params.profiles import profile_text
from optogram.report import build
from optogram.report.build import build_report
from stages.report import main


@pytest.fixture(scope="module")
def report(scenes, tmp_path_factory):
    out = tmp_path_factory.mktemp("scenes") / "report"
    build_report(out, *scenes)
    return out


@pytest.fixture(scope="module")
def photo_report(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("photos") / "report"
    build_report(out, *photos)
    return out


@pytest.fixture(scope="module", params=["report", "photo_report"])
def any_report(request):
    return request.getfixturevalue(request.param)


def few_heads(parts):
    """The findings with two heads only, for pages that are quick to write."""
    return {**parts, "textspan": parts["textspan"].isel(layer=[0], head=[0, 1])}


def test_has_a_page_for_each_head(report):
    names = {path.name for path in (report / "heads").iterdir()}
    assert names == {f"demo-L{layer}H{head}.html" for layer in range(1, 5) for head in range(8)}


def test_every_link_resolves(any_report):
    pages = {path.resolve(): Page(path) for path in any_report.rglob("*.html")}
    for path, page in pages.items():
        for link in page.links:
            if link.startswith("data:"):
                continue
            target, _, fragment = unquote(link).partition("#")
            there = (path.parent / target).resolve() if target else path
            assert there.is_file(), (path.name, link)
            assert there.is_relative_to(any_report.resolve())
            assert not fragment or fragment in pages[there].ids, (path.name, link)
    for sheet in re.findall(r"url\(([^)]+)\)", (any_report / "assets" / "sheets.css").read_text()):
        assert (any_report / "assets" / sheet).is_file()


def test_names_no_address_outside_itself(any_report):
    for name, data in contents(any_report).items():
        if name.endswith((".html", ".css", ".js")) and name != "assets/plotly.min.js":
            text = data.decode()
            assert not re.search(r"""(https?:)?//[\w-]+\.\w""", text), name
            assert "@import" not in text


def test_hostile_names_stay_text(photo_report):
    for path in photo_report.rglob("*.html"):
        page = Page(path)
        scripts = [found for tag, found in page.tags if tag == "script"]
        assert all("assets/" in found.get("src", "") or found["type"] == "application/json" for found in scripts)
        assert all(found["src"].startswith("data:image/png;base64,") for tag, found in page.tags if tag == "img")
        assert not [name for _, found in page.tags for name in found if name.startswith("on")]
    index = Page(photo_report / "index.html")
    assert f"a photo of a {HOSTILE}" in index.text
    assert "<i>broken</i>.jpg" in index.text
    # plotly reads a small HTML in labels: there the name is escaped once more
    labels = next(figure for figure in index.json if any(t.get("name") == "eval" for t in figure[0]["data"]))
    assert labels[0]["layout"]["xaxis"]["ticktext"][0].startswith("&lt;/script&gt;")


def test_every_figure_is_one_that_plotly_accepts(any_report):
    figures = Page(any_report / "index.html").json
    assert len(figures) > 4
    for figure in figures:
        for option in figure:
            plain = json.loads(re.sub(r"var\(--[\w]+\)", "#123456", json.dumps(option)))
            go.Figure({"data": plain["data"], "layout": plain["layout"]})


def test_same_findings_same_bytes(report, scenes, tmp_path):
    build_report(tmp_path / "again", *scenes)
    assert contents(report) == contents(tmp_path / "again")


def test_says_why_a_section_is_empty(photo_report):
    text = " ".join(Page(photo_report / "index.html").text)
    assert "these images have no <masks> for segmentation" in text
    assert "these images have no <masks> for spurious" in text
    assert "there is one attribute only" in text


def test_shows_what_it_has_of_an_unfinished_run(scenes, tmp_path):
    images, models = scenes
    build_report(tmp_path / "bare", images, {"demo": {}})
    build_report(tmp_path / "part", images, {"demo": {"textspan": few_heads(models["demo"])["textspan"]}})
    bare = Page(tmp_path / "bare" / "index.html")
    assert " ".join(bare.text).count("This was not run.") >= 8
    assert [link for link in bare.links if link.startswith("#")] == ["#images", "#provenance"]
    assert len(list((tmp_path / "part" / "heads").iterdir())) == 2
    assert {"#heads", "#textspan"} < set(Page(tmp_path / "part" / "index.html").links)


def test_two_models_have_their_own_pages(scenes, tmp_path):
    images, models = scenes
    build_report(tmp_path / "report", images, {name: few_heads(models["demo"]) for name in ("demo", "a/../b")})
    assert len(list((tmp_path / "report" / "heads").iterdir())) == 4
    index = Page(tmp_path / "report" / "index.html")
    choices = [found["value"] for tag, found in index.tags if tag == "input"]
    assert choices == ["demo", "a_b"]
    assert {found["data-model"] for _, found in index.tags if "data-model" in found} == set(choices)


def test_numbers_are_those_of_the_artifacts(report, scenes):
    ablation = scenes[1]["demo"]["ablation"]
    index = Page(report / "index.html")
    for value in ablation.accuracy.sel(condition="mlps").values:
        assert f"{100 * float(value):.1f}%" in index.text
    spans = scenes[1]["demo"]["textspan"].sel(layer=3, head=5).isel(pool=0)
    page = Page(report / "heads" / "demo-L3H5.html")
    shares = np.cumsum(spans.variance.values) / float(spans.total_variance)
    assert all(f"{100 * share:.1f}% so far" in page.text for share in shares)
    assert all(str(text) in page.text for text in spans.text.values)
    for item in scenes[1]["demo"].values():
        assert item.attrs["digest"] in " ".join(found.get("title", "") for _, found in index.tags)


def test_a_description_that_names_two_attributes_has_both_colours(scenes, tmp_path):
    images, models = scenes
    spans = few_heads(models["demo"])["textspan"].compute()
    names, values = (spans[name].astype(object) for name in ("text_attribute", "text_value"))
    names[0, 0, 0, 0], values[0, 0, 0, 0] = "count+shape", "two+ring"
    changed = spans.assign(text_attribute=names, text_value=values)
    build_report(tmp_path / "report", images, {"demo": {"textspan": changed}})
    page = (tmp_path / "report" / "heads" / "demo-L1H0.html").read_text()
    assert "count two</span>" in page
    assert "shape ring</span>" in page
    assert "linear-gradient(var(--a4) 0% 50%, var(--a0) 50% 100%)" in page


def test_texts_that_name_a_value_lead_and_the_true_order_is_told(scenes, tmp_path):
    images, models = scenes
    spans = few_heads(models["demo"])["textspan"].compute()
    names, values, texts = (spans[name].astype(object) for name in ("text_attribute", "text_value", "text"))
    names[0, 0, 0], values[0, 0, 0] = "", ""
    names[0, 0, 0, 2], values[0, 0, 0, 2] = "shape", "ring"
    names[0, 0, 1], values[0, 0, 1] = "shape", "ring"
    texts[0, 0, 0] = [f"text {k}" for k in range(texts.shape[-1])]
    changed = spans.assign(text_attribute=names, text_value=values, text=texts)
    build_report(tmp_path / "report", images, {"demo": {"textspan": changed}})
    page, untouched = ((tmp_path / f"report/heads/demo-L1H{k}.html").read_text() for k in (0, 1))
    first = page.split('<div role="tabpanel">')[1]
    shown = re.findall(r'<span class="rank">(\d+)</span><span class="words">text (\d+)</span>', first)
    assert shown == [("3", "2"), ("1", "0"), ("2", "1"), *((str(k + 1), str(k)) for k in range(3, len(texts[0, 0, 0])))]
    assert "The order is changed" in first
    assert "The order is changed" not in untouched.split('<div role="tabpanel">')[1]
    index = Page(tmp_path / "report/index.html")
    title = next(
        found["title"] for tag, found in index.tags if found.get("class") == "cell" and "L1.H0" in found["title"]
    )
    assert "“text 2”" in title


def test_opens_with_what_was_found_negatives_included(report):
    page = (report / "index.html").read_text()
    found = re.search(r'<ul class="found".*?</ul>', page, re.DOTALL)[0]
    sentences = re.findall(r"<li>(.*?) <a href=\"#(\w+)\">", found)
    assert 5 <= len(sentences) <= 10
    assert all(re.search(r"\d", text) for text, _ in sentences)
    assert all(f'<section id="{key}">' in page for _, key in sentences)
    assert any("not distinguishable" in text for text, _ in sentences)
    assert page.index('<ul class="found"') < page.index("<section ")


def test_a_pool_that_ran_out_ends_early(scenes, tmp_path):
    images, models = scenes
    spans = few_heads(models["demo"])["textspan"].compute()
    text = spans["text"].astype(object)
    text[0, :, :, 2:] = ""
    build_report(tmp_path / "report", images, {"demo": models["demo"] | {"textspan": spans.assign(text=text)}})
    page = (tmp_path / "report" / "heads" / "demo-L1H1.html").read_text()
    assert page.count("<li>") == 2 + 3 * 6


def test_never_overwrites(scenes, tmp_path):
    (tmp_path / "report").mkdir()
    with pytest.raises(ArtifactError, match="never overwritten"):
        build_report(tmp_path / "report", *scenes)


def test_appears_whole_or_not_at_all(scenes, tmp_path, monkeypatch):
    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(build, "unit_pages", fail)
    with pytest.raises(OSError, match="disk full"):
        build_report(tmp_path / "report", *scenes)
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_report_is_said(tmp_path):
    with pytest.raises(DataError, match="there are no image splits, expected at least one"):
        build_report(tmp_path / "report", {}, {"demo": {}})


def test_an_image_of_no_split_is_marked(scenes, tmp_path):
    images, models = scenes
    roles = models["demo"]["roles"].compute()
    roles = roles.assign(top_image=xr.full_like(roles["top_image"].astype(object), "elsewhere/000001"))
    build_report(tmp_path / "report", images, {"demo": few_heads(models["demo"]) | {"roles": roles}})
    assert "elsewhere/000001: not in any split" in (tmp_path / "report" / "heads" / "demo-L1H1.html").read_text()


def test_the_stage_writes_it(artifacts, report, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    none = [f"{section}.models={{}}" for section in ("sample", "generate", "drawn", "fidelity")]
    none += ["rosetta.groups={}", "disagreement.groups={}", "neuron_pictures.groups={}"]
    (tmp_path / "params.yaml").write_text(profile_text("demo", ["second_order.layers=[0,1]", *none]))
    kinds = (
        "images",
        "embeddings",
        "neurons",
        "samples",
        "drawn",
        "fidelity",
        "rosetta",
        "rosetta_inversion",
        "rosetta_edits",
        "round_trip",
        "npca",
        "spurious_scores",
        "counterfactuals",
        "disagreement",
        "neuron_pictures",
        *KINDS,
        *VISUAL,
    )
    argv = [f"--{kind}={artifacts / kind}" for kind in kinds]
    main([*argv, f"--out={tmp_path / 'report'}"])
    folders = {"assets", "heads", "neurons", "visualisations", "units"}
    assert {path.name for path in (tmp_path / "report").iterdir()} == {"index.html", *folders}
    page = (tmp_path / "report/index.html").read_text()
    assert "reference_sets/resnet" in page
    assert "errors: in 5 of 6 counterfactuals the classifier, vit and the judge" in page


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_draws_its_plots_and_fits_a_phone(report, tmp_path):
    """In frames as wide as a phone: plots are drawn, nothing scrolls sideways, and no error is raised."""
    shutil.copytree(report, tmp_path / "report")
    frames = ""
    for name in ("index.html", "heads/demo-L2H3.html", "neurons/demo-L0-0.html"):
        base = f'<base href="{(tmp_path / "report" / name).as_uri()}">'
        errors = '<script>window.errors=[];addEventListener("error",e=>errors.push(e.message))</script>'
        page = (report / name).read_text().replace("<head>", "<head>" + base + errors)
        frames += f'<iframe style="width:360px;height:3000px" srcdoc="{html.escape(page, quote=True)}"></iframe>'
    tell = """<script>setInterval(() => { document.title = JSON.stringify([...document.querySelectorAll("iframe")].map(
        ({contentWindow: w}) => [w.document.documentElement.scrollWidth, w.errors,
        w.document.querySelectorAll(".main-svg").length, w.document.querySelectorAll("article").length,
        w.document.querySelectorAll("article:not([hidden])").length]))}, 200)</script>"""
    (tmp_path / "frames.html").write_text(f"<!doctype html><title></title>{frames}{tell}")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    options += ["--disable-background-networking", "--disable-component-update", f"--user-data-dir={tmp_path / 'user'}"]
    options += ["--window-size=1000,3100", "--virtual-time-budget=8000", "--dump-dom"]
    asked = [CHROMIUM, *options, (tmp_path / "frames.html").as_uri()]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=300)
    except subprocess.TimeoutExpired:
        pytest.skip("Chromium took too long")
    found = json.loads(html.unescape(re.search(r"<title>(.*?)</title>", done.stdout)[1]))
    assert all(0 < width <= 360 and errors == [] for width, errors, *_ in found)
    assert found[0][2] >= 1
    neurons, seen = found[2][3:]
    assert neurons > 1 == seen, "of the neurons on a page one is seen at a time"
