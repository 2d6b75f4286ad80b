"""TextSpan against Algorithm 1 written out, and on what must not change its picks."""

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_contributions import expand, synthetic

from optogram.errors import DataError, ParamError, ShapeError
from optogram.methods.heads.textspan import reconstruct, textspan, textspan_heads


def literal_algorithm_1(contributions, texts, size, rank=None):
    """Algorithm 1 of Gandelsman (2025) line by line; the texts are projected as the published code does."""
    c, r = np.array(contributions, np.float64), np.array(texts, np.float64)
    _, values, axes = np.linalg.svd(c, full_matrices=False)
    axes = axes[: (values > 1e-5 * values[0]).sum() if rank is None else rank]
    r = r @ axes.T @ axes
    found, projected = [], np.zeros_like(c)
    for _ in range(size):
        d = r @ c.T
        best = int(d.var(axis=1).argmax())
        found.append(best)
        direction = r[best] / np.linalg.norm(r[best])
        projected += np.outer(c @ direction, direction)
        c -= np.outer(c @ direction, direction)
        r -= np.outer(r @ direction, direction)
    return found, projected


def literal_variance(contributions, texts, picks, axes):
    """Eq. 2.7 for the first pick, the first two picks and so on."""
    centred = contributions - contributions.mean(0)
    explained = [0.0]
    for size in range(1, len(picks) + 1):
        q = np.linalg.qr((texts[picks[:size]] @ axes.T @ axes).T)[0]
        explained.append((centred @ q).__pow__(2).sum() / len(centred))
    return np.diff(explained)


def random_case(seed, images=80, texts=50, embed=24, dims=9):
    """Contributions in a subspace with a decaying spectrum and a large mean, unit texts with a common part."""
    rng = np.random.default_rng(seed)
    spectrum = np.exp(-0.5 * np.arange(dims))
    c = (rng.standard_normal((images, dims)) + 2) * spectrum @ rng.standard_normal((dims, embed))
    r = rng.standard_normal((texts, embed)) + 0.5
    return c, r / np.linalg.norm(r, axis=1, keepdims=True)


@pytest.mark.parametrize("seed", range(60))
def test_textspan_matches_algorithm_1(seed):
    c, r = random_case(seed)
    size = 1 + seed % 9
    ours = textspan(c, r, size)
    picks, projected = literal_algorithm_1(c, r, size)
    assert ours.indices.tolist() == picks
    np.testing.assert_allclose(ours.projection, projected, rtol=1e-7, atol=1e-8)
    axes = np.linalg.svd(c, full_matrices=False)[2][:9]
    np.testing.assert_allclose(ours.variance, literal_variance(c, r, picks, axes), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("seed", range(20))
def test_textspan_matches_algorithm_1_in_float32_full_rank_and_few_images(seed):
    rng = np.random.default_rng(seed)
    for images, dims in ((400, 24), (12, 24), (400, 9)):
        c, r = random_case(seed, images=images, dims=dims)
        c = (c + 0.1 * rng.standard_normal(c.shape) if dims == 24 else c).astype(np.float32)
        assert textspan(c, r.astype(np.float32), 8).indices.tolist() == literal_algorithm_1(c, r, 8)[0]


def test_a_low_rank_head_is_seen_even_when_the_sampled_rows_miss_a_direction():
    c, r = random_case(0, images=3000, dims=6)
    lone = np.linalg.svd(c)[2][-1]
    c[1234] += 300 * lone
    assert textspan(c, r, 7).indices.tolist() == literal_algorithm_1(c, r, 7)[0]


@pytest.mark.parametrize("seed", range(10))
def test_rank_projects_texts_onto_the_top_singular_directions(seed):
    c, r = random_case(seed)
    assert textspan(c, r, 5, rank=6).indices.tolist() == literal_algorithm_1(c, r, 5, rank=6)[0]


def test_equal_texts_go_to_the_lowest_index_and_are_taken_once():
    c, r = random_case(3)
    plain = textspan(c, r, 6).indices
    twice = textspan(c, np.concatenate([r, r, -r]), 6).indices
    assert plain.tolist() == twice.tolist()


def test_a_text_outside_the_span_is_never_taken():
    c, r = random_case(5)
    outside = np.linalg.svd(c)[2][-1]
    r = np.concatenate([[outside * 1e3, np.zeros_like(outside)], r])
    assert textspan(c, r, 9).indices.min() >= 2


def test_tensors_in_tensors_out():
    c, r = random_case(1)
    ours = textspan(torch.tensor(c, requires_grad=True), torch.tensor(r), 4)
    arrays = textspan(c, r, 4)
    assert all(isinstance(part, torch.Tensor) for part in ours)
    assert ours.indices.tolist() == arrays.indices.tolist()
    assert ours.projection.shape == c.shape


@given(seed=st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_picks_survive_rotation_and_image_order_and_explain_at_most_everything(seed):
    c, r = random_case(seed)
    rng = np.random.default_rng(seed + 1)
    plain = textspan(c, r, 9)
    rotation = np.linalg.qr(rng.standard_normal((c.shape[1], c.shape[1])))[0]
    turned = textspan(c @ rotation, r @ rotation, 9)
    shuffled = textspan(rng.permutation(c), r, 9)
    assert plain.indices.tolist() == turned.indices.tolist() == shuffled.indices.tolist()
    np.testing.assert_allclose(plain.variance, turned.variance, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(plain.projection @ rotation, turned.projection, atol=1e-8)
    assert (plain.variance >= 0).all()
    assert plain.variance.sum() <= c.var(0).sum() * (1 + 1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_heads_from_the_compact_store_pick_as_textspan_on_the_expanded_head(seed):
    ds = synthetic(seed, images=90)
    r = random_case(seed, embed=16)[1].astype(np.float32)
    expanded = expand(ds)
    for rank in (None, 5):
        ours = textspan_heads(ds, r, 5, rank=rank, layers=[2, 1])
        assert ours.layer.values.tolist() == [2, 1]
        for layer in (1, 2):
            for head in (0, 1):
                c = expanded.sel(layer=layer, head=head).values
                one, here = textspan(c, r, 5, rank=rank), ours.sel(layer=layer, head=head)
                assert here["index"].values.tolist() == one.indices.tolist()
                np.testing.assert_allclose(here.variance, one.variance, rtol=1e-4)
                np.testing.assert_allclose(here.total_variance, c.var(0, dtype=np.float64).sum(), rtol=1e-4)
                onto = here.directions.values
                np.testing.assert_allclose(onto @ onto.T, np.eye(5), atol=1e-5)
                np.testing.assert_allclose(c @ onto.T @ onto, one.projection, atol=1e-4)


def test_greedy_picks_nest():
    ds, r = synthetic(), random_case(0, embed=16)[1]
    xr.testing.assert_identical(textspan_heads(ds, r, 5).isel(step=slice(3)), textspan_heads(ds, r, 3))


def test_a_head_that_always_writes_the_same_has_no_picks():
    ds = synthetic()
    ds.z[:, 1, 0] = 1.0
    ds["scale"], ds["mean"] = ds.scale * 0 + 1, ds["mean"] * 0
    ours = textspan_heads(ds, random_case(0, embed=16)[1], 4)
    assert (ours["index"].sel(layer=1, head=0) == -1).all()
    assert float(ours.total_variance.sel(layer=1, head=0)) == 0
    assert (ours["index"].sel(layer=0) >= 0).all()


def literal_reconstruction(ds, reference, spans, size, keep_mean):
    heads, means = expand(ds).values.astype(np.float64), expand(reference).values.astype(np.float64).mean(0)
    total = reference.mlp.values.astype(np.float64).mean(0).sum(0) + np.zeros((ds.sizes["image"], 1))
    for layer in range(ds.sizes["layer"]):
        for head in range(ds.sizes["head"]):
            if layer not in spans.layer:
                total = total + means[layer, head]
                continue
            onto = spans.directions.sel(layer=layer, head=head).values[:size].astype(np.float64)
            centre = means[layer, head] if keep_mean else 0
            total = total + centre + (heads[:, layer, head] - centre) @ onto.T @ onto
    return total


@pytest.mark.parametrize("keep_mean", [False, True])
def test_reconstruct_is_the_projection_of_every_head(keep_mean):
    ds, reference = synthetic(1), synthetic(1, images=60).isel(image=slice(5, 40))
    spans = textspan_heads(reference, random_case(0, embed=16)[1], 5, layers=[2, 0])
    sizes = [4, 0, 2]
    ours = reconstruct(ds, reference, spans, sizes, keep_mean=keep_mean)
    readout = np.random.default_rng(0).standard_normal((3, 16))
    read = reconstruct(ds, reference, spans, sizes, readout=readout, keep_mean=keep_mean)
    for at, size in enumerate(sizes):
        expected = literal_reconstruction(ds, reference, spans, size, keep_mean)
        np.testing.assert_allclose(ours[at], expected, atol=1e-3)
        np.testing.assert_allclose(read[at], expected @ readout.T, atol=1e-3)


def test_errors_name_what_is_wrong():
    c, r = random_case(0)
    ds = synthetic()
    with pytest.raises(ParamError, match=r"size = 10, but the contributions have only 9 dimensions"):
        textspan(c, r, 10)
    with pytest.raises(ParamError, match=r"rank = 96, but the contributions have only 9"):
        textspan(c, r, 3, rank=96)
    with pytest.raises(ParamError, match=r"rank = 96, but a head has only 5 dimensions\.\n  Set rank to at most 5, or"):
        textspan_heads(ds, r[:, :16], 3, rank=96)
    with pytest.raises(ParamError, match="size = 6, but a head has only 5"):
        textspan_heads(ds, r[:, :16], 6)
    with pytest.raises(ParamError, match="rank = 3"):
        textspan(c, r, 4, rank=3)
    with pytest.raises(ParamError, match="size = 0"):
        textspan(c, r, 0)
    with pytest.raises(ParamError, match="asked for 7"):
        textspan_heads(ds, r[:, :16], 3, layers=[7])
    with pytest.raises(ShapeError, match="24 embed dimensions, but texts have 23"):
        textspan(c, r[:, 1:], 3)
    with pytest.raises(ShapeError, match="two dimensions"):
        textspan(c[0], r, 3)
    with pytest.raises(DataError, match="hold 1 images"):
        textspan(c[:1], r, 1)
    with pytest.raises(DataError, match="pool has only 2 texts"):
        textspan(c, r[:2], 3)
    with pytest.raises(DataError, match="texts span only 1 dimensions"):
        textspan(c, np.tile(r[:1], (9, 1)), 3)
    for bad in (np.nan, np.inf):
        for row in (0, 33):
            broken = c.copy()
            broken[row, 3] = bad
            with pytest.raises(DataError, match="contributions hold values that are not finite"):
                textspan(broken, r, 3)
        with pytest.raises(DataError, match="texts hold values that are not finite"):
            textspan(c, np.where(r == r[4, 4], bad, r), 3)
    ds.z[3, 1, 1, 2] = np.nan
    with pytest.raises(DataError, match="contributions hold"):
        textspan_heads(ds, r[:, :16], 3)


def test_the_package_offers_the_functions_of_its_families():
    import optogram.methods

    assert optogram.methods.textspan is textspan
    for name in optogram.methods.__all__:
        assert callable(getattr(optogram.methods, name))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = optogram.methods.nothing
