"""Head roles: names from picks, measurement from ablation, agreement beside chance, and the images that show them."""

import numpy as np
import pytest
import xarray as xr
from scipy import stats
from synthetic_contributions import expand, synthetic

from optogram.errors import DataError, ParamError, ShapeError
from optogram.methods.heads.roles import (
    agreement,
    fall_tests,
    measured_roles,
    named_roles,
    neighbours,
    top_images,
    truth,
)
from optogram.methods.heads.textspan import textspan_heads


def spans(index, variance, total):
    index = np.asarray(index)
    return xr.Dataset(
        {
            "index": (("layer", "head", "step"), index),
            "variance": (("layer", "head", "step"), np.asarray(variance, float)),
            "total_variance": (("layer", "head"), np.asarray(total, float)),
        },
        {"layer": np.arange(2, 2 + index.shape[0]), "head": np.arange(index.shape[1])},
    )


def test_the_name_is_what_explains_most_not_what_is_picked_most():
    picked = spans(
        [[[0, 1, 2], [3, 1, 0], [-1, -1, -1], [3, -1, -1]]],
        [[[6, 2, 2], [5, 2, 1], [0] * 3, [4, 0, 0]]],
        [[20, 10, 0, 8]],
    )
    ours = named_roles(picked, ["colour", "shape", "shape", ""])
    assert ours.attribute.values.tolist() == ["colour", "shape"]
    assert ours.named.values.tolist() == [["colour", "shape", "", ""]]
    np.testing.assert_allclose(ours.score, [[[0.3, 0.2], [0.1, 0.2], [0, 0], [0, 0]]])


def test_names_need_texts_that_name_something():
    picked = spans([[[0, 1]]], [[[1, 1]]], [[2]])
    with pytest.raises(DataError, match="no text of the pool names"):
        named_roles(picked, ["", ""])
    with pytest.raises(ShapeError, match="picks go up to text 1, but only 1"):
        named_roles(picked, ["colour"])


DIMS = ("layer", "head", "attribute")


def ablation(lost, gained, margin, *, error=0.01, spread=1.0, images=1000, attributes=("colour", "shape")):
    """What `ablate_heads` gives of the heads of one layer."""
    lost, gained, margin = (np.array([each]) for each in (lost, gained, margin))
    return xr.Dataset(
        {
            "lost": (DIMS, lost),
            "gained": (DIMS, gained),
            "accuracy_drop": (DIMS, (lost - gained) / images),
            "margin_drop": (DIMS, margin.astype(float)),
            "margin_drop_error": (DIMS, np.full(margin.shape, error)),
            "margin_spread": ("attribute", np.full(margin.shape[-1], spread)),
            "count": ("attribute", np.full(margin.shape[-1], images)),
        },
        {"layer": [3], "head": np.arange(lost.shape[1]), "attribute": list(attributes)},
    )


def test_the_measured_role_falls_most_and_ties_go_to_the_margin():
    ours = ablation(
        [[90, 40], [60, 60], [0, 0], [9, 3], [0, 50]],
        [[0, 0], [0, 0], [0, 0], [90, 50], [0, 0]],
        [[0, 9], [1, 2], [5, 5], [5, 5], [0, 0]],
    )
    assert measured_roles(ours).values.tolist() == [["colour", "shape", "", "", "shape"]]


def test_a_fall_of_three_images_of_two_thousand_is_no_role():
    ours = ablation([[5, 1], [3, 0], [30, 2]], [[2, 1], [0, 0], [8, 2]], [[1, 0], [0, 1], [1, 0]], images=2000)
    assert measured_roles(ours).values.tolist() == [["", "", "colour"]]
    tests = fall_tests(ours)
    assert float(tests.accuracy_drop_low[0, 0, 0]) < 0 < float(tests.accuracy_drop_low[0, 2, 0])
    # six questions: each p-value is the exact one times six over its rank, and no rank is better than a worse one
    exact = stats.binomtest(8, 38).pvalue
    assert float(tests.accuracy_p[0, 2, 0]) == pytest.approx(6 * exact)


def test_the_margin_decides_in_units_of_its_spread():
    falls = [[0.1, 0.5], [-1.0, -0.1], [0.1, 0.02]]
    ours = ablation(np.zeros((3, 2), int), np.zeros((3, 2), int), falls).assign(margin_spread=("attribute", [0.1, 5.0]))
    assert measured_roles(ours, by="margin").values.tolist() == [["colour", "", "colour"]]
    # fifty times the error: nothing but the second head's gain could be seen, and a gain is no role
    vague = ours.assign(margin_drop_error=ours.margin_drop_error * 50)
    assert measured_roles(vague, by="margin").values.tolist() == [["", "", ""]]


@pytest.mark.misfits
def test_roles_are_measured_by_what_there_is():
    with pytest.raises(ParamError, match="by = 'loss'"):
        measured_roles(ablation([[5, 1]], [[2, 0]], [[1, 0]]), by="loss")


def test_heads_that_do_nothing_have_no_role():
    """What is lost and gained by a coin, in 200 runs of 32 heads and 7 attributes: no head has a role in 95 of 100."""
    rng, attributes, none = np.random.default_rng(0), list("abcdefg"), {"accuracy": 0, "margin": 0}
    for _ in range(200):
        changed = rng.poisson(12, (32, 7))
        lost = rng.binomial(changed, 0.5)
        drawn = ablation(lost, changed - lost, rng.normal(0, 0.01, (32, 7)), attributes=attributes)
        for by in ("accuracy", "margin"):
            none[by] += int((measured_roles(drawn, by=by) == "").all())
    assert none["accuracy"] >= 190
    assert 180 <= none["margin"] <= 200


def labelled(values):
    return xr.DataArray([values], {"layer": [0], "head": np.arange(len(values))}, ("layer", "head"))


def test_agreement_beside_chance():
    names = ["a", "b", "c", "a", "b", "c", "a", "b", ""]
    ours = agreement(labelled(names), labelled([*names[:7], "", "a"]), seed=0)
    assert (ours.agreement, ours.heads) == (1.0, 7)
    assert ours.chance == pytest.approx((3 * 3 + 2 * 2 + 2 * 2) / 49)
    # 3! 2! 2! of the 7! orders agree everywhere
    assert ours.p_value == pytest.approx(24 / 5040, abs=0.003)
    assert ours == agreement(labelled(names), labelled([*names[:7], "", "a"]), seed=0)


def test_agreement_of_constant_labels_is_all_chance():
    ours = agreement(labelled(["a"] * 5), labelled(["a"] * 5), seed=1)
    assert (ours.agreement, ours.chance, ours.p_value) == (1, 1, 1)
    with pytest.raises(DataError, match=r"0 of 2 heads have both .* it takes 5"):
        agreement(labelled(["", "a"]), labelled(["b", ""]), seed=1)
    with pytest.raises(DataError, match="4 of 6 heads have both"):
        agreement(labelled(["a"] * 6), labelled([*"abcd", "", ""]), seed=1)


def test_agreement_joins_heads_by_label():
    named = labelled([*"abcdef"])
    ours = agreement(named, named.isel(head=[2, 0, 5, 4, 1]).transpose("head", "layer"), seed=0)
    assert (ours.agreement, ours.heads) == (1, 5)


def test_truth_says_what_is_known_and_why_not():
    named = labelled([*"abcab", ""])
    measured = {"accuracy": labelled([*"abcab", "c"]), "margin": labelled([*"abc", "", "", ""])}
    told = truth(named, measured, ["a", "b", "c"], seed=0)
    assert (told["named"], told["measured"], told["measured_by_margin"]) == (5, 6, 3)
    assert (told["agreement"], told["heads"]) == (1.0, 5)
    assert "truth_skipped" not in told
    assert "3 of 6 heads have both" in str(told["truth_skipped_by_margin"])
    alone = truth(named, measured, ["class"], seed=0)
    assert {name for name in alone if "skipped" not in name} == {"named", "measured", "measured_by_margin"}
    for suffix in ("", "_by_margin"):
        assert "labelled by class only" in str(alone[f"truth_skipped{suffix}"])


@pytest.mark.parametrize("blocks", [1, 7])
def test_top_images_are_the_largest_products_with_the_text(blocks):
    ds = synthetic(4)
    rng = np.random.default_rng(0)
    texts = rng.standard_normal((30, 16)).astype(np.float32)
    picked = textspan_heads(ds, texts, 4, layers=[2, 1])
    picked["index"][1, 0, 3] = -1
    ours = top_images(ds.chunk(image=-(-60 // blocks)), picked, texts, 5)
    scores = np.einsum("ilhe,lhse->lhsi", expand(ds).sel(layer=[2, 1]).values, texts[picked["index"].values])
    order = np.argsort(-scores, -1)[..., :5]
    known = picked["index"].values >= 0
    np.testing.assert_array_equal(ours.top_image.values[known], ds.image.values[order][known])
    np.testing.assert_allclose(ours.score.values[known], np.take_along_axis(scores, order, -1)[known], rtol=1e-4)
    assert (ours.top_image.values[1, 0, 3] == "").all()
    assert np.isnan(ours.score.values[1, 0, 3]).all()


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("blocks", [1, 7])
def test_neighbours_are_the_largest_products_of_head_contributions(centred, blocks):
    ds = synthetic(5)
    ours = neighbours(ds.chunk(image=-(-60 // blocks)), ["eval/000007", "eval/000050"], 6, layers=[1], centred=centred)
    c = expand(ds).sel(layer=1).values.astype(np.float64)
    c = c - c.mean(0) if centred else c
    for head in (0, 1):
        for at, query in enumerate((7, 50)):
            scores = c[:, head] @ c[query, head]
            scores[query] = -np.inf
            order = np.argsort(-scores)[:6]
            here = ours.sel(layer=1, head=head).isel(query=at)
            assert here.neighbour.values.tolist() == ds.image.values[order].tolist()
            np.testing.assert_allclose(here.score, scores[order], rtol=1e-3, atol=1e-3)


def test_queries_may_be_positions():
    ds = synthetic(5)
    xr.testing.assert_identical(neighbours(ds, [3], 2), neighbours(ds, ["eval/000003"], 2))


def test_errors_name_what_is_wrong():
    ds = synthetic(5, images=10)
    texts = np.eye(16, dtype=np.float32)
    picked = textspan_heads(ds, texts, 2)
    with pytest.raises(ParamError, match="count = 11; expected 1 to 10"):
        top_images(ds, picked, texts, 11)
    with pytest.raises(ShapeError, match=r"texts have shape \(1, 16\)"):
        top_images(ds, picked, texts[:1], 1)
    with pytest.raises(ParamError, match="count = 10; expected 1 to 9"):
        neighbours(ds, [0], 10)
    with pytest.raises(ParamError, match=r"queries: \['nobody'\]; expected labels like 'eval/000000'"):
        neighbours(ds, ["nobody"], 1)
    with pytest.raises(ParamError, match="none given"):
        neighbours(ds, [], 1)
