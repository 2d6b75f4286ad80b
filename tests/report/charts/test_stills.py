"""The still figures: which there are, what they show, that nothing is cut, and the same bytes anywhere."""

import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import xarray as xr
from matplotlib.colors import to_hex
from matplotlib.text import Text
from PIL import Image
from planted_findings import write_run

from optogram.errors import ArtifactError
from optogram.report.charts import sheet
from optogram.report.charts.chart import share_span
from optogram.report.findings import collect
from optogram.report.stills import DRAWERS, write_stills
from optogram.store.digests import folder_digest

ROOT = Path(__file__).parents[3]
STRANGE = {
    "shape": "$x_1$ \\frac{",
    "colour": "<b>bold</b> & co",
    "texture": "猫犬",
    "size": "очень длинное имя признака " * 4,
    "count": "a\nb\u202e",
    "position": "W" * 300,
    "background": "",
}


def strange(names):
    """The planted findings under other names."""

    def renamed(scenes):
        images, models = scenes

        def rename(dataset):
            dataset = dataset.copy()
            if "attribute" in dataset.coords:
                dataset = dataset.assign_coords(attribute=[names[str(a)] for a in dataset.attribute.values])
            for variable in ("named", "measured", "measured_by_margin"):
                if variable in dataset:
                    found = [names.get(str(a), "") for a in dataset[variable].values.ravel()]
                    dataset[variable] = dataset[variable].dims, np.array(found).reshape(dataset[variable].shape)
            return dataset

        kinds = {kind for kind, _ in DRAWERS.values()}
        parts = {kind: rename(models["demo"][kind].drop_vars("direction", errors="ignore")) for kind in kinds}
        for kind in ("textspan", "neuron_ablation"):
            parts[kind] = parts[kind].assign_coords(pool=["$\\bad", "x" * 300, "", "random"])
        shown = rename(images["eval"].drop_attrs()).assign_attrs(class_attribute=names["shape"])
        return {"eval": shown}, {"$m_1$ " + "long" * 80: parts}

    return renamed


CASES = {"scenes": lambda scenes: scenes, "strange": strange(STRANGE)}


@pytest.fixture(scope="module")
def written(scenes, tmp_path_factory):
    out = tmp_path_factory.mktemp("stills") / "figures"
    write_stills(out, *scenes)
    return out


def drawn(found, name):
    """The sheet of a figure, and its caption."""
    findings = collect(*found)
    (model,) = findings.models
    kind, draw = DRAWERS[name]
    with sheet.plain_style():
        _, caption, made = draw(findings, model, model.part(kind))
        made.figure.draw_without_rendering()
    return made, caption


def texts(figure):
    return [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]


def schema():
    part = (ROOT / "docs/artifacts/figures.md").read_text().split("## `figures`")[1].split("\n#")[0]
    return set(re.findall(r"^\| `(\w+)` \|", part, re.MULTILINE))


def test_a_figure_a_finding_and_an_index_of_them(written):
    index = json.loads((written / "index.json").read_text())
    files = [entry["file"] for entry in index]
    assert files == sorted(f"demo-{kind}.png" for kind in DRAWERS)
    assert {path.name for path in written.iterdir()} == {*files, "index.json"}
    for entry in index:
        assert set(entry) == schema()
        assert entry["model"] == "demo"
        assert all(entry.values())


def test_pngs_are_wide_enough_and_carry_nothing_but_pixels(written):
    for path in written.glob("*.png"):
        chunks = re.findall(rb"(?:IHDR|tEXt|iTXt|zTXt|tIME|eXIf)", path.read_bytes())
        assert chunks == [b"IHDR"]
        with Image.open(path) as image:
            assert image.width == 1800
            corners = [image.convert("RGB").getpixel(at) for at in ((0, 0), (1799, 0), (0, image.height - 1))]
            assert corners == [(255, 255, 255)] * 3
            assert len(image.convert("RGB").getcolors(1 << 24)) > 20, "something is drawn"


def test_what_was_skipped_gives_no_figure(photos, tmp_path):
    write_stills(tmp_path / "figures", *photos)
    assert {path.name for path in (tmp_path / "figures").glob("*.png")} == {
        f"demo-{name}.png" for name in ("ablation", "textspan", "neurons", "neuron-texts")
    }


def test_two_models_are_told_apart(tmp_path):
    found = write_run(tmp_path / "run", models=("a b", "a/b"), counts=(("eval", 20),))
    write_stills(tmp_path / "figures", *found)
    index = json.loads((tmp_path / "figures/index.json").read_text())
    assert len(index) == 2 * len(DRAWERS)
    assert {entry["file"]: entry["model"] for entry in index}["a_b-2-roles.png"] == "a/b"


ANYWHERE = """
import sys
from pathlib import Path
from optogram.store.read import read
from optogram.report.stills import DRAWERS, write_stills
root = Path(sys.argv[1])
kinds = ("ablation", "textspan", "roles", "spurious", "segmentation", "neuron_ablation")
models = {"demo": {kind: read(root / kind / "demo") for kind in kinds}}
write_stills(Path("figures"), {"eval": read(root / "images/eval")}, models)
assert "matplotlib.pyplot" not in sys.modules
"""


def test_the_same_bytes_elsewhere_and_not_a_word(artifacts, written, tmp_path):
    """With another user's settings, and a home where matplotlib cannot write."""
    (tmp_path / "matplotlibrc").write_text("font.size: 30\nlines.linewidth: 9\naxes.facecolor: red\nsavefig.dpi: 30\n")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MPL", "XDG"))}
    environment = {**kept, "HOME": "/dev/null", "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", ANYWHERE, str(artifacts)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert folder_digest(tmp_path / "figures") == folder_digest(written)


def test_the_user_s_settings_are_left_alone(scenes, tmp_path):
    with matplotlib.rc_context({"font.size": 31}):
        before = dict(matplotlib.rcParams)
        write_stills(tmp_path / "figures", *scenes)
        assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", DRAWERS)
def test_no_text_is_cut_off_covered_small_or_interpreted(scenes, kind, case):
    made, _ = drawn(CASES[case](scenes), kind)
    renderer = made.figure.canvas.get_renderer()
    width, height = made.figure.canvas.get_width_height()
    boxes = []
    for text in texts(made.figure):
        box = text.get_window_extent(renderer)
        assert box.x0 >= 0, text
        assert box.x1 <= width, text
        assert box.y0 >= 0, text
        assert box.y1 <= height, text
        # points times 100 / 72 are pixels where the figure is 900 wide
        assert text.get_fontsize() >= 8, text
        assert Path(text.get_fontproperties().get_file()).is_relative_to(matplotlib.get_data_path()), text
        assert not text.get_parse_math() or "$" not in text.get_text(), text
        boxes.append((box, text))
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        across = min(one.x1, other.x1) - max(one.x0, other.x0)
        down = min(one.y1, other.y1) - max(one.y0, other.y0)
        assert across <= 1 or down <= 3, (a, b)


@pytest.fixture(scope="module")
def strange_index(scenes, tmp_path_factory):
    out = tmp_path_factory.mktemp("strange") / "figures"
    write_stills(out, *strange(STRANGE)(scenes))
    return json.loads((out / "index.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("kind", DRAWERS)
def test_strange_names_are_drawn_literally_and_written_in_full(scenes, kind, strange_index):
    made, _ = drawn(strange(STRANGE)(scenes), kind)
    shown = [text.get_text() for text in texts(made.figure)]
    assert any(text.startswith("$m_1$ long") for text in shown)
    if kind in ("ablation", "textspan", "neurons"):
        assert {"$x_1$ \\frac{", "<b>bold</b> & co", "[732B][72AC]", "a b"} <= set(shown)
    caption = next(entry["caption"] for entry in strange_index if entry["file"].endswith(f"-{kind}.png"))
    assert "$m_1$ " + "long" * 80 in caption
    assert all(len(entry["file"]) < 130 for entry in strange_index)
    if kind == "ablation":
        assert "“[732B][72AC]” stands for “猫犬”" in caption


def lines(axes, name):
    """The numbers of what is drawn under a name, as (x, y) of each line."""
    return [(np.asarray(x.get_xdata()), np.asarray(x.get_ydata())) for x in axes.lines if x.get_label() == name]


def test_ablation_draws_every_accuracy(scenes):
    made, _ = drawn(scenes, "ablation")
    found = scenes[1]["demo"]["ablation"]
    (axes,) = made.figure.axes
    names = {"none": "nothing ablated", "mlps": "all MLPs", "class_token": "class token"}
    names |= {"class_token+mlps": "class token and MLPs"}
    for condition, name in names.items():
        ((x, y),) = lines(axes, name)
        assert x == pytest.approx(found.accuracy.sel(condition=condition).values)
        assert np.rint(y).tolist() == list(range(7))
    ((x, _),) = lines(axes, "chance")
    assert x == pytest.approx(found.chance.values)


def test_textspan_draws_every_curve_and_level(scenes):
    made, _ = drawn(scenes, "textspan")
    found = scenes[1]["demo"]["textspan"]
    panels = [found.mean("attribute"), *(found.sel(attribute=a) for a in found.attribute.values)]
    levels = {"unaltered model": "base_accuracy", "all mean-ablated": "ablated_accuracy", "chance": "chance"}
    for axes, panel in zip(made.figure.axes, panels, strict=True):
        for name, variable in levels.items():
            ((_, y),) = lines(axes, name)
            assert y[0] == pytest.approx(float(panel[variable]))
        for pool in found.pool.values:
            ((x, y),) = lines(axes, pool)
            assert x.tolist() == found["size"].values.tolist()
            assert y == pytest.approx(panel.accuracy.sel(pool=pool).values)
    curves = [line for line in axes.lines if line.get_label() in found.pool.values]
    assert len({(c.get_color(), c.get_marker(), c.get_linestyle()) for c in curves}) == 4


def test_neurons_draws_the_change_of_every_condition(scenes):
    made, _ = drawn(scenes, "neurons")
    found = scenes[1]["demo"]["neuron_ablation"]
    change = found.accuracy - found.accuracy.sel(condition="none")
    panels = [change.mean("attribute"), *(change.sel(attribute=a) for a in found.attribute.values)]
    for axes, panel in zip(made.figure.axes, panels, strict=True):
        for layer in (0, 1):
            ((x, _),) = lines(axes, f"layer {layer}")
            assert x == pytest.approx(panel.sel(condition=["all", "small", "large", "rank_one"], layer=layer).values)
            assert axes.get_xlim()[0] <= min(x) <= max(x) <= axes.get_xlim()[1]
    shown = {text.get_text() for text in texts(made.figure)}
    assert {"w/o all neurons", "reconstruction from PC #1", "layer 1", "nothing ablated"} <= shown


def test_neuron_texts_draws_the_layers_and_their_levels(scenes):
    made, caption = drawn(scenes, "neuron-texts")
    found = scenes[1]["demo"]["neuron_ablation"]
    kinds = {"nothing ablated": "none", "one direction a neuron": "rank_one", "w/o all neurons": "all"}
    panels = [(layer, of) for layer in (0, 1) for of in (found.mean("attribute"), found.sel(attribute="shape"))]
    for axes, (layer, of) in zip(made.figure.axes, panels, strict=True):
        here = of.sel(layer=layer)
        for name, condition in kinds.items():
            ((_, y),) = lines(axes, name)
            assert y[0] == pytest.approx(float(here.accuracy.sel(condition=condition)))
        for pool in found.pool.values:
            ((x, y),) = lines(axes, pool)
            assert x.tolist() == found["size"].values.tolist()
            assert y == pytest.approx(here.reconstructed.sel(pool=pool).values)
    shown = {text.get_text() for text in texts(made.figure)}
    assert {"layer 0, mean over attributes", "layer 1, shape", "texts a neuron"} <= shown
    assert "mean over shape" in caption


def test_spurious_draws_worst_overall_and_draws(scenes):
    images, models = scenes
    found = models["demo"]["spurious"]
    made, caption = drawn((images, {"demo": {"spurious": found}}), "spurious")
    (axes,) = made.figure.axes
    for name, wanted in (("worst group", found.worst), ("all images", found.overall)):
        ((x, y),) = lines(axes, name)
        assert x == pytest.approx(wanted.values)
        assert y.tolist() == list(range(6))
    ((x, y),) = lines(axes, "worst group of one random draw")
    assert x.tolist() == found.draw_worst.values.ravel().tolist()
    assert y.tolist() == [3, 3, 3, 5, 5, 5]
    low, high = axes.get_xlim()
    assert low <= 0.1
    assert high >= float(found.overall.max())
    assert ("not from zero" in " ".join(t.get_text() for t in texts(made.figure))) == (low > 0)
    assert str(found["heads"].sel(ablation="chosen").item()) in caption
    gain = 100 * float(found.worst[1] - found.worst[0])
    told = f"{gain:+.1f} points".replace("-", "\N{MINUS SIGN}")
    assert any(t.get_text().endswith(told) for t in texts(made.figure))


def test_segmentation_draws_every_score_and_marks_the_best(scenes):
    made, _ = drawn(scenes, "segmentation")
    score = scenes[1]["demo"]["segmentation"].score
    for axes, metric in zip(made.figure.axes, score.metric.values, strict=True):
        values = score.sel(metric=metric).values
        assert [bar.get_width() for bar in axes.containers[0]] == pytest.approx(values)
        bold = ["Bold" in str(text.get_fontproperties().get_file()) for text in axes.texts]
        # planted differences are known to 0.04
        assert bold == (values.max() - values < 0.04).tolist()


def test_roles_colours_every_head_and_frames_agreement(scenes):
    made, _ = drawn(scenes, "roles")
    found, findings = scenes[1]["demo"]["roles"], collect(*scenes)
    boxes = [patch for patch in made.figure.artists if patch.get_width() < 0.2 and hasattr(patch, "get_facecolor")]
    framed = [box for box in boxes if box.get_facecolor()[3] == 0]
    filled = [to_hex(box.get_facecolor()) for box in boxes if box.get_facecolor()[3]]
    named, measured = found.named.values[::-1].ravel(), found.measured.values[::-1].ravel()
    wanted = [findings.colour(str(a)) for pair in zip(named, measured, strict=True) for a in pair]
    assert filled == [sheet.tint(colour, 0.42) for colour in wanted]
    assert len(framed) == int((named == measured).sum())


def test_many_heads_take_more_rows(scenes):
    images, models = scenes
    twice = {}
    for kind in ("textspan", "roles"):
        part = models["demo"][kind]
        other = part.assign_coords(head=part["head"] + 8)
        twice[kind] = xr.concat([part, other], "head", data_vars="minimal").assign_attrs(part.attrs)
    made, _ = drawn((images, {"demo": twice}), "roles")
    shown = {text.get_text() for text in texts(made.figure)}
    assert {f"L{layer}.H{head}" for layer in range(1, 5) for head in range(16)} <= shown


def test_an_out_is_never_overwritten(scenes, written):
    digest = folder_digest(written)
    with pytest.raises(ArtifactError, match="never overwritten"):
        write_stills(written, *scenes)
    assert folder_digest(written) == digest


def test_whole_or_not_at_all(scenes, tmp_path, monkeypatch):
    def fail(*args, **options):
        raise OSError("the disk is full")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="the disk is full"):
        write_stills(tmp_path / "figures", *scenes)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("two\nlines\t", "two lines"),
        ("e\u0301", "é"),
        ("a\u202eb\x00", "ab"),
        ("猫", "[732B]"),
        ("\udc80", "[DC80]"),
        ("", ""),
    ],
)
def test_drawable(text, shown):
    assert sheet.drawable(text) == shown


def test_fit_keeps_both_ends_within_the_room():
    name = "a very long name of a class, number 17"
    shown = sheet.fit(name, 1.5)
    assert shown.startswith("a very")
    assert shown.endswith("17")
    assert 1.2 < sheet.width_of(shown) <= 1.5
    assert sheet.fit(name, 99) == name
    assert sheet.fit("猫" * 50, 1.0).count("[") == sheet.fit("猫" * 50, 1.0).count("]") > 0


@pytest.mark.parametrize(("low", "high"), [(0.912, 0.982), (0.0, 1.0), (0.5, 0.5), (0.31, 0.95)])
def test_an_axis_spans_its_values_within_0_and_1(low, high):
    first, last, at = share_span(low, high)
    assert 0 <= first <= low <= high <= last <= 1
    assert first < last
    assert 2 <= len(at) <= 8
