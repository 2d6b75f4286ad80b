"""Spurious cues: a model in which one head writes the background into the class is mended by ablating that head."""

import numpy as np
import pytest
import xarray as xr

from optogram.errors import DataError, ParamError
from optogram.methods.spurious import debias, spurious_heads


def roles(named, score):
    score = np.asarray(score, float)
    return xr.Dataset(
        {"named": (("layer", "head"), named), "score": (("layer", "head", "attribute"), score)},
        {"layer": [4, 5], "head": [0, 1], "attribute": ["background", "shape"]},
    )


def test_heads_named_after_the_attribute_surest_first():
    found = roles([["background", "shape"], ["background", ""]], [[[0.3, 0.1], [0.4, 0.5]], [[0.8, 0.1], [0, 0]]])
    assert spurious_heads(found, "background") == [(5, 0), (4, 0)]
    assert spurious_heads(found, "background", least_share=0.5) == [(5, 0)]
    assert spurious_heads(found, "background", least_share=0.9) == []
    with pytest.raises(ParamError, match=r"attribute = 'backdrop', but the texts name .* Did you mean 'background'"):
        spurious_heads(found, "backdrop")


def biased(images=400, seed=0):
    """Head (1, 1) writes the background along circle - square, twice as far as heads of layer 0 write the shape."""
    rng = np.random.default_rng(seed)
    shape, background = rng.integers(0, 2, images), rng.integers(0, 2, images)
    axis = np.zeros((2, 2, 2, 6), np.float32)
    axis[0, :, 0, 0], axis[1, 1, 0, 0] = 1, 1
    axis[..., 1, 3] = 1
    z = rng.standard_normal((images, 2, 2, 2)).astype(np.float32) * 0.05
    z[:, 0, :, 0] += shape[:, None] * 2 - 1
    z[:, 1, 1, 0] += (background * 2 - 1) * 4 + 1
    ds = xr.Dataset(
        {
            "z": (("image", "layer", "head", "head_dim"), z),
            "basis": (("layer", "head", "head_dim", "embed"), axis),
            "scale": (("image",), np.ones(images, np.float32)),
            "mean": (("image",), np.zeros(images, np.float32)),
            "bias": (("layer", "embed"), np.zeros((2, 6), np.float32)),
            "gain": (("embed",), np.zeros(6, np.float32)),
            "offset": (("embed",), np.zeros(6, np.float32)),
            "mlp": (("image", "block", "embed"), np.zeros((images, 3, 6), np.float32)),
        },
        {"image": [f"biased/{i:06d}" for i in range(images)], "layer": [0, 1], "head": [0, 1]},
    )
    total = np.einsum("ilhk,lhke->ie", z, axis)
    ds["embedding"] = (("image", "embed"), total)
    ds["token"] = (("image", "token", "embed"), total[:, None])
    classifier = xr.Dataset(
        {
            "classifier": (("class", "embed"), np.eye(6, dtype=np.float32)[[0, 0, 5, 1]] * [[1], [-1], [9], [1]]),
            "attribute": ("class", ["shape", "shape", "shape", "background"]),
            "value": ("class", ["square", "circle", "star", "plain"]),
        }
    )
    labels = xr.DataArray(
        np.stack([np.zeros(images, int), shape], 1),
        dims=("image", "attribute"),
        coords={"attribute": ["background", "shape"]},
    )
    names = xr.DataArray([["plain", "", ""], ["circle", "square", "star"]], dims=("attribute", "value"))
    group = [f"{s}/{b}" for s, b in zip(shape, background, strict=True)]
    return ds, classifier, labels, names, group


def run(ds, classifier, labels, names, group, heads, **kwargs):
    return debias(ds, None, heads, classifier, labels, names, group, class_attribute="shape", seed=3, **kwargs)


def test_ablating_the_head_that_writes_the_background_mends_the_worst_group():
    ours = run(*biased(), [(1, 1)], random_heads=2)
    assert ours.ablation.values.tolist() == [
        "base",
        "chosen",
        "random best",
        "random mean",
        "same size best",
        "same size mean",
    ]
    assert float(ours.worst.sel(ablation="base")) == 0
    assert float(ours.worst.sel(ablation="chosen")) == 1
    assert float(ours.overall.sel(ablation="base")) == pytest.approx(0.5, abs=0.1)
    assert ours["count"].sum() == 400
    assert ours["heads"].sel(ablation="chosen") == "L1.H1"
    for baseline in ("random", "same size"):
        draws = ours.draw_worst.sel(baseline=baseline)
        assert draws.sizes == {"draw": 5}
        assert float(ours.worst.sel(ablation=f"{baseline} best")) == draws.max()
        assert float(ours.worst.sel(ablation=f"{baseline} mean")) == pytest.approx(float(draws.mean()))
    assert [len(str(h).split()) for h in ours.draw_heads.sel(baseline="random").values] == [2] * 5
    assert [len(str(h).split()) for h in ours.draw_heads.sel(baseline="same size").values] == [1] * 5


def test_random_heads_come_from_the_given_layers_and_the_seed():
    case = biased()
    ours = run(*case, [(1, 1)], layers=[0], random_heads=10)
    assert set(" ".join(ours.draw_heads.values.ravel()).split()) == {"L0.H0", "L0.H1"}
    xr.testing.assert_identical(ours, run(*case, [(1, 1)], layers=[0], random_heads=10))


def test_no_heads_chosen_is_the_base():
    ours = run(*biased(), [])
    for name in ("chosen", "same size best", "same size mean"):
        xr.testing.assert_equal(
            ours.accuracy.sel(ablation=name, drop=True), ours.accuracy.sel(ablation="base", drop=True)
        )
    assert ours["heads"].sel(ablation="chosen") == ""


def test_unlabelled_images_are_left_out():
    ds, classifier, labels, names, group = biased()
    labels[:100, 1] = -1
    assert run(ds, classifier, labels, names, group, [(1, 1)])["count"].sum() == 300


def test_errors_name_what_is_wrong():
    ds, classifier, labels, names, group = biased()
    with pytest.raises(ParamError, match="no head 7 of layer 1"):
        run(ds, classifier, labels, names, group, [(1, 7)])
    with pytest.raises(ParamError, match=r"asked for \[9\]"):
        run(ds, classifier, labels, names, group, [], layers=[9])
    with pytest.raises(ParamError, match="draws = 0"):
        run(ds, classifier, labels, names, group, [], draws=0)
    with pytest.raises(ParamError, match="class_attribute = 'form'"):
        debias(ds, None, [], classifier, labels, names, group, class_attribute="form", seed=0)
    with pytest.raises(DataError, match="images have 1 labelled background"):
        debias(ds, None, [], classifier, labels, names, group, class_attribute="background", seed=0)
