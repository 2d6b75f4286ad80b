"""Spurious cues: a model in which one head writes the background into the class is mended by ablating that head."""

import numpy as np
import pytest
import xarray as xr

from optogram.errors import DataError, ParamError
from optogram.methods.heads.spurious import _worst_groups, debias, spurious_heads


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


def test_worst_groups_have_intervals_of_the_same_images():
    ds, classifier, labels, names, group = biased()
    # a fifth of the labels are wrong, so that no group is all right or all wrong
    flipped = np.random.default_rng(1).random(400) < 0.2
    labels[flipped, 1] = 1 - labels[flipped, 1]
    ours = run(ds, classifier, labels, names, group, [(1, 1)], random_heads=2)
    assert (ours.worst_low < ours.worst).all()
    assert (ours.worst <= ours.worst_high).all()
    assert float(ours.gain_low.sel(ablation="chosen")) > 0
    assert (ours[["gain_low", "gain_high"]].sel(ablation="base").to_array() == 0).all()
    assert (ours[["lead_low", "lead_high"]].sel(ablation="chosen").to_array() == 0).all()
    np.testing.assert_allclose(ours.lead_low.sel(ablation="base"), ours.gain_low.sel(ablation="chosen"))
    # of some hundred images a group a share is told to about 0.08
    width = (ours.worst_high - ours.worst_low).sel(ablation="chosen")
    assert 0.08 < float(width) < 0.2


def level(rng, size=50):
    """As `biased`, with as many images a group, and with a fifth of the labels wrong, in no group more than in others.

    So 0.8 of each group are right where head (1, 1) is ablated; of the base, 0.8 in two groups and 0.2 in the others.
    """
    ds, classifier, labels, names, group = biased(6 * size, int(rng.integers(1 << 31)))
    group = np.array(group)
    rows = np.concatenate([np.flatnonzero(group == name)[:size] for name in np.unique(group)])
    label = labels[rows].copy()
    flipped = rng.random(len(rows)) < 0.2
    label[flipped, 1] = 1 - label[flipped, 1]
    return ds.isel(image=rows), classifier, label, names, group[rows]


def test_intervals_of_the_worst_of_level_groups_cover_the_truth():
    """Of 40 runs 38 would on average; percentiles alone hold the worst of four groups in about 24."""
    rng, covered = np.random.default_rng(0), {"worst": 0, "gain": 0}
    for _ in range(40):
        ours = run(*level(rng), [(1, 1)], draws=1, random_heads=1).sel(ablation="chosen")
        for name, truth in (("worst", 0.8), ("gain", 0.6)):
            covered[name] += int(float(ours[f"{name}_low"]) <= truth <= float(ours[f"{name}_high"]))
    assert min(covered.values()) >= 36, covered


def test_groups_are_drawn_independently():
    """The worst of two groups of equal answers, in the same order or another: that of two independent shares."""
    right = (np.arange(100) < 70).astype(float)
    group = np.repeat(["a", "b"], 100)
    alike = _worst_groups(np.concatenate([right, right])[None], group, seed=0)[:, 0]
    turned = _worst_groups(np.concatenate([right, right[::-1]])[None], group, seed=0)[:, 0]
    # the smaller of two independent draws is below their mean by deviation / sqrt(pi); a share 0.7 of 100 has 0.0458
    for worst in (alike, turned):
        assert worst.mean() == pytest.approx(0.7 - 0.0458 / np.sqrt(np.pi), abs=0.003)
