"""The section of disagreeing classifiers: planted numbers, and each sentence that may open the report."""

import re

import numpy as np
import pytest
import xarray as xr
from planted_disagreement import AFTER, BEFORE, CLASSES, disagreed
from planted_findings import HOSTILE, provenance

from optogram.report.build import build_report

FEW = ["water", "water", "water", *BEFORE[3:]]
MANY, MORE = [*["water"] * 8, *["snow"] * 8, *["snow"] * 8], [*["water"] * 8, *["sand"] * 6, *["snow"] * 10]
EVERYWHERE = [*AFTER[:8], "water", "sand", "water", "snow"]


def named(part, group):
    return part.assign_attrs(provenance(f"disagreement/{group}").attributes("0" * 64) | part.attrs)


@pytest.fixture(scope="module")
def pages(scenes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("disagreement") / "report"
    hostile = disagreed().assign_coords(model=["odd", HOSTILE, "third"]).assign_attrs(other=HOSTILE)
    versions = {
        "planted": disagreed(),
        "everywhere": disagreed(after=EVERYWHERE),
        "null": disagreed(after=BEFORE),
        "few": disagreed(after=FEW),
        "more": disagreed(MANY, MORE),
        "alone": disagreed(BEFORE[:8], AFTER[:8], classes=CLASSES[:2]),
        "untied": disagreed(ties={}, near=False),
        "hostile": hostile,
    }
    parts = {name: {"disagreement": named(part, name)} for name, part in versions.items()}
    off = xr.Dataset(attrs=provenance("disagreement/off").attributes("0" * 64) | {"skipped": "Why."})
    build_report(folder, *scenes, {}, {}, parts | {"off": {"disagreement": off}})
    text = (folder / "index.html").read_text()
    at = text.index('id="disagreement"')
    return text[:at], text[at:], folder


@pytest.mark.parametrize(
    "sentence",
    [
        # 2 of 8 before, 7 of 8 after; of the star 1 of 4 shows one of two values
        "odd gets the background planted with the class in 88% of the pictures, at the start in 25% (p = 0.062): at "
        "least twice as many; with classes that nothing was planted with each of these is in 12%, at the start in 12%, "
        "which is not. Of the real images on which they disagree so, 83% have it.",
        "at least twice as many; but so it is elsewhere, for with classes that nothing was planted with each of these "
        "is in 38%, at the start in 12%.",
        "in 25% of the pictures, at the start in 25% (p = 1.000): not more, so that this does not bring up what was "
        "planted.",
        "in 50% of the pictures, at the start in 25% (p = 0.500): too few more to be told from chance.",
        "in 88% of the pictures, at the start in 50% (p = 0.031): more, but not twice as many.",
        "in 88% of the pictures, at the start in 25% (p = 0.062): at least twice as many.",
        "odd is led to see what even does not in 6 of 12 pictures, at the start in 0.",
    ],
)
def test_the_report_opens_with_what_was_found_negatives_included(pages, sentence):
    assert sentence in pages[0]


def test_pictures_stand_beside_their_starts_with_both_confidences(pages):
    _, text, folder = pages
    assert ">10% | 90%" in text
    assert ">→ 96% | 3%" in text
    assert text.index(">10% | 90%") < text.index(">→ 96% | 3%")
    assert "planted with background water" in text
    assert "planted: odd is led to see the class, and even not to." in text
    assert "odd sees circle, even sees ring, third sees circle; the judge: circle, water" in text
    assert [*(folder / "assets").glob("grid-disagreementplanted-0.*")]


def test_tables_have_the_numbers_of_the_artifact(pages):
    _, text, _ = pages
    rows = re.sub(r"<[^>]+>", " ", text[text.index("Pictures in which the judge sees the planted background") - 4000 :])
    assert re.search(r"circle\s+water\s+25% \(5% to 70%\)\s+100% \(51% to 100%\)\s+\+75\.0 \(", rows)
    assert re.search(r"all tied classes\s+their own\s+25%", rows)
    assert re.search(r"all other classes\s+each of these\s+12%", rows)
    assert re.search(r"circle\s+0 of 4\s+2 of 4", rows)
    assert re.search(r"circle\s+20\.0% \([^)]*\), of 5\s+6\.0% \([^)]*\), of 50\s+2 of 3", rows)
    assert re.search(r"square\s+3 → 1\s+1 → 3\s+0 → 0\s+0 → 0", rows)


def test_the_nearest_real_images_come_first_and_each_once(pages):
    _, text, _ = pages
    gallery = text[text.index("Real images that look most like what was found") :]
    first = gallery[: gallery.index("square <small>")]
    assert first.index("eval/000001") < first.index("eval/000004") < first.index("eval/000000")
    assert first.count('"eval/000000"') == first.count('"eval/000001"')
    assert first.count("≠") == 2  # in the title, and below the one image


def test_what_went_wrong_or_is_off_is_said_and_names_are_escaped(pages):
    _, text, _ = pages
    assert "1 searches ended early" in text
    assert "Why." in text
    assert "<img src=x" not in text
    assert "&lt;/script&gt;" in text
    assert "over those that were planted with others" in text


def test_groups_of_one_method_have_no_panel_of_another(scenes, tmp_path):
    build_report(tmp_path / "report", *scenes, {}, {}, {"pair": {"disagreement": named(disagreed(), "pair")}})
    text = (tmp_path / "report/index.html").read_text()
    assert "has no groups of models for this: rosetta.groups is empty" in text
    assert 'id="disagreement"' in text
    assert np.all([name in text for name in CLASSES])
