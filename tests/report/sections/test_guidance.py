"""The section of spurious scores: planted units, what is said of them, and of classifiers that have none."""

import numpy as np
import pytest
import xarray as xr
from planted_findings import HOSTILE, provenance
from planted_guidance import scored

from optogram.methods.guidance.separation import separation
from optogram.report.build import build_report
from optogram.report.charts.guidance import scores


def named(kind, part, model="net"):
    return part.assign_attrs(provenance(f"{kind}/{model}").attributes("0" * 64) | part.attrs)


def changed(found, **variables):
    """The scores with other values, and what follows from them."""
    given = found.drop_dims(["group", "metric"]).assign(variables)
    return given.merge(separation(given)).assign_attrs(found.attrs)


@pytest.fixture(scope="module")
def versions():
    """By name: as planted; nothing spurious; no layer at which maps can be normalised; one spurious unit inside."""
    found = scored()["spurious_scores"]
    none = changed(found, truth=("target", np.full(found.sizes["target"], "shape")))
    silent = changed(found, score=np.nan * found["score"], count=0 * found["count"]).assign_attrs(layer="")
    mixed = found["score"].copy(deep=True)
    mixed.loc[{"target": "red: unit 1"}] = 0.01
    mixed.loc[{"target": "red: unit 0"}] = 0.5
    return {"planted": found, "none": none, "silent": silent, "mixed": changed(found, score=mixed)}


@pytest.fixture(scope="module")
def pages(versions, scenes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("spurious") / "report"
    parts = {name: {"spurious_scores": named("spurious_scores", part, name)} for name, part in versions.items()}
    hostile = scored()["npca"].assign_attrs(left_out=f'["{HOSTILE.replace(chr(34), "")}"]')
    parts["planted"]["npca"] = named("npca", hostile, "planted")
    parts["off"] = {"spurious_scores": xr.Dataset(attrs=provenance("x/off").attributes("0" * 64) | {"skipped": "Why."})}
    build_report(folder, scenes[0], {}, parts)
    page = (folder / "index.html").read_text()
    return page[: page.index('id="spurious_scores"')], page[page.index('id="spurious_scores"') :]


def test_the_report_opens_with_what_was_found_of_each(pages):
    top, _ = pages
    assert (
        "planted: what follows the background lies further outside the objects than what follows the shape in " in top
    )
    assert "all units of the one lie above all of the other." in top
    assert "none: none of 8 units and components follows the background." in top
    assert "silent: no map of its units can be normalised" in top
    assert "mixed: what follows" in top
    assert "; not all units do." in top
    assert "off:" not in top


def test_numbers_and_pictures_are_those_of_the_artifact(pages, versions):
    _, text = pages
    found = versions["planted"]
    above = float(found["above"].sel(layer="layer", group="all", metric="outside"))
    assert f"{100 * above:.0f}%" in text
    unit = found.sel(target="red: unit 1", layer="layer")
    assert f"100% outside, the area {100 * float(unit['area']):.0f}%; maps of layer" in text
    assert "0% outside, the area" in text
    assert text.count('class="heat"') >= 8
    assert "What follows the background: where its maps are outside" in text
    share = scored()["npca"]["share"].values[0, 0]
    assert f"{100 * share:.1f}%" in text
    dropped, kept = int(found["unsummed"].sum()), int(found["count"].sum())
    assert dropped > 0
    assert f"layer: {dropped} of {dropped + kept} maps add up to too little to be normalised." in text
    assert "<img src=x" not in text
    assert "&lt;/script&gt;" in text
    assert "Why." in text


def test_the_chart_has_what_is_spurious_on_top_and_says_whether_it_is_apart(versions):
    chart = scores(versions["planted"], "layer")
    truth = versions["planted"].set_coords("truth")["truth"]
    order = [str(truth.sel(target=name).values) for name in chart.y.names]
    assert order == sorted(order, key=["background", "shape", ""].index)
    dots = {each.name: each for each in chart.facets[0].series}
    assert np.diff(dots["follows the background"].x).max() <= 0
    assert 1 in dots["follows the background"].x
    assert dots["follows the shape"].x.min() == 0
    assert len(chart.y.names) == int(versions["planted"]["score"].notnull().sum())
    assert scores(versions["none"], "layer").title == "Nothing follows the background"
    every = changed(versions["planted"], truth=("target", np.full(8, "background")))
    assert scores(every, "layer").title == "Nothing follows the shape"
    assert scores(versions["mixed"], "layer").title.startswith("In ")
    assert scores(versions["planted"], "layer").title.startswith("All that follows the background lies ")
