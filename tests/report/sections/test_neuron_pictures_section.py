"""The section of pictures of units: planted numbers, and each sentence that may open the report."""

import re

import pytest
import xarray as xr
from planted_findings import HOSTILE, provenance
from planted_neuron_pictures import FOUND, OTHER, SEES, TEXT, drawn_units

from optogram.report.build import build_report


def named(part, group):
    return part.assign_attrs(provenance(f"neuron_pictures/{group}").attributes("0" * 64) | part.attrs)


@pytest.fixture(scope="module")
def pages(scenes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures") / "report"
    versions = {
        "planted": drawn_units(),
        "nothing": drawn_units(found=TEXT, sees=SEES | {"found": SEES["other"]}),
        "loses": drawn_units(sees=SEES | {"found": SEES["text"], "text": SEES["found"]}),
        "alone": drawn_units(judged=False),
        "hostile": drawn_units().assign_attrs(classifier=HOSTILE),
    }
    parts = {name: {"neuron_pictures": named(part, name)} for name, part in versions.items()}
    off = xr.Dataset(attrs=provenance("neuron_pictures/off").attributes("0" * 64) | {"skipped": "Why."})
    build_report(folder, *scenes, {}, {}, parts | {"off": {"neuron_pictures": off}})
    text = (folder / "index.html").read_text()
    at = text.index('id="neuron_pictures"')
    return text[:at], text[at:], folder


@pytest.mark.parametrize(
    "sentence",
    [
        "planted: a found picture activates 1 of 2 units (9% to 91%) more than any of 40 real images does, one drawn "
        "by text alone 0. What a unit's top images share the judge sees in its strongest found picture for 2 of 2 (34% "
        "to 100%), by text alone for 0, with another text for 0.",
        "nothing: a found picture activates 0 of 2 units (0% to 66%) more than any of 40 real images does, one drawn "
        "by text alone 0: for most units the search does not get beyond what is real.",
        "with another text for 0: not more than with another text.",
        "with another text for 0: the search loses some of what the text had.",
        "alone: a found picture activates 1 of 2 units (9% to 91%) more than any of 40 real images does, one drawn by "
        "text alone 0.",
    ],
)
def test_the_report_opens_with_what_was_found_negatives_included(pages, sentence):
    assert sentence in pages[0].replace("&#39;", "'")


def test_each_unit_has_its_real_images_then_texts_then_what_was_found(pages):
    _, text, folder = pages
    row = text[text.index("circle, unit 3") :]
    places = [row.index(each) for each in (">real 2", ">text 1", ">→ 3")]
    assert places == sorted(places)
    assert "seer sees circle; the judge: circle, red" in text
    assert [*(folder / "assets").glob("grid-neuron-picturesplanted-0.*")]


def test_tables_have_the_numbers_of_the_artifact(pages):
    plain = re.sub(r"<[^>]+>", " ", pages[1])
    assert re.search(r"circle, unit 3\s+shape circle\s+100%\s+25%\s+1 of 2\s+2 of 2\s+0 of 2\s+yes", plain)
    assert re.search(r"all\s+38%\s+50% \(15% to 85%\)\s+75% \(30% to 95%\)\s+0% \(0% to 49%\)\s+2 of 2", plain)
    assert re.search(r"an image of a disc\s+0\.5", plain)
    assert OTHER[0][0] < TEXT[0][0] < FOUND[0][0]


def test_what_went_wrong_or_is_off_is_said_and_names_are_escaped(pages):
    _, text, _ = pages
    assert "1 searches began where the unit is 0" in text
    assert "1 searches ended early" in text
    assert "Why." in text
    assert "<img src=x" not in text
