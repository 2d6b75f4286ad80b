"""The still figures of feature visualisations: what they show, that nothing is cut, and the same bytes twice."""

import json

import numpy as np
import pytest
import xarray as xr
from matplotlib.text import Text
from planted_visualisations import CLASSES, METHODS, flat, visualised
from report_pages import contents

from optogram.report.charts import sheet
from optogram.report.findings import collect
from optogram.report.sections.visual_tables import score_table
from optogram.report.stills import CLASSIFIER_DRAWERS, write_stills


def stills(images, classifiers, name):
    findings = collect(images, {"demo": {}}, classifiers)
    model = findings.classifiers[0]
    with sheet.plain_style():
        drawn = CLASSIFIER_DRAWERS[name](model)
        if drawn is not None:
            drawn[2].figure.draw_without_rendering()
    return drawn


def texts(made):
    return [t for t in made.figure.findobj(Text) if t.get_visible() and t.get_text().strip()]


def test_stills_of_a_classifier_lie_beside_those_of_models(images, classifiers, tmp_path):
    for out in ("one", "two"):
        write_stills(tmp_path / out, images, {"demo": {}}, {"resnet": classifiers["resnet"]})
    assert {path.name for path in (tmp_path / "one").glob("*.png")} == {
        "resnet-gallery.png",
        "resnet-visual-scores.png",
    }
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert {entry["model"] for entry in json.loads((tmp_path / "one/index.json").read_text())} == {"resnet"}


def test_the_gallery_still_draws_references_and_pictures(images, classifiers):
    _, caption, made = stills(images, classifiers, "gallery")
    pictures = [axes.images[0].get_array() for axes in made.figure.axes]
    assert len(pictures) == len(CLASSES) * (2 + len(METHODS))
    targets = classifiers["resnet"]["targets"]
    assert (pictures[0] == targets.pixels.values[0, 0]).all()
    assert (pictures[8][0, 0] == flat(1, 0, 0)).all()
    shown = [text.get_text() for text in texts(made)]
    assert shown.count("✗ square") == 1
    assert shown.count("✓ circle") == 4
    assert "VITAL, Fourier, MACO, DeepInversion and PII" in caption


def test_the_scores_still_has_every_cell_and_bolds_the_best(images, classifiers):
    made = stills(images, classifiers, "visual-scores")[2]
    table = score_table(classifiers["resnet"]["visual_scores"])
    shown = [text.get_text() for text in texts(made)]
    for row in table.rows:
        assert set(row) <= set(shown)
    bold = [t.get_text() for t in texts(made) if "Bold" in str(t.get_fontproperties().get_file())]
    assert sorted(bold[1:]) == sorted(table.rows[row][column + 1] for row, column in table.best)


@pytest.mark.parametrize("name", CLASSIFIER_DRAWERS)
@pytest.mark.parametrize("case", ["plain", "strange"])
def test_no_text_of_a_still_is_cut_off_or_covered(images, classifiers, name, case):
    found = {"resnet": classifiers["resnet"]}
    if case == "strange":
        classes = ["$x_1$ \\frac{", "очень длинное имя " * 6, "猫"]
        found = {"long" * 80: visualised(np.random.default_rng(0), classes)}
    made = stills(images, found, name)[2]
    renderer = made.figure.canvas.get_renderer()
    width, height = made.figure.canvas.get_width_height()
    boxes = [(text.get_window_extent(renderer), text) for text in texts(made)]
    for k, (box, text) in enumerate(boxes):
        assert box.x0 >= 0, text
        assert box.x1 <= width, text
        assert box.y0 >= 0, text
        assert box.y1 <= height, text
        for other, beside in boxes[:k]:
            across = min(box.x1, other.x1) - max(box.x0, other.x0)
            down = min(box.y1, other.y1) - max(box.y0, other.y0)
            assert across <= 1 or down <= 3, (text, beside)


@pytest.mark.parametrize("name", CLASSIFIER_DRAWERS)
def test_a_classifier_without_pictures_or_scores_gives_no_still(images, name):
    assert stills(images, {"resnet": {"targets": xr.Dataset(attrs={"skipped": "no reason"})}}, name) is None
