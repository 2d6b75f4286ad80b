"""The section of units that models share: planted pairs, null models, concepts."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr
from planted_findings import provenance

from optogram.methods.rosetta.dictionary import dictionary, pictures
from optogram.methods.rosetta.matching import neighbours, paired
from optogram.methods.rosetta.mining import Images, Match, Member, Mined
from optogram.methods.rosetta.naming import Names
from optogram.report.build import build_report
from optogram.report.panels import Panel
from optogram.report.sections.rosetta_partners import mlp_layer, of_page, place_of

HOSTILE = '<script>alert("unit")</script>'


def match(r, threshold, nulls):
    pairs = paired(neighbours(r, 2))
    return Match(pairs, np.stack([pairs.r, pairs.r - 0.1]), threshold, nulls, r, pairs.r)


@pytest.fixture(scope="module")
def group():
    """Three units of a, of which the first two are alike, two of b and two of c."""
    units = {
        name: [(f"layer of {name}", k, (4, 4)) for k in range(many)] for name, many in (("a", 3), ("b", 2), ("c", 2))
    }
    low = [np.array([0.3, 0.2]), np.array([0.25])]
    nulls = {"shuffled": low, "rotated": [np.array([0.95, 0.9, 0.85, 0.8, 0.7])], "untrained": [np.array([0.75])]}
    ab = np.array([[0.9, 0.0], [0.6, 0.1], [0.0, 0.7]])
    ac = np.array([[0.8, 0.0], [0.0, 0.1], [0.2, 0.1]])
    bc = np.array([[0.1, 0.0], [0.0, 0.15]])
    matches = {
        ("a", "b"): match(ab, 0.5, nulls),
        ("a", "c"): match(ac, 0.5, nulls),
        ("b", "c"): match(bc, np.inf, nulls),
    }
    within = np.array([[1, 0.8, 0], [0.8, 1, 0], [0, 0, 1.0]])
    means = {name: np.random.default_rng(0).random((60, len(of))).astype(np.float32) for name, of in units.items()}
    constant = {name: np.zeros(len(of), bool) for name, of in units.items()}
    mined = Mined(units, matches, paired(neighbours(within, 2, itself=False)), means, constant, constant, constant, 60)

    def maps(pixels):
        return [torch.rand(len(pixels), 3, 4, 4, generator=torch.Generator().manual_seed(1))]

    members = [Member(name, (f"layer of {name}",), maps) for name in units]
    said = {"a": ["red", "red", ""], "b": ["red", "blue"], "c": [HOSTILE, ""]}
    names = {"labels": {n: Names(v, ["colour" if x else "" for x in v], np.ones(len(v))) for n, v in said.items()}}
    found = dictionary(mined, members, alike=0.7, names=names)
    pixels = np.random.default_rng(0).integers(0, 256, (60, 64, 64, 3), np.uint8)
    return found.merge(pictures(found, mined, members, lambda rows: Images(pixels[rows], {}), shown=5, images=3))


def test_concepts_join_what_is_alike_and_shared(group):
    assert group.concept_units.values.tolist() == [2, 1]
    assert group.concept_models.values.tolist() == [3, 2]
    units = group.concept_unit.transpose("concept", "model").values
    np.testing.assert_array_equal(units, [[0, 3, 5], [2, 4, np.nan]])
    np.testing.assert_allclose(group.concept_r.values[0, 1:], [0.9, 0.8])
    assert float(group.concept_chance[0, 1]) == 1 / 4


def test_agreement_is_beside_chance(group):
    # pairs of a and b with two names: (0, 0) and (1, 0), red both
    assert group.agreement.values[0].tolist() == [1.0]
    assert group.agreement_of.values[0].tolist() == [2.0]
    assert group.agreement_chance.values[0].tolist() == [1.0]
    assert np.isnan(group.agreement.values[2, 0])


def test_layers_count_units_with_partners(group):
    np.testing.assert_allclose(group.layer_shared.values, [1, 1, 0.5])
    np.testing.assert_allclose(group.layer_shared_by_all.values, [1 / 3, 0, 0])


@pytest.fixture(scope="module")
def page(scenes, group, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared") / "report"
    made = group.assign_attrs(provenance("rosetta/trio").attributes("0" * 64) | group.attrs)
    build_report(folder, *scenes, {}, {}, {"trio": {"rosetta": made}})
    return (folder / "index.html").read_text(), folder


def test_the_nearest_null_model_is_told(page):
    assert "a and b share 3 pairs of units above chance by shuffled images" in page[0]
    assert "channels of one rotated, has 5. That units are shared is then no property of single units." in page[0]
    text = page[0][page[0].index('id="rosetta"') :]
    assert "of 2 in two or more" in text
    assert "not made" not in text


def test_each_concept_has_a_page(page):
    pages = sorted((page[1] / "units").glob("rosetta-*.html"))
    assert len(pages) == 2
    text = pages[0].read_text()
    assert "layer of b, channel 0" in text
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text
    assert [*(page[1] / "assets").glob("grid-rosettatrio-0.*")]


SHOWN = SimpleNamespace(found=SimpleNamespace(channels=3))


class Asked:
    """A report's context with one group."""

    def __init__(self, group):
        self.findings = SimpleNamespace(groups=[SimpleNamespace(name="trio", part=lambda kind: group)])

    def panel(self, model, *kinds):
        return Panel(made=[kinds[0]])


@pytest.mark.parametrize(
    ("kind", "name", "of", "partners"),
    [
        ("channel", "layer of a:0", SHOWN, ["b:layer of b:0", "c:layer of c:0"]),
        ("channel", "layer of a:2", SHOWN, ["b:layer of b:1"]),
        ("channel", "elsewhere:0", SHOWN, None),
        ("neuron", "", SimpleNamespace(layer=3, neuron=0), None),
        ("head", "", None, None),
    ],
)
def test_a_channel_has_its_partners_the_likest_first(group, kind, name, of, partners):
    unit = SimpleNamespace(kind=kind, name=name, model=SimpleNamespace(name="a"), of=of)
    parts = of_page(Asked(group), unit)
    if partners is None:
        assert not parts
    else:
        assert [row[0] for row in parts[0].panel.tables[0].rows] == partners
        assert [row[1] for row in parts[0].panel.tables[0].rows] == ["trio"] * len(partners)


def test_blocks_and_mlps_are_found_by_their_layers(group):
    names = np.where(group.model_of == "a", "trunk.blocks.3.mlp.act", "stage.1.act")
    named = group.assign(layer_of=("unit", names))
    assert place_of(named, "b", "stage.1.act", 1) == 4
    assert place_of(named, "b", "stage", 1, channels=2) == 4
    assert place_of(named, "b", "stage", 1, channels=8) is None, "what lies inside has other channels"
    assert place_of(named, "b", "sta", 1, channels=2) is None
    assert place_of(named, "b", "stage", 9, channels=2) is None
    assert mlp_layer(named, "a", 3) == "trunk.blocks.3.mlp.act"
    assert mlp_layer(named, "a", 2) == ""
    unit = SimpleNamespace(
        kind="neuron", name="", model=SimpleNamespace(name="a"), of=SimpleNamespace(layer=3, neuron=2)
    )
    assert of_page(Asked(named), unit)[0].panel.tables[0].rows[0][0] == "b:layer of b:1"


def test_a_group_can_be_all_that_there_is(scenes, group, tmp_path):
    made = group.assign_attrs(provenance("rosetta/trio").attributes("0" * 64) | group.attrs)
    build_report(tmp_path / "report", scenes[0], {}, {}, {}, {"trio": {"rosetta": made}})
    text = (tmp_path / "report/index.html").read_text()
    assert "<h1>What models share</h1>" in text
    assert [*(tmp_path / "report/units").glob("*.html")]


def test_inversions_stand_beside_permuted_pairs(scenes, group, tmp_path):
    draw, names = np.random.default_rng(0), ["without units", "b", "all models", "permuted pairs"]
    scores = np.array([[20, 22], [21, 23], [24, 26], [19, 21]], np.float32)
    variables = {
        "original": (("image", "y", "x", "rgb"), draw.integers(0, 256, (2, 64, 64, 3), np.uint8)),
        "pixels": (("condition", "image", "y", "x", "rgb"), draw.integers(0, 256, (4, 2, 64, 64, 3), np.uint8)),
        "psnr": (("condition", "image"), scores),
        "ssim": (("condition", "image"), scores / 40),
        "perceptual": (("condition", "image"), scores / 80),
        "pairs": ("condition", [0, 3, 3, 3]),
        "alone_concept": ("alone", [1, 0]),
        "alone_model": ("alone", np.array(["b", HOSTILE])),
        "alone_image": ("alone", [1, 0]),
        "alone_map": (("alone", "y", "x"), draw.random((2, 64, 64), np.float32)),
        "alone_pixels": (
            ("alone", "goal", "latent", "y", "x", "rgb"),
            draw.integers(0, 256, (2, 3, 2, 64, 64, 3), np.uint8),
        ),
        "alone_similarity": (
            ("alone", "goal", "latent"),
            np.array([[[0.1, 0.2], [0.8, 0.7], [0.3, -0.1]]] * 2, np.float32),
        ),
        "sketch": (("sketched", "y", "x", "rgb"), draw.integers(0, 256, (3, 64, 64, 3), np.uint8)),
        "sketch_pixels": (("guide", "sketched", "y", "x", "rgb"), draw.integers(0, 256, (2, 3, 64, 64, 3), np.uint8)),
        "sketch_overlap": (("guide", "sketched"), np.array([[0.5, 0.6, 0.4], [0, 0.1, 0]], np.float32)),
        "sketch_seen": (("guide", "sketched"), np.full((2, 3), 1 / 3, np.float32)),
    }
    inverted = xr.Dataset(
        variables, {"condition": names, "guide": names[2:], "goal": ["start", "its partner's map", "other"]}
    )
    parts = {"rosetta": group, "rosetta_inversion": inverted}
    made = {
        kind: part.assign_attrs(provenance(f"{kind}/trio").attributes("0" * 64) | part.attrs)
        for kind, part in parts.items()
    }
    build_report(tmp_path / "report", *scenes, {}, {}, {"trio": made})
    text = (tmp_path / "report/index.html").read_text()
    assert "Units help if all models are above permuted pairs" in text
    row = text[text.index("all models</th>", text.index("PSNR in dB")) :][:200] if "all models</th>" in text else text
    assert "perceptual distance (less is nearer)" in text
    assert ">25<" in row.replace("25.0", "25")
    assert [*(tmp_path / "report/assets").glob("grid-invertedtrio-0.*")]
    page = (tmp_path / "report/units/rosetta-trio-1.html").read_text()
    alone = page[page.index("Its unit of a alone") :]
    assert "where the unit of &lt;script&gt;alert" in alone
    assert alone.index(">0.8<") < alone.index("other, latent 0") < alone.index("\N{MINUS SIGN}0.1")
    assert "<script>alert" not in page
    assert "Means over 3 sketches, by the judge" in text
    assert "overlap 60%" in text
    assert [*(tmp_path / "report/assets").glob("grid-sketchestrio-0.*")]


@pytest.mark.parametrize("values", [True, False], ids=["with values", "without values"])
def test_edits_stand_beside_permuted_units_and_values_beside_other_units(scenes, group, tmp_path, values):
    draw = np.random.default_rng(0)

    def pixels(*shape):
        return draw.integers(0, 256, (*shape, 64, 64, 3), np.uint8)

    over, seen = ("edit", "pairs"), np.array([[[1, 1, 0, np.nan], [0, 0, 0, np.nan]]] * 3, np.float32)
    variables = {
        "original": (("image", "y", "x", "rgb"), pixels(4)),
        "pixels": ((*over, "image", "y", "x", "rgb"), pixels(3, 2, 4)),
        "succeeded": ((*over, "image"), seen),
        **{name: ((*over, "image"), np.full((3, 2, 4), 0.5, np.float32)) for name in ("reached", "kept")},
        "success_low": (over, np.full((3, 2), 0.1)),
        "success_high": (over, np.full((3, 2), 0.9)),
    }
    names = {"edit": ["zoom in", "shift right", "copy and paste"], "pairs": ["shared units", "permuted"]}
    if values:
        over = ("concept", "way", "units")
        variables |= {
            "concept_units": ("concept", np.array([3, 1], np.int32)),
            "concept_original": (("concept", "way", "sample", "y", "x", "rgb"), pixels(2, 3, 2)),
            "concept_pixels": ((*over, "sample", "y", "x", "rgb"), pixels(2, 3, 2, 2)),
            "concept_seen": ((*over, "sample"), np.ones((2, 3, 2, 2), np.float32)),
            "concept_kept": ((*over, "sample"), np.full((2, 3, 2, 2), 0.75, np.float32)),
        }
        names |= {"concept": ["colour: red", f"colour: {HOSTILE}"], "way": ["ablated", "removed", "added"]}
        names["units"] = ["its units", "other units"]
    edited = xr.Dataset(variables, names, {"shared": 7, "side": 64})
    parts = {"rosetta": group, "rosetta_edits": edited}
    made = {
        kind: part.assign_attrs(provenance(f"{kind}/trio").attributes("0" * 64) | part.attrs)
        for kind, part in parts.items()
    }
    build_report(tmp_path / "report", *scenes, {}, {}, {"trio": made})
    text = (tmp_path / "report/index.html").read_text()
    assert "Edits of 4 pictures, by 7 shared units" in text
    assert "not one object before" in text
    row = text[text.index("seen, permuted") :]
    assert "67% (10% to 90%)" in row
    assert "0% (10% to 90%)" in row
    assert [*(tmp_path / "report/assets").glob("grid-editedtrio-0.*")]
    assert ("100%, others kept 75%" in text) is values
    assert "<script>alert" not in text


def test_a_run_without_groups_says_so(scenes, tmp_path):
    build_report(tmp_path / "report", *scenes)
    assert "has no groups of models for this: rosetta.groups is empty." in (tmp_path / "report/index.html").read_text()


def test_a_group_that_shares_nothing_is_shown(scenes, group, tmp_path):
    none = {name: of for name, of in group.data_vars.items() if not {"concept", "shown"} & {*of.dims}}
    bare = xr.Dataset(none, {"model": group.model.values}, group.attrs)
    bare = bare.assign(concept_models=("concept", np.empty(0, np.int32)), count=bare["count"] * 0)
    made = bare.assign_attrs(provenance("rosetta/trio").attributes("0" * 64) | group.attrs)
    build_report(tmp_path / "report", *scenes, {}, {}, {"trio": {"rosetta": made}})
    assert "share 0 pairs of units" in (tmp_path / "report/index.html").read_text()
