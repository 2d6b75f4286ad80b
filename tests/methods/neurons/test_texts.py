"""Texts of neurons: planted sums of texts come back from every pool; odd pools; the curve's directions."""

import numpy as np
import pytest
import xarray as xr

from optogram.errors import DataError, ParamError
from optogram.methods.neurons.sparse import omp, recompose
from optogram.methods.neurons.text_dictionary import prepare_texts
from optogram.methods.neurons.texts import neuron_texts, text_directions

EMBED, SIZES = 24, [2, 4, 8]


def pool(count, seed=0, doubles=()):
    """Texts of no meaning; each of `doubles` = (place, of) says in capitals what another says."""
    vectors = np.random.default_rng(seed).standard_normal((count, EMBED)).astype(np.float32) + 1
    names = [f"text {k}" for k in range(count)]
    for place, of in doubles:
        vectors[place], names[place] = vectors[of], names[of].upper()
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    attribute = np.where(np.arange(count) % 2, "colour", "")
    return xr.Dataset(
        {
            "embedding": (("text", "embed"), vectors),
            "attribute": ("text", attribute),
            "value": ("text", np.where(attribute == "", "", "red")),
        },
        coords={"text": np.array(names)},
    )


def planted(texts, picks=((3, 2.0), (7, -1.0)), neurons=5):
    """Neurons that write along the same two texts of a pool, one of them away from it; the last writes nothing."""
    unit = prepare_texts(texts["embedding"].values)
    r = sum(weight * unit[at] for at, weight in picks) * np.ones((neurons, 1), np.float32)
    r[-1] = 0
    return xr.DataArray(r.astype(np.float32), dims=("neuron", "embed"))


def test_planted_texts_come_back_signed_and_ordered():
    texts = pool(200)
    found = neuron_texts(planted(texts), {"a": texts, "b": pool(60, 1)}, SIZES, sparsity=2, steps=3)
    here = found.sel(pool="a").isel(neuron=0)
    assert here.text.values.tolist() == ["text 3", "text 7", ""]
    np.testing.assert_allclose(here.weight, [2, -1, 0], atol=1e-5)
    assert here.text_attribute.values.tolist() == ["colour", "colour", ""]
    assert here.text_value.values.tolist() == ["red", "red", ""]
    assert set(here["index"].values[:2].tolist()) == {3, 7}
    assert found.coefficient.dims == ("pool", "size", "neuron", "pick")
    assert found.sizes["pick"] == 8
    assert found.pool.values.tolist() == ["a", "b"]


def test_a_neuron_that_writes_nothing_has_no_texts():
    texts = pool(50)
    last = neuron_texts(planted(texts), {"a": texts}, SIZES, sparsity=4, steps=3).isel(neuron=-1, pool=0)
    assert (last["index"] == -1).all()
    assert (last.text == "").all()
    assert (last.weight == 0).all()
    nothing = planted(texts) * 0
    assert (neuron_texts(nothing, {"a": texts}, SIZES, sparsity=4, steps=3).weight == 0).all()


def test_one_size_is_what_omp_gives():
    texts = pool(100)
    r = xr.DataArray(np.random.default_rng(3).standard_normal((6, EMBED)).astype(np.float32), dims=("neuron", "embed"))
    found = neuron_texts(r, {"a": texts}, SIZES, sparsity=8, steps=2).isel(pool=0)
    unit = prepare_texts(texts["embedding"].values)
    for size in SIZES:
        codes = omp(unit, r.values, size)
        np.testing.assert_array_equal(found["index"][:, :size], codes.indices)
        np.testing.assert_allclose(found.coefficient.sel(size=size)[:, :size], codes.coefficients, rtol=1e-5, atol=1e-6)
        assert (found.coefficient.sel(size=size)[:, size:] == 0).all()
    directions = {(name, size): d for name, size, d in text_directions(found.expand_dims("pool"), {"a": texts})}
    assert sorted(directions) == [("a", size) for size in SIZES]
    codes = omp(unit, r.values, 4)
    np.testing.assert_allclose(directions["a", 4], recompose(unit, codes.indices, codes.coefficients), atol=1e-5)


def test_texts_with_one_embedding_count_once_and_places_stay_the_pool_s():
    doubled, plain = pool(80, doubles=[(5, 2), (40, 2)]), pool(80).drop_isel(text=[5, 40])
    r = planted(plain, picks=((1, 1.0), (60, 0.5)))
    a, b = (neuron_texts(r, {"a": texts}, SIZES, sparsity=2, steps=2) for texts in (doubled, plain))
    np.testing.assert_array_equal(a.text, b.text)
    for found, texts in ((a, doubled), (b, plain)):
        first = found.isel(pool=0, neuron=0)
        assert texts.text.values[first["index"].values[:2]].tolist() == first.text.values[:2].tolist()
    ours, theirs = (
        next(d for _, size, d in text_directions(found, {"a": texts}) if size == 2)
        for found, texts in ((a, doubled), (b, plain))
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    np.testing.assert_allclose(ours, r.values, atol=1e-5)


def test_a_pool_smaller_than_m_gives_all_its_texts(capfd):
    texts = pool(5)
    found = neuron_texts(planted(pool(200)), {"few": texts}, SIZES, sparsity=8, steps=8).isel(pool=0)
    assert "Pool few: 5 texts of 24 dimensions; sizes over 5 are taken as 5." in capfd.readouterr().err
    assert found.sizes["pick"] == 8
    assert (found["index"][:, 5:] == -1).all()
    assert (found.text.isel(step=slice(5, None)) == "").all()


def test_bad_arguments_are_named():
    texts = pool(50)
    with pytest.raises(ParamError, match=r"sparsity = 3, sizes = \[2, 4, 8\], 1 pools.*Set neurons.sparsity"):
        neuron_texts(planted(texts), {"a": texts}, SIZES, sparsity=3, steps=2)
    with pytest.raises(ParamError, match="0 pools"):
        neuron_texts(planted(texts), {}, SIZES, sparsity=2, steps=2)
    texts["embedding"][4] = 0
    with pytest.raises(DataError, match="text 4"):
        neuron_texts(planted(pool(50)), {"a": texts}, SIZES, sparsity=2, steps=2)
