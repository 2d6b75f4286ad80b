"""The section of models that draw: planted samples, judged by eyes that are planted too."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr
from planted_findings import provenance

from optogram.data.requests import scene_requests, without_captions
from optogram.data.scenes import ATTRIBUTES, Scenes
from optogram.methods.generative.fidelity import copies, distances
from optogram.methods.generative.truth import truth
from optogram.report.build import build_report

PLACES = [(name, value) for name, values in ATTRIBUTES.items() for value in values]
COUNT, UNASKED, WRONG = 60, 8, 15


def embedded(label):
    found = np.zeros((len(label), len(PLACES)))
    for row, values in enumerate(label):
        for (name, known), value in zip(ATTRIBUTES.items(), values, strict=True):
            found[row, PLACES.index((name, known[max(value, 0)]))] = 1
    return found


def eyes(*labels):
    left = list(labels)
    names = np.array([[*v, *[""] * (8 - len(v))] for v in ATTRIBUTES.values()])

    def parse(_):
        label = left.pop(0)
        variables = {"value": (("image", "attribute"), label), "value_name": (("attribute", "value"), names)}
        return xr.Dataset(variables | {"found": ("image", (label >= 0).any(1))}, {"attribute": [*ATTRIBUTES]})

    return SimpleNamespace(parse=parse)


@pytest.fixture(scope="module")
def priors():
    """A model that draws what it is asked for, but in a fourth of the samples the next colour; and a generator."""
    real, trained = Scenes("eval", 40, 0).read(0, 40), Scenes("single", 120, 0).read(0, 120)
    zeroshot = xr.Dataset(
        {
            "classifier": (("class", "embed"), np.eye(len(PLACES))),
            "attribute": ("class", [name for name, _ in PLACES]),
            "value": ("class", [value for _, value in PLACES]),
        }
    )
    asked = without_captions(scene_requests(COUNT, seed=0), UNASKED)
    pixels = ("image", "y", "x", "rgb"), trained.pixels.values[: COUNT + UNASKED]
    losses = {"loss": (("curve", "stretch"), [[1.0, 0.5, 0.25]]), "steps": ("stretch", [10, 20, 30])}
    prompted = asked.assign(pixels=pixels, **losses).assign_coords(curve=["velocity"])
    prompted["prompt"][0] = '<script>alert("drawn")</script>'
    seen = asked.label.values.copy()
    seen[COUNT:] = trained.label.values[COUNT : COUNT + UNASKED]
    wrong = seen.copy()
    wrong[:WRONG, 1] = (wrong[:WRONG, 1] + 1) % 8
    plain = xr.Dataset({"pixels": (pixels[0], trained.pixels.values[:30])})
    nothing = trained.label.values[:30].copy()
    nothing[:3] = -1
    draw = np.random.default_rng(0)
    found = {}
    for name, samples, judged, clipped in (
        ("prior", prompted, wrong, seen),
        ("gan", plain, nothing, trained.label.values[:30]),
    ):
        others = {"zeroshot": zeroshot, "embedding": embedded(clipped), "real_embedding": embedded(real.label.values)}
        drawn = truth(samples, real, trained, judge=eyes(judged, real.label.values), **others)
        features = [{"clip": draw.standard_normal((30, 4)) + shift, "classifier": np.eye(30)} for shift in (1, 0, 0)]
        fidelity = distances(*features).merge(copies(samples.pixels.values, trained, np.arange(30)))
        classed = {"class_accuracy": 0.5, "class_chance": 0.1, "class_asked": 0 if name == "gan" else COUNT}
        fidelity = fidelity.assign(classed)
        parts = {"samples": samples, "drawn": drawn, "fidelity": fidelity}
        if name == "prior":
            parts["round_trip"] = xr.Dataset(
                {
                    **{k: ("check", [v, 0.9]) for k, v in (("before", 0.97), ("after", 0.5), ("after_low", 0.4))},
                    "after_high": ("check", [0.6, 0.95]),
                    "count": ("check", [40, 40]),
                    "psnr": ("image", [28.0, 30.0]),
                },
                {"check": ["resnet: shape", "CLIP: texture"]},
            )
        found[name] = {
            kind: part.assign_attrs(provenance(f"{kind}/{name}").attributes("0" * 64) | part.attrs)
            for kind, part in parts.items()
        }
    return found


@pytest.fixture(scope="module")
def page(scenes, priors, tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn") / "report"
    build_report(folder, *scenes, {}, priors)
    return (folder / "index.html").read_text(), folder


def section(page):
    return page[0][page[0].index('id="generative"') :]


def test_the_numbers_are_those_that_were_planted(page, priors):
    text = section(page)
    assert "colour, by the judge; real scenes 100.0%" in text
    assert f"{100 * (1 - WRONG / COUNT):.1f}%" in text
    assert "The loss went from 1 to" in text or "The loss went from 0.58" in text
    assert "the judge sees" in text
    assert "by the classifier, of 60; by chance 10.0%" in text
    assert re.search(r"draws an object in 90\.0% of its samples", page[0]), "27 of 30"
    fid = float(priors["prior"]["fidelity"].fid[0])
    assert f"{fid:.2f}"[:3] in text


def test_the_contact_sheet_has_a_row_a_class_and_one_of_what_was_asked_for_nothing(page):
    text = section(page)
    for shape in ATTRIBUTES["shape"]:
        assert f"shape: {shape}" in text
    assert "asked for nothing" in text
    assert [*(page[1] / "assets").glob("grid-drawnprior-0.*")]
    assert [*(page[1] / "assets").glob("grid-drawngan-0.*")]


def test_what_the_codec_leaves_is_told(page):
    text = section(page)
    assert "told right, of 40 images; PSNR 29 dB" in text.replace("29.0", "29")
    row = text[text.index("resnet: shape") :][:300]
    assert "97.0%" in row
    assert "50.0%" in row


def test_what_captions_say_is_escaped(page):
    assert "<script>alert" not in page[0]
    assert "&lt;script&gt;alert" in page[0]


def test_a_run_without_models_that_draw_says_so(scenes, tmp_path):
    build_report(tmp_path / "report", *scenes)
    assert "has nothing drawn: sample.models" in (tmp_path / "report/index.html").read_text()


def test_samples_alone_are_shown(scenes, priors, tmp_path):
    build_report(tmp_path / "report", *scenes, {}, {"prior": {"samples": priors["prior"]["samples"]}})
    text = (tmp_path / "report/index.html").read_text()
    assert "shape: circle" in text
    assert text.count("the judge sees") == 1, "in how to read the section"
