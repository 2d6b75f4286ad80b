"""Planted answers for TextSpan and head roles: directions in order of variance, and a head that writes colour."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from optogram.methods.heads.mean_ablation import ablate_heads
from optogram.methods.heads.roles import measured_roles, named_roles
from optogram.methods.heads.textspan import textspan, textspan_heads

VALUES = {"colour": ["red", "green", "blue"], "count": ["one", "two"], "shape": ["circle", "square", "star", "cross"]}


@given(seed=st.integers(0, 10_000), noise=st.floats(0, 0.05), planted=st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_planted_orthogonal_texts_come_back_in_order_of_variance(seed, noise, planted):
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.standard_normal((32, 32)))[0]
    spread = 0.7 ** np.arange(planted)
    codes = rng.standard_normal((2000, planted)) * spread + rng.standard_normal(planted)
    c = codes @ axes[:planted] + noise * spread[-1] * rng.standard_normal((2000, 32))
    # decoys mix planted directions and the rest, so that none holds more of a planted direction than its own text
    decoys = rng.standard_normal((60, 32)) @ axes
    decoys /= np.linalg.norm(decoys, axis=1, keepdims=True)
    order = rng.permutation(planted)
    texts = np.concatenate([axes[:planted][order], 0.4 * decoys])
    found = textspan(c, texts, planted)
    assert order[found.indices].tolist() == list(range(planted))
    np.testing.assert_allclose(found.variance, codes.var(0), rtol=0.2)
    assert found.variance.sum() <= c.var(0).sum() * (1 + 1e-9)


def planted_model(seed=0, images=1500, head_dim=6, embed=24):
    """Four heads: three write along the texts of one attribute each, the fourth writes noise; unit texts.

    Each value has a direction of its own in the embedding; a description is its value's direction, a part that all
    texts share and some noise; the classifier is the plain directions.
    """
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.standard_normal((embed, embed)))[0].astype(np.float32)
    named = [(attribute, value) for attribute, values in VALUES.items() for value in values]
    label = {name: rng.integers(0, len(values), images) for name, values in VALUES.items()}
    z = 0.05 * rng.standard_normal((images, 2, 2, head_dim)).astype(np.float32)
    basis = 0.1 * rng.standard_normal((2, 2, head_dim, embed)).astype(np.float32)
    places = dict(zip(VALUES, [(1, 0), (0, 1), (1, 1)], strict=True))
    for name, at in places.items():
        for value in range(len(VALUES[name])):
            basis[(*at, value)] = axes[named.index((name, VALUES[name][value]))]
            z[:, *at, value] += label[name] == value
    total = np.einsum("ilhk,lhke->ie", z, basis)
    ds = xr.Dataset(
        {
            "z": (("image", "layer", "head", "head_dim"), z),
            "basis": (("layer", "head", "head_dim", "embed"), basis),
            "scale": (("image",), np.ones(images, np.float32)),
            "mean": (("image",), np.zeros(images, np.float32)),
            "bias": (("layer", "embed"), np.zeros((2, embed), np.float32)),
            "gain": (("embed",), np.zeros(embed, np.float32)),
            "offset": (("embed",), np.full(embed, 0.05, np.float32)),
            "embedding": (("image", "embed"), total + 0.05),
        },
        {"layer": [0, 1], "head": [0, 1]},
    )
    classifier = xr.Dataset(
        {
            "classifier": (("class", "embed"), axes[: len(named)]),
            "attribute": ("class", [attribute for attribute, _ in named]),
            "value": ("class", [value for _, value in named]),
        }
    )
    about = np.repeat(np.arange(len(named)), 8)
    texts = axes[about] + 0.5 * axes[-1] + 0.1 * rng.standard_normal((len(about), embed))
    texts = np.concatenate([texts, rng.standard_normal((40, embed))]).astype(np.float32)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    attribute = [named[i][0] for i in about] + [""] * 40
    labels = xr.DataArray(
        np.stack(list(label.values()), 1), dims=("image", "attribute"), coords={"attribute": list(VALUES)}
    )
    names = xr.DataArray([values + [""] * (4 - len(values)) for values in VALUES.values()], dims=("attribute", "value"))
    return ds, texts, attribute, classifier, labels, names, places


@pytest.mark.parametrize("seed", range(5))
def test_a_head_that_writes_an_attribute_is_named_after_it_and_carries_its_accuracy(seed):
    ds, texts, attribute, classifier, labels, names, places = planted_model(seed)
    spans = textspan_heads(ds, texts, 3)
    named = named_roles(spans, attribute)
    ablated = ablate_heads(ds, None, classifier, labels, names)
    measured = measured_roles(ablated)
    for name, (layer, head) in places.items():
        assert named.named.sel(layer=layer, head=head) == name
        assert measured.sel(layer=layer, head=head) == name
        assert measured_roles(ablated, by="margin").sel(layer=layer, head=head) == name
        assert float(named.score.sel(layer=layer, head=head, attribute=name)) > 0.6
    # the head that writes nothing costs nothing that can be told apart from noise
    assert measured.values.tolist() == [["", "count"], ["colour", "shape"]]
