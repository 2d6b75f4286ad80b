"""OMP against scikit-learn's and the literal algorithm, and on what must not change its picks."""

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import orthogonal_mp

from optogram.errors import DataError, ParamError, ShapeError
from optogram.methods.neurons import sparse
from optogram.methods.neurons import text_dictionary as pools
from optogram.methods.neurons.sparse import omp, omp_sizes, recompose
from optogram.methods.neurons.text_dictionary import prepare_texts


def literal_omp(dictionary, target, sparsity):
    """OMP step by step: the text with the largest correlation, and a new least-squares fit on all texts so far."""
    residual, support, coefficients = target, [], np.zeros(0)
    for _ in range(sparsity):
        support.append(int(np.abs(dictionary @ residual).argmax()))
        coefficients = np.linalg.lstsq(dictionary[support].T, target, rcond=None)[0]
        residual = target - coefficients @ dictionary[support]
    return support, coefficients


def random_case(seed, texts=150, embed=32, targets=6, common=0.0):
    """Unit texts, with a part that all share and clusters of near texts where `common` > 0, and plain targets."""
    rng = np.random.default_rng(seed)
    pool = rng.standard_normal((texts, embed))
    if common:
        pool = 0.3 * pool + rng.standard_normal((10, embed))[rng.integers(0, 10, texts)] + common
    return pool / np.linalg.norm(pool, axis=1, keepdims=True), rng.standard_normal((targets, embed))


def dense(codes, texts):
    """(target, text) coefficients, as scikit-learn gives them."""
    full = np.zeros((len(codes.indices), texts))
    for row, picks, values in zip(full, codes.indices, codes.coefficients, strict=True):
        np.add.at(row, picks[picks >= 0], values[picks >= 0])
    return full


@pytest.mark.parametrize("common", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("seed", range(12))
def test_omp_matches_scikit_learn(seed, common):
    d, y = random_case(seed, common=common)
    sparsity = 1 + 2 * seed
    codes = omp(d, y, sparsity)
    assert (codes.indices >= 0).all()
    theirs = orthogonal_mp(d.T, y.T, n_nonzero_coefs=sparsity).reshape(len(d), len(y)).T
    ours = dense(codes, len(d))
    assert ((ours != 0) == (theirs != 0)).all()
    np.testing.assert_allclose(ours, theirs, rtol=1e-7, atol=1e-9 * np.abs(theirs).max())


@pytest.mark.parametrize("common", [0.0, 0.5])
@pytest.mark.parametrize("seed", range(15))
def test_omp_matches_the_literal_algorithm_in_the_order_of_picks(seed, common):
    d, y = random_case(seed, texts=40 + seed, common=common)
    codes = omp(d, y, 20)
    for at, target in enumerate(y):
        support, coefficients = literal_omp(d, target, 20)
        assert codes.indices[at].tolist() == support
        np.testing.assert_allclose(codes.coefficients[at], coefficients, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_float32_inputs_have_the_picks_of_float64(seed):
    d, y = (part.astype(np.float32) for part in random_case(seed, texts=2000, embed=64, common=0.5))
    codes, wide = omp(d, y, 30), omp(d.astype(np.float64), y.astype(np.float64), 30)
    assert codes.coefficients.dtype == np.float32
    assert wide.coefficients.dtype == np.float64
    np.testing.assert_array_equal(codes.indices, wide.indices)
    np.testing.assert_allclose(codes.coefficients, wide.coefficients, rtol=1e-6)


def nearly_tied(apart, texts=640, embed=48):
    """For each target two texts, far apart in the pool, whose correlations with it differ by `apart`, relatively."""
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.standard_normal((embed, embed)))[0]
    d = 0.1 * rng.standard_normal((texts, embed))
    firsts, seconds = np.arange(8), texts - 1 - np.arange(8)
    for at in range(8):
        d[firsts[at]] = 0.8 * (1 - apart) * axes[at] + 0.6 * axes[20 + at]
        d[seconds[at]] = 0.8 * axes[at] - 0.6 * axes[30 + at]
    return d, axes[:8], firsts, seconds


def test_float64_decides_where_the_float32_screen_cannot():
    d, y, firsts, seconds = nearly_tied(1e-9)
    assert (d.astype(np.float32) @ y.T.astype(np.float32)).argmax(0).tolist() != seconds.tolist()  # else shows nothing
    assert omp(d, y, 1).indices[:, 0].tolist() == seconds.tolist()
    d, y, firsts, seconds = nearly_tied(0)
    assert omp(d, y, 1).indices[:, 0].tolist() == firsts.tolist(), "a tie goes to the lowest index"


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_picks_do_not_depend_on_how_coarse_float32_products_may_be(precision, monkeypatch):
    """The screen rounded by hand as a GPU or AMX would: the margin makes up for it."""
    d, y = random_case(1, texts=1500, embed=64, targets=40)
    exact, product = omp(d, y, 25), torch.mm
    bits = {"high": 13, "medium": 16}[precision]

    def coarse(rows):
        return (rows.contiguous().view(torch.int32) & -(1 << bits)).view(torch.float32)

    def rounded(a, b, *, out):
        return product(coarse(a), coarse(b), out=out)

    monkeypatch.setattr(torch, "mm", rounded)
    careless = omp(d, y, 25)
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: precision)
    np.testing.assert_array_equal(omp(d, y, 25).indices, exact.indices)
    if precision == "medium":
        assert (careless.indices != exact.indices).any(), "rounding this coarse changes picks unless the margin knows"

    def mixed():
        raise RuntimeError("set apart for each backend")

    monkeypatch.setattr(torch, "get_float32_matmul_precision", mixed)
    np.testing.assert_array_equal(omp(d, y, 25).indices, exact.indices)


@pytest.mark.parametrize("pairs", [1, 3])
def test_deciding_in_small_parts_changes_nothing(pairs, monkeypatch):
    d, y = random_case(2)
    whole = omp(np.concatenate([d, -d]), y, 12)
    monkeypatch.setattr(sparse, "_PAIRS", pairs)
    parts = omp(np.concatenate([d, -d]), y, 12)
    np.testing.assert_array_equal(whole.indices, parts.indices)
    assert whole.indices.max() < len(d), "of a text and its opposite, a tie, the first is taken"


@pytest.mark.parametrize(("state", "tile"), [(1, 1), (40_000, 5_000)])
def test_chunks_of_targets_and_tiles_of_texts_change_nothing(state, tile, monkeypatch):
    d, y = random_case(3, texts=333, targets=21)
    whole = omp_sizes(d, y, [4, 9])
    monkeypatch.setattr(sparse, "_STATE", state)
    monkeypatch.setattr(sparse, "_TILE", tile)
    parts = omp_sizes(d, y, [4, 9])
    np.testing.assert_array_equal(whole.indices, parts.indices)
    np.testing.assert_allclose(whole.coefficients, parts.coefficients, rtol=1e-10)


@given(seed=st.integers(0, 10_000), common=st.sampled_from([0.0, 1.0]))
@settings(max_examples=40, deadline=None)
def test_residuals_are_orthogonal_to_the_picks_and_shrink(seed, common):
    d, y = random_case(seed, common=common)
    sizes = list(range(1, 21))
    indices, coefficients = omp_sizes(d, y, sizes)
    left = y - recompose(d, indices, coefficients)
    for at, size in enumerate(sizes):
        inside = np.einsum("tpe,te->tp", d[indices[:, :size]], left[at])
        assert np.abs(inside).max() < 1e-10
    lengths = np.concatenate([[np.linalg.norm(y, axis=1)], np.linalg.norm(left, axis=2)])
    assert (np.diff(lengths, axis=0) < 0).all()
    assert all(len(set(picks)) == 20 for picks in indices.tolist())


@given(seed=st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_order_rotation_scale_and_sign_do_what_they_should(seed):
    d, y = random_case(seed)
    rng = np.random.default_rng(seed + 1)
    plain = omp(d, y, 10)
    order, rows = rng.permutation(len(d)), rng.permutation(len(y))
    shuffled = omp(d[order], y[rows], 10)
    np.testing.assert_array_equal(order[shuffled.indices], plain.indices[rows])
    rotation = np.linalg.qr(rng.standard_normal((32, 32)))[0]
    scales = -(10.0 ** rng.uniform(-12, 12, (len(y), 1)))
    turned = omp(d @ rotation, scales * y @ rotation, 10)
    np.testing.assert_array_equal(turned.indices, plain.indices)
    np.testing.assert_allclose(turned.coefficients, scales * plain.coefficients, rtol=1e-8)


def test_sizes_of_one_pursuit_are_those_of_pursuits_apart():
    d, y = random_case(4)
    sizes = [8, 1, 16, 4]
    indices, coefficients = omp_sizes(d, y, sizes)
    assert coefficients.shape == (4, 6, 16)
    for size, values in zip(sizes, coefficients, strict=True):
        alone = omp(d, y, size)
        np.testing.assert_array_equal(indices[:, :size], alone.indices)
        np.testing.assert_allclose(values[:, :size], alone.coefficients, rtol=1e-10)
        assert (values[:, size:] == 0).all()
        np.testing.assert_allclose(recompose(d, *alone), recompose(d, indices, values), rtol=1e-10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_exact_sum_stops_when_nothing_is_left_and_zero_has_no_picks(dtype):
    d, _ = random_case(5)
    y = np.stack([2 * d[7] - 0.5 * d[99], np.zeros(32), d[3]]).astype(dtype)
    codes = omp(d.astype(dtype), y, 6)
    assert codes.indices.tolist() == [[7, 99, -1, -1, -1, -1], [-1] * 6, [3, -1, -1, -1, -1, -1]]
    expected = [[2, -0.5, 0, 0, 0, 0], [0] * 6, [1, 0, 0, 0, 0, 0]]
    np.testing.assert_allclose(codes.coefficients, expected, atol=1e-6 if dtype == np.float32 else 1e-13)
    np.testing.assert_allclose(recompose(d.astype(dtype), *codes), y, atol=1e-6)


def test_a_pool_that_spans_few_dimensions_ends_the_pursuit():
    d, y = random_case(6)
    flat = np.linalg.qr(np.random.default_rng(0).standard_normal((32, 32)))[0][:5]
    d = d @ flat.T @ flat
    codes = omp(d / np.linalg.norm(d, axis=1, keepdims=True), y, 9)
    assert ((codes.indices >= 0).sum(1) == 5).all()
    np.testing.assert_allclose(dense(codes, 150) @ (d / np.linalg.norm(d, axis=1, keepdims=True)), y @ flat.T @ flat)


def test_texts_that_nearly_depend_on_each_other_are_fitted_to_rounding():
    """All within 1e-4 of one direction: a basis made orthogonal once would be off by a hundred million roundings."""
    rng = np.random.default_rng(0)
    d = rng.standard_normal(64) + 1e-4 * rng.standard_normal((200, 64))
    d, y = d / np.linalg.norm(d, axis=1, keepdims=True), rng.standard_normal((5, 64))
    codes = omp(d, y, 20)
    assert (codes.indices >= 0).all()
    best = [
        picks.T @ np.linalg.lstsq(picks.T, target, rcond=None)[0]
        for picks, target in zip(d[codes.indices], y, strict=True)
    ]
    np.testing.assert_allclose(recompose(d, *codes), best, atol=1e-10)


def test_texts_orthogonal_to_what_is_left_are_not_taken():
    axes = np.linalg.qr(np.random.default_rng(0).standard_normal((12, 12)))[0]
    codes = omp(axes[:6], axes[3:4] * 2 + axes[8:9], 3)
    assert codes.indices.tolist() == [[3, -1, -1]]
    np.testing.assert_allclose(codes.coefficients, [[2, 0, 0]], atol=1e-13)


def test_a_text_that_depends_on_the_chosen_ones_ends_the_pursuit(monkeypatch):
    """Texts 1e-9 apart are refused as duplicates; past that, taking both would need coefficients of 1e9."""
    axes = np.eye(12)
    twin = axes[0] + 1e-9 * axes[1]
    y = np.array([axes[0] * 2 + axes[1] * 1e-3])
    monkeypatch.setattr(pools, "_SAME", 0.0)
    codes = omp(np.stack([axes[0], twin, axes[5]]), y, 3)
    assert codes.indices.tolist() == [[0, -1, -1]]
    np.testing.assert_allclose(codes.coefficients, [[2, 0, 0]], atol=1e-9)


def test_tensors_in_tensors_out_and_half_precision():
    d, y = random_case(7)
    ours = omp(torch.tensor(d, requires_grad=True), torch.tensor(y), 5)
    assert isinstance(ours.indices, torch.Tensor)
    assert isinstance(recompose(torch.tensor(d), *ours), torch.Tensor)
    np.testing.assert_array_equal(ours.indices.numpy(), omp(d, y, 5).indices)
    half = omp(torch.tensor(d).half(), torch.tensor(y).bfloat16(), 5)
    assert half.coefficients.dtype == torch.float32
    frozen = d.copy()
    frozen.flags.writeable = False
    np.testing.assert_array_equal(omp(frozen, y[:, ::-1][:, ::-1], 5).indices, ours.indices.numpy())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_picks_as_the_cpu_does():
    d, y = random_case(8, texts=5000, embed=128, targets=50)
    there = omp(torch.tensor(d, device="cuda"), torch.tensor(y), 40)
    assert there.indices.device.type == "cpu"
    np.testing.assert_array_equal(there.indices.numpy(), omp(d, y, 40).indices)


def test_no_targets_are_no_picks():
    d, y = random_case(0)
    assert omp(d, y[:0], 3).indices.shape == (0, 3)
    assert recompose(d, *omp_sizes(d, y[:0], [1, 3])).shape == (2, 0, 32)


def test_prepared_texts_are_centred_then_of_unit_norm():
    d, _ = random_case(9, common=2.0)
    d *= np.linspace(1, 3, len(d))[:, None]
    ours = prepare_texts(d)
    expected = np.array([(row - d.mean(0)) / np.linalg.norm(row - d.mean(0)) for row in d])
    np.testing.assert_allclose(ours, expected, rtol=1e-10, atol=1e-14)
    named = xr.DataArray(d.astype(np.float32), dims=("text", "embed"), coords={"text": [f"t{i}" for i in range(150)]})
    kept = prepare_texts(named)
    assert kept.text.values[3] == "t3"
    assert kept.dtype == np.float32
    np.testing.assert_allclose(kept.values, expected, atol=1e-6)
    np.testing.assert_allclose(prepare_texts(torch.tensor(d)).numpy(), expected, atol=1e-14)


def test_after_centring_a_sign_says_towards_or_away():
    """All texts share a part: uncentred, a direction away from a text is not even a negative multiple of a text."""
    rng = np.random.default_rng(0)
    texts = 0.2 * rng.standard_normal((400, 64)) + 1
    away = texts.mean(0) - texts[17]
    codes = omp(prepare_texts(texts), away[None], 3)
    assert codes.indices[0, 0] == 17
    assert codes.coefficients[0, 0] < 0
    np.testing.assert_allclose(codes.coefficients[0, 0], -np.linalg.norm(away))


@pytest.mark.misfits
def test_errors_name_what_is_wrong():
    d, y = random_case(0)
    for sparsity, error in ((0, ParamError), (33, ParamError)):
        with pytest.raises(
            error, match=rf"sparsity = {sparsity}, but targets have 32 embed dim.*\n  Set sparsity from 1"
        ):
            omp(d, y, sparsity)
    with pytest.raises(ParamError, match=r"sizes = \[4, 64\], but targets have 32"):
        omp_sizes(d, y, [4, 64])
    with pytest.raises(ParamError, match=r"sizes = \[\]"):
        omp_sizes(d, y, [])
    with pytest.raises(DataError, match=r"sparsity = 9, but the dictionary has only 8 texts"):
        omp(d[:8], y, 9)
    with pytest.raises(ShapeError, match="targets have 31 embed dimensions, but the dictionary has 32"):
        omp(d, y[:, 1:], 3)
    with pytest.raises(ShapeError, match=r"targets has shape \(32,\); expected two dimensions, \(target, embed\)"):
        omp(d, y[0], 3)
    for bad in (np.nan, np.inf):
        broken = d.copy()
        broken[140, 3] = bad
        with pytest.raises(DataError, match=r"dictionary hold values that are not finite .*: text 140\."):
            omp(broken, y, 3)
        broken = y.copy()
        broken[1:3, 0] = bad
        with pytest.raises(DataError, match=r"targets hold values that are not finite .*: target 1, target 2\."):
            omp(d, broken, 3)
    named = xr.DataArray(d.copy(), dims=("text", "embed"), coords={"text": [f"t{i}" for i in range(150)]})
    named[[4, 9]] = 0
    for call in (prepare_texts, lambda texts: omp(texts, y, 3)):
        with pytest.raises(DataError, match=r"zero norm.*: text 4 \(t4\), text 9 \(t9\)\."):
            call(named)
    with pytest.raises(DataError, match="hold 1 text; centring needs two"):
        prepare_texts(d[:1])
    with pytest.raises(DataError, match="text 2 equal the mean"):
        prepare_texts(np.stack([d[0], d[1], (d[0] + d[1]) / 2]))
    codes = omp(d, y, 3)
    with pytest.raises(ShapeError, match=r"indices have shape \(6, 3\), but coefficients \(6, 2\)"):
        recompose(d, codes.indices, codes.coefficients[:, :2])
    with pytest.raises(DataError, match="but the dictionary has 2 texts"):
        recompose(d[:2], *codes)


@given(seed=st.integers(0, 10_000), noise=st.sampled_from([0.0, 1e-7, 3e-6]))
@settings(max_examples=30, deadline=None)
def test_duplicates_are_found_wherever_they_are_also_up_to_the_encoder_s_rounding(seed, noise):
    d, y = random_case(seed)
    rng = np.random.default_rng(seed)
    first, second = sorted(rng.choice(150, 2, replace=False).tolist())
    other = rng.standard_normal(32)
    d[second] = d[first] + noise * other / np.linalg.norm(other)
    with pytest.raises(DataError, match=rf"more than once.*: text {first} = text {second}\.\n  Keep one"):
        omp(d, y, 3)


def test_near_texts_are_not_duplicates_and_many_duplicates_are_named_in_part():
    d, y = random_case(1)
    d[5] = d[4] + 1e-4 * d[6]
    omp(d, y, 3)
    with pytest.raises(DataError, match=r"; and others\."):
        omp(np.tile(d[:1], (5000, 1)), y, 3)
