"""Head roles: names from picks, measurement from ablation, agreement beside chance, and the images that show them."""

import numpy as np
import pytest
import xarray as xr
from synthetic_contributions import expand, synthetic

from optogram.errors import DataError, ParamError, ShapeError
from optogram.methods.roles import agreement, measured_roles, named_roles, neighbours, top_images
from optogram.methods.textspan import textspan_heads


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


def test_the_measured_role_falls_most_and_ties_go_to_the_margin():
    drops = [[[0.2, 0.1], [0.1, 0.1], [0.0, 0.0], [-0.1, -0.2], [np.nan, 0.1]]]
    margins = [[[0, 9], [1, 2], [-1, -2], [5, 5], [np.nan, 0]]]
    dims = ("layer", "head", "attribute")
    ablated = xr.Dataset(
        {"accuracy_drop": (dims, np.array(drops)), "margin_drop": (dims, np.array(margins, float))},
        {"layer": [3], "head": np.arange(5), "attribute": ["colour", "shape"]},
    )
    assert measured_roles(ablated).values.tolist() == [["colour", "shape", "", "", "shape"]]


def test_small_falls_may_be_left_out_and_the_margin_may_decide():
    dims = ("layer", "head", "attribute")
    ablated = xr.Dataset(
        {
            "accuracy_drop": (dims, np.array([[[0.01, 0.0], [0.1, 0.01]]])),
            "accuracy_drop_error": (dims, np.array([[[0.01, 0.001], [0.01, 0.02]]])),
            "margin_drop": (dims, np.array([[[0.1, 0.5], [-1.0, -0.1]]])),
            "margin_spread": ("attribute", np.array([0.1, 5.0])),
        },
        {"layer": [3], "head": [0, 1], "attribute": ["colour", "shape"]},
    )
    assert measured_roles(ablated).values.tolist() == [["colour", "colour"]]
    assert measured_roles(ablated, errors=2).values.tolist() == [["", "colour"]]
    assert measured_roles(ablated, by="margin").values.tolist() == [["colour", ""]]
    with pytest.raises(ParamError, match="by = 'loss'"):
        measured_roles(ablated, by="loss")


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
    with pytest.raises(DataError, match="no head has both"):
        agreement(labelled(["", "a"]), labelled(["b", ""]), seed=1)


def test_agreement_joins_heads_by_label():
    named = labelled(["a", "b", "c"])
    ours = agreement(named, named.isel(head=[2, 0]).transpose("head", "layer"), seed=0)
    assert (ours.agreement, ours.heads) == (1, 2)


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
