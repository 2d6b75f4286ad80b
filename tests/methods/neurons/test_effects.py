"""Rank-1 forms and ablations of second-order effects against the effect vectors themselves."""

import importlib

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from optogram.decompose import effect_norms, effects
from optogram.errors import ParamError, ShapeError
from optogram.methods import ablate_effects, effect_means, largest_effects, rank_one, replace_effects, through_heads

TOLERANCE = 1e-5


def relative(found, expected):
    return np.linalg.norm(np.asarray(found) - np.asarray(expected)) / np.linalg.norm(np.asarray(expected))


def synthetic(seed=0, images=40, layers=2, heads=3, neurons=7, embed=12, shared=1):
    """Effects that no model has to have: large constants that vary in `shared` directions, neurons of many sizes."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    constant = normal(images, shared) @ normal(shared, embed) + normal(embed)
    return xr.Dataset(
        {
            "c": (("image", "layer", "head", "neuron"), normal(images, layers, heads, neurons) ** 3),
            "D": (("layer", "head", "neuron", "embed"), normal(layers, heads, neurons, embed)),
            "constant": (("image", "embed"), constant),
            "embedding": (("image", "embed"), 10 * normal(images, embed)),
        },
        coords={"layer": [3, 4], "head": range(heads), "neuron": 10 * np.arange(neurons)},
    )


@pytest.fixture
def ds():
    return synthetic()


@pytest.fixture(params=["at once", "in blocks"])
def blocks(request, monkeypatch):
    """Everything at once, then a neuron or two and an image at a time."""
    if request.param == "in blocks":
        module = importlib.import_module("optogram.decompose.effects")
        monkeypatch.setattr(module, "DIRECTION_BYTES", 1000)
        monkeypatch.setattr(module, "IMAGE_BYTES", 100)
        monkeypatch.setattr("optogram.methods.neurons.effects._EIGEN_NEURONS", 2)


def literal_form(ds, count):
    """Section 3.3 by materialised effects and a singular value decomposition for each neuron, float64."""
    phi = effects(ds).values.astype(np.float64)
    b = phi.mean(0)
    r, explained, tops = np.zeros_like(b), [], []
    for n in range(phi.shape[1]):
        top = np.argsort(-np.linalg.norm(phi[:, n], axis=1))[:count]
        _, s, v = np.linalg.svd(phi[top, n] - b[n], full_matrices=False)
        r[n] = v[0] * np.sign((phi[top, n] @ v[0]).mean())
        explained.append(s[0] ** 2 / (s**2).sum())
        tops.append(top)
    return phi, b, r, explained, np.array(tops)


@pytest.mark.parametrize("count", [3, 10, 100])
@pytest.mark.parametrize("shared", [0, 1, 20])
def test_rank_one_is_the_svd_of_the_largest_effects(count, shared, blocks):
    ds = synthetic(shared=shared)
    form = rank_one(ds, count)
    phi, b, r, explained, top = literal_form(ds, count)
    assert np.array_equal(form.top, top)
    assert relative(form.b, b) < TOLERANCE
    assert relative(form.r, r) < 1e-4  # gaps between components amplify float32's rounding
    assert relative(form.explained, explained) < TOLERANCE
    norms = np.linalg.norm(phi, axis=2).T
    assert relative(form.norm, np.take_along_axis(norms, top, 1)) < TOLERANCE
    assert form.r.dims == ("neuron", "embed")
    assert form.neuron.values.tolist() == [0, 10, 20, 30, 40, 50, 60]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), count=st.integers(1, 40))
def test_r_has_unit_length_and_points_where_effects_are_large(seed, count):
    ds = synthetic(seed)
    form = rank_one(ds, count)
    phi = effects(ds).values.astype(np.float64)
    x = np.einsum("bne,ne->bn", phi, form.r.values)
    assert np.allclose(np.linalg.norm(form.r, axis=1), 1, atol=1e-5)
    assert (np.take_along_axis(x.T, form.top.values, 1).mean(1) > -1e-4).all()
    assert ((form.explained > 0) & (form.explained <= 1 + 1e-6)).all()


def test_effects_of_rank_one_are_explained_whole():
    ds = synthetic(shared=0)
    ds["c"][:] = ds.c.values[:, :1, :1]  # every head passes the same on: one direction a neuron
    form = rank_one(ds, 15)
    assert np.allclose(form.explained, 1, atol=1e-5)
    direction = ds.D.values.sum((0, 1))
    cosine = np.einsum("ne,ne->n", form.r, direction) / np.linalg.norm(direction, axis=1)
    assert np.allclose(np.abs(cosine), 1, atol=1e-5)
    assert relative(replace_effects(ds, form), ds.embedding) < TOLERANCE


def test_a_neuron_that_never_changes_has_no_direction():
    ds = synthetic(shared=0)
    ds["c"][..., 2] = 0.5
    ds["c"][..., 3] = 0
    form = rank_one(ds, 10)
    assert not form.r[[2, 3]].any()
    assert not form.explained[[2, 3]].any()
    assert np.isfinite(form.r).all()
    assert form.r[4].any()


def test_means_are_over_images(ds, blocks):
    means = effect_means(ds.drop_vars(["D", "embedding"]))
    assert relative(means.c, ds.c.values.mean(0)) < TOLERANCE
    assert relative(means.constant, ds.constant.values.mean(0)) < TOLERANCE
    with pytest.raises(ShapeError, match="no images"):
        effect_means(ds.isel(image=slice(0)))


def test_largest_effects_are_so_many_a_neuron(ds):
    norms = effect_norms(ds)
    large = largest_effects(norms, 6)
    assert (large.sum("image") == 6).all()
    assert (norms.where(large).min("image") >= norms.where(~large).max("image")).all()
    assert largest_effects(norms, 500).all()
    ties = xr.DataArray(np.array([[1.0], [2.0], [2.0], [2.0]]), dims=("image", "neuron"))
    assert largest_effects(ties, 2).values[:, 0].tolist() == [False, True, True, False]
    with pytest.raises(ParamError, match="count = 0"):
        largest_effects(norms, 0)
    with pytest.raises(ParamError, match="count = -1"):
        rank_one(ds, -1)


@pytest.fixture(params=["itself", "another set"])
def sets(request, ds):
    evaluated, other = ds.isel(image=slice(15, None)), ds.isel(image=slice(0, 15))
    return (evaluated, None, evaluated) if request.param == "itself" else (evaluated, effect_means(other), other)


def test_all_effects_mean_ablated(sets, blocks):
    evaluated, mean, reference = sets
    phi, means = effects(evaluated).values.astype(np.float64), effects(reference).values.mean(0)
    expected = evaluated.embedding.values - (phi - means).sum(1)
    assert relative(ablate_effects(evaluated, mean), expected) < TOLERANCE


def test_small_and_large_effects_mean_ablated(sets, blocks):
    evaluated, mean, reference = sets
    phi, means = effects(evaluated).values.astype(np.float64), effects(reference).values.mean(0)
    large = largest_effects(effect_norms(evaluated), 6)
    for where in (large, ~large, large.T, large.values):
        mask = np.asarray(where.transpose("image", "neuron") if isinstance(where, xr.DataArray) else where)
        expected = evaluated.embedding.values - ((phi - means) * mask[..., None]).sum(1)
        assert relative(ablate_effects(evaluated, mean, where=where), expected) < TOLERANCE
    none = ablate_effects(evaluated, mean, where=np.zeros_like(large.values))
    assert relative(none, evaluated.embedding) < 1e-6


def test_effects_replaced_by_their_rank_one_form(sets, blocks):
    evaluated, _, reference = sets
    form = rank_one(reference, 8)
    phi = effects(evaluated).values.astype(np.float64)
    x = np.einsum("bne,ne->bn", phi - form.b.values, form.r.values)
    kept = evaluated.embedding.values - phi.sum(1) + form.b.values.sum(0)
    assert relative(replace_effects(evaluated, form), kept + x @ form.r.values) < TOLERANCE
    other = np.random.default_rng(1).standard_normal(form.r.shape).astype(np.float32)
    expected = kept + x @ other
    assert relative(replace_effects(evaluated, form, directions=other), expected) < TOLERANCE
    named = xr.DataArray(other.T, dims=("embed", "neuron"))
    assert relative(replace_effects(evaluated, form, directions=named), expected) < TOLERANCE
    # a rank-1 form is also the mean of an ablation
    assert relative(ablate_effects(evaluated, form), ablate_effects(evaluated, effect_means(reference))) < 1e-6


def test_neurons_go_block_by_block(ds):
    form = rank_one(ds, 8)
    parts = [ds.isel(neuron=slice(0, 3)), ds.isel(neuron=slice(3, None))]
    step = ablate_effects(parts[0])
    assert relative(ablate_effects(parts[1].drop_vars("embedding"), start=step), ablate_effects(ds)) < TOLERANCE
    step = ds.embedding.values
    for part in parts:
        step = replace_effects(part, rank_one(part, 8), start=step)
    assert relative(step, replace_effects(ds, form)) < TOLERANCE
    before = ds.embedding.values.copy()
    ablate_effects(ds)
    assert np.array_equal(ds.embedding, before)


def test_refuses_what_does_not_fit(ds):
    with pytest.raises(ShapeError, match=r"lacks embedding"):
        ablate_effects(ds.drop_vars("embedding"))
    with pytest.raises(ShapeError, match=r"lacks D"):
        rank_one(ds.drop_vars("D"))
    with pytest.raises(ShapeError, match=r"\(2, 3, 4\), the effects of \(2, 3, 7\)"):
        ablate_effects(ds, effect_means(ds.isel(neuron=slice(4))))
    with pytest.raises(ShapeError, match="same layer and the same neurons"):
        ablate_effects(ds, effect_means(ds).assign_coords(neuron=range(7)))
    with pytest.raises(ShapeError, match=r"where has shape \(7, 40\)"):
        ablate_effects(ds, where=np.zeros((7, 40), bool))
    with pytest.raises(ShapeError, match=r"the rank-1 form lacks r"):
        replace_effects(ds, effect_means(ds))
    with pytest.raises(ShapeError, match=r"directions have shape \(3, 12\), but r has \(7, 12\)"):
        replace_effects(ds, rank_one(ds), directions=np.zeros((3, 12), np.float32))


@pytest.mark.usefixtures("blocks")
def test_what_passes_each_head_adds_up_to_the_largest_effects(ds):
    form = rank_one(ds, 9, norms=effect_norms(ds))
    found = through_heads(ds, form)
    assert found.dims == ("layer", "head", "neuron")
    assert found.neuron.values.tolist() == ds.neuron.values.tolist()
    r, mean, top = form.r.values, form.c.values, form.top.values
    c = ds.c.values[top, :, :, np.arange(len(top))[:, None]]  # (neuron, rank, layer, head)
    expected = np.einsum("nrlh,lhne,ne->lhn", c - mean.transpose(2, 0, 1)[:, None], ds.D.values, r) / 9
    assert relative(found, expected) < TOLERANCE
    x = np.einsum("ink,nk->in", effects(ds).values - form.b.values, r)
    shared = np.einsum("ie,ne->in", ds.constant.values - form.constant.values, r)
    at = np.take_along_axis(x - shared, top.T, 0).mean(0)
    assert relative(found.sum(("layer", "head")), at) < TOLERANCE
