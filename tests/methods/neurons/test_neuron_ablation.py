"""Figures 3.3 and 3.4: the fast ablations against effects replaced one by one, and what must hold of any of them."""

import numpy as np
import pytest
import xarray as xr
from test_effects import synthetic

from optogram.decompose import effect_norms, effects
from optogram.methods import largest_effects, rank_one, replace_effects
from optogram.methods.neurons.ablation import ablate_neurons
from optogram.methods.neurons.texts import neuron_texts
from optogram.metrics.classification import accuracy

EMBED = 12


@pytest.fixture
def inputs():
    rng = np.random.default_rng(0)
    reference, evaluated = synthetic(seed=1), synthetic(seed=2)
    evaluated = evaluated.assign(D=reference.D)
    texts = rng.standard_normal((40, EMBED)).astype(np.float32)
    pools = {
        "many": xr.Dataset(
            {
                "embedding": (("text", "embed"), texts),
                "attribute": ("text", np.full(40, "")),
                "value": ("text", np.full(40, "")),
            },
            coords={"text": [f"text {k}" for k in range(40)]},
        )
    }
    classifier = xr.Dataset(
        {
            "classifier": (("class", "embed"), rng.standard_normal((5, EMBED)).astype(np.float32)),
            "attribute": ("class", ["shape"] * 3 + ["colour"] * 2),
            "value": ("class", ["a", "b", "c", "x", "y"]),
        }
    )
    labels = xr.DataArray(
        np.stack([rng.integers(0, 3, 40), rng.integers(0, 2, 40)], 1).astype(np.int16),
        dims=("image", "attribute"),
        coords={"attribute": ["shape", "colour"]},
    )
    names = xr.DataArray([["a", "b", "c"], ["x", "y", ""]], dims=("attribute", "value"))
    form = rank_one(reference, 10)
    neurons = form.assign(**neuron_texts(form.r, pools, [2, 4, EMBED], sparsity=4, steps=2).data_vars)
    return evaluated, neurons, pools, classifier, labels, names


def test_accuracies_are_those_of_effects_replaced_one_by_one(inputs):
    evaluated, neurons, _, *task = inputs
    found = ablate_neurons(*inputs, largest=6)
    assert found.condition.values.tolist() == ["none", "all", "small", "large", "rank_one"]
    phi, b, r = effects(evaluated).values.astype(np.float64), neurons.b.values, neurons.r.values
    top = largest_effects(effect_norms(evaluated), 6).values
    embedding = evaluated.embedding.values
    x = np.einsum("ink,nk->in", phi - b, r)
    replaced = {
        "none": embedding,
        "all": embedding - (phi - b).sum(1),
        "small": embedding - ((phi - b) * ~top[..., None]).sum(1),
        "large": embedding - ((phi - b) * top[..., None]).sum(1),
        "rank_one": embedding - (phi - b - x[..., None] * r).sum(1),
    }
    for condition, vectors in replaced.items():
        expected = accuracy(vectors, *task)
        here = found.sel(condition=condition)
        np.testing.assert_allclose(here.accuracy, expected, atol=1e-9, err_msg=condition)
        change = here.accuracy - found.accuracy.sel(condition="none")
        np.testing.assert_allclose((here.gained - here.lost) / found["count"], change, atol=1e-6)
    ours = accuracy(replace_effects(evaluated, neurons), *task)
    np.testing.assert_allclose(found.accuracy.sel(condition="rank_one"), ours)


def test_as_many_texts_as_dimensions_are_the_direction_itself(inputs):
    found = ablate_neurons(*inputs, largest=6)
    assert found.reconstructed.dims == ("pool", "size", "attribute")
    np.testing.assert_allclose(
        found.reconstructed.sel(pool="many", size=EMBED), found.accuracy.sel(condition="rank_one"), atol=1e-9
    )
    assert found.chance.values.tolist() == pytest.approx([1 / 3, 1 / 2])
