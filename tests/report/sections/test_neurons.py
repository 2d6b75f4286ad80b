"""The report on neurons: their pages, their sections, and what is said where something is missing."""

import base64
import io
import re

import numpy as np
import pytest
import xarray as xr
from PIL import Image
from planted_findings import HOSTILE, NEURONS, PER_LAYER
from report_pages import Page, contents

from optogram.report.build import build_report
from optogram.report.images import heat_strip, heat_uri
from optogram.report.sections import neuron_pages

KINDS = ("neuron_ablation", "concepts", "adversarial")


def only_neurons(parts):
    """The findings on neurons, with two heads only: pages that are quick to write."""
    few = {kind: parts[kind] for kind in (*PER_LAYER, *KINDS)}
    return few | {"textspan": parts["textspan"].isel(layer=[0], head=[0, 1])}


@pytest.fixture(scope="module")
def report(scenes, tmp_path_factory):
    images, models = scenes
    out = tmp_path_factory.mktemp("neurons") / "report"
    build_report(out, images, {"demo": only_neurons(models["demo"])})
    return out


def built(out, scenes, **changed):
    """The text of an index page with some findings replaced, or left out where None."""
    images, models = scenes
    parts = {**models["demo"], **changed}
    build_report(out, images, {"demo": {kind: part for kind, part in parts.items() if part is not None}})
    return " ".join(" ".join(Page(out / "index.html").text).split())


def neuron_page(report, layer, neuron):
    """What stands on one neuron."""
    page = (report / "neurons" / f"demo-L{layer}-0.html").read_text()
    start = page.index(f'<article class="unit" id="L{layer}N{neuron}">')
    return page[start : page.index("</article>", start)]


def test_has_a_page_for_each_neuron_that_is_shown(report, scenes):
    links = {link for link in Page(report / "index.html").links if link.startswith("neurons/")}
    assert links == {f"neurons/demo-L{layer}-0.html#L{layer}N{n}" for layer in (0, 1) for n in range(0, NEURONS, 2)}
    for layer in (0, 1):
        page = Page(report / "neurons" / f"demo-L{layer}-0.html")
        assert {f"L{layer}N{n}" for n in range(0, NEURONS, 2)} <= page.ids


def test_many_neurons_of_a_layer_take_several_pages(report, scenes, tmp_path, monkeypatch):
    monkeypatch.setattr(neuron_pages, "ON_PAGE", 4)
    images, models = scenes
    build_report(tmp_path / "report", images, {"demo": only_neurons(models["demo"])})
    pages = sorted((tmp_path / "report" / "neurons").iterdir())
    assert [path.name for path in pages] == [f"demo-L{layer}-{k}.html" for layer in (0, 1) for k in (0, 1)]
    found = [re.findall('<article class="unit" id="(.*?)">', path.read_text()) for path in pages]
    assert found[:2] == [["L0N0", "L0N2", "L0N4", "L0N6"], ["L0N8", "L0N10"]]


def test_next_leads_through_all_neurons_and_back(report):
    seen, name = [], "demo-L0-0.html#L0N0"
    while name not in seen:
        seen.append(name)
        layer, neuron = re.search(r"#L(\d+)N(\d+)", name).groups()
        name = re.search(r'href="([^"]+)" rel="next"', neuron_page(report, layer, neuron))[1]
    assert len(seen) == NEURONS
    assert name == "demo-L0-0.html#L0N0"


def test_a_page_tells_the_texts_with_their_signs(report, scenes):
    part = scenes[1]["demo"]["neurons/0"].sel(neuron=6)
    page = neuron_page(report, 0, 6)
    rows = re.findall(r'<li class="[\w ]+" style="--l:([\d.]+);--w:([\d.]+)"><p>(.*?)</p><b>(.*?)</b>', page)
    pools = [0, 1, 2]  # the random directions are a yardstick and no texts
    wanted = [(str(part.text[p, k].item()), float(part.weight[p, k])) for p in pools for k in range(4)]
    assert [re.sub("<.*", "", text).strip() for _, _, text, _ in rows] == [text.strip() for text, _ in wanted]
    scale = part.weight.isel(pool=pools).values
    low, room = scale.min(), scale.max() - scale.min()
    for (left, width, _, says), (_, weight) in zip(rows, wanted, strict=True):
        assert float(left) == pytest.approx(100 * (min(weight, 0) - low) / room, abs=0.06)
        assert float(width) == pytest.approx(100 * abs(weight) / room, abs=0.06)
        assert says[0] == ("+" if weight > 0 else "\N{MINUS SIGN}")
    assert "random</button>" not in page


def test_a_neuron_without_texts_says_so(report):
    assert neuron_page(report, 0, 2).count("No text of this pool explains any of it.") == 3
    assert "<strong>nothing</strong>" in neuron_page(report, 0, 2)


def test_a_page_shows_the_top_images_with_maps_and_norms(report, scenes):
    part = scenes[1]["demo"]["neurons/1"].sel(neuron=8)
    page = neuron_page(report, 1, 8)
    figures = re.findall(r"<figure (.*?)</figure>", page)
    assert len(figures) == part.sizes["k"]
    for k, figure in enumerate(figures):
        assert str(part.top_image[k].item()) in figure
        assert f"<figcaption>{float(part.norm[k]):.3g}</figcaption>" in figure
        assert f";--j:{k}" in figure
        assert figure.index('role="img"') < figure.index('class="over"'), "the bare image comes first"
    assert "form no separate groups" in page


def test_the_images_of_a_polysemantic_neuron_are_grouped(report, scenes):
    part = scenes[1]["demo"]["neurons/0"].sel(neuron=4)
    page = neuron_page(report, 0, 4)
    assert "The first 8 fall into 2 well-separated groups of 6 and 2" in page
    assert "polysemantic" in page
    parts = page.split("<h3>")[1:]
    assert [part.split("<")[0] for part in parts] == ["Group 1: 6 of 8 images", "Group 2: 2 of 8 images"]
    # maps are of the first three images: 0 and 2 of the first group, 1 of the second
    for text, ranks, mapped in zip(parts, ([0, 2, 3, 4], [1, 7]), ([0, 2], [1]), strict=True):
        shown = re.findall(r'role="img" title="(eval/\d+)', text)
        assert shown == [str(part.top_image[rank].item()) for rank in ranks]
        assert [int(j) for j in re.findall(r"--j:(\d)", text)] == mapped


def test_a_page_and_a_head_s_page_name_each_other(report, scenes):
    parts = scenes[1]["demo"]
    page = neuron_page(report, 0, 6)
    through = parts["neurons/0"].through.sel(neuron=6)
    most = np.argsort(-np.abs(through.values.ravel()), kind="stable")[:6]
    names = [f"L{through.layer.values[k // 8]}.H{k % 8}" for k in most]
    flows = page[page.index("Which heads it writes through") :]
    assert re.findall(r"L\d\.H\d", re.sub(r"<a [^>]*>|</a>", "", flows))[:6] == names
    head = (report / "heads" / "demo-L1H1.html").read_text()
    passes = parts["neurons/0"].through.sel(layer=1, head=1).values  # of the two MLPs it comes after the first alone
    most = np.argsort(-np.abs(passes), kind="stable")[:10]
    listed = head[head.index("Which neurons write through it") :]
    assert re.findall(r"L0\.N\d+", re.sub(r"<a [^>]*>|</a>", "", listed)) == [f"L0.N{n}" for n in most]
    linked = set(re.findall(r'href="\.\./neurons/demo-L0-0\.html#L0N(\d+)"', listed))
    assert linked == {str(n) for n in most if n % 2 == 0}
    text = str(parts["neurons/0"].text.sel(neuron=most[0]).isel(pool=0, step=0).item())
    assert text in listed


def test_the_index_draws_figures_3_3_and_3_4(report, scenes):
    found = scenes[1]["demo"]["neuron_ablation"]
    every = Page(report / "index.html").json
    figures = {figure[0]["name"]: figure for figure in every}
    lines = "w/o activations (indirect)"
    ablations = next(figure for figure in every if any(line.get("name") == lines for line in figure[0]["data"]))
    wanted = found.accuracy.mean("attribute")
    lines = {line["name"]: line["y"] for line in ablations[0]["data"]}
    assert lines["w/o all neurons"] == pytest.approx(wanted.sel(condition="all").values, abs=1e-4)
    assert lines["reconstruction from PC #1"] == pytest.approx(wanted.sel(condition="rank_one").values, abs=1e-4)
    assert lines["w/o activations (indirect)"] == pytest.approx(wanted.sel(condition="indirect").values, abs=1e-4)
    assert {"chance", "nothing ablated", "w/o small norm", "w/o large norm", "w/o first-order effects"} <= set(lines)
    assert [option["name"] for option in ablations] == [
        "mean over attributes",
        *("shape", *(a for a in found.attribute.values if a != "shape")),
    ]
    texts = figures["layer 0, mean over attributes"]
    assert [option["name"] for option in texts] == [
        f"layer {layer}, {of}" for layer in (0, 1) for of in ("mean over attributes", "shape")
    ]
    shape = {line["name"]: line["y"] for line in texts[3]["data"]}
    wanted = found.reconstructed.sel(layer=1, attribute="shape")
    assert shape["words"] == pytest.approx(wanted.sel(pool="words").values, abs=1e-4)


def test_lines_that_lie_together_are_also_shown_as_differences(scenes, tmp_path):
    images, models = scenes
    found = models["demo"]["neuron_ablation"].compute()
    near = found.assign(accuracy=0.95 + 0.02 * found.accuracy)
    build_report(tmp_path / "report", images, {"demo": {"neuron_ablation": near}})
    every = Page(tmp_path / "report/index.html").json
    close = next(f for f in every if any(t.get("name") == "layer 1" for t in f[0]["data"]))[0]
    assert close["layout"]["xaxis"]["title"]["text"] == "change of accuracy, in points"
    (dots,) = [trace for trace in close["data"] if trace["name"] == "layer 1"]
    change = (near.accuracy - near.accuracy.sel(condition="none")).mean("attribute").sel(layer=1)
    wanted = change.sel(condition=["all", "small", "large", "rank_one"]).values
    assert dots["x"] == pytest.approx(wanted, abs=1e-4)
    low, high = close["layout"]["xaxis"]["range"]
    assert low < wanted.min() < wanted.max() < high
    assert all(above >= 0 for above in dots["error_x"]["array"])


def test_the_index_has_table_3_1_and_the_neurons_of_each_layer(report, scenes):
    parts = scenes[1]["demo"]
    text = " ".join(Page(report / "index.html").text)
    for value in parts["neuron_ablation"].explained.values.ravel():
        assert f"{100 * value:.1f}%" in text
    assert "layer 1, second order, same images" in text
    truth = parts["neurons/1"].attrs
    assert f"{round(truth['agreement'] * truth['neurons'])} of {truth['neurons']} (" in text
    assert "polysemantic" in text
    largest = parts["neurons/1"].norm.mean("rank").values.argsort()[::-1]
    listed = re.findall(r'<th scope="row">(?:<a [^>]*>)?(L1\.N\d+)', (report / "index.html").read_text())
    assert listed == [f"L1.N{n}" for n in largest]


def test_concepts_are_marked_and_counted(report, scenes):
    found = scenes[1]["demo"]["concepts"]
    page = (report / "index.html").read_text()
    section = page[page.index('<section id="concepts">') : page.index('<section id="adversarial">')]
    assert section.index('<details class="rest">') > section.index("<li><b class=")
    items = re.findall(
        r'<li><b class="(\w+)" role="img" aria-label="[^"]+" title="[^"]+">.</b><span>(.*?)</span>', section
    )
    kinds = {1: "true", 0: "false", -1: "open"}
    wanted = [
        (kinds[int(t)], str(text))
        for texts, true in zip(found.text.values[:8], found.true.values[:8], strict=True)
        for text, t in zip(texts, true, strict=True)
        if text
    ]
    assert items == wanted
    assert "61.0%" in section
    assert "46% to 75%; 25 of 41" in section
    assert "by chance 22.0%" in section


def test_robustness_has_table_3_3_phrases_and_examples(report, scenes):
    found = scenes[1]["demo"]["adversarial"]
    page = (report / "index.html").read_text()
    section = page[page.index('<section id="adversarial">') : page.index('<section id="provenance">')]
    columns = re.findall(r'<th scope="col">(.*?)</th>', section)
    assert columns[:6] == [
        "task",
        "Random neurons",
        "Indirect effect",
        "Similar words",
        "Second order",
        "accuracy on eval",
    ]
    share = 100 * found.fooled.values / found.images.values
    for task in range(2):
        row = re.search(rf'<th scope="row">{found.task.values[task]}</th>(.*?)</tr>', section)[1]
        cells = re.findall(r"<td( class=\"best\")?>(.*?)</td>", row)
        order = [1, 2, 3, 0]
        assert [text for _, text in cells[:4]] == [
            f"{share[task, m].mean():.1f} (±{share[task, m].std():.1f})" for m in order
        ]
        best = [m for m, (bold, _) in zip(order, cells, strict=False) if bold]
        # three repeats of 20 images, drawn at random: no method is distinguishably ahead of all others
        assert best == []
    assert str(found["phrase"].values[0, 0, 0]) in section
    assert "task 0 by second_order, 1" in section
    assert "task 0 by random" not in section
    assert section.count("No image misled the model.") == 1


def test_the_examples_lie_on_a_sheet_of_their_own(report, scenes):
    page = (report / "index.html").read_text()
    place = r'(grid-misled[\w-]+)" style="--x:(\d+);--y:(\d+)" role="img" title="circle'
    sheet, x, y = re.search(place, page).groups()
    (file,) = (report / "assets").glob(f"{sheet}.*")
    cell = np.asarray(Image.open(file).convert("RGB"))[24 * int(y) :, 24 * int(x) :][:24, :24].astype(int)
    truth = scenes[1]["demo"]["adversarial"].pixels.values[0, 0, 0].astype(int)
    assert np.abs(cell - truth).mean() < 30  # noise, as JPEG
    assert np.corrcoef(cell.ravel(), truth.ravel())[0, 1] > 0.8


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_skipped_says_why_and_what_is_absent_too(scenes, tmp_path, kind):
    skipped = xr.Dataset(attrs={"skipped": "no <reason> at all"})
    assert "no <reason> at all" in built(tmp_path / "skipped", scenes, **{kind: skipped})
    assert "This was not run." in built(tmp_path / "absent", scenes, **{kind: None})


def test_neurons_that_were_not_looked_at_one_by_one(scenes, tmp_path):
    text = built(tmp_path / "report", scenes, **{kind: None for kind in PER_LAYER})
    assert "The neurons themselves: this was not run." in text
    assert "w/o all neurons" in text
    assert not (tmp_path / "report" / "neurons").exists()
    assert "Which neurons write through it" not in (tmp_path / "report/heads/demo-L2H3.html").read_text()


def test_what_could_not_be_compared_is_said(photos, tmp_path):
    images, models = photos
    build_report(tmp_path / "report", images, models)
    text = " ".join(Page(tmp_path / "report/index.html").text)
    assert "Texts and images were not compared: no neuron has both" in text
    assert "no concept names a value of <these images>" in text
    assert "these images have no <masks> for adversarial" in text


def test_hostile_texts_stay_text_on_the_pages_of_neurons(scenes, tmp_path):
    images, models = scenes
    parts = {kind: part.compute() for kind, part in only_neurons(models["demo"]).items()}
    layer = parts["neurons/0"]
    parts["neurons/0"] = layer.assign(text=layer.text.copy(data=np.full(layer.text.shape, HOSTILE, object)))
    concepts = parts["concepts"]
    parts["concepts"] = concepts.assign(text=concepts.text.copy(data=np.full(concepts.text.shape, HOSTILE, object)))
    found = parts["adversarial"].assign_coords(task=[HOSTILE, "b"])
    parts["adversarial"] = found.assign(description=found.description.copy(data=np.full((2, 4, 2), HOSTILE, object)))
    build_report(tmp_path / "report", images, {"demo": parts})
    for path in (tmp_path / "report").rglob("*.html"):
        page = Page(path)
        scripts = [found for tag, found in page.tags if tag == "script"]
        assert all("assets/" in found.get("src", "") or found["type"] == "application/json" for found in scripts), path
        assert not [name for _, found in page.tags for name in found if name.startswith("on")], path
        assert not [tag for tag, found in page.tags if tag == "img" and not found["src"].startswith("data:")], path
    assert HOSTILE in Page(tmp_path / "report/neurons/demo-L0-0.html").text
    index = Page(tmp_path / "report/index.html")
    assert index.text.count(HOSTILE) > 8


def test_the_same_bytes_twice(report, scenes, tmp_path):
    images, models = scenes
    build_report(tmp_path / "again", images, {"demo": only_neurons(models["demo"])})
    assert contents(report) == contents(tmp_path / "again")


def test_the_neurons_artifacts_are_remade_by_layer(report):
    page = (report / "neurons" / "demo-L1-0.html").read_text()
    assert page.count("dvc repro neurons@demo-1") == 1
    assert "optogram.open(&#34;neurons/demo/1&#34;)" in page


def test_a_strip_holds_each_map_within_a_frame():
    heats = np.random.default_rng(0).normal(size=(3, 4, 5))
    strip = np.asarray(Image.open(io.BytesIO(base64.b64decode(heat_strip(heats).split(",")[1])))).astype(int)
    assert strip.shape == (3 * 6, 7, 4)
    for k, heat in enumerate(heats):
        framed = strip[6 * k : 6 * k + 6]
        alone = Image.open(io.BytesIO(base64.b64decode(heat_uri(heat, signed=False).split(",")[1])))
        assert np.abs(framed[1:-1, 1:-1] - np.asarray(alone)).max() <= 7
        assert (framed == np.pad(framed[1:-1, 1:-1], ((1, 1), (1, 1), (0, 0)), "edge")).all()
